"""Cells of an octree, numbered: which one holds a point of the grid takes two loads to tell."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from models.data.octree import Grid

# Blocks are cells of this level, 8^3 points: most lie in one cell as a whole.
BLOCK_LEVEL = 3
BLOCK_SIZE = 2**BLOCK_LEVEL


@dataclass(frozen=True, eq=False)
class Nodes:
    """Cells that together are the whole grid, margin included; numbered by level, finest first."""

    grid: Grid
    keys: list[Tensor]  # int64 [C] by level
    first: list[int]  # number of the first cell of each level; at the end their count
    table: Tensor  # int32, one for each cell of level 3: the number of its block, or -1 - n if cell n holds it
    blocks: Tensor  # int32 [B, 8, 8, 8], the cell of each point

    @classmethod
    def of_cells(cls, grid: Grid, keys: list[Tensor]) -> Nodes:
        """
        Args:
            keys: by level, finest first, int64 [C]; together the whole grid, every place once.
        """
        device = keys[0].device
        first = [0, *itertools.accumulate(len(known) for known in keys)]
        number = torch.arange(first[-1], dtype=torch.int32, device=device)
        across = grid.side(BLOCK_LEVEL)
        table = torch.zeros(across**3, dtype=torch.int32, device=device)
        for level in range(BLOCK_LEVEL, len(keys)):
            x, y, z = grid.coords(keys[level], level) + grid.margin(level)
            held = -1 - number[first[level] : first[level + 1], None, None, None]
            _by_cell(table, 1, across, level - BLOCK_LEVEL)[0, x, :, y, :, z, :] = held
        mixed = (table == 0).nonzero().squeeze(1)
        table[mixed] = torch.arange(len(mixed), dtype=torch.int32, device=device)
        blocks = torch.empty(len(mixed), BLOCK_SIZE, BLOCK_SIZE, BLOCK_SIZE, dtype=torch.int32, device=device)
        for level in range(BLOCK_LEVEL):
            coords, finer = grid.coords(keys[level], level), BLOCK_LEVEL - level
            x, y, z = coords & (1 << finer) - 1
            block = table[grid.key(coords >> finer, BLOCK_LEVEL)].long()
            held = number[first[level] : first[level + 1], None, None, None]
            _by_cell(blocks, len(blocks), BLOCK_SIZE, level)[block, x, :, y, :, z, :] = held
        return cls(grid, keys, first, table, blocks)

    def __len__(self) -> int:
        return self.first[-1]

    def at(self, coords: Tensor) -> Tensor:
        """Numbers, int32 [P], of the cells of grid points int64 [3, P]."""
        block = self.table[self.grid.key(coords >> BLOCK_LEVEL, BLOCK_LEVEL)]
        x, y, z = coords & BLOCK_SIZE - 1
        inner = (block.long().clamp(min=0) * BLOCK_SIZE + x) * BLOCK_SIZE + y
        return torch.where(block < 0, -1 - block, self.blocks.view(-1)[inner * BLOCK_SIZE + z])


def _by_cell(array: Tensor, count: int, across: int, level: int) -> Tensor:
    """A view of `count` cubes as [count, n, size, n, size, n, size]: cells of 2^level along each axis."""
    size = 2**level
    return array.view(count, across // size, size, across // size, size, across // size, size)
