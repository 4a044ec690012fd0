"""Lines of sight, compiled for the CPU."""

from __future__ import annotations

import math

import numba


@numba.njit(cache=True, nogil=True, error_model="numpy")
def first_seen(seen, origin, base, candidate, order, side, row, start, end, triangle, corners, begin, edge, step):
    """Writes into `seen`, int8 [2, P], the side of the first candidate in sight where it is negative.

    Args:
        origin: fp64 [P, 3], of the lines. base: int64 [P, 3], the middle grid point of a block of w^3 = S points.
        candidate: bool [2, P, S]. order: int64 [P, S] of points. side: int8 [P, S].
        row: int64 [P, S], the list of triangles near each point; -1 for none. start, end: int64 [L], of the lists in
            `triangle`, which names those of corners fp64 [F, 3, 3].
        begin: of a line, where it begins to be blocked. edge: how far beyond its edges a triangle blocks, as a share.
        step: along a line, between places whose nearest points know the triangles.
    """
    for which in range(2):
        for i in range(len(origin)):
            if seen[which, i] >= 0:
                continue
            for s in order[i]:
                if candidate[which, i, s] and _is_free(
                    origin[i], base[i], s, row[i], start, end, triangle, corners, begin, edge, step
                ):
                    seen[which, i] = side[i, s]
                    break


@numba.njit(error_model="numpy")
def _is_free(o, base, s, row, start, end, triangle, corners, begin, edge, step):
    """Whether no triangle is met on the way from `o` to point `s` of the block."""
    w = round(len(row) ** (1 / 3))
    lx, ly, lz = base[0] - w // 2, base[1] - w // 2, base[2] - w // 2
    dx, dy, dz = lx + s // (w * w) - o[0], ly + s // w % w - o[1], lz + s % w - o[2]
    places = math.ceil(math.sqrt(dx * dx + dy * dy + dz * dz) / step)
    last = -1
    for k in range(places + 1):
        t = k / places
        x, y, z = math.floor(o[0] + t * dx + 0.5), math.floor(o[1] + t * dy + 0.5), math.floor(o[2] + t * dz + 0.5)
        point = int((x - lx) * w + (y - ly)) * w + int(z - lz)
        if point == last or row[point] < 0:
            continue
        last = point
        for pair in range(start[row[point]], end[row[point]]):
            if _meets(o, dx, dy, dz, corners[triangle[pair]], begin, edge):
                return False
    return True


@numba.njit(error_model="numpy")
def _meets(o, dx, dy, dz, t, begin, edge):
    """Whether a line of sight meets a triangle, by Moeller and Trumbore (1997)."""
    ux, uy, uz = t[1, 0] - t[0, 0], t[1, 1] - t[0, 1], t[1, 2] - t[0, 2]
    vx, vy, vz = t[2, 0] - t[0, 0], t[2, 1] - t[0, 1], t[2, 2] - t[0, 2]
    px, py, pz = dy * vz - dz * vy, dz * vx - dx * vz, dx * vy - dy * vx
    volume = ux * px + uy * py + uz * pz
    if volume == 0:
        return False
    ox, oy, oz = o[0] - t[0, 0], o[1] - t[0, 1], o[2] - t[0, 2]
    u = (ox * px + oy * py + oz * pz) / volume
    if not u > -edge:
        return False
    qx, qy, qz = oy * uz - oz * uy, oz * ux - ox * uz, ox * uy - oy * ux
    v = (dx * qx + dy * qy + dz * qz) / volume
    if not (v > -edge and u + v < 1 + edge):
        return False
    at = (vx * qx + vy * qy + vz * qz) / volume
    return begin < at < 1
