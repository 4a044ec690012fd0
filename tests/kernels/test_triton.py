"""The Triton kernels against the fp64 reference: the GPU where there is one, Triton's interpreter elsewhere."""

from __future__ import annotations

import dataclasses
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor

import kernels
from kernels import BlockLayout, reference
from kernels import segments as segment_lists
from kernels.testing import Inputs, compare, compare_ssa, random_layout, relative_error, selection_errors
from kernels.triton import configs, ops
from kernels.triton.centred_keys import centred
from kernels.triton.configs import KERNEL_NAMES, TileConfig, TunedTable
from kernels.triton.segment_backward import common_part

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Triton's interpreter cannot multiply bf16.
DTYPES = [torch.float32, torch.float16, *([torch.bfloat16] if DEVICE == "cuda" else [])]


def check(layout: BlockLayout, inputs: Inputs, topk: int, scale: float | None = None) -> None:
    blocks = kernels.select_blocks(inputs.q, inputs.k_cmp, layout, topk=topk, scale=scale, impl="triton")
    scores = reference.block_scores(inputs.q.double(), inputs.k_cmp.double(), layout, scale=scale)
    assert selection_errors(blocks, scores) == 0

    def forward(x: Inputs) -> Tensor:
        return kernels.spatial_sparse_attention(*x.tensors(), layout, topk=topk, scale=scale, impl="triton")

    compared = compare_ssa(forward, blocks, inputs, layout, plain="eager", scale=scale)
    assert [item for item in compared if not item.passed] == []


