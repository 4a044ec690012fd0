"""Grid points that a loss on a sparse field treats apart: near sharp edges, and around the band."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from models.data.octree import find
from models.data.sdf import SparseSDF
from models.data.stencil import gradient, stencil_keys

# Of the gradient's length of 1: between two opposite faces it vanishes, and has no direction.
_LEAST_GRADIENT = 0.5
# Blocks that are filled at once, in grid points.
_CHUNK = 2**23


def sharp_voxels(field: SparseSDF, angle: float = math.radians(30)) -> Tensor:
    """Points near a sharp edge or corner: some neighbour's normal differs by more than `angle`.

    The normal is the direction of the field's gradient, without its sign, so that the two faces of a thin plate agree;
    neighbours are the other points of the 3^3 block.

    Returns:
        bool [V].

    Raises:
        ValueError: an angle that is not between 0 and pi / 2.
    """
    if not 0 < angle < math.pi / 2:
        raise ValueError(f"angle must be between 0 and pi / 2, got {angle:g}")
    keys, strides = stencil_keys(field)
    slope = gradient(field, keys, torch.arange(len(keys), device=keys.device), strides) * (field.resolution / 2)
    normal = torch.nn.functional.normalize(slope, dim=1)
    directed = slope.norm(dim=1) >= _LEAST_GRADIENT
    sharp = torch.zeros_like(directed)
    # Half of the neighbours: of each pair both are marked.
    for shift in list(itertools.product((-1, 0, 1), repeat=3))[14:]:
        stride = sum(step * by for step, by in zip(shift, strides.tolist(), strict=True))
        index, found = find(keys, keys + stride)
        here = found.nonzero()[:, 0]
        there = index[here]
        bent = (normal[here] * normal[there]).sum(1).abs() < math.cos(angle)
        bent &= directed[here] & directed[there]
        sharp[here[bent]] = True
        sharp[there[bent]] = True
    return sharp


def extra_voxels(field: SparseSDF, factor: int = 8) -> tuple[Tensor, Tensor]:
    """Points off the band in the blocks of factor^3 points that hold a point of the band, with the truncated distance.

    The side is that of the band points that steps through the block lead to; where they lead to both sides alike, the
    outside.

    Returns:
        coords, int32 [E, 3], sorted by x, then y, then z; values, fp32 [E], tau outside and -tau inside.

    Raises:
        ValueError: a resolution that is not a multiple of the factor, or a band of at most one step, at whose border
            the side is not told.
    """
    if factor < 2 or field.resolution % factor:
        raise ValueError(f"factor must be at least 2 and divide the resolution {field.resolution}, got {factor}")
    if field.tau * field.resolution / 2 < 1 + 1e-3:
        raise ValueError(f"field must reach farther than one grid step of {2 / field.resolution:g}, got {field.tau:g}")
    coords = field.coords.long()
    side = field.resolution // factor
    blocks, block = _flat(coords // factor, side).unique(return_inverse=True)
    order = block.argsort(stable=True)
    place = _flat(coords % factor, factor)
    extra, values = [], []
    starts = range(0, len(blocks), max(1, _CHUNK // factor**3))
    for start in starts:
        count = min(starts.step, len(blocks) - start)
        first, last = torch.searchsorted(
            block[order], torch.tensor([start, start + count], device=order.device)
        ).tolist()
        member = order[first:last]
        held = torch.zeros(count, factor**3, dtype=torch.bool, device=order.device)
        dense = torch.zeros(count, factor**3, device=order.device)
        held[block[member] - start, place[member]] = True
        dense[block[member] - start, place[member]] = field.values[member]
        row, column = (~held).nonzero(as_tuple=True)
        values.append(_fill(dense.view(count, factor, factor, factor), held, field.tau)[row, column])
        extra.append(_unflat(blocks[start + row], side) * factor + _unflat(column, factor))
    if not extra:
        return field.coords, field.values
    found = torch.cat(extra)
    order = _flat(found, field.resolution).argsort()
    return found[order].int(), torch.cat(values)[order]


def _fill(dense: Tensor, held: Tensor, tau: float) -> Tensor:
    """[B, f^3]: the side of every place, times tau, off the band; spread from the band step by step."""
    band = held.view_as(dense)
    # Every step takes all places next to a known one, so that it ends: a sum of zero is a tie, and goes outside.
    value, known = dense, band
    while not bool(known.all()):
        around, near = _sum_of_six(torch.stack([value, known.to(value.dtype)]))
        reached = ~known & (near > 0)
        value = torch.where(reached, torch.where(around < 0, -tau, tau), value)
        known = known | reached
    return value.flatten(1)


def _sum_of_six(x: Tensor) -> Tensor:
    """Of the neighbours along the last three axes, zero beyond the ends."""
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1, 1, 1))
    inner = slice(1, -1)
    return (
        padded[..., 2:, inner, inner]
        + padded[..., :-2, inner, inner]
        + padded[..., inner, 2:, inner]
        + padded[..., inner, :-2, inner]
        + padded[..., inner, inner, 2:]
        + padded[..., inner, inner, :-2]
    )


def _flat(coords: Tensor, side: int) -> Tensor:
    return (coords[:, 0] * side + coords[:, 1]) * side + coords[:, 2]


def _unflat(index: Tensor, side: int) -> Tensor:
    return torch.stack([index // (side * side), index // side % side, index % side], 1)
