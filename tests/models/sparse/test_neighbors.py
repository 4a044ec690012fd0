"""Maps of neighbours by Triton are those that PyTorch makes, wherever the voxels lie."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from voxels import DEVICE, random_coords, random_structure

from models.sparse.structure import OFFSETS, Structure
from models.sparse.triton_neighbors import neighbor_maps

LAST = 2**16 - 1


def of(coords: Tensor, batch: Tensor | None = None, batch_size: int | None = None) -> Structure:
    return Structure.from_coords(coords, batch, batch_size=batch_size)[0]


def corners() -> Tensor:
    """The eight corners of the grid, each with the voxel before or after it along z."""
    corner = torch.cartesian_prod(*[torch.tensor([0, LAST])] * 3)
    inwards = torch.where(corner[:, 2:] == 0, 1, -1) * torch.tensor([0, 0, 1])
    return torch.cat([corner, corner + inwards])


def with_empty_samples() -> Structure:
    coords = random_coords(5, samples=4)
    return of(coords[(coords[:, 0] == 1) | (coords[:, 0] == 3)], batch_size=6)


def scattered() -> Structure:
    """Every voxel in a cube of its own, so that the table is half full and many share a first slot."""
    return of(torch.randint(0, LAST + 1, (400, 3)))


VOXELS = {
    "one": lambda: of(torch.tensor([[5, 0, LAST]])),
    "none": lambda: of(torch.zeros(0, 4, dtype=torch.int32), batch_size=3),
    "a full grid": lambda: random_structure(6, share=1.0),
    "a random part": lambda: random_structure(9, share=0.3),
    "few": lambda: random_structure(12, share=0.02),
    "empty samples": with_empty_samples,
    "corners of the grid in two samples": lambda: of(corners().repeat(2, 1), torch.arange(2).repeat_interleave(16)),
    "the same voxel in many samples": lambda: of(torch.zeros(300, 3, dtype=torch.int64), torch.arange(300)),
    "scattered": scattered,
}


@pytest.mark.parametrize("voxels", VOXELS)
def test_the_kernels_agree_with_pytorch(voxels: str) -> None:
    structure = VOXELS[voxels]()
    neighbors, masks = neighbor_maps(structure.keys.to(DEVICE))
    assert neighbors.dtype == masks.dtype == torch.int32
    assert torch.equal(neighbors.cpu(), structure.neighbors)
    assert torch.equal(masks.cpu(), structure.neighbor_masks)


@pytest.mark.gpu
def test_a_million_voxels_on_a_gpu_have_the_neighbors_that_a_cpu_finds() -> None:
    structure = random_structure(150, share=0.15)
    moved = structure.to("cuda")
    for _ in range(3):  # the order in which cubes come into the table differs, the maps do not
        neighbors, masks = neighbor_maps(moved.keys)
        assert torch.equal(neighbors.cpu(), structure.neighbors)
        assert torch.equal(masks.cpu(), structure.neighbor_masks)


@pytest.mark.gpu
def test_the_host_never_waits_for_maps_of_neighbors() -> None:
    keys = random_structure(20).keys.cuda()
    neighbor_maps(keys)  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        neighbor_maps(keys)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.slow
def test_more_than_2_31_neighbors_are_in_their_places() -> None:
    side = 432
    line = torch.arange(side, dtype=torch.int32, device="cuda")
    structure, _ = Structure.from_coords(torch.cartesian_prod(line, line, line))
    neighbors = structure.neighbors
    assert neighbors.numel() > 2**31
    for row, step in enumerate(OFFSETS):
        there = structure.coords[:, 1:] + torch.tensor(step, device="cuda")
        inside = ((there >= 0) & (there < side)).all(1)
        assert torch.equal(neighbors[row] >= 0, inside)
        assert torch.equal(structure.coords[neighbors[row][inside].long(), 1:], there[inside])
