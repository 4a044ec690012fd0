"""The eager implementation against the oracle: exactly in fp64, within the error budgets below, in bounded memory."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from kernels import api, eager
from kernels.layout import BlockLayout
from kernels.testing import Inputs, compare_ssa, random_layout

REPOSITORY = Path(__file__).resolve().parents[2]


def make_layout(*lengths: int, resolution: int = 14, **blocks: int) -> BlockLayout:
    return random_layout(lengths, resolution=resolution, **blocks)


def make_sequences(*lengths: int) -> BlockLayout:
    cu_seqlens = torch.tensor([0, *lengths]).cumsum(0).int()
    return BlockLayout.from_sequence(cu_seqlens, compression_block=4, selection_block=8, window=8, window_shift=4)


def lonely_tokens() -> BlockLayout:
    """One token in each block and window."""
    corners = torch.cartesian_prod(*[torch.arange(4, 28, 8, dtype=torch.int32)] * 3)
    layout = BlockLayout.from_coords(corners, resolution=28)
    assert layout.selection_coords.shape[0] == layout.num_tokens == layout.window_offsets.shape[0] - 1
    return layout


LAYOUTS: dict[str, Callable[[], BlockLayout]] = {
    "one sample": lambda: make_layout(70),
    "shifted windows": lambda: make_layout(70, window_shift=4),
    "empty samples": lambda: make_layout(0, 31, 0, 0, 25, 0, window_shift=3),
    "blocks of one size": lambda: make_layout(60, compression_block=8),
    "odd blocks": lambda: make_layout(60, compression_block=3, selection_block=9, window=5, window_shift=2),
    "dense": lambda: make_layout(
        64, 27, resolution=4, compression_block=2, selection_block=4, window=3, window_shift=1
    ),
    "lonely tokens": lonely_tokens,
    "sequences": lambda: make_sequences(0, 37, 1, 0, 20),
    "one token": lambda: make_layout(1),
    "no token": lambda: make_layout(0),
    "three empty samples": lambda: make_layout(0, 0, 0),
    "no sample": make_sequences,
}


def output_and_gradients(inputs: Inputs, layout: BlockLayout, impl: str, topk: int) -> dict[str, Tensor]:
    leaves = inputs.leaves()
    o = api.spatial_sparse_attention(*leaves.tensors(), layout, topk=topk, impl=impl)
    upstream = torch.randn(o.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(o.dtype)
    grads = torch.autograd.grad(o, leaves.tensors(), upstream)
    return {"o": o.detach()} | dict(zip((f.name for f in dataclasses.fields(Inputs)), grads, strict=True))


def assert_equal_but_for_rounding(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, truth in expected.items():
        assert actual[name].shape == truth.shape
        assert actual[name].dtype == truth.dtype
        assert (actual[name] - truth).norm() <= 1e-12 * truth.norm() + 1e-14, name


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("topk", [2, 40])  # more than there are blocks, too
def test_fp64_agrees_to_rounding_on_every_kind_of_layout(name: str, topk: int) -> None:
    layout = LAYOUTS[name]()
    inputs = Inputs.random(layout, heads=4, kv_heads=2, head_dim=16, dtype=torch.float64)
    expected = output_and_gradients(inputs, layout, "reference", topk)
    assert_equal_but_for_rounding(output_and_gradients(inputs, layout, "eager", topk), expected)


HEADS = [(1, 1, 16), (4, 2, 24), (6, 3, 100), (32, 1, 32), (64, 2, 16), (8, 8, 128), (3, 1, 128)]


@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), HEADS)
def test_fp64_agrees_to_rounding_for_every_head_shape(heads: int, kv_heads: int, head_dim: int) -> None:
    layout = make_layout(21, 0, 19, window_shift=4)
    inputs = Inputs.random(layout, heads=heads, kv_heads=kv_heads, head_dim=head_dim, dtype=torch.float64)
    expected = output_and_gradients(inputs, layout, "reference", 3)
    assert_equal_but_for_rounding(output_and_gradients(inputs, layout, "eager", 3), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), HEADS)
def test_lower_precision_stays_within_the_budget(dtype: torch.dtype, heads: int, kv_heads: int, head_dim: int) -> None:
    layout = make_layout(45, 0, 40, window_shift=4)
    inputs = Inputs.random(layout, heads=heads, kv_heads=kv_heads, head_dim=head_dim, dtype=dtype)
    blocks = api.select_blocks(inputs.q, inputs.k_cmp, layout, topk=3, impl="eager")

    def candidate(x: Inputs) -> Tensor:
        return api.spatial_sparse_attention(*x.tensors(), layout, topk=3, impl="eager")

    for comparison in compare_ssa(candidate, blocks, inputs, layout, plain="reference"):
        assert comparison.passed, comparison


@pytest.mark.parametrize("scale", [0.03, 4.0])
def test_an_explicit_scale_reaches_every_branch(scale: float) -> None:
    layout = make_layout(40)
    x = Inputs.random(layout, heads=2, kv_heads=1, head_dim=16, dtype=torch.float64)
    actual, expected = (
        api.spatial_sparse_attention(*x.tensors(), layout, topk=2, scale=scale, impl=impl)
        for impl in ("eager", "reference")
    )
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def test_large_logits_neither_overflow_nor_lose_the_best_key() -> None:
    layout = make_layout(40)
    x = Inputs.random(layout, heads=2, kv_heads=1, head_dim=16, dtype=torch.float32)
    large = dataclasses.replace(x, q=x.q * 1e3)
    actual = api.window_attention(large.q, large.k, large.v, layout, impl="eager")
    expected = api.window_attention(large.q.double(), large.k.double(), large.v.double(), layout, impl="reference")
    torch.testing.assert_close(actual.double(), expected, rtol=1e-3, atol=1e-3)


def test_a_token_without_blocks_gives_zero_and_takes_no_gradient() -> None:
    layout = make_layout(50)
    x = Inputs.random(layout, heads=4, kv_heads=2, head_dim=16, dtype=torch.float64)
    blocks = api.select_blocks(x.q, x.k_cmp, layout, topk=2, impl="reference")
    blocks[:, ::3] = -1
    blocks[0, 1::3] = -1  # another kv head still has its blocks
    results = []
    for impl in ("eager", "reference"):
        leaves = x.leaves()
        o = api.selected_attention(leaves.q, leaves.k, leaves.v, blocks, layout, impl=impl)
        grads = torch.autograd.grad(o.sin().sum(), (leaves.q, leaves.k, leaves.v))
        assert o[::3].eq(0).all()
        assert o[1::3, :2].eq(0).all()
        assert o[1::3, 2:].ne(0).all()
        assert grads[0][::3].eq(0).all()
        assert grads[0][1::3, :2].eq(0).all()
        results.append(dict(zip("oqkv", (o.detach(), *grads), strict=True)))
    assert_equal_but_for_rounding(*results)


def test_no_block_at_all_gives_zero_gradients_everywhere() -> None:
    layout = make_layout(20)
    x = Inputs.random(layout, heads=2, kv_heads=1, head_dim=16, dtype=torch.float32).leaves()
    blocks = torch.full((1, 20, 2), -1, dtype=torch.int32)
    o = api.selected_attention(x.q, x.k, x.v, blocks, layout, impl="eager")
    assert o.eq(0).all()
    for grad in torch.autograd.grad(o.sum(), (x.q, x.k, x.v)):
        assert grad.eq(0).all()


def test_the_lse_is_the_reference_lse_in_at_least_fp32() -> None:
    layout = make_layout(30, 0, 12)
    for dtype, wide in [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
    ]:
        x = Inputs.random(layout, heads=4, kv_heads=2, head_dim=16, dtype=dtype)
        truth = api.compressed_lse(x.q.double(), x.k_cmp.double(), layout, impl="reference")
        for impl in ("eager", "reference"):
            lse = api.compressed_lse(x.q, x.k_cmp, layout, impl=impl)
            assert lse.dtype == wide
            torch.testing.assert_close(lse.double(), truth, rtol=1e-5, atol=1e-5)


def test_long_segments_in_chunks_change_only_the_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    layout = make_layout(48, 30, resolution=6, window_shift=4)
    inputs = Inputs.random(layout, heads=4, kv_heads=2, head_dim=16, dtype=torch.float64)
    whole = output_and_gradients(inputs, layout, "eager", 2)
    limit, tiles = 150, []

    def recorded(*args: object) -> Tensor:
        scores = compute(*args)  # type: ignore[arg-type]
        tiles.append(scores)
        return scores

    compute = eager._scores
    monkeypatch.setattr(eager, "_scores", recorded)
    monkeypatch.setattr(eager, "_CHUNK_ELEMENTS", {"cpu": limit, "cuda": limit})
    assert_equal_but_for_rounding(output_and_gradients(inputs, layout, "eager", 2), whole)
    assert max(scores.numel() for scores in tiles) <= limit
    assert max(scores.shape[0] for scores in tiles) > 1


def test_non_contiguous_inputs_give_the_same_output_and_gradients() -> None:
    layout = make_layout(40, window_shift=4)
    plain = Inputs.random(layout, heads=4, kv_heads=2, head_dim=16, dtype=torch.float64)
    fused = torch.stack([plain.k, plain.v], dim=-1)  # strides of 2 in the head dim
    cmp = torch.cat([plain.k_cmp, plain.v_cmp], dim=2)  # two slices of one projection
    strided = Inputs(
        q=plain.q.transpose(0, 1).contiguous().transpose(0, 1),  # [H, N, D] in memory
        k=fused[..., 0],
        v=fused[..., 1],
        k_cmp=cmp[..., :16],
        v_cmp=cmp[..., 16:],
        gates=plain.gates.T.contiguous().T,
    )
    assert not any(x.is_contiguous() for x in strided.tensors())
    upstream = torch.randn(4, 40, 16, dtype=torch.float64).transpose(0, 1)
    results = []
    for inputs in (plain, strided):
        tensors = [x.requires_grad_() for x in inputs.tensors()]
        o = api.spatial_sparse_attention(*tensors, layout, topk=2, impl="eager")
        results.append([o, *torch.autograd.grad(o, tensors, upstream)])
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-13)


PEAK_MEMORY = """
import re, torch
from pathlib import Path
from bench.workloads import gyroid
from kernels.api import spatial_sparse_attention
from kernels.layout import BlockLayout
from kernels.testing import Inputs

def resident(field):  # not ru_maxrss: that includes the peak of the process that started this one
    return 1024 * int(re.search(field + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

torch.set_num_threads(1)
tokens = gyroid(32_768)
layout = BlockLayout.from_coords(tokens.coords, resolution=tokens.resolution, window_shift=4)
inputs = Inputs.random(layout, heads=4, kv_heads=1, head_dim=64, dtype=torch.float32).leaves()
before = resident("VmRSS")
o = spatial_sparse_attention(*inputs.tensors(), layout, topk=8, impl="eager")
o.backward(torch.ones_like(o))
print(resident("VmHWM") - before)
"""


@pytest.mark.slow
def test_memory_of_32768_tokens_forward_and_backward_stays_below_4_gb() -> None:
    """The scores of one head alone would take 4 GiB as one N x N array."""
    ran = subprocess.run(
        [sys.executable, "-c", PEAK_MEMORY], cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=600
    )
    assert 0 < int(ran.stdout) < 4e9
