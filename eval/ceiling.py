"""What two independent samples of one and the same surface score: the best that a point-to-point score can be.

Around a point of a smooth surface with lambda = N / area samples per unit of area, the samples in reach are a Poisson
process on a plane: P(d > t) = exp(-pi lambda t^2), a Rayleigh law, with E[d] = 1 / (2 sqrt(lambda)) and
E[d^2] = 1 / (pi lambda). Curvature, edges and other sheets within reach are left out: they change little as long as
the spacing of samples is small against them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class SamplingCeiling:
    """Expected scores of two samples of a surface of `area`, one of `pred_count` points, one of `ref_count`."""

    area: float  # in squared units of length
    pred_count: int
    ref_count: int

    def __post_init__(self) -> None:
        if not 0 < self.area < math.inf:
            raise ValueError(f"area must be positive and finite, got {self.area}")
        for name, count in (("pred_count", self.pred_count), ("ref_count", self.ref_count)):
            if count < 1:
                raise ValueError(f"{name} must be positive, got {count}")

    @property
    def accuracy(self) -> float:
        """Mean distance of the prediction's points to the reference's."""
        return 0.5 * math.sqrt(self.area / self.ref_count)

    @property
    def completeness(self) -> float:
        """Mean distance of the reference's points to the prediction's."""
        return 0.5 * math.sqrt(self.area / self.pred_count)

    @property
    def squared_accuracy(self) -> float:
        """Mean squared distance of the prediction's points to the reference's."""
        return self.area / (math.pi * self.ref_count)

    @property
    def squared_completeness(self) -> float:
        """Mean squared distance of the reference's points to the prediction's."""
        return self.area / (math.pi * self.pred_count)

    def fscore(self, threshold: float) -> float:
        """The F-score, 0..1, at a threshold in units of length."""
        precision, recall = (
            -math.expm1(-math.pi * count / self.area * threshold**2) for count in (self.ref_count, self.pred_count)
        )
        return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def samples_needed(area: float, threshold: float, fscore: float = 0.99) -> int:
    """Points on either side so that two samples of one surface reach an F-score at a threshold."""
    if not (0 < area < math.inf and 0 < threshold < math.inf):
        raise ValueError(f"area and threshold must be positive and finite, got {area} and {threshold}")
    if not 0 < fscore < 1:
        raise ValueError(f"fscore must be between 0 and 1, got {fscore}")
    return math.ceil(-area * math.log1p(-fscore) / (math.pi * threshold**2))
