"""The order of voxels and the index maps, against dictionaries of coordinates."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor
from voxels import random_coords, random_structure

from models.sparse.structure import OFFSETS, Structure


def numbers(coords: Tensor) -> dict[tuple[int, ...], int]:
    return {tuple(row): number for number, row in enumerate(coords.tolist())}


def expected_neighbors(structure: Structure) -> list[list[int]]:
    number = numbers(structure.coords)
    return [
        [number.get((b, x + dx, y + dy, z + dz), -1) for b, x, y, z in structure.coords.tolist()]
        for dx, dy, dz in OFFSETS
    ]


def interleaved(x: int, y: int, z: int) -> int:
    """The Morton code, bit by bit."""
    return sum(
        (x >> bit & 1) << 3 * bit + 2 | (y >> bit & 1) << 3 * bit + 1 | (z >> bit & 1) << 3 * bit for bit in range(16)
    )


def test_voxels_are_sorted_by_sample_and_morton_code() -> None:
    coords = random_coords(11)
    structure, order = Structure.from_coords(coords)
    assert structure.coords.tolist() == sorted(coords.tolist(), key=lambda row: (row[0], interleaved(*row[1:])))
    assert torch.equal(structure.coords.long(), coords[order])
    assert structure.coords.dtype == torch.int32


def test_the_whole_range_of_coordinates_keeps_its_order() -> None:
    coords = torch.randint(0, 2**16, (500, 3))
    batch = torch.randint(0, 2**15, (500,))
    structure, _ = Structure.from_coords(coords, batch)
    keys = [(b, interleaved(x, y, z)) for b, x, y, z in structure.coords.tolist()]
    assert keys == sorted(keys)


def test_the_last_of_the_most_samples_that_there_can_be_has_its_voxels() -> None:
    structure, _ = Structure.from_coords(torch.tensor([[0, 1, 2, 3], [2**15 - 1, 1, 2, 3], [2**15 - 1, 4, 5, 6]]))
    assert structure.batch_size == 2**15
    for level in (structure, structure.children, structure.parents.structure):
        assert level.batch_offsets[-1] == level.num_voxels
        assert torch.equal(level.batch_offsets.diff().nonzero()[:, 0], torch.tensor([0, 2**15 - 1]))


def test_samples_can_be_given_apart_and_may_be_empty() -> None:
    coords = torch.tensor([[3, 1, 2], [0, 0, 0], [3, 1, 2]])
    structure, _ = Structure.from_coords(coords, torch.tensor([3, 1, 1]), batch_size=5)
    assert structure.batch_offsets.tolist() == [0, 0, 2, 2, 3, 3]
    assert structure.batch_size == 5
    assert structure.batch.tolist() == [1, 1, 3]
    assert structure.neighbors.amax(1).tolist() == [-1] * 13 + [2] + [-1] * 13  # none in another sample


@pytest.mark.parametrize("side", [1, 2, 3, 5, 8, 9, 14])
def test_neighbors_are_those_of_a_dictionary(side: int) -> None:
    structure = random_structure(side)
    assert structure.neighbors.tolist() == expected_neighbors(structure)
    assert structure.neighbors.dtype == torch.int32


@pytest.mark.parametrize("share", [0.004, 1.0])
def test_neighbors_of_scattered_voxels_and_of_a_full_grid(share: float) -> None:
    structure = random_structure(12, share)
    assert structure.neighbors.tolist() == expected_neighbors(structure)


def test_nothing_is_a_neighbor_across_the_borders_of_the_grid() -> None:
    last = 2**16 - 1
    corners = torch.cartesian_prod(*[torch.tensor([0, last])] * 3)
    structure, _ = Structure.from_coords(torch.cat([corners, corners]), torch.arange(2).repeat_interleave(8))
    assert structure.neighbors.tolist() == expected_neighbors(structure)
    assert (structure.neighbors >= 0).sum() == 16  # themselves
    pair, _ = Structure.from_coords(torch.tensor([[last, last, last], [last, last, last - 1]]))
    assert pair.neighbors.tolist() == expected_neighbors(pair)


def test_a_neighbor_has_the_voxel_at_the_opposite_element() -> None:
    neighbors = random_structure(9).neighbors
    for element, row in enumerate(neighbors):
        voxel = (row >= 0).nonzero()[:, 0]
        assert torch.equal(neighbors[26 - element][row[voxel].long()].long(), voxel)


def test_masks_of_neighbors_say_what_groups_of_128_voxels_have() -> None:
    structure = random_structure(9, share=0.3)
    groups = structure.neighbors.split(128, dim=1)
    assert len(groups) > 2
    expected = [sum(int((row >= 0).any()) << i for i, row in enumerate(group)) for group in groups]
    assert structure.neighbor_masks.tolist() == expected


def test_parents_hold_their_children_as_runs() -> None:
    structure = random_structure(13, share=0.1)
    parents = structure.parents
    halved = [(b, x // 2, y // 2, z // 2) for b, x, y, z in structure.coords.tolist()]
    assert [tuple(row) for row in parents.structure.coords[parents.index].tolist()] == halved
    assert len(parents.structure.coords) == len(set(halved))
    starts = [halved.index(tuple(row)) for row in parents.structure.coords.tolist()]
    assert parents.offsets.tolist() == [*starts, len(halved)]


def test_halving_goes_on_until_one_voxel_a_sample_is_left() -> None:
    structure = random_structure(9)
    for _ in range(6):
        structure = structure.parents.structure
        again, order = Structure.from_coords(structure.coords)
        assert torch.equal(order, torch.arange(len(order)))
        assert torch.equal(again.keys, structure.keys)
        assert torch.equal(again.batch_offsets, structure.batch_offsets)
    assert structure.coords.tolist() == [[0, 0, 0, 0], [1, 0, 0, 0]]


def test_children_fill_their_voxel_and_are_in_order() -> None:
    structure = random_structure(7)
    children = structure.children
    again, order = Structure.from_coords(children.coords, batch_size=2)
    assert torch.equal(order, torch.arange(len(order)))
    assert torch.equal(again.keys, children.keys)
    assert torch.equal(again.batch_offsets, children.batch_offsets)
    assert torch.equal(children.parents.index, torch.arange(structure.num_voxels).repeat_interleave(8))
    assert torch.equal(children.parents.structure.coords, structure.coords)
    assert again.neighbors.tolist() == expected_neighbors(children)


def test_coordinates_that_cannot_be_doubled_are_refused() -> None:
    structure, _ = Structure.from_coords(torch.tensor([[2**15, 0, 0]]))
    with pytest.raises(ValueError, match="coordinates must be below 32768 to be doubled"):
        _ = structure.children


def test_maps_are_made_once() -> None:
    structure = random_structure(5)
    assert structure.neighbors is structure.neighbors
    assert structure.parents is structure.parents
    assert structure.windows(4, 2) is structure.windows(4, 2)


def test_voxels_can_be_selected() -> None:
    structure = random_structure(9)
    keep = torch.rand(structure.num_voxels) < 0.5
    selected = structure.select(keep)
    expected, _ = Structure.from_coords(structure.coords[keep], batch_size=2)
    assert torch.equal(selected.coords, structure.coords[keep])
    assert torch.equal(selected.keys, expected.keys)
    assert torch.equal(selected.batch_offsets, expected.batch_offsets)
    with pytest.raises(ValueError, match="keep must be bool"):
        structure.select(keep.int())


def test_samples_can_be_split_and_put_together_again() -> None:
    structure, _ = Structure.from_coords(random_coords(6, samples=3), batch_size=5)
    parts = structure.split()
    assert [part.batch_size for part in parts] == [1] * 5
    assert [part.num_voxels for part in parts] == structure.batch_offsets.diff().tolist()
    together = Structure.cat([*parts[:2], Structure.cat(parts[2:])])
    assert torch.equal(together.coords, structure.coords)
    assert torch.equal(together.keys, structure.keys)
    assert torch.equal(together.batch_offsets, structure.batch_offsets)


@pytest.mark.parametrize("shift", [0, 2])
def test_windows_hold_the_voxels_of_a_cube(shift: int) -> None:
    structure = random_structure(9)
    layout = structure.windows(4, shift)
    place = layout.sort(structure.coords).tolist()
    for first, last in zip(layout.window_offsets[:-1].tolist(), layout.window_offsets[1:].tolist(), strict=True):
        members = [place[token] for token in layout.window_order[first:last].tolist()]
        assert len({(b, *((c + shift) // 4 for c in voxel)) for b, *voxel in members}) == 1
    assert torch.equal(layout.unsort(layout.sort(structure.coords)), structure.coords)


def test_a_structure_without_voxels_has_maps_without_entries() -> None:
    structure, _ = Structure.from_coords(torch.zeros(0, 4, dtype=torch.int32), batch_size=3)
    assert structure.neighbors.shape == (27, 0)
    assert structure.neighbor_masks.shape == (0,)
    assert structure.parents.structure.batch_offsets.tolist() == [0] * 4
    assert structure.children.num_voxels == 0
    assert [part.num_voxels for part in structure.split()] == [0] * 3
    assert Structure.from_coords(torch.zeros(0, 4, dtype=torch.int32))[0].batch_size == 0


@pytest.mark.parametrize(
    ("coords", "batch", "batch_size", "message"),
    [
        (torch.zeros(2, 3), None, None, "coords must be integers, got torch.float32"),
        (torch.zeros(2, 2, dtype=torch.int32), None, None, "coords must be [N, 4] or, with batch, [N, 3]"),
        (torch.tensor([[1, 2, 3], [1, 2, 3]]), None, None, "coords must not repeat a voxel within a sample"),
        (torch.tensor([[0, -1, 3]]), None, None, "coords must lie in [0, 65536), got values in [-1, 3]"),
        (torch.tensor([[0, 65536, 3]]), None, None, "coords must lie in [0, 65536), got values in [0, 65536]"),
        (torch.tensor([[0, 1, 3]]), torch.tensor([-1]), None, "batch must lie in [0, 0), got values in [-1, -1]"),
        (torch.tensor([[0, 1, 3]]), torch.tensor([2]), 2, "batch must lie in [0, 2), got values in [2, 2]"),
        (torch.tensor([[0, 1, 3]]), torch.tensor([1.0]), None, "batch must be integers [1] on cpu like coords"),
        (torch.tensor([[0, 1, 3, 4]]), torch.tensor([1]), None, "batch must be None where coords are [N, 4]"),
        (torch.tensor([[2**15, 1, 3, 4]]), None, None, "batch_size must be in [0, 32768], got 32769"),
    ],
)
def test_what_is_no_set_of_voxels_is_refused(
    coords: Tensor, batch: Tensor | None, batch_size: int | None, message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Structure.from_coords(coords, batch, batch_size=batch_size)


def test_only_something_can_be_put_together() -> None:
    with pytest.raises(ValueError, match="structures must not be empty"):
        Structure.cat([])


@pytest.mark.gpu
def test_maps_on_a_gpu_are_those_on_a_cpu() -> None:
    structure = random_structure(20, share=0.1)
    moved = structure.to("cuda")
    assert moved.to("cuda") is moved
    assert torch.equal(moved.neighbors.cpu(), structure.neighbors)
    assert torch.equal(moved.neighbor_masks.cpu(), structure.neighbor_masks)
    assert torch.equal(moved.parents.index.cpu(), structure.parents.index)
    assert torch.equal(moved.children.keys.cpu(), structure.children.keys)
    again, _ = Structure.from_coords(structure.coords.flip(0).cuda())
    assert torch.equal(again.keys, moved.keys)
