"""Distance from points to triangles in one Triton kernel: the arithmetic of `models.data.compiled_distance`."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_PAIRS = 256  # of one program


def fill_distances(points: Tensor, corners: Tensor, point: Tensor, triangle: Tensor, distance: Tensor) -> None:
    """Writes distances [P] between pairs of points [3, Q] and triangles of corners [F, 3, 3], all contiguous."""
    if not len(point):
        return
    with torch.cuda.device_of(points):
        _distance_kernel[(triton.cdiv(len(point), _PAIRS),)](
            points, corners, point, triangle, distance, points.shape[1], len(point), BLOCK=_PAIRS
        )


@triton.jit(do_not_specialize=["num_points", "num_pairs"])
def _distance_kernel(points, corners, point, triangle, distance, num_points, num_pairs, BLOCK: tl.constexpr):
    pair = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there = pair < num_pairs
    p = points + tl.load(point + pair, there, 0)
    t = corners + 9 * tl.load(triangle + pair, there, 0)
    stride = num_points.to(tl.int64)
    least = squared_distance(tl.load(p), tl.load(p + stride), tl.load(p + 2 * stride), t)
    tl.store(distance + pair, tl.sqrt(least), there)


@triton.jit
def squared_distance(px, py, pz, t):
    """Squared distance of points to the triangles that begin at `t`: corner after corner, coordinates together."""
    # Offsets of the point from corner a (then b and c), and the sides u = b - a, v = c - a.
    x, y, z = tl.load(t), tl.load(t + 1), tl.load(t + 2)
    ux, uy, uz = tl.load(t + 3) - x, tl.load(t + 4) - y, tl.load(t + 5) - z
    vx, vy, vz = tl.load(t + 6) - x, tl.load(t + 7) - y, tl.load(t + 8) - z
    ax, ay, az = px - x, py - y, pz - z
    bx, by, bz = ax - ux, ay - uy, az - uz
    cx, cy, cz = ax - vx, ay - vy, az - vz

    d1, d2 = ux * ax + uy * ay + uz * az, vx * ax + vy * ay + vz * az
    d3, d4 = ux * bx + uy * by + uz * bz, vx * bx + vy * by + vz * bz
    d5, d6 = ux * cx + uy * cy + uz * cz, vx * cx + vy * cy + vz * cz
    va, vb, vc = d3 * d6 - d5 * d4, d5 * d2 - d1 * d6, d1 * d4 - d3 * d2
    least = tl.minimum(
        _squared(ax, ay, az, ux, uy, uz, d1),
        tl.minimum(_squared(ax, ay, az, vx, vy, vz, d2), _squared(bx, by, bz, vx - ux, vy - uy, vz - uz, d4 - d3)),
    )
    # The signs of a sliver are rounding, and the place they lead to is some place of the triangle, if not the nearest.
    on_face = (va > 0) & (vb > 0) & (vc > 0)
    area = tl.where(on_face, va + vb + vc, 1.0)
    v, w = vb / area, vc / area
    x, y, z = ax - v * ux - w * vx, ay - v * uy - w * vy, az - v * uz - w * vz
    return tl.where(on_face, tl.minimum(least, x * x + y * y + z * z), least)


@triton.jit
def _squared(x, y, z, ux, uy, uz, along):
    """Squared distance to a segment, from its offset to the start and its dot product with the direction."""
    length = ux * ux + uy * uy + uz * uz
    t = tl.where(length > 0, along / tl.where(length > 0, length, 1.0), 0.0)
    t = tl.minimum(tl.maximum(t, 0.0), 1.0)
    x, y, z = x - t * ux, y - t * uy, z - t * uz
    return x * x + y * y + z * z
