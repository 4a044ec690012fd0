"""On which side of a surface the points of a grid are: a table of blocks, so that looking up is two loads."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from models.data.octree import Grid

# THIN: inside, where the solid is thinner than the grid can show.
INSIDE, OUTSIDE, ON_SURFACE, THIN = 0, 1, 2, 3
_COUNT = 4
# Steps to a point and its neighbours, in the order of the bits of `Sides.around`.
AROUND = tuple(itertools.product((-1, 0, 1), repeat=3))
# Blocks are cells of this level, 8^3 points: most hold one side only, and those share four blocks.
_LEVEL = 3
_SIZE = 2**_LEVEL


@dataclass(frozen=True, eq=False)
class Sides:
    """The side of every point of a grid, margin included."""

    grid: Grid
    table: Tensor  # int32, one for each cell of level 3: the number of its block
    blocks: Tensor  # int8 [B, 8, 8, 8]; the first four hold one side each

    @classmethod
    def of_cells(cls, grid: Grid, cells: list[tuple[Tensor, Tensor]]) -> Sides:
        """
        Args:
            cells: by level, finest first: keys int64 [C] and sides int8 [C]; together the whole grid, every place once.
        """
        device = cells[0][0].device
        across = grid.side(_LEVEL)
        table = torch.empty(across**3, dtype=torch.int32, device=device)
        for level, (keys, sides) in enumerate(cells[_LEVEL:], _LEVEL):
            x, y, z = grid.coords(keys, level) + grid.margin(level)
            _by_cell(table, 1, across, level - _LEVEL)[0, x, :, y, :, z, :] = sides.int()[:, None, None, None]
        fine = [(grid.coords(keys, level), sides) for level, (keys, sides) in enumerate(cells[:_LEVEL])]
        parents = [grid.key(coords >> (_LEVEL - level), _LEVEL) for level, (coords, _) in enumerate(fine)]
        mixed = torch.cat(parents).unique()
        table[mixed] = torch.arange(_COUNT, _COUNT + len(mixed), dtype=torch.int32, device=device)
        blocks = torch.empty(_COUNT + len(mixed), _SIZE, _SIZE, _SIZE, dtype=torch.int8, device=device)
        blocks[:_COUNT] = torch.arange(_COUNT, dtype=torch.int8, device=device)[:, None, None, None]
        for level, ((coords, sides), parent) in enumerate(zip(fine, parents, strict=True)):
            x, y, z = coords & (_SIZE >> level) - 1
            _by_cell(blocks, len(blocks), _SIZE, level)[table[parent].long(), x, :, y, :, z, :] = sides[
                :, None, None, None
            ]
        return cls(grid, table, blocks)

    def at(self, coords: Tensor) -> Tensor:
        """Sides, int8 [P], of grid points int64 [3, P]."""
        return self.blocks.view(-1)[self._address(coords)]

    def around(self, coords: Tensor, *kinds: int) -> Tensor:
        """int32 [P]: bit i is set where the neighbour of a grid point, int64 [3, P], at `AROUND[i]` is on one of these
        sides."""
        bits = torch.empty(coords.shape[1], dtype=torch.int32, device=coords.device)
        wanted = sum(1 << kind for kind in kinds)
        given = (bits, coords.contiguous(), self.table, self.blocks)
        across, margin = self.grid.side(_LEVEL), self.grid.margin(_LEVEL)
        if bits.is_cuda:
            from models.data import triton_sides  # Triton is not needed on a CPU

            triton_sides.around(*given, across, margin, wanted)
        else:
            from models.data import compiled_sides  # numba is not needed on a GPU

            compiled_sides.around(*(tensor.numpy() for tensor in given), across, margin, wanted)
        return bits

    def mark(self, coords: Tensor, side: int) -> None:
        """Moves points to another side, in place; none may be farther from the surface than a block."""
        self.blocks.view(-1)[self._address(coords)] = side

    def _address(self, coords: Tensor) -> Tensor:
        x, y, z = coords & _SIZE - 1
        block = self.table[self.grid.key(coords >> _LEVEL, _LEVEL)].long()
        return ((block * _SIZE + x) * _SIZE + y) * _SIZE + z


def _by_cell(array: Tensor, count: int, across: int, level: int) -> Tensor:
    """A view of `count` cubes as [count, n, size, n, size, n, size]: cells of 2^level along each axis."""
    size = 2**level
    return array.view(count, across // size, size, across // size, size, across // size, size)
