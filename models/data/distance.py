"""Distance from points to triangles."""

from __future__ import annotations

import torch
from torch import Tensor


def triangle_distance(points: Tensor, corners: Tensor) -> Tensor:
    """Euclidean distance of each point to its own triangle.

    The nearest feature (face, edge or corner) is found from signed areas of the point's projection, as in Ericson,
    "Real-Time Collision Detection" (2005), section 5.1.5. Triangles may be degenerate: a segment or a point.

    Args:
        points: [3, P], coordinates first, so that each is one contiguous row.
        corners: [3, 3, P]: corner, coordinate, pair.

    Returns:
        [P] in the dtype of the points.
    """
    a, b, c = corners
    ab, ac, ap = b - a, c - a, points - a
    bp, cp = points - b, points - c
    d1, d2 = _dot(ab, ap), _dot(ac, ap)
    d3, d4 = _dot(ab, bp), _dot(ac, bp)
    d5, d6 = _dot(ab, cp), _dot(ac, cp)
    va, vb, vc = d3 * d6 - d5 * d4, d5 * d2 - d1 * d6, d1 * d4 - d3 * d2

    total = va + vb + vc
    flat = total <= 0  # of no area: only edges and corners count
    inverse = torch.where(flat, 0, 1 / total)
    v, w = vb * inverse, vc * inverse

    # Nearest on an edge, where the projection lies beyond it. A segment of a degenerate triangle is longest of three,
    # so that each edge is tried and the nearest wins.
    on_face = (va > 0) & (vb > 0) & (vc > 0) & ~flat
    face = _length(ap - v * ab - w * ac)
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
