"""The oracle against Python loops: one token, one head, one key at a time, with math.exp, in fp64."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from kernels import reference
from kernels.layout import BlockLayout
from kernels.testing import Inputs

Attends = Callable[[int, int, int], bool]  # token, key, kv head


def make_layout(lengths: tuple[int, ...], resolution: int = 12, **blocks: int) -> BlockLayout:
    """Random voxels, `lengths[b]` of them in sample b."""
    axis = torch.arange(resolution, dtype=torch.int32)
    grid = torch.cartesian_prod(axis, axis, axis)
    coords = torch.cat([grid[torch.randperm(len(grid))[:length]] for length in lengths])
    batch = torch.repeat_interleave(torch.arange(len(lengths), dtype=torch.int32), torch.tensor(lengths))
    return BlockLayout.from_coords(coords, batch, resolution=resolution, batch_size=len(lengths), **blocks)


LAYOUTS = {
    "one sample": lambda: make_layout((17,)),
    "three samples, one empty": lambda: make_layout((9, 0, 8), window_shift=4),
    "small blocks, shifted": lambda: make_layout(
        (14,), compression_block=2, selection_block=6, window=5, window_shift=3
    ),
    "crowded": lambda: make_layout(
        (20, 5), resolution=4, compression_block=1, selection_block=2, window=3, window_shift=1
    ),
}
HEADS, KV_HEADS, HEAD_DIM, SCALE = 4, 2, 3, 0.9


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> BlockLayout:
    return LAYOUTS[request.param]()


@pytest.fixture
def x(layout: BlockLayout) -> Inputs:
    return Inputs.random(layout, heads=HEADS, kv_heads=KV_HEADS, head_dim=HEAD_DIM, dtype=torch.float64)


def weights_by_loops(q: Tensor, k: Tensor, attends: Attends) -> list[list[dict[int, float]]]:
    """exp(score) of each [token][head] by key."""
    group = q.shape[1] // k.shape[1]
    found = []
    for token, heads in enumerate(q.tolist()):
        found.append(
            [
                {
                    key: math.exp(SCALE * sum(a * b for a, b in zip(row, k[key, head // group].tolist(), strict=True)))
                    for key in range(k.shape[0])
                    if attends(token, key, head // group)
                }
                for head, row in enumerate(heads)
            ]
        )
    return found


def attend_by_loops(q: Tensor, k: Tensor, v: Tensor, attends: Attends) -> Tensor:
    group = q.shape[1] // k.shape[1]
    o = torch.zeros_like(q)
    for token, heads in enumerate(weights_by_loops(q, k, attends)):
        for head, weights in enumerate(heads):
            for key, weight in weights.items():
                o[token, head] += weight / sum(weights.values()) * v[key, head // group]
    return o


def sample_of_tokens(layout: BlockLayout) -> list[int]:
    return layout.coords[:, 0].tolist()


def cells(coords: Tensor, side: int, shift: int = 0) -> list[tuple[int, ...]]:
    return [(sample, *((axis + shift) // side for axis in voxel)) for sample, *voxel in coords.tolist()]


def to_compression(layout: BlockLayout) -> Attends:
    samples, blocks = sample_of_tokens(layout), layout.compression_coords[:, 0].tolist()
    return lambda token, block, _: samples[token] == blocks[block]


def to_chosen(layout: BlockLayout, block_indices: Tensor) -> Attends:
    """Keys in the selection blocks that a token chose, both known by their coordinates."""
    cell = cells(layout.coords, layout.selection_block)
    coords = [tuple(block) for block in layout.selection_coords.tolist()]
    chosen = [[{coords[block] for block in row if block >= 0} for row in rows] for rows in block_indices.tolist()]
    return lambda token, key, kv_head: cell[key] in chosen[kv_head][token]


def to_window(layout: BlockLayout) -> Attends:
    window = cells(layout.coords, layout.window, layout.window_shift)
    return lambda token, key, _: window[token] == window[key]


def scores_by_loops(x: Inputs, layout: BlockLayout) -> list[list[dict[int, float]]]:
    """Score of each [kv head][token] by selection block of the token's sample."""
    ratio = layout.selection_block // layout.compression_block
    ids = {tuple(cell): block for block, cell in enumerate(layout.selection_coords.tolist())}
    parent = [ids[cell] for cell in cells(layout.compression_coords, ratio)]
    scores: list[list[dict[int, float]]] = [[{} for _ in range(layout.num_tokens)] for _ in range(KV_HEADS)]
    for token, heads in enumerate(weights_by_loops(x.q, x.k_cmp, to_compression(layout))):
        for head, weights in enumerate(heads):
            by_block = scores[head // (HEADS // KV_HEADS)][token]
            for key, weight in weights.items():
                by_block[parent[key]] = by_block.get(parent[key], 0.0) + weight / sum(weights.values())
    return scores


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-13)


