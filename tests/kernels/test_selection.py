"""Which blocks are selected: the best by score, exact ties to the lower id, padding where blocks run out."""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels import api, eager, reference
from kernels.layout import BlockLayout
from kernels.testing import Inputs, random_layout, selection_errors

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FAST = ("reference", "eager")
IMPLEMENTATIONS = (*FAST, "triton")


def make_layout(*lengths: int, resolution: int = 24, **blocks: int) -> BlockLayout:
    return random_layout(lengths, resolution=resolution, device=DEVICE, **blocks)


def line_layout(counts: list[int]) -> BlockLayout:
    """Selection blocks in a row, the i-th with `counts[i]` compression blocks (1 to 8) of one token each."""
    inner = torch.cartesian_prod(*[torch.tensor([0, 4], dtype=torch.int32)] * 3)
    first = torch.tensor([0, 0, 8], dtype=torch.int32)
    coords = torch.cat([inner[:count] + block * first for block, count in enumerate(counts)])
    return BlockLayout.from_coords(coords, resolution=8 * len(counts)).to(DEVICE)


def random_inputs(layout: BlockLayout, dtype: torch.dtype, heads: int = 4, kv_heads: int = 2) -> Inputs:
    return Inputs.random(layout, heads=heads, kv_heads=kv_heads, head_dim=16, dtype=dtype, device=DEVICE)


def errors(x: Inputs, layout: BlockLayout, blocks: Tensor) -> int:
    return selection_errors(blocks, reference.block_scores(x.q.double(), x.k_cmp.double(), layout))


def padded_rank(scores: list[float], topk: int) -> list[int]:
    """Block ids, best first, ties to the lower id, padded."""
    return (sorted(range(len(scores)), key=lambda block: -scores[block]) + [-1] * topk)[:topk]


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize(
    "blocks",
    [{}, {"compression_block": 8}, {"compression_block": 2}, {"compression_block": 3, "selection_block": 6}],
    ids=["nested 2", "one compression block each", "nested 4", "blocks of 6"],
)
def test_the_chosen_blocks_are_the_best_by_score(impl: str, dtype: torch.dtype, blocks: dict[str, int]) -> None:
    layout = make_layout(12, 0, 17, **blocks)
    x = random_inputs(layout, dtype)
    chosen = api.select_blocks(x.q, x.k_cmp, layout, topk=4, impl=impl)
    assert chosen.dtype == torch.int32
    assert chosen.shape == (2, 29, 4)
    assert chosen.device == x.q.device
    if dtype == torch.float32 or impl != "reference":  # the reference computes scores in fp16, too coarse to be judged
        assert errors(x, layout, chosen) == 0


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (3, 1), (32, 1), (6, 2)])
def test_the_scores_of_a_group_are_summed_over_its_heads(impl: str, heads: int, kv_heads: int) -> None:
    layout = make_layout(40)
    x = random_inputs(layout, torch.float32, heads=heads, kv_heads=kv_heads)
    chosen = api.select_blocks(x.q, x.k_cmp, layout, topk=3, impl=impl)
    assert chosen.shape[0] == kv_heads
    assert errors(x, layout, chosen) == 0


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_a_topk_above_the_number_of_blocks_pads_at_the_end(impl: str) -> None:
    layout = make_layout(3, 0, 20, 1, resolution=16)
    x = random_inputs(layout, torch.float32)
    chosen = api.select_blocks(x.q, x.k_cmp, layout, topk=11, impl=impl)
    available = layout.cu_selection.diff()[layout.coords[:, 0].long()]  # [N]
    assert available.max() < 11
    expected = torch.arange(11, device=DEVICE) < available[:, None]
    assert (chosen >= 0).equal(expected.expand_as(chosen))
    assert chosen[chosen < 0].eq(-1).all()
    assert errors(x, layout, chosen) == 0


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_ids_never_leave_the_sample(impl: str) -> None:
    layout = make_layout(11, 0, 14, 1, 7)
    x = random_inputs(layout, torch.float32)
    chosen = api.select_blocks(x.q, x.k_cmp, layout, topk=5, impl=impl)
    sample = layout.coords[:, 0][:, None].expand_as(chosen[0])
    for ids in chosen:
        used = ids >= 0
        assert layout.selection_coords[ids[used].long(), 0].equal(sample[used])


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_no_query_gives_no_block_preference_so_ties_go_to_the_lower_id(impl: str) -> None:
    """With q = 0 a block's score is its number of compression blocks, in eighths of the group's heads."""
    layout = line_layout([1, 2, 1, 2, 1, 1])
    x = random_inputs(layout, torch.float32)
    chosen = api.select_blocks(torch.zeros_like(x.q), x.k_cmp, layout, topk=5, impl=impl)
    assert chosen.tolist() == [[[1, 3, 0, 2, 4]] * layout.num_tokens] * 2


