"""FLOPs and bytes against counts made pair by pair."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bench.accounting import chosen_tokens, full_attention_costs, ssa_costs
from bench.records import Shape
from kernels.layout import BlockLayout

DType = Literal["bfloat16", "float16", "float32"]


def make_shape(*, heads: int = 4, kv_heads: int = 2, dtype: DType = "bfloat16") -> Shape:
    return Shape(
        heads=heads,
        kv_heads=kv_heads,
        head_dim=8,
        dtype=dtype,
        compression_block=2,
        selection_block=4,
        window=4,
        window_shift=2,
        topk=3,
    )


def make_layout(tokens: int, seed: int) -> BlockLayout:
    """Two samples of random voxels in an 8^3 grid."""
    generator = torch.Generator().manual_seed(seed)
    cells = torch.stack([torch.randperm(512, generator=generator)[:tokens] for _ in range(2)])
    coords = torch.stack([cells // 64, cells // 8 % 8, cells % 8], dim=-1).int().reshape(-1, 3)
    batch = torch.arange(2).repeat_interleave(tokens).int()
    return BlockLayout.from_coords(
        coords, batch, resolution=8, compression_block=2, selection_block=4, window=4, window_shift=2
    )


def random_selection(layout: BlockLayout, seed: int) -> Tensor:
    """Any blocks, some of them padding: int32 [2, N, 3]."""
    generator = torch.Generator().manual_seed(seed)
    blocks = layout.selection_coords.shape[0]
    return torch.randint(-1, blocks, (2, layout.num_tokens, 3), generator=generator, dtype=torch.int32)


def tokens_of_block(layout: BlockLayout, block: int) -> int:
    return int(
        (layout.coords[:, 0] == layout.selection_coords[block, 0])
        .logical_and((layout.coords[:, 1:] // 4 == layout.selection_coords[block, 1:]).all(dim=1))
        .sum()
    )


@settings(max_examples=10, deadline=None)
@given(tokens=st.integers(1, 40), seed=st.integers(0, 1000))
def test_forward_flops_of_every_branch_count_each_pair_of_query_and_key(tokens: int, seed: int) -> None:
    layout, shape = make_layout(tokens, seed), make_shape()
    selection = random_selection(layout, seed)
    sample, window = layout.coords[:, 0], layout.window_ids
    summary_pairs = int((sample[:, None] == layout.compression_coords[:, 0]).sum())
    window_pairs = int((window[:, None] == window).sum())
    chosen_pairs = sum(tokens_of_block(layout, int(block)) for block in selection.flatten() if block >= 0)
    per_pair = 4 * shape.heads * shape.head_dim

    costs = ssa_costs(layout, selection, shape)

    assert chosen_tokens(layout, selection) == chosen_pairs
    assert costs["cmp"]["fwd"].flops == per_pair * summary_pairs
    assert costs["select"]["fwd"].flops == per_pair * summary_pairs / 2
    assert costs["slc"]["fwd"].flops == per_pair * chosen_pairs / shape.kv_heads
    assert costs["win"]["fwd"].flops == per_pair * window_pairs


def test_the_total_is_the_sum_of_the_branches_and_the_selection_has_no_backward() -> None:
    layout, shape = make_layout(30, seed=0), make_shape()
    costs = ssa_costs(layout, random_selection(layout, 0), shape)
    branches = [costs[stage] for stage in ("cmp", "slc", "win")]

    assert set(costs["select"]) == {"fwd"}
    assert costs["total"]["fwd"].flops == sum(c["fwd"].flops for c in branches) + costs["select"]["fwd"].flops
    assert costs["total"]["bwd"].flops == 2.5 * sum(c["fwd"].flops for c in branches)
    for stage in ("cmp", "slc", "win", "total"):
        fwd, bwd = costs[stage]["fwd"], costs[stage]["bwd"]
        assert costs[stage]["fwd_bwd"].flops == fwd.flops + bwd.flops
        assert costs[stage]["fwd_bwd"].bytes == fwd.bytes + bwd.bytes


def test_every_score_takes_one_exponential_in_each_pass() -> None:
    layout, shape = make_layout(30, seed=2), make_shape()
    selection = random_selection(layout, 2)
    costs = ssa_costs(layout, selection, shape)
    n, m = layout.cu_seqlens.diff().tolist(), layout.cu_compression.diff().tolist()
    compressed = 4 * sum(tokens * blocks for tokens, blocks in zip(n, m, strict=True))
    selected = 4 / 2 * chosen_tokens(layout, selection)  # two query heads for each of the two kv heads
    window = 4 * sum(size**2 for size in layout.window_offsets.diff().tolist())

    assert costs["cmp"]["fwd"].exponentials == costs["cmp"]["bwd"].exponentials == compressed
    assert costs["select"]["fwd"].exponentials == compressed
    assert costs["slc"]["bwd"].exponentials == selected
    assert costs["win"]["fwd"].exponentials == window
    assert costs["total"]["fwd"].exponentials == 2 * compressed + selected + window
    assert costs["total"]["bwd"].exponentials == compressed + selected + window
    assert costs["total"]["fwd_bwd"].exponentials == 3 * compressed + 2 * (selected + window)


@pytest.mark.parametrize(("dtype", "item"), [("bfloat16", 2), ("float16", 2), ("float32", 4)])
def test_bytes_are_the_sizes_of_the_tensors_read_and_written(dtype: DType, item: int) -> None:
    layout, shape = make_layout(30, seed=1), make_shape(dtype=dtype)
    selection = random_selection(layout, 1)
    n, m = layout.num_tokens, layout.compression_coords.shape[0]
    q = o = n * 4 * 8 * item
    k = v = n * 2 * 8 * item
    k_cmp = v_cmp = m * 2 * 8 * item
    indices = 2 * n * 3 * 4

    costs = ssa_costs(layout, selection, shape)

    assert costs["cmp"]["fwd"].bytes == q + k_cmp + v_cmp + o
    assert costs["select"]["fwd"].bytes == q + k_cmp + 4 * n * 4 + indices
    assert costs["slc"]["fwd"].bytes == q + k + v + indices + o
    assert costs["win"]["fwd"].bytes == q + k + v + o
    assert costs["total"]["fwd"].bytes == q + k + v + k_cmp + v_cmp + 3 * n * item + o
    # Backward reads the inputs, o and do, and writes dq, dk, dv.
    assert costs["win"]["bwd"].bytes == 2 * (q + k + v) + 2 * o
    assert costs["slc"]["bwd"].bytes == 2 * (q + k + v) + 2 * o + indices


def test_dense_attention_counts_the_squares_of_its_samples() -> None:
    costs = full_attention_costs(7, [3, 0, 4], make_shape())
    assert costs["fwd"].flops == 4 * 4 * 8 * (9 + 16)
    assert costs["bwd"].flops == 2.5 * costs["fwd"].flops


def test_the_published_dense_forward_is_70_tflop() -> None:
    """131,072 tokens, 32 heads of width 32: 4 N^2 H D."""
    shape = Shape.model_validate({**make_shape().model_dump(), "heads": 32, "head_dim": 32})
    assert full_attention_costs(131072, [131072], shape)["fwd"].flops == pytest.approx(70.4e12, rel=1e-3)


def test_no_tokens_cost_nothing() -> None:
    layout = BlockLayout.from_coords(torch.zeros(0, 3, dtype=torch.int32), resolution=8)
    costs = ssa_costs(layout, torch.zeros(2, 0, 3, dtype=torch.int32), make_shape())
    assert costs["total"]["fwd_bwd"].flops == 0
    assert costs["total"]["fwd_bwd"].bytes == 0
