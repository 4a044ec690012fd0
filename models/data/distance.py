"""Distance from points to triangles, many pairs at once: compiled for the CPU, as tensor operations on a GPU.

The nearest feature (face, edge or corner) is found from signed areas of the point's projection, as in Ericson,
"Real-Time Collision Detection" (2005), section 5.1.5. Triangles may be degenerate: a segment or a point.
"""

from __future__ import annotations

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
        from models.data.compiled_distance import fill  # numba is not needed on a GPU, and slow to import

        distance = torch.empty_like(points[0])
        fill(points.numpy(), corners.numpy(), triangle.numpy(), distance.numpy())
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
    edges = torch.minimum(
        torch.minimum(_segment(ap, ab, d1), _segment(ap, ac, d2)),
        _segment(bp, c - b, d4 - d3),
    )
    # The signs of a sliver are rounding, and the place they lead to is some place of the triangle, if not the nearest.
    return torch.where(on_face, torch.minimum(face, edges), edges)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _length(a: Tensor) -> Tensor:
    return _dot(a, a).sqrt()


def _segment(offset: Tensor, direction: Tensor, along: Tensor) -> Tensor:
    """Distance of a point to a segment, from its offset to the segment's start and its dot product with it."""
    length = _dot(direction, direction)
    t = torch.where(length > 0, along / length, 0).clamp(0, 1)
    return _length(offset - t * direction)
