"""Chamfer distance in every published convention, under names that say which.

Papers print "CD" for values that differ by factors of two, by a square and by units; "L1" almost always means Euclidean
distances that are not squared. All conventions follow from four means over the distances d to the other side:

====================  =====================================  ======================================================
name                  definition                             printed by
====================  =====================================  ======================================================
accuracy              mean d over the prediction, a
completeness          mean d over the reference, c
squared_accuracy      mean d^2 over the prediction, a2
squared_completeness  mean d^2 over the reference, c2
sum_l1                a + c                                  Open3D compute_metrics, 3DShape2VecSet
mean_l1               (a + c) / 2                            Occupancy Networks' and ConvONet's "Chamfer-L1"
max_l1                max(a, c)
sum_l2sq              a2 + c2                                PyTorch3D, Kaolin, Mesh R-CNN, PointFlow
mean_l2sq             (a2 + c2) / 2                          Occupancy Networks' "Chamfer-L2"; mesh distances
sum_l2                sqrt(a2) + sqrt(c2)                    sums of root mean squares
mean_l2               (sqrt(a2) + sqrt(c2)) / 2              their mean
====================  =====================================  ======================================================

Distances may go from points to points or from points to a surface (`eval.nearest`): the definitions are the same, the
values are not, because between points they include the spacing of samples (`eval.ceiling`).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from eval.surface import checked_distances


@dataclass(frozen=True)
class Chamfer:
    """The means that every convention follows from, in units of length and squared units."""

    accuracy: float
    completeness: float
    squared_accuracy: float
    squared_completeness: float

    @property
    def sum_l1(self) -> float:
        return self.accuracy + self.completeness

    @property
    def mean_l1(self) -> float:
        return self.sum_l1 / 2

    @property
    def max_l1(self) -> float:
        return max(self.accuracy, self.completeness)

    @property
    def sum_l2sq(self) -> float:
        return self.weighted_l2sq(1, 1)

    @property
    def mean_l2sq(self) -> float:
        return self.sum_l2sq / 2

    @property
    def sum_l2(self) -> float:
        return float(self.squared_accuracy**0.5 + self.squared_completeness**0.5)

    @property
    def mean_l2(self) -> float:
        return self.sum_l2 / 2

    def weighted_l2sq(self, accuracy: float, completeness: float) -> float:
        """Kaolin's w1 a2 + w2 c2."""
        return accuracy * self.squared_accuracy + completeness * self.squared_completeness


def chamfer(pred_to_ref: Tensor, ref_to_pred: Tensor) -> Chamfer:
    """Chamfer distances.

    Args:
        pred_to_ref: floating [N]: the distance of every sample of the prediction to the reference.
        ref_to_pred: floating [M]: the other way round.

    Raises:
        ValueError: none, or values that are no distances.
    """
    forward, back = checked_distances("pred_to_ref", pred_to_ref), checked_distances("ref_to_pred", ref_to_pred)
    return Chamfer(
        accuracy=float(forward.mean()),
        completeness=float(back.mean()),
        squared_accuracy=float(forward.square().mean()),
        squared_completeness=float(back.square().mean()),
    )
