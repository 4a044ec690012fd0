"""Outputs between kernels: the unit follows the values, and what is rounded to it no longer spoils dq."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

import kernels
from kernels import BlockLayout
from kernels.testing import Inputs, relative_error
from kernels.triton.kept_outputs import in_units, kept_dtype

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


# Others leave the range of fp16, here or in a gradient.
MAGNITUDES = [(0.05, torch.float16), (20.0, torch.float16)]
if DEVICE == "cuda":  # Triton's interpreter has no products in bf16
    MAGNITUDES += [(1e-15, torch.bfloat16), (1e15, torch.bfloat16)]


def values(dtype: torch.dtype, size: int = 10_000) -> Tensor:
    return torch.randn(size, 1, 1, generator=torch.Generator().manual_seed(0)).to(DEVICE, dtype)


def small_layout() -> BlockLayout:
    voxel = torch.arange(96, dtype=torch.int32) * 37 % 16**3
    coords = torch.stack([voxel // 256, voxel // 16 % 16, voxel % 16], dim=1)
    return BlockLayout.from_coords(coords, resolution=16).to(DEVICE)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("magnitude", [1e-4, 1.0, 7e3])
def test_values_are_divided_by_a_power_of_two_and_end_below_the_end_of_fp16(
    magnitude: float, dtype: torch.dtype
) -> None:
    v = values(dtype) * magnitude
    (quotient,), unit = in_units(v)
    assert quotient.dtype == torch.float16
    assert unit.frexp().mantissa.tolist() == [0.5]
    assert 2**13 <= quotient.abs().max() < 2**14
    # Below 2^-14 units are multiples of 2^-24.
    torch.testing.assert_close(quotient * unit, v.float(), rtol=0, atol=unit.item() * 2**-25)


def test_values_at_the_ends_of_the_range_of_bf16() -> None:
    v = torch.tensor([2.0**127, -(2.0**-100)], device=DEVICE).bfloat16()
    (quotient,), unit = in_units(v)
    assert unit.item() == 2.0**114
    assert quotient[0].item() == 2.0**13


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_values_that_are_not_finite_do_not_count(dtype: torch.dtype) -> None:
    v = values(dtype)
    (expected,), expected_unit = in_units(v)
    bad = torch.tensor([float("nan"), float("inf"), -float("inf")], device=DEVICE)
    (quotient,), unit = in_units(torch.cat([v, bad.to(dtype)[:, None, None]]))
    torch.testing.assert_close(unit, expected_unit, rtol=0, atol=0)
    torch.testing.assert_close(quotient[:-3], expected, rtol=0, atol=0)
    torch.testing.assert_close(quotient[-3:].flatten().float(), bad, equal_nan=True)


def test_each_tensor_has_a_unit_of_its_own_wherever_its_largest_value_lies() -> None:
    v, v_cmp = values(torch.float16, 20_001), values(torch.float16, 9)
    v[-1], v_cmp[0] = 100.0, -1000.0
    assert in_units(v, v_cmp)[1].tolist() == [2.0 ** (6 - 13), 2.0 ** (9 - 13)]


def test_zeros_stay_zeros_and_nothing_stays_nothing() -> None:
    zeros = torch.zeros(5, 2, 8, dtype=torch.float16, device=DEVICE)
    quotients, _ = in_units(zeros, zeros[:0])
    torch.testing.assert_close(quotients, [zeros, zeros[:0]], rtol=0, atol=0)


def test_fp32_is_kept_as_it_is() -> None:
    v = values(torch.float32)
    (kept,), unit = in_units(v)
    assert kept is v
    assert unit.tolist() == [1.0]
    assert kept_dtype(torch.float32) == torch.float32


@pytest.mark.parametrize(("magnitude", "dtype"), MAGNITUDES, ids=str)
def test_values_of_any_magnitude_are_kept_as_exactly(magnitude: float, dtype: torch.dtype) -> None:
    """v grows and its output's gradient shrinks: all errors stay what they are."""
    layout = small_layout()
    x = Inputs.random(layout, heads=2, kv_heads=1, head_dim=16, dtype=dtype, device=DEVICE)
    upstream = torch.randn(x.q.shape, device=DEVICE)

    def errors(scale: float) -> list[float]:
        inputs = dataclasses.replace(x, v=x.v * scale, v_cmp=x.v_cmp * scale)

        def results(impl: str, dtype: torch.dtype) -> list[Tensor]:
            leaves = inputs.leaves(dtype)
            o = kernels.spatial_sparse_attention(*leaves.tensors(), layout, topk=2, impl=impl)
            return [o, *torch.autograd.grad(o, leaves.tensors(), (upstream / scale).to(x.q.dtype).to(dtype))]

        pairs = zip(results("triton", x.q.dtype), results("reference", torch.float64), strict=True)
        return [relative_error(found, truth) for found, truth in pairs]

    for error, usual in zip(errors(magnitude), errors(1.0), strict=True):
        assert error < 1.5 * usual