@settings(max_examples=60, deadline=None)
@given(counts=st.lists(st.integers(1, 8), min_size=1, max_size=12), topk=st.integers(1, 14), group=st.integers(1, 32))
def test_blocks_of_equal_count_tie_whatever_the_rounding_of_their_sums(
    counts: list[int], topk: int, group: int
) -> None:
    """1 / M is rounded where M is no power of two; equal counts still add up to equal scores."""
    layout = line_layout(counts)
    x = random_inputs(layout, torch.float32, heads=group, kv_heads=1)
    expected = [[padded_rank([float(count) for count in counts], topk)] * layout.num_tokens]
    for impl in FAST:
        assert api.select_blocks(torch.zeros_like(x.q), x.k_cmp, layout, topk=topk, impl=impl).tolist() == expected


@pytest.mark.parametrize("counts", [[3, 5, 5, 3, 8, 5, 8], [7] * 9, [1, 2, 3, 3, 2, 1, 3]])
def test_triton_resolves_ties_of_rounded_sums_alike(counts: list[int]) -> None:
    layout = line_layout(counts)
    x = random_inputs(layout, torch.float32, heads=3, kv_heads=1)
    expected = [[padded_rank([float(count) for count in counts], 6)] * layout.num_tokens]
    assert api.select_blocks(torch.zeros_like(x.q), x.k_cmp, layout, topk=6, impl="triton").tolist() == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("compression_block", [4, 8])
def test_duplicated_summaries_are_selected_alike_by_all(dtype: torch.dtype, compression_block: int) -> None:
    """Three distinct summaries shared by all blocks, in small integers, so that logits are exact in every dtype."""
    side = 8 // compression_block
    inner = torch.cartesian_prod(*[torch.arange(0, 8, compression_block, dtype=torch.int32)] * 3).reshape(-1, 3)
    coords = torch.cat([inner + torch.tensor([0, 0, 8 * block], dtype=torch.int32) for block in range(9)])
    layout = BlockLayout.from_coords(coords, resolution=72, compression_block=compression_block, selection_block=8).to(
        DEVICE
    )
    kinds = torch.tensor([0, 1, 2, 1, 0, 2, 2, 1, 0])
    k_cmp = torch.randint(-2, 3, (3, 2, 16)).to(DEVICE, dtype)[kinds.repeat_interleave(side**3).to(DEVICE)]
    q = torch.randint(-2, 3, (layout.num_tokens, 2, 16)).to(DEVICE, dtype)  # one head a kv head
    scores = reference.block_scores(q.double(), k_cmp.double(), layout, scale=0.25)
    first = [kinds.tolist().index(kind) for kind in range(3)]
    expected = [[padded_rank(row[first][kinds].tolist(), 9) for row in rows.cpu()] for rows in scores]
    # In fp16 the reference rounds the scores of different summaries to the same number.
    for impl in IMPLEMENTATIONS if dtype == torch.float32 else ("eager", "triton"):
        assert api.select_blocks(q, k_cmp, layout, topk=9, scale=0.25, impl=impl).tolist() == expected, impl


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_a_given_lse_changes_nothing(impl: str) -> None:
    layout = make_layout(30, 8)
    x = random_inputs(layout, torch.float32)
    lse = api.compressed_lse(x.q, x.k_cmp, layout, impl=impl)
    given_lse = api.select_blocks(x.q, x.k_cmp, layout, topk=3, lse=lse, impl=impl)
    assert given_lse.equal(api.select_blocks(x.q, x.k_cmp, layout, topk=3, impl=impl))


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("lengths", [(0,), (0, 0), (1,), (0, 1, 0)])
def test_no_token_and_one_token(impl: str, lengths: tuple[int, ...]) -> None:
    layout = make_layout(*lengths)
    x = random_inputs(layout, torch.float32)
    chosen = api.select_blocks(x.q, x.k_cmp, layout, topk=2, impl=impl)
    assert chosen.tolist() == [[[0, -1]] * sum(lengths)] * 2
    assert errors(x, layout, chosen) == 0


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_a_selection_carries_no_gradient(impl: str) -> None:
    layout = make_layout(10)
    x = random_inputs(layout, torch.float32).leaves()
    assert not api.select_blocks(x.q, x.k_cmp, layout, topk=2, impl=impl).requires_grad
    assert not api.compressed_lse(x.q, x.k_cmp, layout, impl=impl).requires_grad


def test_eager_in_chunks_selects_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    layout = make_layout(30, 20)
    x = random_inputs(layout, torch.float32)
    whole = api.select_blocks(x.q, x.k_cmp, layout, topk=3, impl="eager")
    monkeypatch.setattr(eager, "_CHUNK_ELEMENTS", {"cpu": 500, "cuda": 500})
    assert errors(x, layout, api.select_blocks(x.q, x.k_cmp, layout, topk=3, impl="eager")) == 0
    assert errors(x, layout, whole) == 0


def test_the_interpreter_runs_triton_where_there_is_no_gpu() -> None:
    assert DEVICE == "cuda" or os.environ["TRITON_INTERPRET"] == "1"
    assert api.resolve_impl("auto", torch.zeros(1, 1, 16, device=DEVICE)) == "triton"
