"""The judge on trial: every fault below must be caught, every tie accepted either way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from kernels import api, reference, select_blocks
from kernels.layout import BlockLayout
from kernels.testing import (
    SELECTION_TOLERANCE,
    Comparison,
    Inputs,
    a_few_rows_at_a_time,
    compare,
    compare_ssa,
    random_layout,
    relative_error,
    selection_errors,
    worst_row_error,
)

TOKENS, WRONG_ROW, TOPK = 2000, 1234, 3
LOW_PRECISION = [torch.bfloat16, torch.float16]
Fault = Callable[[Tensor], Tensor]


@pytest.fixture(scope="module")
def layout() -> BlockLayout:
    """2,000 tokens in 125 blocks of 16."""
    axis = torch.arange(0, 40, 4, dtype=torch.int32)
    coords = torch.cartesian_prod(axis, axis, torch.arange(0, 40, 2, dtype=torch.int32))
    assert coords.shape[0] == TOKENS
    return BlockLayout.from_coords(coords, resolution=40)


def window(x: Inputs, layout: BlockLayout) -> Tensor:
    return api.window_attention(x.q, x.k, x.v, layout, impl="eager")


def judge(layout: BlockLayout, candidate: Callable[[Inputs], Tensor], dtype: torch.dtype) -> dict[str, Comparison]:
    """A candidate for window attention; the eager implementation stands for PyTorch and, in fp64, for the oracle."""
    inputs = Inputs.random(layout, heads=2, kv_heads=1, head_dim=16, dtype=dtype)
    comparisons = compare(
        candidate, lambda x: window(x, layout), lambda x: window(x, layout), inputs, names=("q", "k", "v")
    )
    return {comparison.name: comparison for comparison in comparisons}


def failed(comparisons: dict[str, Comparison]) -> set[str]:
    return {name for name, comparison in comparisons.items() if not comparison.passed}


@pytest.mark.parametrize("dtype", [torch.float32, *LOW_PRECISION], ids=str)
def test_another_order_of_summation_passes(layout: BlockLayout, dtype: torch.dtype) -> None:
    """Heads reversed, so that the sums over the group run the other way."""
    comparisons = judge(layout, lambda x: window(replace(x, q=x.q.flip(1)), layout).flip(1), dtype)
    assert list(comparisons) == [f"{name}{row}" for name in ("o", "dq", "dk", "dv") for row in ("", ", worst row")]
    assert failed(comparisons) == set()


def scale_row(o: Tensor) -> Tensor:
    factor = torch.ones_like(o)
    factor[WRONG_ROW] = 1.05
    return o * factor


def nan_in_one_element(o: Tensor) -> Tensor:
    mask = torch.zeros_like(o, dtype=torch.bool)
    mask[WRONG_ROW, 1, 3] = True
    return o.masked_fill(mask, torch.nan)


def infinite_element(o: Tensor) -> Tensor:
    return torch.where(nan_in_one_element(o).isnan(), torch.inf, o)


def row_of_another_token(o: Tensor) -> Tensor:
    rows = torch.arange(TOKENS)
    rows[WRONG_ROW] = WRONG_ROW - 500
    return o[rows]


def head_swapped(o: Tensor) -> Tensor:
    return o.flip(1)


def three_percent(o: Tensor) -> Tensor:
    return o * 1.03


@pytest.mark.parametrize("dtype", [torch.float32, *LOW_PRECISION], ids=str)
@pytest.mark.parametrize(
    "fault", [nan_in_one_element, infinite_element, row_of_another_token, head_swapped, three_percent]
)
def test_a_wrong_output_fails(layout: BlockLayout, dtype: torch.dtype, fault: Fault) -> None:
    assert {"o", "o, worst row"} <= failed(judge(layout, lambda x: fault(window(x, layout)), dtype))


def test_one_row_of_2000_off_by_5_percent_fails_by_its_worst_row_alone(layout: BlockLayout) -> None:
    comparisons = judge(layout, lambda x: scale_row(window(x, layout)), torch.bfloat16)
    assert "o" not in failed(comparisons)
    assert "o, worst row" in failed(comparisons)


@pytest.mark.parametrize("dtype", LOW_PRECISION, ids=str)
@pytest.mark.parametrize("name", ["q", "k", "v"])
def test_a_gradient_off_by_3_percent_fails_under_its_name(layout: BlockLayout, dtype: torch.dtype, name: str) -> None:
    def candidate(x: Inputs) -> Tensor:
        passed = getattr(x, name).clone()
        passed.register_hook(three_percent)
        return window(replace(x, **{name: passed}), layout)

    assert failed(judge(layout, candidate, dtype)) == {f"d{name}", f"d{name}, worst row"}


def test_a_nan_in_a_gradient_fails(layout: BlockLayout) -> None:
    def candidate(x: Inputs) -> Tensor:
        k = x.k.clone()
        k.register_hook(lambda grad: grad.index_fill(0, torch.tensor([WRONG_ROW]), torch.nan))
        return window(replace(x, k=k), layout)

    assert failed(judge(layout, candidate, torch.float32)) == {"dk", "dk, worst row"}


def small() -> tuple[BlockLayout, Inputs, Tensor]:
    coords = torch.cartesian_prod(*[torch.arange(0, 24, 6, dtype=torch.int32)] * 3)
    layout = BlockLayout.from_coords(coords, resolution=24)
    inputs = Inputs.random(layout, heads=4, kv_heads=2, head_dim=16, dtype=torch.float32)
    return layout, inputs, api.select_blocks(inputs.q, inputs.k_cmp, layout, topk=TOPK, impl="eager")


def gated(x: Inputs, blocks: Tensor, layout: BlockLayout) -> Tensor:
    return reference.spatial_sparse_attention(*x.tensors(), layout, topk=TOPK, block_indices=blocks)


def names_of_failed(comparisons: list[Comparison]) -> set[str]:
    return {comparison.name for comparison in comparisons if not comparison.passed}


@pytest.mark.parametrize("plain", ["eager", "reference"])
def test_the_whole_operator_passes_and_fails_on_a_swapped_block(plain: str) -> None:
    layout, inputs, blocks = small()
    assert (
        names_of_failed(compare_ssa(lambda x: gated(x, blocks, layout), blocks, inputs, layout, plain=plain)) == set()
    )
    swapped = blocks.clone()
    unused = next(i for i in range(layout.selection_coords.shape[0]) if i not in blocks[1, 5])
    swapped[1, 5, -1] = unused
    wrong = names_of_failed(compare_ssa(lambda x: gated(x, swapped, layout), blocks, inputs, layout, plain=plain))
    assert {"o", "o, worst row", "dq", "dk", "dv"} <= wrong


def test_a_swapped_gate_fails() -> None:
    layout, inputs, blocks = small()
    comparisons = compare_ssa(
        lambda x: gated(replace(x, gates=x.gates.flip(1)), blocks, layout), blocks, inputs, layout, plain="eager"
    )
    assert {"o", "dgates"} <= names_of_failed(comparisons)


def test_a_sample_of_rows_judges_these_rows_only() -> None:
    layout, inputs, blocks = small()
    rows = torch.tensor([3, 17, 40])

    def wrong_at(row: int) -> Callable[[Inputs], Tensor]:
        factor = torch.ones(layout.num_tokens, 1, 1)
        factor[row] = 1.5
        return lambda x: gated(x, blocks, layout) * factor

    def judged(row: int) -> set[str]:
        return names_of_failed(compare_ssa(wrong_at(row), blocks, inputs, layout, plain="eager", rows=rows))

    assert judged(4) == set()
    assert {"o", "dq", "dgates"} <= judged(17)


def test_a_sample_has_the_budgets_of_running_every_token() -> None:
    layout = random_layout([90, 0, 130], seed=2)
    inputs = Inputs.random(layout, heads=4, kv_heads=2, head_dim=16, dtype=torch.bfloat16)
    blocks = select_blocks(inputs.q, inputs.k_cmp, layout, topk=3, impl="eager")
    rows = torch.tensor([0, 5, 89, 90, 150, 219])

    def everything(x: Inputs) -> Tensor:
        o_cmp = api.compressed_attention(x.q, x.k_cmp, x.v_cmp, layout, impl="eager")
        o_slc = api.selected_attention(x.q, x.k, x.v, blocks, layout, impl="eager")
        o_win = api.window_attention(x.q, x.k, x.v, layout, impl="eager")
        g_cmp, g_slc, g_win = x.gates[:, :, None, None].unbind(1)
        return g_cmp * o_cmp + g_slc * o_slc + g_win * o_win

    def exact(x: Inputs) -> Tensor:
        return reference.spatial_sparse_attention(
            *x.tensors(), layout, topk=3, rows=rows, block_indices=blocks[:, rows]
        )

    whole = compare(everything, lambda x: everything(x)[rows], exact, inputs, rows=rows)
    sampled = compare_ssa(everything, blocks, inputs, layout, plain="eager", rows=rows)
    for one, other in zip(whole, sampled, strict=True):
        assert one.error == other.error
        assert one.budget == pytest.approx(other.budget, rel=0.3), one.name  # sums in other orders


def test_a_few_rows_at_a_time_are_judged_like_all_together() -> None:
    layout, inputs, blocks = small()
    rows = torch.tensor([0, 3, 17, 40, 41, 63])

    def judged(at_a_time: int | None) -> list[Comparison]:
        half = gated(inputs, blocks, layout).detach() / 2  # errors beyond rounding
        return compare_ssa(
            lambda x: half + gated(x, blocks, layout) / 2,
            *(blocks, inputs, layout),
            plain="eager",
            rows=rows,
            rows_at_a_time=at_a_time,
        )

    for one, other in zip(judged(4), judged(None), strict=True):
        assert one.name == other.name
        assert one.error == pytest.approx(other.error, rel=1e-6)
        assert one.budget == pytest.approx(other.budget, rel=1e-6)


def test_rows_are_computed_in_groups_and_again_for_their_gradients() -> None:
    _, inputs, _ = small()
    rows = torch.tensor([5, 2, 9, 30, 31])
    seen: list[list[int]] = []

    def forward(x: Inputs, some: Tensor | None) -> Tensor:
        assert some is not None
        seen.append(some.tolist())
        return x.q[some].square()

    leaves = inputs.leaves()
    o = a_few_rows_at_a_time(forward, rows, 2)(leaves)
    torch.testing.assert_close(o, inputs.q[rows].square())
    assert seen == [[5, 2], [9, 30], [31]]
    (dq,) = torch.autograd.grad(o.sum(), leaves.q)
    assert sorted(seen[3:]) == sorted(seen[:3])
    torch.testing.assert_close(dq, torch.zeros_like(dq).index_copy(0, rows, 2 * inputs.q[rows]))


def test_an_empty_problem_passes() -> None:
    layout = BlockLayout.from_coords(torch.zeros(0, 3, dtype=torch.int32), resolution=8)
    inputs = Inputs.random(layout, heads=2, kv_heads=1, head_dim=16, dtype=torch.bfloat16)
    blocks = api.select_blocks(inputs.q, inputs.k_cmp, layout, topk=TOPK, impl="eager")
    assert (
        names_of_failed(compare_ssa(lambda x: gated(x, blocks, layout), blocks, inputs, layout, plain="eager")) == set()
    )


def test_errors_are_relative_and_absolute_where_the_truth_is_zero() -> None:
    truth = torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=torch.float64)
    x = truth + torch.tensor([[0.0, 0.0], [0.0, 1.0]])
    assert relative_error(x, truth) == pytest.approx(1 / 5)
    assert worst_row_error(x, truth) == pytest.approx(1 / 5)  # a row of zeros has no say in the norm
    assert relative_error(x, torch.zeros_like(truth)) == pytest.approx(26**0.5)
    assert worst_row_error(torch.zeros(0, 2), torch.zeros(0, 2, dtype=torch.float64)) == 0


def test_nan_passes_no_budget() -> None:
    assert not Comparison("o", torch.nan, 1.0).passed
    assert not Comparison("o", 0.0, torch.nan).passed
    assert Comparison("o", 1.0, 1.0).passed


def test_inputs_are_the_same_numbers_in_every_dtype() -> None:
    layout, inputs, _ = small()
    half = Inputs.random(layout, heads=4, kv_heads=2, head_dim=16, dtype=torch.float16)
    for wide, narrow in zip(inputs.tensors(), half.tensors(), strict=True):
        assert narrow.equal(wide.half())
    assert inputs.gates.min() > 0
    assert inputs.gates.max() < 1


# The judge of selections: one row of scores at a time; -1 marks a block of another sample.

SCORES = [0.5, -1.0, 0.3, 0.3, 0.1, -1.0]


def wrong_rows(chosen: list[int], scores: list[float] = SCORES) -> int:
    return selection_errors(torch.tensor([[chosen]], dtype=torch.int32), torch.tensor([[scores]], dtype=torch.float64))


@pytest.mark.parametrize("chosen", [[0], [0, 2], [0, 3], [0, 2, 3], [0, 3, 2], [0, 2, 3, 4], [0, 3, 2, 4, -1, -1]])
def test_the_best_blocks_pass_and_ties_go_either_way(chosen: list[int]) -> None:
    assert wrong_rows(chosen) == 0


@pytest.mark.parametrize(
    "chosen",
    [
        pytest.param([2], id="not the best"),
        pytest.param([0, 4], id="a better one left out"),
        pytest.param([2, 0], id="not best first"),
        pytest.param([0, 0], id="twice"),
        pytest.param([0, 2, 2], id="twice, of a tie"),
        pytest.param([0, 1], id="another sample"),
        pytest.param([0, 2, 3, 4, 5], id="another sample instead of padding"),
        pytest.param([0, -1], id="padded too early"),
        pytest.param([0, -1, 2, 3, 4], id="padding in the middle"),
        pytest.param([-1, 0, 2, 3, 4], id="padding first"),
        pytest.param([-1, -1], id="all padding"),
        pytest.param([0, 2, 3, -1, -1], id="a block missing"),
        pytest.param([0, 6], id="id beyond the last"),
        pytest.param([0, 2**31 - 1], id="uninitialised id"),
        pytest.param([0, 2, 3, 4, -2], id="padding other than -1"),
    ],
)
def test_a_wrong_choice_is_counted(chosen: list[int]) -> None:
    assert wrong_rows(chosen) == 1


def test_padding_in_the_middle_is_wrong_even_before_a_block_of_score_zero() -> None:
    assert wrong_rows([0, 1, -1], [0.5, 0.0, -1.0]) == 0
    assert wrong_rows([0, -1, 1], [0.5, 0.0, -1.0]) == 1


def test_near_ties_go_either_way_and_nothing_beyond() -> None:
    near, far = 1 + SELECTION_TOLERANCE / 2, 1 + 3 * SELECTION_TOLERANCE
    for chosen in ([0], [1], [0, 1], [1, 0]):
        assert wrong_rows(chosen, [0.2 * near, 0.2]) == 0
    assert wrong_rows([1], [0.2 * far, 0.2]) == 1
    assert wrong_rows([1, 0], [0.2 * far, 0.2]) == 1
    assert wrong_rows([0, 1], [0.2 * far, 0.2]) == 0


def test_only_the_wrong_rows_of_many_are_counted() -> None:
    scores = torch.rand(2, 50, 12, dtype=torch.float64)
    chosen = scores.sort(dim=2, descending=True).indices[..., :4].int()
    assert selection_errors(chosen, scores) == 0
    chosen[0, 7] = chosen[0, 7].flip(0)
    chosen[1, 7, 3] = chosen[1, 7, 0]
    chosen[1, 49, 0] = 12
    assert selection_errors(chosen, scores) == 3


def test_a_selection_without_rows_or_blocks_has_no_errors() -> None:
    assert selection_errors(torch.zeros(2, 0, 3, dtype=torch.int32), torch.zeros(2, 0, 0, dtype=torch.float64)) == 0


def test_a_gradient_that_cancels_exactly_is_measured_against_the_upstream_gradient() -> None:
    """One token has one key: its probability is 1 whatever q and k, so dq and dk are zero."""
    layout = BlockLayout.from_coords(torch.zeros(1, 3, dtype=torch.int32), resolution=8)
    inputs = Inputs.random(layout, heads=2, kv_heads=1, head_dim=16, dtype=torch.float32)

    def attend(x: Inputs) -> Tensor:
        return api.full_attention(x.q, x.k, x.v, layout, impl="reference")

    def off_by(size: float) -> list[bool]:
        compared = compare(lambda x: attend(x) + size * x.q, attend, attend, inputs, ("q", "k", "v"))
        return [item.passed for item in compared if item.name == "dq"]

    assert off_by(0.0) == [True]
    assert off_by(1e-3) == [False]
