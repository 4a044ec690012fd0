"""Volumetric intersection over union, with two notions of inside.

`volume_iou` asks for winding numbers, as published protocols do: exact at random points, for closed meshes. `solid_iou`
asks what can be reached from outside on a grid, whatever the orientation and whatever is inside. Cracks matter little
to the first and much to the second, which they flood; flipped triangles the other way round.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from eval.rays import inside
from eval.sampling import draw_samples
from eval.surface import Surface
from models.data.flood import flood
from models.data.octree import Grid, descend
from models.data.sdf import RESOLUTIONS
from models.data.sides import OUTSIDE, Sides

# Of the grid of `solid_iou`, in its steps: around the meshes, and no whole number so that faces of boxes lie between.
_MARGIN = 1.37


@dataclass(frozen=True)
class VolumeIoU:
    """An estimate from random points."""

    iou: float  # 0..1
    pred_ambiguous: float  # share of points whose side is in doubt: above some 1e-3 the mesh does not enclose a volume
    ref_ambiguous: float
    points: int


def occupancy_iou(pred: Tensor, ref: Tensor) -> float:
    """Intersection over union of occupancies, 0..1, of voxels or of points at the same places; 1 if both are empty.

    Args:
        pred, ref: bool, of one shape.

    Raises:
        ValueError: another dtype, or different shapes.
    """
    for name, occupancy in (("pred", pred), ("ref", ref)):
        if occupancy.dtype != torch.bool:
            raise ValueError(f"{name} must be bool, got {occupancy.dtype}")
    if pred.shape != ref.shape or not pred.numel():
        raise ValueError(
            f"pred and ref must be of one shape that is not empty, got {list(pred.shape)} and {list(ref.shape)}"
        )
    union = int((pred | ref).sum())
    return int((pred & ref).sum()) / union if union else 1.0


def volume_iou(pred: Surface, ref: Surface, count: int = 100_000, seed: int = 0) -> VolumeIoU:
    """IoU of the volumes, from points uniform in the box around both (Occupancy Networks, which takes 100,000).

    Which points are inside is decided by winding numbers along rays (`eval.rays.inside`), so both meshes should be
    closed; the ambiguous shares say how far they are.

    Raises:
        ValueError: fewer than one point, meshes on different devices, or a box without a volume.
    """
    if count < 1:
        raise ValueError(f"count must be positive, got {count}")
    _require_one_device(pred, ref)
    low = torch.minimum(pred.bounds[0], ref.bounds[0])
    high = torch.maximum(pred.bounds[1], ref.bounds[1])
    if not bool((high > low).all()):
        raise ValueError("pred and ref must enclose a volume, together they are flat")
    drawn = torch.rand(count, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(low.device)
    return _iou_at(low + drawn * (high - low), pred, ref)


def near_surface_iou(pred: Surface, ref: Surface, spread: float, count: int = 100_000, seed: int = 0) -> VolumeIoU:
    """IoU of points near the reference: samples of it, moved by normal noise in each coordinate.

    Args:
        spread: standard deviation of the noise, in units of length.

    Raises:
        ValueError: a spread or count that is not positive, or meshes on different devices.
    """
    if not spread > 0:
        raise ValueError(f"spread must be positive, got {spread}")
    _require_one_device(pred, ref)
    generator = torch.Generator().manual_seed(seed)
    points = draw_samples(ref, count, generator).points
    noise = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    return _iou_at(points + spread * noise.to(points.device), pred, ref)


def solid_iou(pred: Surface, ref: Surface, resolution: int = 128) -> float:
    """IoU, 0..1, of what the triangles enclose: the grid points that no path from far away reaches.

    It is the solid of the project's own signed distance fields (`models.data.flood`): orientation and overlaps do not
    matter, cavities count as filled, and an opening of any size empties it if a line of the grid passes through.

    Args:
        resolution: grid points along the longest side of the box around both.

    Raises:
        ValueError: a resolution outside `models.data.sdf.RESOLUTIONS`, meshes on different devices, or without extent.
    """
    if not RESOLUTIONS[0] <= resolution <= RESOLUTIONS[1]:
        raise ValueError(f"resolution must be from {RESOLUTIONS[0]} to {RESOLUTIONS[1]}, got {resolution}")
    _require_one_device(pred, ref)
    low = torch.minimum(pred.bounds[0], ref.bounds[0])
    extent = float((torch.maximum(pred.bounds[1], ref.bounds[1]) - low).max())
    if not extent > 0:
        raise ValueError("pred and ref must have an extent, all their vertices are one point")
    scale = (resolution - 1 - 2 * _MARGIN) / extent
    grid = Grid(resolution)
    sides = [_sides((surface.corners - low) * scale + _MARGIN, grid) for surface in (pred, ref)]
    plane = torch.cartesian_prod(*[torch.arange(resolution, device=low.device)] * 2).T
    common = union = 0
    for x in range(resolution):  # plane by plane, to bound memory
        points = torch.cat([torch.full_like(plane[:1], x), plane])
        a, b = (side.at(points) != OUTSIDE for side in sides)
        common, union = common + int((a & b).sum()), union + int((a | b).sum())
    return common / union if union else 1.0


def _sides(corners: Tensor, grid: Grid) -> Sides:
    """Of triangles fp64 [F, 3, 3] in grid units."""
    return flood(corners, grid, descend(corners.float(), grid, 1.0))


def _iou_at(points: Tensor, pred: Surface, ref: Surface) -> VolumeIoU:
    (pred_inside, pred_doubt), (ref_inside, ref_doubt) = inside(points, pred), inside(points, ref)
    return VolumeIoU(
        iou=occupancy_iou(pred_inside, ref_inside),
        pred_ambiguous=float(pred_doubt.double().mean()),
        ref_ambiguous=float(ref_doubt.double().mean()),
        points=len(points),
    )


def _require_one_device(pred: Surface, ref: Surface) -> None:
    if pred.vertices.device != ref.vertices.device:
        raise ValueError(
            f"{pred.name} and {ref.name} must be on one device, got {pred.vertices.device} and {ref.vertices.device}"
        )
