"""Lines of sight, compiled for the CPU."""

from __future__ import annotations

import numba


@numba.njit(cache=True, nogil=True, error_model="numpy")
def first_seen(seen, origin, ray, candidate, order, side, first, blocker, corners, start, edge):
    """Writes into `seen`, int8 [2, P], the side of the first candidate in sight where it is negative.

    Args:
        origin, ray: fp64 [P, 3] and [P, S, 3]: from the origin to each point.
        candidate: bool [2, P, S]. order: int64 [P, S] of points. side: int8 [P, S].
        first: int64 [P + 1] of the blockers int64 [B] of each origin, which are triangles of corners fp64 [F, 3, 3].
        start: of a ray, where it begins to be blocked. edge: how far beyond its edges a triangle blocks, as a share.
    """
    for which in range(2):
        for i in range(len(origin)):
            if seen[which, i] >= 0:
                continue
            for s in order[i]:
                if candidate[which, i, s] and _is_free(
                    origin[i], ray[i, s], blocker[first[i] : first[i + 1]], corners, start, edge
                ):
                    seen[which, i] = side[i, s]
                    break


@numba.njit(error_model="numpy")
def _is_free(o, d, blocker, corners, start, edge):
    """Whether no triangle is met, by Moeller and Trumbore (1997)."""
    for index in blocker:
        t = corners[index]
        ux, uy, uz = t[1, 0] - t[0, 0], t[1, 1] - t[0, 1], t[1, 2] - t[0, 2]
        vx, vy, vz = t[2, 0] - t[0, 0], t[2, 1] - t[0, 1], t[2, 2] - t[0, 2]
        px, py, pz = d[1] * vz - d[2] * vy, d[2] * vx - d[0] * vz, d[0] * vy - d[1] * vx
        volume = ux * px + uy * py + uz * pz
        if volume == 0:
            continue
        ox, oy, oz = o[0] - t[0, 0], o[1] - t[0, 1], o[2] - t[0, 2]
        u = (ox * px + oy * py + oz * pz) / volume
        if not u > -edge:
            continue
        qx, qy, qz = oy * uz - oz * uy, oz * ux - ox * uz, ox * uy - oy * ux
        v = (d[0] * qx + d[1] * qy + d[2] * qz) / volume
        if not (v > -edge and u + v < 1 + edge):
            continue
        at = (vx * qx + vy * qy + vz * qz) / volume
        if start < at < 1:
            return False
    return True
