"""Distance from points to triangles, compiled for the CPU."""

from __future__ import annotations

import math

import numba

# Square of the sine of an angle: below it the nearest feature of a triangle may be misjudged, and all are tried.
_SLIVER = 1e-3


@numba.njit(cache=True, nogil=True, error_model="numpy")
def fill(points, corners, point, triangle, distance):
    """Writes distances [P] between pairs of points [3, Q] and triangles of corners [F, 3, 3]."""
    for i in range(len(triangle)):
        p = point[i]
        distance[i] = math.sqrt(squared_distance(points[0, p], points[1, p], points[2, p], corners[triangle[i]]))


@numba.njit(inline="always", error_model="numpy")
def squared_distance(px, py, pz, t):
    """Squared distance of a point to a triangle [3, 3]: corner, coordinate; in their dtype."""
    ax, ay, az = px - t[0, 0], py - t[0, 1], pz - t[0, 2]
    ux, uy, uz = t[1, 0] - t[0, 0], t[1, 1] - t[0, 1], t[1, 2] - t[0, 2]
    vx, vy, vz = t[2, 0] - t[0, 0], t[2, 1] - t[0, 1], t[2, 2] - t[0, 2]
    bx, by, bz = ax - ux, ay - uy, az - uz
    cx, cy, cz = ax - vx, ay - vy, az - vz
    d1, d2 = ux * ax + uy * ay + uz * az, vx * ax + vy * ay + vz * az
    d3, d4 = ux * bx + uy * by + uz * bz, vx * bx + vy * by + vz * bz
    d5, d6 = ux * cx + uy * cy + uz * cz, vx * cx + vy * cy + vz * cz
    va, vb, vc = d3 * d6 - d5 * d4, d5 * d2 - d1 * d6, d1 * d4 - d3 * d2
    area = va + vb + vc
    least = t.dtype.type(math.inf)
    if va > 0 and vb > 0 and vc > 0:
        v, w = vb / area, vc / area
        x, y, z = ax - v * ux - w * vx, ay - v * uy - w * vy, az - v * uz - w * vz
        least = x * x + y * y + z * z
    if not area > _SLIVER * (ux * ux + uy * uy + uz * uz) * (vx * vx + vy * vy + vz * vz) or least == math.inf:
        wx, wy, wz = vx - ux, vy - uy, vz - uz
        least = min(
            least,
            _squared(ax, ay, az, ux, uy, uz, d1),
            _squared(ax, ay, az, vx, vy, vz, d2),
            _squared(bx, by, bz, wx, wy, wz, d4 - d3),
        )
    return least


@numba.njit(inline="always", error_model="numpy")
def _squared(x, y, z, ux, uy, uz, along):
    """Squared distance to a segment, from its offset to the start and its dot product with the direction."""
    length = ux * ux + uy * uy + uz * uz
    t = min(max(along / length, 0), 1) if length > 0 else along * 0
    x, y, z = x - t * ux, y - t * uy, z - t * uz
    return x * x + y * y + z * z
