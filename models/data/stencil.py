"""Neighbours and gradients in a sparse field."""

from __future__ import annotations

import torch
from torch import Tensor

from models.data.octree import find
from models.data.sdf import SparseSDF


def stencil_keys(field: SparseSDF) -> tuple[Tensor, Tensor]:
    """Sorted keys of the grid points, int64 [V], and the strides of x, y and z among keys, int64 [3].

    A key plus a combination of -1, 0 and 1 strides is the key of that neighbour, or of no point.
    """
    side = field.resolution + 1  # no neighbour of the last point is the first of the next row
    strides = torch.tensor([side * side, side, 1], device=field.coords.device)
    return (field.coords.long() * strides).sum(1), strides


def gradient(field: SparseSDF, keys: Tensor, point: Tensor, strides: Tensor) -> Tensor:
    """fp32 [P, 3], per grid step, at points by number: central differences, one-sided where a neighbour is missing."""
    parts = []
    for stride in strides.tolist():
        (after, has_after), (before, has_before) = (find(keys, keys[point] + step) for step in (stride, -stride))
        up = torch.where(has_after, field.values[after], field.values[point])
        down = torch.where(has_before, field.values[before], field.values[point])
        parts.append((up - down) / (has_after.float() + has_before.float()).clamp(min=1))
    return torch.stack(parts, 1)
