"""Connected components of cells that lie side by side, compiled for the CPU."""

from __future__ import annotations

import numba


@numba.njit(cache=True, nogil=True, error_model="numpy")
def join(parent, keys, table, blocks, barred, first, points, side, across, level):
    """Joins the trees of the cells of a level with those of the cells beside them that are no finer.

    Args:
        parent: int32 [N], of each cell; no more than the cell itself, which is its own parent if it is a root.
        keys: int64 [C], of the level, numbered from `first` on; `side` cells along an axis.
        table, blocks: of `Nodes`; `across` blocks along an axis.
        barred: bool [3, N], whether there is no step along the axis from a cell of level 0 to another; those are the
            first `points`.
    """
    size = 1 << level
    for i in range(len(keys)):
        here = keys[i] // (side * side) * size, keys[i] // side % side * size, keys[i] % side * size
        for axis in range(3):
            for step in (size, -1):
                at = here[axis] + step
                if at < 0 or at >= side * size:
                    continue
                x, y, z = at if axis == 0 else here[0], at if axis == 1 else here[1], at if axis == 2 else here[2]
                block = table[((x >> 3) * across + (y >> 3)) * across + (z >> 3)]
                there = -1 - block if block < 0 else blocks[block, x & 7, y & 7, z & 7]
                # Of two points the lower one makes the step.
                if level == 0 and there < points and (step < 0 or barred[axis, i]):
                    continue
                a, b = _root(parent, first + i), _root(parent, there)
                parent[max(a, b)] = min(a, b)


@numba.njit(error_model="numpy")
def _root(parent, node):
    while parent[node] != node:
        parent[node] = parent[parent[node]]
        node = parent[node]
    return node


@numba.njit(cache=True, nogil=True, error_model="numpy")
def settle(parent):
    """Makes the root of its tree every cell's parent."""
    for node in range(len(parent)):
        parent[node] = parent[parent[node]]
