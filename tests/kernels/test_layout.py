"""BlockLayout against a dictionary of voxels: which token lies in which block, in which order, in whose sample."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels.layout import BlockLayout

Voxel = tuple[int, int, int, int]  # sample, x, y, z
INDEX_DTYPES = {"order": torch.int64, "inverse": torch.int64}  # every other tensor is int32


@dataclass(frozen=True)
class Grid:
    """What a layout is built from."""

    voxels: list[Voxel]
    batch_size: int
    resolution: int
    compression_block: int
    selection_block: int
    window: int
    window_shift: int

    def layout(self) -> BlockLayout:
        rows = torch.tensor(self.voxels, dtype=torch.int32).reshape(-1, 4)
        return BlockLayout.from_coords(
            rows[:, 1:],
            rows[:, 0],
            resolution=self.resolution,
            compression_block=self.compression_block,
            selection_block=self.selection_block,
            window=self.window,
            window_shift=self.window_shift,
            batch_size=self.batch_size,
        )


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    batch_size = draw(st.integers(1, 4))
    resolution = draw(st.integers(1, 19))
    axis = st.integers(0, resolution - 1)
    voxel = st.tuples(st.integers(0, batch_size - 1), axis, axis, axis)
    compression_block = draw(st.integers(1, 5))
    window = draw(st.integers(1, 9))
    return Grid(
        voxels=draw(st.lists(voxel, unique=True, max_size=40)),
        batch_size=batch_size,
        resolution=resolution,
        compression_block=compression_block,
        selection_block=compression_block * draw(st.integers(1, 4)),
        window=window,
        window_shift=draw(st.integers(0, window - 1)),
    )


def cell(voxel: Voxel, side: int, shift: int = 0) -> Voxel:
    sample, x, y, z = voxel
    return sample, (x + shift) // side, (y + shift) // side, (z + shift) // side


def groups(items: Iterable[Voxel], key: Callable[[Voxel], Hashable]) -> dict[Hashable, list[int]]:
    """Positions of the items with each key, keys in order of appearance."""
    found: dict[Hashable, list[int]] = {}
    for position, item in enumerate(items):
        found.setdefault(key(item), []).append(position)
    return found


def rows(x: Tensor) -> list[tuple[int, ...]]:
    return [tuple(row) for row in x.tolist()]


def spans(offsets: Tensor) -> list[list[int]]:
    return [list(range(first, last)) for first, last in itertools.pairwise(offsets.tolist())]


def check(layout: BlockLayout, tokens: list[Voxel], batch_size: int) -> None:
    """`tokens` are the voxels in layout order."""
    assert rows(layout.coords) == tokens
    assert (layout.num_tokens, layout.batch_size) == (len(tokens), batch_size)

    compression = groups(tokens, lambda voxel: cell(voxel, layout.compression_block))
    assert rows(layout.compression_coords) == list(compression)
    assert spans(layout.compression_offsets) == list(compression.values())

    selection = groups(tokens, lambda voxel: cell(voxel, layout.selection_block))
    assert rows(layout.selection_coords) == list(selection) == sorted(selection)
    assert spans(layout.selection_offsets) == list(selection.values())

    ratio = layout.selection_block // layout.compression_block
    nested = groups(compression, lambda block: cell(block, ratio))
    assert list(nested) == list(selection)
    assert spans(layout.selection_compression) == list(nested.values())
    assert all(len(inside) <= layout.compression_per_selection <= ratio**3 for inside in nested.values())

    def of_each_sample(items: Iterable[Voxel]) -> list[list[int]]:
        found = groups(items, lambda item: item[0])
        return [found.get(sample, []) for sample in range(batch_size)]

    for offsets, items in (
        (layout.cu_seqlens, tokens),
        (layout.cu_compression, compression),
        (layout.cu_selection, selection),
    ):
        assert [list(span) for span in spans(offsets)] == of_each_sample(items)
        assert (offsets[0], offsets[-1]) == (0, len(items))

    windows = groups(tokens, lambda voxel: cell(voxel, layout.window, layout.window_shift))
    members = [[layout.window_order.tolist()[i] for i in span] for span in spans(layout.window_offsets)]
    assert members == [windows[window] for window in sorted(windows)]
    assert layout.window_ids.tolist() == [
        sorted(windows).index(cell(v, layout.window, layout.window_shift)) for v in tokens
    ]


def check_dtypes(layout: BlockLayout) -> None:
    for field in dataclasses.fields(layout):
        value = getattr(layout, field.name)
        if isinstance(value, Tensor):
            assert value.dtype == INDEX_DTYPES.get(field.name, torch.int32), field.name


ONE_VOXEL = Grid([(0, 0, 0, 0)], 1, 1, 1, 1, 1, 0)
NO_VOXEL = Grid([], 3, 8, 4, 8, 8, 4)
UNSORTED = Grid([(2, 3, 0, 0), (0, 7, 7, 7), (2, 0, 0, 3), (0, 0, 0, 0)], 4, 8, 4, 8, 8, 4)


@settings(max_examples=150, deadline=None)
@given(grids())
@example(ONE_VOXEL)
@example(NO_VOXEL)
@example(UNSORTED)
def test_every_partition_is_the_dictionary_of_its_cells(grid: Grid) -> None:
    layout = grid.layout()
    small, large = grid.compression_block, grid.selection_block
    tokens = sorted(grid.voxels, key=lambda v: (cell(v, large), cell(v, small), v))
    check(layout, tokens, grid.batch_size)
    check_dtypes(layout)


@settings(max_examples=50, deadline=None)
@given(grids())
@example(NO_VOXEL)
def test_sort_and_unsort_undo_each_other(grid: Grid) -> None:
    layout = grid.layout()
    original = torch.tensor(grid.voxels, dtype=torch.int32).reshape(-1, 4)
    assert layout.sort(original).equal(layout.coords)
    assert layout.unsort(layout.coords).equal(original)
    x = torch.randn(len(grid.voxels), 2, 3)
    assert layout.unsort(layout.sort(x)).equal(x)


@settings(max_examples=30, deadline=None)
@given(grids(), st.randoms(use_true_random=False))
def test_the_order_of_the_input_does_not_matter(grid: Grid, random: object) -> None:
    shuffled = list(grid.voxels)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    one, other = grid.layout(), dataclasses.replace(grid, voxels=shuffled).layout()
    for field in dataclasses.fields(one):
        value = getattr(one, field.name)
        if isinstance(value, Tensor) and field.name not in ("order", "inverse"):
            assert value.equal(getattr(other, field.name)), field.name


@settings(max_examples=80, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 23), max_size=5),
    compression_block=st.integers(1, 6),
    ratio=st.integers(1, 4),
    window=st.integers(1, 9),
    data=st.data(),
)
@example(lengths=[], compression_block=2, ratio=2, window=4, data=None)
@example(lengths=[0, 0], compression_block=2, ratio=2, window=4, data=None)
@example(lengths=[0, 9, 0, 1, 0], compression_block=2, ratio=2, window=4, data=None)
def test_sequences_are_cut_into_runs_of_fixed_length(
    lengths: list[int], compression_block: int, ratio: int, window: int, data: st.DataObject | None
) -> None:
    shift = data.draw(st.integers(0, window - 1)) if data is not None else 1
    layout = BlockLayout.from_sequence(
        torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32),
        compression_block=compression_block,
        selection_block=compression_block * ratio,
        window=window,
        window_shift=shift,
    )
    # A shift moves all three axes; on the two unused ones every token moves alike.
    tokens = [(sample, position, 0, 0) for sample, length in enumerate(lengths) for position in range(length)]
    check(layout, tokens, len(lengths))
    check_dtypes(layout)
    assert layout.order.tolist() == layout.inverse.tolist() == list(range(len(tokens)))
    assert layout.compression_per_selection <= ratio


def test_eight_corners_of_a_selection_block_by_hand() -> None:
    corners = torch.tensor(list(itertools.product((0, 7), repeat=3)), dtype=torch.int32)
    layout = BlockLayout.from_coords(corners.flip(0), resolution=8, window_shift=4)
    assert layout.order.tolist() == [7, 6, 5, 4, 3, 2, 1, 0]
    assert layout.compression_offsets.tolist() == list(range(9))
    assert layout.selection_offsets.tolist() == [0, 8]
    assert layout.selection_compression.tolist() == [0, 8]
    assert layout.window_offsets.tolist() == list(range(9))  # the shift puts every corner into its own window
    assert layout.compression_per_selection == 8


def test_a_shift_joins_voxels_that_blocks_part() -> None:
    layout = BlockLayout.from_coords(
        torch.tensor([[0, 0, 0], [7, 7, 7], [8, 8, 8]], dtype=torch.int32), resolution=16, window_shift=4
    )
    assert layout.selection_offsets.tolist() == [0, 2, 3]
    assert layout.window_ids.tolist() == [0, 1, 1]


def test_a_resolution_that_is_no_multiple_of_the_block_has_a_smaller_last_block() -> None:
    line = torch.tensor([[0, 0, z] for z in range(10)], dtype=torch.int32)
    layout = BlockLayout.from_coords(line, resolution=10)
    assert layout.compression_offsets.tolist() == [0, 4, 8, 10]
    assert layout.selection_offsets.tolist() == [0, 8, 10]


def test_without_batch_size_the_last_sample_is_the_highest_named() -> None:
    coords = torch.zeros(2, 3, dtype=torch.int32)
    layout = BlockLayout.from_coords(coords, torch.tensor([3, 1], dtype=torch.int32), resolution=1)
    assert layout.cu_seqlens.tolist() == [0, 0, 1, 1, 2]
    nothing = BlockLayout.from_coords(coords[:0], torch.zeros(0, dtype=torch.int32), resolution=1)
    assert nothing.batch_size == 0


def test_without_batch_there_is_one_sample() -> None:
    assert BlockLayout.from_coords(torch.zeros(0, 3, dtype=torch.int32), resolution=4).cu_seqlens.tolist() == [0, 0]
    assert BlockLayout.from_coords(torch.ones(1, 3, dtype=torch.int32), resolution=4).cu_seqlens.tolist() == [0, 1]


def test_a_grid_of_two_to_the_twenty_still_sorts_exactly() -> None:
    last = 2**20 - 1
    corners = sorted(itertools.product((0, last), repeat=3))
    layout = BlockLayout.from_coords(torch.tensor(corners[::-1], dtype=torch.int32), resolution=2**20, window_shift=4)
    assert rows(layout.coords) == [(0, *corner) for corner in corners]
    assert layout.window_offsets.tolist() == list(range(9))


def test_to_moves_every_tensor_and_keeps_the_numbers() -> None:
    layout = UNSORTED.layout()
    moved = layout.to("meta")
    for field in dataclasses.fields(layout):
        value = getattr(moved, field.name)
        if isinstance(value, Tensor):
            assert value.device.type == "meta", field.name
        else:
            assert value == getattr(layout, field.name)
    assert moved.device.type == "meta"
    assert layout.device.type == "cpu"
    assert layout.to("cpu").coords.equal(layout.coords)


def voxels(*coords: tuple[int, int, int]) -> Tensor:
    return torch.tensor(coords, dtype=torch.int32).reshape(-1, 3)


TWO = voxels((0, 0, 0), (1, 1, 1))
FITTING = {"coords": TWO, "batch": torch.zeros(2, dtype=torch.int32), "resolution": 8}


@pytest.mark.parametrize(
    ("argument", "wrong"),
    [
        ("coords", {"coords": TWO.long()}),
        ("coords", {"coords": TWO.float()}),
        ("coords", {"coords": TWO[:, :2]}),
        ("coords", {"coords": TWO[0]}),
        ("coords", {"coords": voxels((0, 0, 0), (0, -1, 0))}),
        ("coords", {"coords": voxels((0, 0, 0), (0, 0, 8))}),
        ("coords", {"coords": voxels((3, 0, 1), (3, 0, 1))}),
        ("batch", {"batch": torch.zeros(2, dtype=torch.int64)}),
        ("batch", {"batch": torch.zeros(3, dtype=torch.int32)}),
        ("batch", {"batch": torch.zeros(2, 1, dtype=torch.int32)}),
        ("batch", {"batch": torch.zeros(2, dtype=torch.int32, device="meta")}),
        ("batch", {"batch": torch.tensor([0, -1], dtype=torch.int32)}),
        ("batch", {"batch": torch.tensor([0, 2], dtype=torch.int32), "batch_size": 2}),
        ("resolution", {"resolution": 0}),
        ("resolution", {"resolution": 8.0}),
        ("resolution", {"resolution": True}),
        ("resolution", {"resolution": 2**20, "batch_size": 5}),  # 5 * 2^60 keys
        ("compression_block", {"compression_block": 0}),
        ("selection_block", {"selection_block": -8}),
        ("selection_block", {"selection_block": 6}),
        ("window", {"window": 0}),
        ("window_shift", {"window_shift": 8}),
        ("window_shift", {"window_shift": -1}),
        ("window_shift", {"window_shift": 1.5}),
    ],
)
def test_from_coords_names_the_argument_that_does_not_fit(argument: str, wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=rf"^{argument} "):
        BlockLayout.from_coords(**FITTING | wrong)


def test_the_same_voxel_may_occur_in_two_samples() -> None:
    twice = voxels((3, 0, 1), (3, 0, 1))
    assert BlockLayout.from_coords(twice, torch.tensor([1, 0], dtype=torch.int32), resolution=8).batch_size == 2


@pytest.mark.parametrize(
    ("argument", "wrong"),
    [
        ("cu_seqlens", {"cu_seqlens": torch.tensor([0, 4])}),
        ("cu_seqlens", {"cu_seqlens": torch.zeros(0, dtype=torch.int32)}),
        ("cu_seqlens", {"cu_seqlens": torch.zeros(1, 2, dtype=torch.int32)}),
        ("cu_seqlens", {"cu_seqlens": torch.tensor([1, 4], dtype=torch.int32)}),
        ("cu_seqlens", {"cu_seqlens": torch.tensor([0, 4, 3], dtype=torch.int32)}),
        ("compression_block", {"compression_block": 0}),
        ("selection_block", {"selection_block": 48}),
        ("window", {"window": 0}),
        ("window_shift", {"window_shift": 64}),
    ],
)
def test_from_sequence_names_the_argument_that_does_not_fit(argument: str, wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=rf"^{argument} "):
        BlockLayout.from_sequence(**{"cu_seqlens": torch.tensor([0, 4], dtype=torch.int32)} | wrong)
