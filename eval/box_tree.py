"""A binary tree of boxes around points or triangles, for exact searches on a CPU and a GPU alike.

Items are sorted along a Morton curve, large ones apart from small ones, and cut into leaves of equal numbers; a tree
with all its levels full stands above them (as Karras, "Maximizing Parallelism in the Construction of BVHs, Octrees, and
k-d Trees", 2012, but balanced, so that nodes need no pointers). Node 1 is the root; the children of node i are 2 i and
2 i + 1; the last L nodes are the leaves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# Items of a leaf. A CPU visits boxes one by one; on a GPU neighbouring queries walk together and boxes cost more.
LEAF = {"cuda": 32, "cpu": 4}
# Bits of each coordinate in a Morton code; above them the code holds an item's size.
_BITS = 20
_SIZES = 8


@dataclass(frozen=True, eq=False)
class BoxTree:
    """Items in the order of the leaves, and the boxes around them."""

    items: Tensor  # fp64 [N, C, 3], sorted: C is 1 for points, 3 for triangles
    order: Tensor  # int64 [N]: which item of the original list each is
    codes: Tensor  # int64 [N]: place on the curve; ascending
    low: Tensor  # fp64 [2 L, 3]: of the boxes of nodes; +inf where there are no items
    high: Tensor  # fp64 [2 L, 3]; -inf where there are no items
    leaf: int  # items of a leaf; the last ones have fewer or none
    origin: Tensor  # fp64 [3]: where the curve's cube begins
    extent: float  # side of the curve's cube

    @classmethod
    def of_points(cls, points: Tensor, leaf: int | None = None) -> BoxTree:
        """Of finite points fp64 [N, 3], N > 0."""
        return cls._of(points[:, None], leaf)

    @classmethod
    def of_triangles(cls, corners: Tensor, leaf: int | None = None) -> BoxTree:
        """Of finite triangles fp64 [F, 3, 3], F > 0."""
        return cls._of(corners, leaf)

    @classmethod
    def _of(cls, items: Tensor, leaf: int | None) -> BoxTree:
        leaf = LEAF[items.device.type] if leaf is None else leaf
        low, high = items.amin(1), items.amax(1)
        origin = low.amin(0)
        extent = float((high.amax(0) - origin).max()) or 1.0
        codes = _morton((low + high) / 2, origin, extent) | _size_class((high - low).amax(1) / extent) << 3 * _BITS
        codes, order = codes.sort()
        leaves = 1 << max(0, math.ceil(len(items) / leaf) - 1).bit_length()
        lows, highs = _boxes(low[order], leaves, leaf, "amin"), _boxes(high[order], leaves, leaf, "amax")
        return cls(items[order].contiguous(), order, codes, lows, highs, leaf, origin, extent)

    def along_curve(self, queries: Tensor) -> Tensor:
        """Place among `codes`, int64 [Q], of queries fp64 [Q, 3]: as if they were items of the middle item's size.

        Queries beyond the curve's cube are taken to the nearest place in it.
        """
        size = self.codes[len(self.codes) // 2] >> 3 * _BITS << 3 * _BITS
        return _morton(queries, self.origin, self.extent) | size


def curve_order(points: Tensor) -> Tensor:
    """Indices int64 [N] that sort points fp64 [N, 3], N > 0, along a Morton curve: neighbours come together."""
    origin = points.amin(0)
    return _morton(points, origin, float((points.amax(0) - origin).max()) or 1.0).argsort()


def _boxes(ends: Tensor, leaves: int, leaf: int, reduce: str) -> Tensor:
    """Lower or upper ends of all nodes' boxes, [2 L, 3], from those of the sorted items [N, 3]."""
    padded = ends.new_full((leaves * leaf, 3), math.inf if reduce == "amin" else -math.inf)
    padded[: len(ends)] = ends
    level = getattr(padded.view(leaves, leaf, 3), reduce)(1)
    levels = [level]
    while len(level) > 1:
        level = getattr(level.view(-1, 2, 3), reduce)(1)
        levels.append(level)
    return torch.cat([level, *reversed(levels)])  # node 0 is not used


def _morton(points: Tensor, origin: Tensor, extent: float) -> Tensor:
    """Bits of three coordinates in turns, int64 [N]."""
    cells = ((points - origin) * (2**_BITS / extent)).clamp(0, 2**_BITS - 1).long()
    for shift, mask in (
        (32, 0x1F00000000FFFF),
        (16, 0x1F0000FF0000FF),
        (8, 0x100F00F00F00F00F),
        (4, 0x10C30C30C30C30C3),
        (2, 0x1249249249249249),
    ):
        cells = (cells | cells << shift) & mask
    x, y, z = cells.unbind(1)
    return x << 2 | y << 1 | z


def _size_class(relative: Tensor) -> Tensor:
    """0 for the largest, a class for every halving, int64 [N]: a large item would widen the boxes of small ones."""
    return (-relative.clamp(2.0 ** -(_SIZES + 1), 1).log2()).floor().clamp(0, _SIZES - 1).long()
