"""Outputs of branches as one kernel leaves them to the next: with 16-bit inputs in fp16, and in a unit.

delta = rowsum(dO * o) of the backward is off by the rounding of o, and dq by that times the mean of the keys, which in
trained models is large. fp16 rounds an eighth as coarsely as bf16. What it lacks in range the unit makes up for, a
power of two below the largest value: an output is an average of values. The kernels that compute outputs are given the
values in units, and need not know.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 8192
# Values in units are below 2^14; fp16 goes to 2^16.
_BELOW_LARGEST = tl.constexpr(2.0**-13)
_SMALLEST = 2.0**-100  # its reciprocal is finite


@triton.jit
def _load_values(values, size, BLOCK: tl.constexpr):
    position = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = position < size
    return tl.load(values + position, mask=mask, other=0.0), position, mask


@triton.jit(do_not_specialize=["size"])
def _unit_kernel(
    values,  # [size]
    unit,  # int32 [1]: the bits of an fp32 number, which have the order of the numbers
    size,
    BLOCK: tl.constexpr,
):
    tile, _, _ = _load_values(values, size, BLOCK)
    magnitude = tl.abs(tile.to(tl.float32))
    largest = tl.max(tl.where(magnitude < float("inf"), magnitude, 0.0), 0)
    power = (largest * _BELOW_LARGEST).to(tl.int32, bitcast=True) & 0x7F800000  # its exponent alone
    tl.atomic_max(unit, power)


@triton.jit(do_not_specialize=["size"])
def _divide_kernel(
    values,  # [size]
    unit,  # fp32 [1]
    quotients,  # [size]
    size,
    BLOCK: tl.constexpr,
):
    tile, position, mask = _load_values(values, size, BLOCK)
    quotient = tile.to(tl.float32) * (1.0 / tl.load(unit))
    tl.store(quotients + position, quotient.to(quotients.dtype.element_ty), mask=mask)


def in_units(*values: Tensor) -> tuple[list[Tensor], Tensor]:
    """Values in units, of `kept_dtype`, and the unit of each, fp32 [len(values)]. fp32 values stay as they are.

    The largest finite value counts, so that one that is not finite spoils only outputs that it is part of.
    """
    device = values[0].device
    if values[0].dtype == torch.float32:
        return list(values), torch.ones(len(values), dtype=torch.float32, device=device)
    units = torch.full((len(values),), _SMALLEST, dtype=torch.float32, device=device)
    quotients = []
    for each, unit in zip(values, units.split(1), strict=True):
        quotient = torch.empty_like(each, dtype=torch.float16)
        if each.numel():
            grid = (triton.cdiv(each.numel(), _BLOCK),)
            _unit_kernel[grid](each, unit.view(torch.int32), each.numel(), BLOCK=_BLOCK, num_warps=8)
            _divide_kernel[grid](each, unit, quotient, each.numel(), BLOCK=_BLOCK, num_warps=8)
        quotients.append(quotient)
    return quotients, units


def kept_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type of kept outputs, and of values in units, where inputs have `dtype`."""
    return torch.float32 if dtype == torch.float32 else torch.float16
