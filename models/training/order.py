"""Which samples a batch holds: a function of its number alone, so that a run goes on where it was cut off."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


def batch_indices(number: int, batch_size: int, samples: int, seed: int) -> list[int]:
    """Samples of a batch: every epoch all of them once, in an order of its own; batches may reach into the next epoch.

    Raises:
        ValueError: no samples.
    """
    if samples < 1:
        raise ValueError("samples must not be empty")
    chosen = []
    for place in range(number * batch_size, (number + 1) * batch_size):
        epoch, index = divmod(place, samples)
        chosen.append(int(_order(epoch, samples, seed)[index]))
    return chosen


@lru_cache(maxsize=2)  # a batch may reach into the next epoch
def _order(epoch: int, samples: int, seed: int) -> NDArray[np.int64]:
    return np.random.default_rng((seed, epoch)).permutation(samples)


def batch_generator(number: int, seed: int) -> np.random.Generator:
    """For everything else that is drawn for a batch."""
    return np.random.default_rng((seed, number, 1))