def test_compressed_attention_is_over_the_blocks_of_the_sample(layout: BlockLayout, x: Inputs) -> None:
    o = reference.compressed_attention(x.q, x.k_cmp, x.v_cmp, layout, scale=SCALE)
    close(o, attend_by_loops(x.q, x.k_cmp, x.v_cmp, to_compression(layout)))


def test_compressed_lse_is_the_logarithm_of_the_summed_weights(layout: BlockLayout, x: Inputs) -> None:
    weights = weights_by_loops(x.q, x.k_cmp, to_compression(layout))
    expected = [[math.log(sum(by_key.values())) for by_key in heads] for heads in weights]
    close(
        reference.compressed_lse(x.q, x.k_cmp, layout, scale=SCALE),
        torch.tensor(expected, dtype=torch.float64).reshape(-1, HEADS),
    )


def test_a_block_scores_the_probability_of_its_compression_blocks_and_heads(layout: BlockLayout, x: Inputs) -> None:
    actual = reference.block_scores(x.q, x.k_cmp, layout, scale=SCALE)
    expected = torch.full_like(actual, -1.0)  # blocks of other samples
    for kv_head, tokens in enumerate(scores_by_loops(x, layout)):
        for token, by_block in enumerate(tokens):
            for block, score in by_block.items():
                expected[kv_head, token, block] = score
    close(actual, expected)


@pytest.mark.parametrize("topk", [1, 3, 50])
def test_selection_takes_the_best_blocks_and_pads(layout: BlockLayout, x: Inputs, topk: int) -> None:
    actual = reference.select_blocks(x.q, x.k_cmp, layout, topk=topk, scale=SCALE)
    assert actual.dtype == torch.int32
    expected = [
        [(sorted(by_block, key=lambda b: -by_block[b]) + [-1] * topk)[:topk] for by_block in tokens]
        for tokens in scores_by_loops(x, layout)
    ]
    assert actual.tolist() == expected


@pytest.mark.parametrize("topk", [1, 2, 5])
def test_equal_scores_go_to_the_lower_id(topk: int) -> None:
    """With q = 0 a block's score is its number of compression blocks, here 1, 2, 1, 2, 1, 1 of 8."""
    counts = [1, 2, 1, 2, 1, 1]
    line = [[0, 0, 8 * block + 4 * inner] for block, count in enumerate(counts) for inner in range(count)]
    layout = BlockLayout.from_coords(torch.tensor(line, dtype=torch.int32), resolution=48)
    q, k_cmp = torch.zeros(8, 4, 3, dtype=torch.float64), torch.randn(8, 2, 3, dtype=torch.float64)
    blocks = reference.select_blocks(q, k_cmp, layout, topk=topk)
    assert blocks.unique(dim=1).tolist() == [[[1, 3, 0, 2, 4][:topk]]] * 2


def test_selected_attention_is_over_the_tokens_of_the_chosen_blocks(layout: BlockLayout, x: Inputs) -> None:
    blocks = reference.select_blocks(x.q, x.k_cmp, layout, topk=2, scale=SCALE)
    expected = attend_by_loops(x.q, x.k, x.v, to_chosen(layout, blocks))
    close(reference.selected_attention(x.q, x.k, x.v, blocks, layout, scale=SCALE), expected)


def test_a_token_without_blocks_attends_to_nothing(layout: BlockLayout, x: Inputs) -> None:
    leaves = x.leaves()
    blocks = torch.full((KV_HEADS, layout.num_tokens, 2), -1, dtype=torch.int32)
    o = reference.selected_attention(leaves.q, leaves.k, leaves.v, blocks, layout)
    assert o.eq(0).all()
    for grad in torch.autograd.grad(o.sum(), (leaves.q, leaves.k, leaves.v)):
        assert grad.eq(0).all()


