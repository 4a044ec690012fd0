"""Hausdorff distance, and quantiles of the distances beneath it, which do not hang on a single point."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from eval.surface import checked_distances

QUANTILES = (0.5, 0.9, 0.95, 0.99)


@dataclass(frozen=True)
class Hausdorff:
    """Extremes of the distances, in units of length. Of samples they are estimates from below."""

    pred_to_ref: float  # the largest distance of the prediction's points to the reference
    ref_to_pred: float
    quantiles: dict[float, float]  # the larger of both sides' quantiles, as for the maximum

    @property
    def distance(self) -> float:
        """The Hausdorff distance; PyTorch3D's "max" reduction is its square."""
        return max(self.pred_to_ref, self.ref_to_pred)


def hausdorff(pred_to_ref: Tensor, ref_to_pred: Tensor, quantiles: Sequence[float] = QUANTILES) -> Hausdorff:
    """Hausdorff distance and quantiles.

    Args:
        pred_to_ref: floating [N]: the distance of every sample of the prediction to the reference.
        ref_to_pred: floating [M]: the other way round.
        quantiles: shares between 0 and 1; a quantile is the least distance that so many points do not exceed.

    Raises:
        ValueError: no distances, values that are none, or shares outside 0 to 1.
    """
    forward, back = checked_distances("pred_to_ref", pred_to_ref), checked_distances("ref_to_pred", ref_to_pred)
    if not all(0 < q <= 1 for q in quantiles):
        raise ValueError(f"quantiles must be in (0, 1], got {list(quantiles)}")
    ordered = forward.sort().values, back.sort().values
    return Hausdorff(
        pred_to_ref=float(ordered[0][-1]),
        ref_to_pred=float(ordered[1][-1]),
        quantiles={q: max(_quantile(side, q) for side in ordered) for q in quantiles},
    )


def _quantile(ordered: Tensor, share: float) -> float:
    # torch.quantile refuses more than 16 million values. 0.07 of 100 is 7, not what 0.07 * 100 rounds to.
    return float(ordered[max(0, math.ceil(share * len(ordered) - 1e-9) - 1)])
