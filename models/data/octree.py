"""Descent through an octree: which cells of a grid are near which triangles, from coarse cells to single grid points.

A cell of level L holds the grid points [c 2^L, (c + 1) 2^L) along each axis; a cell of level 0 is a grid point. The
descent starts from the cells that a triangle's box reaches, and splits cells for as long as a triangle is near them, so
that memory and work follow the surface. Coordinates are in units of the grid, whose points are 0 .. resolution - 1.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from models.data.distance import triangle_distance

# Pairs of a triangle and a cell that are split at once: enough to fill a GPU, few enough for a CPU's cache.
_CHUNK = {"cuda": 2**24, "cpu": 2**15}
# Side of the coarsest cells. Larger ones are shared by triangles with nothing in common.
_ROOT_LEVEL = 5
# Of single-precision distances at the largest coordinates, in grid units.
SLACK = 1e-3


@dataclass(frozen=True)
class Cells:
    """Keys of cells of one level."""

    level: int
    keys: Tensor  # int64 [C]


@dataclass(frozen=True)
class Grid:
    """The grid, with a margin of coarsest cells around it, so that keys of neighbours always exist."""

    resolution: int

    def side(self, level: int) -> int:
        """Cells along an axis, margins included."""
        return (math.ceil(self.resolution / 2**_ROOT_LEVEL) + 2) * 2 ** (_ROOT_LEVEL - level)

    def margin(self, level: int) -> int:
        return int(2 ** (_ROOT_LEVEL - level))

    def key(self, coords: Tensor, level: int) -> Tensor:
        """int64 [C] from cell coordinates int64 [3, C], which may lie in the margin."""
        side, margin = self.side(level), self.margin(level)
        x, y, z = coords
        return ((x + margin) * side + (y + margin)) * side + (z + margin)

    def coords(self, keys: Tensor, level: int) -> Tensor:
        """int64 [3, C]."""
        side, margin = self.side(level), self.margin(level)
        return torch.stack([keys // (side * side), keys // side % side, keys % side]) - margin

    @property
    def root_level(self) -> int:
        return _ROOT_LEVEL


@dataclass(frozen=True)
class Near:
    """Grid points near triangles, of one part of the grid; every point's pairs are in one part."""

    triangle: Tensor  # int64 [P]
    key: Tensor  # int64 [P], sorted, of level 0
    distance: Tensor  # fp32 [P]
    empty: tuple[Cells, ...]  # cells beneath visited ones that no triangle is near


@dataclass(frozen=True)
class Pairs:
    """Pairs of a triangle and a grid point, by point."""

    keys: Tensor  # int64 [Q], sorted, of the points
    start: Tensor  # int64 [Q], first pair of a point
    end: Tensor  # int64 [Q], behind its last
    point: Tensor  # int64 [P]
    triangle: Tensor  # int64 [P]
    distance: Tensor  # fp32 [P]

    @classmethod
    def of(cls, parts: list[Near]) -> Pairs:
        """All pairs of a descent."""
        key, order = torch.cat([part.key for part in parts]).sort()
        keys, point, count = key.unique_consecutive(return_inverse=True, return_counts=True)
        end = count.cumsum(0)
        triangle, distance = (
            torch.cat(each)[order] for each in zip(*[(p.triangle, p.distance) for p in parts], strict=True)
        )
        return cls(keys, end - count, end, point, triangle, distance)


def descend(corners: Tensor, grid: Grid, reach: float, *, nearest: bool = False) -> Iterator[Near]:
    """All pairs of a triangle and a grid point at most `reach` apart.

    Args:
        corners: fp32 [F, 3, 3] of triangles, in grid units.
        reach: in grid units.
        nearest: leave out pairs whose triangle is certainly not the nearest of the point, and the empty cells.

    Yields:
        Parts that together hold every pair once. Their points and empty cells together are the whole grid, margin
        included, every place once.
    """
    corners = corners.contiguous()
    chunk = _CHUNK[corners.device.type]
    triangle, key = _roots(corners, grid, reach, chunk)
    if not nearest:
        free = torch.ones(grid.side(grid.root_level) ** 3, dtype=torch.bool, device=key.device)
        yield _nowhere(Cells(grid.root_level, free.index_fill_(0, key, False).nonzero().squeeze(1)))
    stack = [(grid.root_level, triangle, key)] if len(key) else []
    while stack:
        level, triangle, key = stack.pop()
        if 8 * len(key) > chunk and (cut := _middle(key)):
            stack += [(level, triangle[cut:], key[cut:]), (level, triangle[:cut], key[:cut])]
            continue
        empty: list[Cells] = []
        triangle, key, distance = _split(triangle, key, corners, grid, level, reach, nearest, empty)
        if level == 1:
            yield Near(triangle, key, distance, tuple(empty))
            continue
        if empty:
            yield _nowhere(*empty)
        if len(key):
            stack.append((level - 1, triangle, key))


def _nowhere(*empty: Cells) -> Near:
    """Empty cells without a pair."""
    none = empty[0].keys.new_empty(0)
    return Near(none, none, none.float(), empty)


