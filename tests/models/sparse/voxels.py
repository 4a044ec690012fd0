"""Voxels to test on, and the dense grids that they stand for."""

from __future__ import annotations

import torch
from torch import Tensor

from models.sparse.structure import Structure
from models.sparse.tensor import SparseTensor

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def random_coords(side: int, share: float = 0.4, samples: int = 2) -> Tensor:
    """int64 [N, 4] in a random order; both corners of the grid are there in sample 0."""
    there = torch.rand(samples, side, side, side) < share
    there[0, 0, 0, 0] = there[0, -1, -1, -1] = True
    coords = there.nonzero()
    return coords[torch.randperm(len(coords))]


def random_structure(side: int, share: float = 0.4, samples: int = 2) -> Structure:
    return Structure.from_coords(random_coords(side, share, samples))[0]


def random_tensor(
    side: int, channels: int, share: float = 0.4, samples: int = 2, dtype: torch.dtype = torch.float64
) -> SparseTensor:
    structure = random_structure(side, share, samples)
    return SparseTensor(torch.randn(structure.num_voxels, channels, dtype=dtype, requires_grad=True), structure)


def densified(x: SparseTensor, side: int) -> Tensor:
    """[B, C, side, side, side], zero where there is no voxel; differentiable in the features."""
    grid = x.feats.new_zeros(x.batch_size, side, side, side, x.feats.shape[1])
    return grid.index_put(tuple(x.coords.long().T), x.feats).permute(0, 4, 1, 2, 3)


def at_voxels(grid: Tensor, structure: Structure) -> Tensor:
    """[N, C] of a grid [B, C, side, side, side]."""
    return grid.permute(0, 2, 3, 4, 1)[tuple(structure.coords.long().T)]