@pytest.mark.gpu
@pytest.mark.parametrize("branch", ["selected", "window"])
@pytest.mark.parametrize(("heads", "head_dim"), [(16, 64), (32, 32), (6, 48)])
def test_the_rounding_of_outputs_does_not_spoil_the_gradient_of_q(branch: str, heads: int, head_dim: int) -> None:
    """Means are large in trained models: PyTorch's dq in bf16 is off by the rounding of o times that of k, not ours."""
    layout = small_layout()
    x = Inputs.random(layout, heads=heads, kv_heads=2, head_dim=head_dim, dtype=torch.bfloat16, device="cuda")
    mean = torch.linspace(-4, 4, head_dim, device="cuda").bfloat16()
    x = dataclasses.replace(x, k=mean + x.k, v=4 + x.v)
    blocks = kernels.select_blocks(x.q, x.k_cmp, layout, topk=2, impl="triton")
    upstream = torch.randn_like(x.q)

    def gradient(impl: str, dtype: torch.dtype) -> Tensor:
        y = x.leaves(dtype)
        if branch == "selected":
            o = kernels.selected_attention(y.q, y.k, y.v, blocks, layout, impl=impl)
        else:
            o = kernels.window_attention(y.q, y.k, y.v, layout, impl=impl)
        return torch.autograd.grad(o, y.q, upstream.to(dtype))[0]

    truth = gradient("reference", torch.float64)
    ours, theirs = (relative_error(gradient(impl, torch.bfloat16), truth) for impl in ("triton", "eager"))
    assert ours < theirs / 2


@pytest.mark.gpu
@pytest.mark.parametrize("head_dim", [32, 64])
def test_one_key_that_takes_nearly_all_does_not_spoil_its_gradient(head_dim: int) -> None:
    """Where p is nearly 1, dS = p (dO v - delta) is what the rounding of p in o leaves of it."""
    voxel = torch.arange(3000, dtype=torch.int32) * 37 % 32**3
    layout = BlockLayout.from_coords(torch.stack([voxel // 1024, voxel // 32 % 32, voxel % 32], 1), resolution=32)
    layout = layout.to("cuda")
    x = Inputs.random(layout, heads=16, kv_heads=1, head_dim=head_dim, dtype=torch.bfloat16, device="cuda")
    direction = torch.full((head_dim,), head_dim**-0.5, device="cuda")
    keys = x.k_cmp.clone()
    keys[-1] = 13 * direction  # not in the first tile of keys, whose largest score the softmax refers to
    x = dataclasses.replace(x, q=(0.3 * x.q + (head_dim / 32) ** 0.5 * 6 * direction).bfloat16(), k_cmp=keys)
    upstream = torch.randn_like(x.q)

    def gradient(impl: str, dtype: torch.dtype) -> Tensor:
        y = x.leaves(dtype)
        o = kernels.compressed_attention(y.q, y.k_cmp, y.v_cmp, layout, impl=impl)
        return torch.autograd.grad(o, y.k_cmp, upstream.to(dtype))[0]

    truth = gradient("reference", torch.float64)
    ours, theirs = (relative_error(gradient(impl, torch.bfloat16), truth) for impl in ("triton", "eager"))
    assert ours < theirs / 2
