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


def descend(corners: Tensor, grid: Grid, reach: float, *, nearest: bool = False) -> Iterator[Near]:
    """All pairs of a triangle and a grid point at most `reach` apart.

    Args:
        corners: fp32 [F, 3, 3] of triangles, in grid units.
        reach: in grid units.
        nearest: leave out pairs whose triangle is certainly not the nearest of the point.

    Yields:
        Parts that together hold every pair once. Their points and empty cells together are the whole grid, margin
        included, every place once.
    """
    corners = corners.contiguous()
    chunk = _CHUNK[corners.device.type]
    triangle, key = _roots(corners, grid, reach, chunk)
    roots = torch.arange(grid.side(grid.root_level) ** 3, device=key.device)
    free = torch.ones_like(roots, dtype=torch.bool).index_fill_(0, key, False)
    yield _nowhere(Cells(grid.root_level, roots[free]))
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
        member = torch.repeat_interleave(triangles, count[triangles])
        rank = _ranks(count[triangles])
        ey, ez = extent[1, member], extent[2, member]
        cell = low[:, member] + torch.stack([rank // (ey * ez), rank // ez % ey, rank % ez])
        # A box of a large slanted triangle is mostly empty.
        each = torch.arange(len(member), device=member.device)
        close = _near(cell, each, member, corners, grid.root_level, reach)[0]
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


def _ranks(count: Tensor) -> Tensor:
    """0 .. n - 1 for every n of `count`, one after the other."""
    first = count.cumsum(0) - count
    return torch.arange(int(count.sum()), device=count.device) - torch.repeat_interleave(first, count)


def expand_ranges(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Every integer from low to high of every range: the range's number and the integer, both int64."""
    start = low.ceil().long()
    count = (high.floor().long() - start + 1).clamp(min=0)
    member = torch.repeat_interleave(torch.arange(len(count), device=count.device), count)
    return member, start[member] + _ranks(count)


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
    parent = grid.coords(cells, level)
    child = torch.arange(8, device=key.device)
    octant = torch.stack([child >> 2, child >> 1 & 1, child & 1])
    children = 2 * parent[:, None] + octant[:, :, None]  # [3, 8, C]
    ids = torch.arange(8 * len(cells), device=key.device).view(8, -1)[:, member].reshape(-1)
    triangle = triangle.repeat(8)
    cell = children.reshape(3, -1)
    # A point counts from the grid alone; a coarser cell may reach beyond it.
    close, distance = _near(cell, ids, triangle, corners, level - 1, reach)
    if nearest:
        radius = _radius(level - 1)
        bound = distance.new_full((cell.shape[1],), math.inf).scatter_reduce_(0, ids, distance, "amin")
        close &= distance <= bound[ids] + 2 * radius + SLACK
    ids, triangle, distance = ids[close], triangle[close], distance[close]
    keys = grid.key(cell, level - 1)
    occupied = torch.zeros(len(keys), dtype=torch.bool, device=key.device).index_fill_(0, ids, True)
    if not bool(occupied.all()):
        empty.append(Cells(level - 1, keys[~occupied]))
    key, order = keys[ids].sort(stable=True)
    return triangle[order], key, distance[order]
