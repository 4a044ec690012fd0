"""Searches in trees of triangles' boxes, compiled for the CPU, without the lock, so that threads share the work."""

from __future__ import annotations

import math

import numba
import numpy as np

# Numba's cache does not see changes there: delete __pycache__ after one.
from models.data.compiled_distance import squared_distance

# Deeper than any tree.
_STACK = 64
# Widens triangles for rays, in barycentric coordinates, so that none slips between neighbours.
_EDGE = 1e-9


@numba.njit(cache=True, nogil=True, error_model="numpy")
def nearest_triangle(points, triangles, low, high, leaf, distance, index):
    """Writes the distance [P] of points fp64 [P, 3] to the nearest triangle, and its position, int64 [P]."""
    leaves = len(low) // 2
    nodes, bounds = np.empty(_STACK, np.int64), np.empty(_STACK)
    for i in range(len(points)):
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        least, found = math.inf, 0
        nodes[0], bounds[0], depth = 1, _to_box(x, y, z, low, high, 1), 1
        while depth:
            depth -= 1
            node = nodes[depth]
            if not bounds[depth] < least:
                continue
            if node >= leaves:
                first = (node - leaves) * leaf
                for item in range(first, min(first + leaf, len(triangles))):
                    d = squared_distance(x, y, z, triangles[item])
                    if d < least:
                        least, found = d, item
                continue
            left, right = _to_box(x, y, z, low, high, 2 * node), _to_box(x, y, z, low, high, 2 * node + 1)
            nearer = 2 * node if left <= right else 2 * node + 1
            nodes[depth], bounds[depth] = 4 * node + 1 - nearer, max(left, right)
            nodes[depth + 1], bounds[depth + 1] = nearer, min(left, right)
            depth += 2
        distance[i], index[i] = math.sqrt(least), found


@numba.njit(cache=True, nogil=True, error_model="numpy")
def windings(origins, directions, triangles, low, high, leaf, winding):
    """Writes how often the triangles go around each origin, int64 [P, D]: signed crossings along each of D rays."""
    for i in range(len(origins)):
        for j in range(len(directions)):
            winding[i, j] = _crossings(origins[i], directions[j], triangles, low, high, leaf, -1, 0.0, False)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def sees_outside(origins, own, directions, triangles, low, high, leaf, start, free):
    """Writes whether some ray from the origin meets no triangle but its own (at position `own`) beyond `start`."""
    for i in range(len(origins)):
        free[i] = False
        for j in range(len(directions)):
            if not _crossings(origins[i], directions[j], triangles, low, high, leaf, own[i], start, True):
                free[i] = True
                break


@numba.njit(error_model="numpy")
def _to_box(x, y, z, low, high, node):
    """Squared distance to the box of a node; infinite for an empty one."""
    dx = max(low[node, 0] - x, x - high[node, 0], 0.0)
    dy = max(low[node, 1] - y, y - high[node, 1], 0.0)
    dz = max(low[node, 2] - z, z - high[node, 2], 0.0)
    return dx * dx + dy * dy + dz * dz


@numba.njit(error_model="numpy")
def _crossings(origin, direction, triangles, low, high, leaf, own, start, any_hit):
    """Crossings of a ray beyond `start`, +1 from a triangle's back to its front; with `any_hit`: 1 at the first."""
    leaves = len(low) // 2
    inverse = (1 / direction[0], 1 / direction[1], 1 / direction[2])
    total = 0
    node = 1
    while node:
        if not _meets_box(origin, inverse, low, high, node, start):
            node = _next(node)
        elif node < leaves:
            node *= 2
        else:
            first = (node - leaves) * leaf
            for item in range(first, min(first + leaf, len(triangles))):
                sign = _meets_triangle(origin, direction, triangles[item], start)
                if sign and item != own:
                    if any_hit:
                        return 1
                    total += sign
            node = _next(node)
    return total


@numba.njit(error_model="numpy")
def _next(node):
    """The node that follows when all beneath this one is done, 0 after the last."""
    node += 1
    node //= node & -node
    return node if node > 1 else 0


@numba.njit(error_model="numpy")
def _meets_box(origin, inverse, low, high, node, start):
    """Whether a ray meets a box beyond `start`; `inverse` is one over its direction, whose parts are not zero."""
    if not low[node, 0] <= high[node, 0]:  # nothing in it
        return False
    enter, leave = start, math.inf
    for axis in range(3):
        a = (low[node, axis] - origin[axis]) * inverse[axis]
        b = (high[node, axis] - origin[axis]) * inverse[axis]
        enter, leave = max(enter, min(a, b)), min(leave, max(a, b))
    return enter <= leave * (1 + 1e-12)


@numba.njit(error_model="numpy")
def _meets_triangle(o, d, t, start):
    """+1 or -1 where the ray leaves through front or back, 0 where it misses; as Moeller and Trumbore (1997)."""
    ux, uy, uz = t[1, 0] - t[0, 0], t[1, 1] - t[0, 1], t[1, 2] - t[0, 2]
    vx, vy, vz = t[2, 0] - t[0, 0], t[2, 1] - t[0, 1], t[2, 2] - t[0, 2]
    px, py, pz = d[1] * vz - d[2] * vy, d[2] * vx - d[0] * vz, d[0] * vy - d[1] * vx
    volume = ux * px + uy * py + uz * pz
    if volume == 0:
        return 0
    ox, oy, oz = o[0] - t[0, 0], o[1] - t[0, 1], o[2] - t[0, 2]
    u = (ox * px + oy * py + oz * pz) / volume
    qx, qy, qz = oy * uz - oz * uy, oz * ux - ox * uz, ox * uy - oy * ux
    v = (d[0] * qx + d[1] * qy + d[2] * qz) / volume
    if not (u > -_EDGE and v > -_EDGE and u + v < 1 + _EDGE):
        return 0
    if not (vx * qx + vy * qy + vz * qz) / volume > start:
        return 0
    return 1 if volume < 0 else -1