def _roots(corners: Tensor, grid: Grid, reach: float, chunk: int) -> tuple[Tensor, Tensor]:
    """Pairs of triangles and coarsest cells that their boxes reach, sorted by cell."""
    size = 2**grid.root_level
    low = ((corners.amin(1).T - reach - SLACK) / size).floor().long()
    high = ((corners.amax(1).T + reach + SLACK) / size).floor().long()
    last = grid.side(grid.root_level) - 2 * grid.margin(grid.root_level)
    low, high = low.clamp(-1, last), high.clamp(-1, last)
    extent = high - low + 1
    count = extent.prod(0)
    pairs = []
    for triangles in _groups(count, chunk):
        member, rank = _each(count[triangles])
        member = triangles[member]
        ey, ez = extent[1, member], extent[2, member]
        cell = low[:, member] + torch.stack([rank // (ey * ez), rank // ez % ey, rank % ez])
        # A box of a large slanted triangle is mostly empty.
        each = torch.arange(len(member), device=member.device)
        close = _near(cell, each, member, corners, grid.root_level, reach)[0].nonzero().squeeze(1)
        pairs.append((member[close], grid.key(cell[:, close], grid.root_level)))
    triangle = torch.cat([member for member, _ in pairs])
    key, order = torch.cat([keys for _, keys in pairs]).sort(stable=True)
    return triangle[order], key


def _groups(count: Tensor, chunk: int) -> Iterator[Tensor]:
    """Indices in groups whose counts sum to about `chunk`."""
    ends = count.cumsum(0)
    total = int(ends[-1]) if len(ends) else 0
    bounds = torch.searchsorted(ends, torch.arange(0, total + chunk, chunk, device=count.device)).tolist()
    bounds = sorted({0, *bounds, len(count)})
    for first, last in itertools.pairwise(bounds):
        yield torch.arange(first, last, device=count.device)


def _each(count: Tensor) -> tuple[Tensor, Tensor]:
    """0 .. n - 1 for every n of `count`, one after the other: which of the counts, and the number; both int64."""
    total = int(count.sum())
    member = torch.repeat_interleave(torch.arange(len(count), device=count.device), count, output_size=total)
    return member, torch.arange(total, device=count.device) - (count.cumsum(0) - count)[member]


def expand_ranges(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Every integer from low to high of every range: the range's number and the integer, both int64."""
    start = low.ceil().long()
    member, rank = _each((high.floor().long() - start + 1).clamp(min=0))
    return member, start[member] + rank


def find(known: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """Position of each key in the sorted `known`, and whether it is there."""
    if not len(known):
        return torch.zeros_like(keys), torch.zeros_like(keys, dtype=torch.bool)
    index = torch.searchsorted(known, keys).clamp_(max=len(known) - 1)
    return index, known[index] == keys


def _middle(key: Tensor) -> int:
    """Where sorted pairs can be cut near the middle without parting a cell; 0 if there is one cell only."""
    half = key[len(key) // 2]
    cut = int(torch.searchsorted(key, half))
    return cut or int(torch.searchsorted(key, half, right=True)) % len(key)


def _near(
    cells: Tensor, cell: Tensor, triangle: Tensor, corners: Tensor, level: int, reach: float
) -> tuple[Tensor, Tensor]:
    """Whether any grid point of a pair's cell may be within reach of the triangle; the distance of the cell's centre.

    Args:
        cells: int64 [3, C]. cell, triangle: int64 [P], the pairs.
    """
    centres = cells.to(corners.dtype) * 2.0**level + (2**level - 1) / 2
    distance = triangle_distance(centres, corners, cell, triangle)
    return distance <= reach + _radius(level) + SLACK, distance


def _radius(level: int) -> float:
    """From the centre of a cell to its farthest grid point."""
    return math.sqrt(3) * (2**level - 1) / 2


def _split(
    triangle: Tensor,
    key: Tensor,
    corners: Tensor,
    grid: Grid,
    level: int,
    reach: float,
    nearest: bool,
    empty: list[Cells],
) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs with the children of the cells, sorted by child; appends the children that are near no triangle."""
    cells, member = torch.unique_consecutive(key, return_inverse=True)
    child = torch.arange(8, device=key.device)[:, None]
    octant = torch.stack([child >> 2, child >> 1 & 1, child & 1])
    cell = (2 * grid.coords(cells, level)[:, None] + octant).view(3, -1)  # [3, 8 C]
    ids = (child * len(cells) + member).view(-1)
    triangle = triangle.repeat(8)
    # A point counts from the grid alone; a coarser cell may reach beyond it.
    close, distance = _near(cell, ids, triangle, corners, level - 1, reach)
    if nearest:
        radius = _radius(level - 1)
        bound = distance.new_full((cell.shape[1],), math.inf).scatter_reduce_(0, ids, distance, "amin")
        close &= distance <= bound[ids] + 2 * radius + SLACK
    kept = close.nonzero().squeeze(1)
    ids = ids[kept]
    keys = grid.key(cell, level - 1)
    if not nearest:
        free = torch.ones(len(keys), dtype=torch.bool, device=key.device).index_fill_(0, ids, False)
        empty.append(Cells(level - 1, keys[free]))
    key, order = keys[ids].sort(stable=True)
    kept = kept[order]
    return triangle[kept], key, distance[kept]