CASES = {
    "the paper's group of 16": ([40], {}, (16, 1, 32, 4)),
    "two kv heads, shifted windows": ([40], {"window_shift": 4}, (4, 2, 64, 3)),
    "batch with empty samples": ([0, 23, 0, 9, 0], {}, (2, 1, 16, 2)),
    "compression and selection blocks equal": ([40], {"compression_block": 8}, (4, 1, 32, 2)),
    "eight-fold nesting, unequal window": (
        [30],
        {"compression_block": 2, "window": 5, "window_shift": 2},
        (2, 2, 16, 3),
    ),
    "more blocks wanted than exist": ([30, 9], {}, (2, 1, 16, 20)),
    "odd group and head dim": ([30], {}, (6, 2, 24, 2)),
    "head dim 100, one query head a kv head": ([24], {}, (2, 2, 100, 2)),
    "head dim 128": ([30], {}, (2, 1, 128, 2)),
    "group of 32": ([20], {}, (32, 1, 16, 2)),
    "one token": ([1], {}, (2, 1, 16, 2)),
    "one voxel a block": ([12], {"compression_block": 1, "selection_block": 1, "window": 1}, (2, 1, 16, 3)),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_operator_and_gradients_are_within_the_error_budget(case: str, dtype: torch.dtype) -> None:
    tokens, blocks, (heads, kv_heads, head_dim, topk) = CASES[case]
    layout = random_layout(tokens, device=DEVICE, **blocks)
    inputs = Inputs.random(layout, heads=heads, kv_heads=kv_heads, head_dim=head_dim, dtype=dtype, device=DEVICE)
    check(layout, inputs, topk)


def small_tiles(*, peeled: bool) -> TunedTable:
    """Tiles so small that segments of a few dozen keys and queries take several, so that loops turn more than once."""
    config = TileConfig(32, 16, 4, 2, peeled=peeled)
    return TunedTable("test", dict.fromkeys(KERNEL_NAMES, ((128, config),)))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("peeled", [True, False], ids=["peeled", "masked"])
@pytest.mark.parametrize(
    ("tokens", "group"), [([61], (2, 1, 16, 3)), ([50, 0, 7], (3, 1, 24, 2))], ids=["one sample", "odd sizes, batch"]
)
def test_segments_of_several_tiles(
    tokens: list[int], group: tuple[int, int, int, int], peeled: bool, dtype: torch.dtype
) -> None:
    heads, kv_heads, head_dim, topk = group
    layout = random_layout(tokens, device=DEVICE, window=12, window_shift=3)
    inputs = Inputs.random(layout, heads=heads, kv_heads=kv_heads, head_dim=head_dim, dtype=dtype, device=DEVICE)
    assert layout.compression_coords.shape[0] > 32  # the compressed branch needs more than two tiles of keys
    with configs.overridden(small_tiles(peeled=peeled)):
        check(layout, inputs, topk)


@pytest.mark.parametrize(
    ("above", "dtype"),
    [(a, d) for d in DTYPES for a in ((12, 20, 65) if d == torch.float32 else (20, 26, 65))],
    ids=str,
)
def test_scores_above_those_of_the_first_tile(above: int, dtype: torch.dtype) -> None:
    # The softmax refers to the first tile's largest score. What exceeds it by 23 in base 2, in fp32 by 15, is computed
    # again.
    layout = random_layout([64], device=DEVICE)
    x = Inputs.random(layout, heads=2, kv_heads=1, head_dim=16, dtype=dtype, device=DEVICE)
    blocks, tokens = x.k_cmp.shape[0], x.k.shape[0]
    direction = torch.ones(16, dtype=dtype, device=DEVICE)
    rising = torch.linspace(0, above / 13.15, blocks, device=DEVICE, dtype=dtype)[:, None, None]
    steps = torch.linspace(0, above / 13.15, tokens, device=DEVICE, dtype=dtype)[:, None, None]
    extreme = Inputs(
        4 * direction + 0.1 * x.q, steps * direction + 0.1 * x.k, x.v, rising * direction, x.v_cmp, x.gates
    )
    span = (extreme.q[0, 0].float() @ extreme.k_cmp[:, 0].float().T) * 16**-0.5 * 1.4427
    assert abs(span.max() - span[:16].max() - above) < 1
    with configs.overridden(small_tiles(peeled=True)):
        check(layout, extreme, topk=3)


@pytest.mark.parametrize("seed", range(1, 4))
def test_steep_scores_in_fp32(seed: int) -> None:
    # With keys as they are, or with LSEs in fp32, some drawings exceed their budgets.
    layout = random_layout([64], device=DEVICE, seed=seed)
    x = Inputs.random(layout, heads=2, kv_heads=1, head_dim=16, dtype=torch.float32, device=DEVICE, seed=seed)
    steep = [4 * torch.linspace(0, 1, rows.shape[0], device=DEVICE)[:, None, None] for rows in (x.k, x.k_cmp)]
    x = dataclasses.replace(x, q=4 + 0.1 * x.q, k=steep[0] + 0.1 * x.k, k_cmp=steep[1] + 0.1 * x.k_cmp)
    check(layout, x, topk=3)


def test_fp32_keys_are_centred_and_others_are_not() -> None:
    k = torch.tensor([[[0.0, 1.0]], [[4.0, torch.nan]], [[6.0, 3.0]]])
    assert torch.equal(centred(k)[..., 0], torch.tensor([[-3.0], [1.0], [3.0]]))
    assert torch.equal(centred(k)[::2, :, 1], k[::2, :, 1])
    half = k.half()
    assert centred(half) is half
    assert centred(k[:0]).shape == (0, 1, 2)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_key_that_is_not_finite_concerns_its_own_sample_alone(dtype: torch.dtype) -> None:
    layout = random_layout([20, 23], device=DEVICE)
    x = Inputs.random(layout, heads=2, kv_heads=1, head_dim=16, dtype=dtype, device=DEVICE)
    blocks = int(layout.cu_compression[1])
    x.k[:20] = torch.nan
    x.k_cmp[:blocks] = torch.nan
    leaves = x.leaves()
    o = kernels.spatial_sparse_attention(*leaves.tensors(), layout, topk=2, impl="triton")
    grads = torch.autograd.grad(o, leaves.tensors(), torch.ones_like(o))
    assert o[:20].isnan().all()
    assert o[20:].isfinite().all()
    for grad, first in zip(grads, (20, 20, 20, blocks, blocks, 20), strict=True):
        assert grad[first:].isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("part_tokens", "parts"), [(8, 4), (3, 10)])
