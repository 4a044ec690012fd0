"""Normal consistency: cosines between the normals of samples and those of what they are nearest to.

Occupancy Networks, ConvONet and Mesh R-CNN print means of absolute cosines, in which flipped triangles do not show; so
both are here. Normals are those of the triangles, not interpolated ones. Mesh R-CNN and Occupancy Networks average the
two sides, PyTorch3D sums one minus the absolute cosine of each.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class NormalConsistency:
    """Mean cosines, -1..1, and mean angles in degrees, per side and averaged."""

    pred_signed: float
    ref_signed: float
    pred_absolute: float
    ref_absolute: float
    pred_degrees: float  # mean angle between unoriented normals, 0..90
    ref_degrees: float

    @property
    def signed(self) -> float:
        """1 for equal surfaces, -1 where all triangles of one are flipped."""
        return (self.pred_signed + self.ref_signed) / 2

    @property
    def absolute(self) -> float:
        return (self.pred_absolute + self.ref_absolute) / 2

    @property
    def degrees(self) -> float:
        return (self.pred_degrees + self.ref_degrees) / 2


def normal_consistency(pred: Tensor, matched_ref: Tensor, ref: Tensor, matched_pred: Tensor) -> NormalConsistency:
    """Cosines of both sides.

    Args:
        pred: unit vectors, floating [N, 3], of the prediction's samples; zero, of a triangle without an area, has
            cosine 0 with all.
        matched_ref: [N, 3], normals of the reference's places that these samples are nearest to.
        ref: [M, 3], of the reference's samples.
        matched_pred: [M, 3], of the prediction's places that these are nearest to.

    Raises:
        ValueError: no normals, different shapes, or vectors that are not finite or longer than one.
    """
    cosines = []
    for side, other, names in (
        (pred, matched_ref, ("pred", "matched_ref")),
        (ref, matched_pred, ("ref", "matched_pred")),
    ):
        for name, normals in zip(names, (side, other), strict=True):
            if normals.ndim != 2 or normals.shape[1] != 3 or not len(normals):
                raise ValueError(f"{name} must be [N, 3] with at least one normal, got {list(normals.shape)}")
            if not bool(normals.norm(dim=1).le(1 + 1e-4).all()):
                raise ValueError(f"{name} must be unit vectors")
        if side.shape != other.shape:
            raise ValueError(f"{names[0]} and {names[1]} must agree, got {list(side.shape)} and {list(other.shape)}")
        cosines.append((side.double() * other.double()).sum(1).clamp(-1, 1))
    forward, back = cosines
    return NormalConsistency(
        pred_signed=float(forward.mean()),
        ref_signed=float(back.mean()),
        pred_absolute=float(forward.abs().mean()),
        ref_absolute=float(back.abs().mean()),
        pred_degrees=_degrees(forward),
        ref_degrees=_degrees(back),
    )


def _degrees(cosines: Tensor) -> float:
    return float(torch.rad2deg(cosines.abs().acos()).mean())
