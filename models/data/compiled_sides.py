"""Sides of the points around a point, compiled for the CPU."""

from __future__ import annotations

import numba


@numba.njit(cache=True, nogil=True, error_model="numpy")
def around(bits, coords, table, blocks, across, margin, kinds):
    """Sets bit i of `bits`, int32 [P], where the side of the point at step i from coords int64 [3, P] is in `kinds`.

    Args:
        table, blocks: of `Sides`; across: blocks along an axis of the table, `margin` of them before the grid.
        kinds: bit s is set for side s.
    """
    for p in range(coords.shape[1]):
        found = 0
        for i in range(27):
            x, y, z = coords[0, p] + i // 9 - 1, coords[1, p] + i // 3 % 3 - 1, coords[2, p] + i % 3 - 1
            block = table[(((x >> 3) + margin) * across + (y >> 3) + margin) * across + (z >> 3) + margin]
            found |= (kinds >> blocks[block, x & 7, y & 7, z & 7] & 1) << i
        bits[p] = found
