"""On which side of a surface the points of a grid are: a table of blocks, so that looking up is two loads."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from models.data.nodes import BLOCK_LEVEL, BLOCK_SIZE, Nodes
from models.data.octree import Grid

# THIN: inside, where the solid is thinner than the grid can show.
INSIDE, OUTSIDE, ON_SURFACE, THIN = 0, 1, 2, 3
_COUNT = 4
# Steps to a point and its neighbours, in the order of the bits of `Sides.around`.
AROUND = tuple(itertools.product((-1, 0, 1), repeat=3))


@dataclass(frozen=True, eq=False)
class Sides:
    """The side of every point of a grid, margin included."""

    grid: Grid
    table: Tensor  # int32, one for each cell of level 3: the number of its block
    blocks: Tensor  # int8 [B, 8, 8, 8]; the first four hold one side each

    @classmethod
    def of_nodes(cls, nodes: Nodes, side: Tensor) -> Sides:
        """The points of a node are on its side, int8 [N]."""
        held = side[(-1 - nodes.table).clamp(min=0)].int()
        table = torch.where(nodes.table < 0, held, nodes.table + _COUNT)
        alike = torch.arange(_COUNT, dtype=torch.int8, device=side.device)[:, None, None, None]
        mixed = side.index_select(0, nodes.blocks.view(-1)).view_as(nodes.blocks)
        return cls(nodes.grid, table, torch.cat([alike.expand(-1, *nodes.blocks.shape[1:]), mixed]))

    def at(self, coords: Tensor) -> Tensor:
        """Sides, int8 [P], of grid points int64 [3, P]."""
        return self.blocks.view(-1)[self._address(coords)]

    def around(self, coords: Tensor, *kinds: int) -> Tensor:
        """int32 [P]: bit i is set where the neighbour of a grid point, int64 [3, P], at `AROUND[i]` is on one of these
        sides."""
        bits = torch.empty(coords.shape[1], dtype=torch.int32, device=coords.device)
        wanted = sum(1 << kind for kind in kinds)
        given = (bits, coords.contiguous(), self.table, self.blocks)
        across, margin = self.grid.side(BLOCK_LEVEL), self.grid.margin(BLOCK_LEVEL)
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
        x, y, z = coords & BLOCK_SIZE - 1
        block = self.table[self.grid.key(coords >> BLOCK_LEVEL, BLOCK_LEVEL)].long()
        return ((block * BLOCK_SIZE + x) * BLOCK_SIZE + y) * BLOCK_SIZE + z