def test_window_attention_is_over_the_tokens_of_the_shifted_window(layout: BlockLayout, x: Inputs) -> None:
    expected = attend_by_loops(x.q, x.k, x.v, to_window(layout))
    close(reference.window_attention(x.q, x.k, x.v, layout, scale=SCALE), expected)


def test_full_attention_is_over_the_tokens_of_the_sample(layout: BlockLayout, x: Inputs) -> None:
    sample = sample_of_tokens(layout)
    expected = attend_by_loops(x.q, x.k, x.v, lambda token, key, _: sample[token] == sample[key])
    close(reference.full_attention(x.q, x.k, x.v, layout, scale=SCALE), expected)


def test_the_operator_is_the_gated_sum_of_its_branches(layout: BlockLayout, x: Inputs) -> None:
    blocks = reference.select_blocks(x.q, x.k_cmp, layout, topk=2, scale=SCALE)
    branches = (
        attend_by_loops(x.q, x.k_cmp, x.v_cmp, to_compression(layout)),
        attend_by_loops(x.q, x.k, x.v, to_chosen(layout, blocks)),
        attend_by_loops(x.q, x.k, x.v, to_window(layout)),
    )
    expected = torch.zeros_like(x.q)
    for token in range(layout.num_tokens):
        for gate, branch in zip(x.gates[token].tolist(), branches, strict=True):
            expected[token] += gate * branch[token]
    close(reference.spatial_sparse_attention(*x.tensors(), layout, topk=2, scale=SCALE), expected)


def test_a_given_selection_replaces_the_computed_one(layout: BlockLayout, x: Inputs) -> None:
    none = torch.full((KV_HEADS, layout.num_tokens, 2), -1, dtype=torch.int32)
    o = reference.spatial_sparse_attention(*x.tensors(), layout, topk=2, block_indices=none)
    cmp = reference.compressed_attention(x.q, x.k_cmp, x.v_cmp, layout)
    win = reference.window_attention(x.q, x.k, x.v, layout)
    close(o, x.gates[:, 0, None, None] * cmp + x.gates[:, 2, None, None] * win)


def test_the_default_scale_is_one_over_the_root_of_the_head_dim(layout: BlockLayout, x: Inputs) -> None:
    default = reference.spatial_sparse_attention(*x.tensors(), layout, topk=2)
    close(default, reference.spatial_sparse_attention(*x.tensors(), layout, topk=2, scale=HEAD_DIM**-0.5))


def test_rows_are_the_rows_of_the_whole(layout: BlockLayout, x: Inputs) -> None:
    rows = torch.randperm(layout.num_tokens)[:5]
    blocks = reference.select_blocks(x.q, x.k_cmp, layout, topk=2)
    assert reference.select_blocks(x.q, x.k_cmp, layout, topk=2, rows=rows).equal(blocks[:, rows])
    close(
        reference.block_scores(x.q, x.k_cmp, layout, rows=rows), reference.block_scores(x.q, x.k_cmp, layout)[:, rows]
    )
    stages: list[Callable[[Tensor | None], Tensor]] = [
        lambda r: reference.compressed_attention(x.q, x.k_cmp, x.v_cmp, layout, rows=r),
        lambda r: reference.compressed_lse(x.q, x.k_cmp, layout, rows=r),
        lambda r: reference.selected_attention(x.q, x.k, x.v, blocks if r is None else blocks[:, r], layout, rows=r),
        lambda r: reference.window_attention(x.q, x.k, x.v, layout, rows=r),
        lambda r: reference.full_attention(x.q, x.k, x.v, layout, rows=r),
        lambda r: reference.spatial_sparse_attention(*x.tensors(), layout, topk=2, rows=r),
    ]
    for stage in stages:
        close(stage(rows), stage(None)[rows])


def test_the_gradients_are_those_of_finite_differences() -> None:
    layout = make_layout((6, 0, 4), compression_block=2, selection_block=4, window=6, window_shift=3)
    x = Inputs.random(layout, heads=2, kv_heads=1, head_dim=2, dtype=torch.float64).leaves()
    assert layout.selection_coords.shape[0] > 2  # so that top-2 leaves blocks out
    assert torch.autograd.gradcheck(
        lambda *tensors: reference.spatial_sparse_attention(*tensors, layout, topk=2), x.tensors(), atol=1e-7, rtol=1e-6
    )
