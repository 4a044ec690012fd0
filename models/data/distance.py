"""Distance from points to triangles, many pairs at once: compiled for the CPU, as tensor operations on a GPU.

The nearest feature (face, edge or corner) is found from signed areas of the point's projection, as in Ericson, "Real-Time
Collision Detection" (2005), section 5.1.5. Triangles may be degenerate: a segment or a point.
"""

from __future__ import annotations

import math

import numba
import torch
from torch import Tensor


def triangle_distance(points: Tensor, corners: Tensor, triangle: Tensor) -> Tensor:
    """Euclidean distance of each point to its triangle.

    Args:
        points: [3, P], coordinates first, so that each is one contiguous row.
        corners: [F, 3, 3]: triangle, corner, coordinate; contiguous, in the dtype of the points.
        triangle: int64 [P].

    Returns:
        [P] in the dtype of the points.
    """
    if points.device.type == "cpu":
        distance = torch.empty_like(points[0])
        _compiled(points.numpy(), corners.numpy(), triangle.numpy(), distance.numpy())
        return distance
    return tensor_distance(points, corners.permute(1, 2, 0)[:, :, triangle])


def tensor_distance(points: Tensor, corners: Tensor) -> Tensor:
    """`triangle_distance` for corners [3, 3, P]: corner, coordinate, and one triangle a point."""
    a, b, c = corners
    ab, ac, ap = b - a, c - a, points - a
    bp, cp = points - b, points - c
    d1, d2 = _dot(ab, ap), _dot(ac, ap)
    d3, d4 = _dot(ab, bp), _dot(ac, bp)
    d5, d6 = _dot(ab, cp), _dot(ac, cp)
    va, vb, vc = d3 * d6 - d5 * d4, d5 * d2 - d1 * d6, d1 * d4 - d3 * d2
    on_face = (va > 0) & (vb > 0) & (vc > 0)
    inverse = torch.where(on_face, 1 / (va + vb + vc), 0)
    face = _length(ap - (vb * inverse) * ab - (vc * inverse) * ac)
    # Beyond an edge, or without an area: the nearest of the three edges.
    edges = torch.minimum(
        torch.minimum(_segment(ap, ab, d1), _segment(ap, ac, d2)),
        _segment(bp, c - b, d4 - d3),
    )
    return torch.where(on_face, face, edges)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _length(a: Tensor) -> Tensor:
    return _dot(a, a).sqrt()


def _segment(offset: Tensor, direction: Tensor, along: Tensor) -> Tensor:
    """Distance of a point to a segment, from its offset to the segment's start and its dot product with it."""
    length = _dot(direction, direction)
    t = torch.where(length > 0, along / length, 0).clamp(0, 1)
    return _length(offset - t * direction)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _compiled(points, corners, triangle, distance):  # type: ignore[no-untyped-def]
    """As `tensor_distance`, for corners [F, 3, 3]."""
    for i in range(len(triangle)):
        t = corners[triangle[i]]
        ax, ay, az = points[0, i] - t[0, 0], points[1, i] - t[0, 1], points[2, i] - t[0, 2]
        ux, uy, uz = t[1, 0] - t[0, 0], t[1, 1] - t[0, 1], t[1, 2] - t[0, 2]
        vx, vy, vz = t[2, 0] - t[0, 0], t[2, 1] - t[0, 1], t[2, 2] - t[0, 2]
        bx, by, bz = ax - ux, ay - uy, az - uz
        cx, cy, cz = ax - vx, ay - vy, az - vz
        d1, d2 = ux * ax + uy * ay + uz * az, vx * ax + vy * ay + vz * az
        d3, d4 = ux * bx + uy * by + uz * bz, vx * bx + vy * by + vz * bz
        d5, d6 = ux * cx + uy * cy + uz * cz, vx * cx + vy * cy + vz * cz
        va, vb, vc = d3 * d6 - d5 * d4, d5 * d2 - d1 * d6, d1 * d4 - d3 * d2
        if va > 0 and vb > 0 and vc > 0:
            v, w = vb / (va + vb + vc), vc / (va + vb + vc)
            x, y, z = ax - v * ux - w * vx, ay - v * uy - w * vy, az - v * uz - w * vz
            least = x * x + y * y + z * z
        else:
            wx, wy, wz = vx - ux, vy - uy, vz - uz
            least = min(
                _squared(ax, ay, az, ux, uy, uz, d1),
                _squared(ax, ay, az, vx, vy, vz, d2),
                _squared(bx, by, bz, wx, wy, wz, d4 - d3),
            )
        distance[i] = math.sqrt(least)


@numba.njit(inline="always", error_model="numpy")
def _squared(x, y, z, ux, uy, uz, along):  # type: ignore[no-untyped-def]
    """Squared distance to a segment, as `_segment`."""
    length = ux * ux + uy * uy + uz * uz
    t = min(max(along / length, 0), 1) if length > 0 else along * 0
    x, y, z = x - t * ux, y - t * uy, z - t * uz
    return x * x + y * y + z * z
