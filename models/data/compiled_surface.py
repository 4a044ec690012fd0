"""What grid points tell about the triangles next to them, compiled for the CPU."""

from __future__ import annotations

import numba


@numba.njit(cache=True, nogil=True, error_model="numpy")
def tell(found, triangle, point, distance, points, about, corners, normal, reach, clear):
    """Adds to `found`, int32 [F], the flags of all points of a triangle's pairs.

    Args:
        triangle, point: int64 [P], the pairs. distance: fp32 [P]; pairs farther apart than `reach` do not count.
        points: int64 [3, Q]. about: int32 [Q], their flags: the lowest four are passed on as they are; of the next two,
            farther than `clear` above the triangle too, as far below two bits higher, else not at all.
        corners: fp64 [F, 3, 3]. normal: fp64 [F, 3].
    """
    for i in range(len(triangle)):
        if distance[i] > reach:
            continue
        t, p = triangle[i], point[i]
        x, y, z = points[0, p] - corners[t, 0, 0], points[1, p] - corners[t, 0, 1], points[2, p] - corners[t, 0, 2]
        height = normal[t, 0] * x + normal[t, 1] * y + normal[t, 2] * z
        flags = about[p] & 15
        if height > clear:
            flags |= about[p] & 48
        elif height < -clear:
            flags |= (about[p] & 48) << 2
        found[t] |= flags