def test_the_selected_branch_in_several_parts(
    dtype: torch.dtype, part_tokens: int, parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = random_layout([20, 0, 9], device=DEVICE)
    inputs = Inputs.random(layout, heads=4, kv_heads=2, head_dim=16, dtype=dtype, device=DEVICE)
    monkeypatch.setattr(segment_lists, "_PART_BYTES", part_tokens * 2 * 4 * 16 * inputs.q.element_size())
    assert segment_lists.selection_parts(inputs.q, 2) == parts
    check(layout, inputs, topk=2)


@pytest.mark.parametrize("name", ["segment_forward", "segment_dq"])
def test_only_one_part_has_partial_results_at_a_time(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = random_layout([30], device=DEVICE)
    x = Inputs.random(layout, heads=2, kv_heads=1, head_dim=16, dtype=torch.float32, device=DEVICE)
    monkeypatch.setattr(segment_lists, "_PART_BYTES", 10 * 2 * 2 * 16 * x.q.element_size())
    compute = getattr(ops, name)
    alive: list[weakref.ref[torch.Tensor]] = []
    parts: list[int] = []

    def watched(*arguments: Any) -> Any:
        result = compute(*arguments)
        if isinstance(arguments[-1], int):  # of a part, not of all tokens as the other branches are computed
            assert [ref() for ref in alive] == [None] * len(alive)
            parts.append(arguments[-1])
            alive.extend(weakref.ref(tensor) for tensor in (result if isinstance(result, tuple) else (result,)))
        return result

    monkeypatch.setattr(ops, name, watched)
    q = x.q.requires_grad_()
    o = kernels.spatial_sparse_attention(*x.tensors(), layout, topk=2, impl="triton")
    o.backward(torch.ones_like(o))
    assert parts == [0, 1, 2]
    assert q.grad is not None


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tensors_that_need_64_bit_offsets(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = random_layout([40], device=DEVICE, window_shift=4)
    inputs = Inputs.random(layout, heads=4, kv_heads=2, head_dim=16, dtype=dtype, device=DEVICE)
    monkeypatch.setattr("kernels.triton.segment_forward._WIDE_ELEMENTS", 1)
    check(layout, inputs, topk=2)


def test_the_serial_layout_runs_on_the_same_kernels() -> None:
    cu_seqlens = torch.tensor([0, 17, 17, 50], dtype=torch.int32)
    layout = BlockLayout.from_sequence(cu_seqlens, compression_block=4, selection_block=16, window=16).to(DEVICE)
    check(layout, Inputs.random(layout, heads=4, kv_heads=1, head_dim=16, dtype=torch.float32, device=DEVICE), topk=2)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gates_of_zero_and_one_and_in_between(dtype: torch.dtype) -> None:
    layout = random_layout([40], seed=12).to(DEVICE)
    inputs = Inputs.random(layout, heads=4, kv_heads=2, head_dim=32, dtype=dtype, device=DEVICE, seed=12)
    choices = torch.tensor([0.0, 0.01, 0.5, 1.0], dtype=dtype, device=DEVICE)
    index = torch.arange(3 * layout.num_tokens, device=DEVICE).view(-1, 3)
    check(layout, dataclasses.replace(inputs, gates=choices[(index + index // 7) % 4]), topk=3)


def test_negative_gates_make_gradients_nan_and_not_wrong() -> None:
    layout = random_layout([20], seed=13).to(DEVICE)
    inputs = Inputs.random(layout, heads=2, kv_heads=1, head_dim=16, dtype=torch.float16, device=DEVICE, seed=13)
    tensors = [x.requires_grad_() for x in dataclasses.replace(inputs, gates=-inputs.gates).tensors()]
    kernels.spatial_sparse_attention(*tensors, layout, topk=2, impl="triton").sum().backward()
    q, k, v, k_cmp, v_cmp, gates = (x.grad for x in tensors)
    assert all(grad is not None and grad.isnan().all() for grad in (q, k, v, k_cmp, v_cmp))
    assert gates is not None
    assert gates.isfinite().all()


def test_negative_gates_in_fp32() -> None:
    layout = random_layout([40], seed=14).to(DEVICE)
    inputs = Inputs.random(layout, heads=4, kv_heads=2, head_dim=32, dtype=torch.float32, device=DEVICE, seed=14)
    check(layout, dataclasses.replace(inputs, gates=1 - 2 * inputs.gates), topk=3)


@pytest.mark.parametrize("scale", [0.02, 3.0, -1.0])
def test_any_finite_scale(scale: float) -> None:
    layout = random_layout([24], device=DEVICE)
    check(layout, Inputs.random(layout, heads=2, kv_heads=1, head_dim=16, dtype=torch.float32, device=DEVICE), 2, scale)


@pytest.mark.parametrize(("head_dim", "seed"), [(16, 0), (16, 1), (48, 2)])
def test_large_logits_neither_overflow_nor_vanish(head_dim: int, seed: int) -> None:
    layout = random_layout([40], device=DEVICE, seed=seed)
    x = Inputs.random(layout, heads=2, kv_heads=1, head_dim=head_dim, dtype=torch.float32, device=DEVICE, seed=seed)
    check(layout, dataclasses.replace(x, q=30 * x.q), topk=2)


def test_in_fp32_the_size_of_scores_alone_changes_no_gradient() -> None:
    # An LSE is as large as the scores: rounded to fp32 it would put all probabilities of a row off by 0.1 %.
    layout = random_layout([9], resolution=8, window=8, device=DEVICE)
    x = Inputs.random(layout, heads=1, kv_heads=1, head_dim=16, dtype=torch.float32, device=DEVICE)
    v = x.v.requires_grad_()
    q = torch.full_like(x.q, 1e4)
    o = kernels.window_attention(q, torch.ones_like(x.k), v, layout, impl="triton")  # all scores are 4e4
    do = torch.randn_like(o)
    (dv,) = torch.autograd.grad(o, v, do)
    torch.testing.assert_close(dv, do.mean(0, keepdim=True).expand_as(dv), rtol=1e-6, atol=1e-6)


def test_no_tokens_give_empty_outputs_and_gradients() -> None:
    layout = random_layout([0, 0], device=DEVICE)
    inputs = Inputs.random(layout, heads=2, kv_heads=1, head_dim=16, dtype=torch.float32, device=DEVICE).leaves()
    o = kernels.spatial_sparse_attention(*inputs.tensors(), layout, topk=2, impl="triton")
    o.sum().backward()
    assert o.shape == (0, 2, 16)
    assert all(x.grad is not None and x.grad.shape == x.shape for x in inputs.tensors())


def test_inputs_need_not_be_contiguous() -> None:
    layout = random_layout([40], device=DEVICE)
    inputs = Inputs.random(layout, heads=2, kv_heads=1, head_dim=16, dtype=torch.float32, device=DEVICE)
    strided = Inputs(*(x.transpose(0, -1).contiguous().transpose(0, -1) for x in inputs.tensors()))
    assert not strided.q.is_contiguous()
    check(layout, strided, topk=2)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_branches_and_their_gradients_alone(dtype: torch.dtype) -> None:
    layout = random_layout([36], device=DEVICE, window_shift=4)
    inputs = Inputs.random(layout, heads=4, kv_heads=2, head_dim=32, dtype=dtype, device=DEVICE)
    blocks = kernels.select_blocks(inputs.q, inputs.k_cmp, layout, topk=2, impl="triton")
    blocks[0, ::7] = -1  # tokens without any block
    blocks[1, 3, 1] = -1

    def branch(name: str, impl: str, x: Inputs) -> Tensor:
        if name == "compressed":
            return kernels.compressed_attention(x.q, x.k_cmp, x.v_cmp, layout, impl=impl)
        if name == "selected":
            return kernels.selected_attention(x.q, x.k, x.v, blocks, layout, impl=impl)
        return kernels.window_attention(x.q, x.k, x.v, layout, impl=impl)

    for name, grads in (
        ("compressed", ("q", "k_cmp", "v_cmp")),
        ("selected", ("q", "k", "v")),
        ("window", ("q", "k", "v")),
    ):
        compared = compare(
            lambda x, name=name: branch(name, "triton", x),
            lambda x, name=name: branch(name, "eager", x),
            lambda x, name=name: branch(name, "reference", x),
            inputs,
            grads,
        )
        assert [(name, item) for item in compared if not item.passed] == []


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_keys_that_are_nearly_all_mean_do_not_spoil_the_gradient_of_q(dtype: torch.dtype) -> None:
    """As in trained models: the rounding of delta, times the mean key, was a tenth of dq and more."""
    layout = random_layout([40, 24], device=DEVICE)
    inputs = Inputs.random(layout, heads=4, kv_heads=2, head_dim=32, dtype=dtype, device=DEVICE)
    mean = torch.linspace(-8, 8, 32, dtype=dtype, device=DEVICE)
    inputs = dataclasses.replace(inputs, k_cmp=mean + inputs.k_cmp / 8)
    upstream = torch.randn(inputs.q.shape, device=DEVICE).to(dtype)

    def gradient(impl: str, dtype: torch.dtype) -> Tensor:
        x = inputs.leaves(dtype)
        o = kernels.compressed_attention(x.q, x.k_cmp, x.v_cmp, layout, impl=impl)
        return torch.autograd.grad(o, x.q, upstream.to(dtype))[0]

    truth = gradient("reference", torch.float64)
    assert relative_error(gradient("triton", dtype), truth) < torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_only_a_mean_that_is_large_beside_the_deviations_is_taken_off_keys(dtype: torch.dtype) -> None:
    keys = torch.randn(500, 2, 4, generator=torch.Generator().manual_seed(0)).to(DEVICE, dtype)
    keys[:, 1, 2] += 3
    common = common_part(keys)
    expected = torch.zeros(2, 4, dtype=dtype, device=DEVICE)
    expected[1, 2] = keys[:, 1, 2].float().mean().to(dtype)
    torch.testing.assert_close(common, expected)


def test_gradients_are_deterministic() -> None:
    layout = random_layout([40], device=DEVICE)
    inputs = Inputs.random(layout, heads=4, kv_heads=1, head_dim=16, dtype=torch.float16, device=DEVICE)

    def gradients() -> list[Tensor]:
        x = inputs.leaves()
        o = kernels.spatial_sparse_attention(*x.tensors(), layout, topk=2, impl="triton")
        return list(torch.autograd.grad(o, x.tensors(), torch.ones_like(o)))

    for first, second in zip(gradients(), gradients(), strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_scores_in_several_chunks_give_the_same_selection(monkeypatch: pytest.MonkeyPatch) -> None:
    layout = random_layout([40, 10], device=DEVICE)
    inputs = Inputs.random(layout, heads=4, kv_heads=2, head_dim=16, dtype=torch.float32, device=DEVICE)
    whole = kernels.select_blocks(inputs.q, inputs.k_cmp, layout, topk=3, impl="triton")
    monkeypatch.setattr("kernels.triton.select._score_bytes", lambda q: 1)
    chunked = kernels.select_blocks(inputs.q, inputs.k_cmp, layout, topk=3, impl="triton")
    torch.testing.assert_close(whole, chunked, rtol=0, atol=0)


@pytest.mark.gpu
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(16, 1, 64), (32, 2, 32)])
def test_rows_beyond_32_bit_addresses(heads: int, kv_heads: int, head_dim: int) -> None:
    """131,072 tokens x 24 slots x 1,024 channels are more than 2^31 elements: partial results need 64-bit addresses."""
    line = torch.arange(131_072, dtype=torch.int32)
    layout = BlockLayout.from_coords(torch.stack([line // 4096, line // 64 % 64, line % 64], dim=1), resolution=64).to(
        DEVICE
    )
    inputs = Inputs.random(
        layout, heads=heads, kv_heads=kv_heads, head_dim=head_dim, dtype=torch.bfloat16, device=DEVICE
    )
    blocks = kernels.select_blocks(inputs.q, inputs.k_cmp, layout, topk=24, impl="triton")
    rows = torch.tensor([0, 1, 65_535, 87_382, 131_070, 131_071], device=DEVICE)

    def forward(x: Inputs) -> Tensor:
        return kernels.spatial_sparse_attention(*x.tensors(), layout, topk=24, impl="triton")

    compared = compare_ssa(forward, blocks, inputs, layout, plain="eager", rows=rows)
    assert [item for item in compared if not item.passed] == []
    scores = reference.block_scores(inputs.q.double(), inputs.k_cmp.double(), layout, rows=rows)
    assert selection_errors(blocks[:, rows], scores) == 0
