"""Earth mover's distance between point sets of equal size: the least mean distance over all one-to-one matchings.

Distances are not squared, as in PointFlow. Its CUDA kernel approximates without a bound; here either the optimum is
exact, or a lower and an upper bound of it are given.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from eval.surface import checked_points

# Points up to which the assignment problem is solved exactly: 4 seconds, and the matrix of costs grows with the square.
EXACT_LIMIT = 4096
# Of the bounds that the auction ends with, relative to the upper one.
GAP = 0.01
# By which bids become finer from phase to phase.
_FINER = 5.0
# Finer bids, relative to the spread of the points, would be rounding.
_FINEST = 1e-10


@dataclass(frozen=True)
class EarthMover:
    """The optimum lies between two bounds, in units of length."""

    lower: float
    upper: float  # the mean distance of a matching that was found

    @property
    def exact(self) -> bool:
        return self.lower == self.upper

    @property
    def distance(self) -> float:
        """The optimum, or the middle of the bounds."""
        return (self.lower + self.upper) / 2


def earth_mover(pred: Tensor, ref: Tensor) -> EarthMover:
    """Earth mover's distance, on the CPU: exact up to `EXACT_LIMIT` points, bounds by `auction_bounds` beyond.

    Args:
        pred, ref: floating [N, 3].

    Raises:
        ValueError: no points, different numbers, another shape or dtype, or coordinates that are not finite.
    """
    pred, ref = _checked(pred, ref)
    if len(pred) > EXACT_LIMIT:
        return auction_bounds(pred, ref)
    from scipy.optimize import linear_sum_assignment

    cost = torch.cdist(pred, ref, compute_mode="donot_use_mm_for_euclid_dist").numpy()  # the other mode cancels digits
    optimum = float(cost[linear_sum_assignment(cost)].mean())
    return EarthMover(optimum, optimum)


def auction_bounds(pred: Tensor, ref: Tensor, gap: float = GAP) -> EarthMover:
    """Bounds of the earth mover's distance by Bertsekas' auction algorithm with ever finer bids.

    Args:
        pred, ref: floating [N, 3].
        gap: the bounds' distance, relative to the upper one, at which to stop.

    Raises:
        ValueError: as `earth_mover`; a gap outside 0 to 1.
    """
    from eval.compiled_auction import assign, total_costs  # numba takes a while to import

    pred, ref = _checked(pred, ref)
    if not 0 < gap < 1:
        raise ValueError(f"gap must be between 0 and 1, got {gap}")
    bidders, objects = pred.contiguous().numpy(), ref.contiguous().numpy()
    prices, owner = torch.zeros(len(ref), dtype=torch.float64), torch.empty(len(ref), dtype=torch.int64)
    spread = float((ref - ref.mean(0)).norm(dim=1).max() + (pred.mean(0) - ref.mean(0)).norm()) or 1.0
    increment = spread
    lower, upper = 0.0, float("inf")
    while lower < (1 - gap) * upper and increment > _FINEST * spread:
        increment /= _FINER
        assign(bidders, objects, prices.numpy(), owner.numpy(), increment)
        bounds = total_costs(bidders, objects, prices.numpy(), owner.numpy())
        upper, lower = min(upper, bounds[0] / len(ref)), max(lower, bounds[1] / len(ref))
    return EarthMover(min(lower, upper), upper)


def _checked(pred: Tensor, ref: Tensor) -> tuple[Tensor, Tensor]:
    pred, ref = checked_points("pred", pred), checked_points("ref", ref)
    if len(pred) != len(ref):
        raise ValueError(f"pred and ref must have equally many points, got {len(pred)} and {len(ref)}")
    return pred.cpu(), ref.cpu()
