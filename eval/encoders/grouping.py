"""Neighbourhoods of point clouds: farthest points as centres, and the points around them.

Everything here is deterministic and treats each cloud of a batch alone: squared distances are sums of squared
differences, never a matrix product, whose rounding depends on the size of the batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

# pointnet2_ops never chooses a point whose squared distance to the origin is at most this (its first one excepted).
_ORIGIN = 1e-3


def normalise(points: Tensor) -> Tensor:
    """Clouds [..., N, 3], their mean moved to the origin and their farthest point to distance 1; one place: all 0."""
    centred = points - points.mean(-2, keepdim=True)
    radius = centred.norm(dim=-1, keepdim=True).amax(-2, keepdim=True)
    return torch.where(radius > 1e-6, centred / radius.clamp(min=1e-6), 0)


def farthest_points(points: Tensor, count: int, *, skip_origin: bool = False) -> Tensor:
    """Indices int64 [B, count]: the first point, then always the one farthest from all chosen, the lowest on a tie.

    Args:
        points: floating [B, N, 3].
        skip_origin: as pointnet2_ops does, choose no point within about 0.03 of the origin but the first.

    Raises:
        ValueError: fewer points than are to be chosen.
    """
    batch, available, _ = points.shape
    if available < count:
        raise ValueError(f"a cloud of {available} points has no {count} farthest ones")
    distance = points.new_full((batch, available), torch.inf)
    if skip_origin:
        distance[points.square().sum(-1) <= _ORIGIN] = -1
    chosen = torch.zeros(batch, count, dtype=torch.int64, device=points.device)
    for step in range(1, count):
        last = gather(points, chosen[:, step - 1 : step])
        distance = torch.minimum(distance, (points - last).square().sum(-1))
        chosen[:, step] = distance.argmax(-1)
    return chosen


def nearest_neighbours(points: Tensor, centres: Tensor, count: int) -> Tensor:
    """Indices int64 [B, G, count] of the points [B, N, 3] nearest to each centre [B, G, 3], in no particular order."""
    return _squared_distances(points, centres).topk(count, largest=False, sorted=False).indices


def ball_neighbours(points: Tensor, centres: Tensor, radius: float, count: int) -> Tensor:
    """Indices int64 [B, G, count] of the first points, in their order, within the radius of each centre.

    Where there are fewer, the first of them fills the rest. Centres are points of the cloud, so there always is one.

    Args:
        points: floating [B, N, 3]. centres: floating [B, G, 3], points of the cloud.
    """
    order = torch.arange(points.shape[1], device=points.device)
    inside = _squared_distances(points, centres) <= radius**2
    first = torch.where(inside, order, len(order)).topk(min(count, len(order)), largest=False, sorted=True).values
    first = torch.where(first < len(order), first, first[..., :1])
    return torch.cat([first, first[..., :1].expand(-1, -1, count - first.shape[-1])], -1)


def gather(values: Tensor, indices: Tensor) -> Tensor:
    """[B, ..., C] from values [B, N, C] and indices int64 [B, ...]."""
    batch = torch.arange(len(values), device=values.device).view(-1, *[1] * (indices.ndim - 1))
    return values[batch, indices]


def _squared_distances(points: Tensor, centres: Tensor) -> Tensor:
    """[B, G, N]."""
    x, y, z = ((centres[:, :, None, axis] - points[:, None, :, axis]).square() for axis in range(3))
    return x + y + z
