"""The random choices behind a solid."""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np

T = TypeVar("T")

# Thickness of thin parts as shares of the nominal size, which is 2: a cell of a grid of 256 to a few of one of 64.
SIZE = 2.0
_THIN = (SIZE / 256, SIZE / 40)


class Draw:
    """A stream of choices; equal seeds make equal streams."""

    def __init__(self, *seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self.segments = 4 * self.whole(6, 20)  # of a circle; one number for all curves of a solid

    def uniform(self, low: float, high: float) -> float:
        return float(self._random.uniform(low, high))

    def whole(self, low: int, high: int) -> int:
        """Both ends included."""
        return int(self._random.integers(low, high + 1))

    def chance(self, probability: float) -> bool:
        return bool(self._random.random() < probability)

    def one_of(self, *options: T) -> T:
        return options[self.whole(0, len(options) - 1)]

    def thin(self) -> float:
        """A thickness of 1/256 to 1/40 of the nominal size, the thinner as likely as the thicker by factors."""
        return math.exp(self.uniform(math.log(_THIN[0]), math.log(_THIN[1])))
