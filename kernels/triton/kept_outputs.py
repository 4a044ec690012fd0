"""Outputs of branches as one kernel leaves them to the next: with 16-bit inputs in fp16, and in a unit.

delta = rowsum(dO * o) of the backward is off by the rounding of o, and dq by that times the mean of the keys, which in
trained models is large. fp16 rounds an eighth as coarsely as bf16. What it lacks in range the unit makes up for, a
power of two below the largest value: an output is an average of values. Where all values that a token attends to are
less than 2^-27 of the largest, its output loses digits. The kernels that compute outputs are given the values in units,
and need not know.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 4096
_MOST_PROGRAMS = 512  # a few for each multiprocessor
# Values in units are below 2^14; fp16 goes to 2^16.
_BELOW_LARGEST = tl.constexpr(2.0**-13)
_SMALLEST = tl.constexpr(2.0**-100)  # its reciprocal is finite


@triton.jit
def _load_values(values, size, step, BLOCK: tl.constexpr):
    """A block of values, their positions, and whether these are below `size`."""
    position = (step * tl.num_programs(0) + tl.program_id(0)).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = position < size
    return tl.load(values + position, mask=mask, other=0.0), position, mask


@triton.jit
def _store_largest(values, size, largest, BLOCK: tl.constexpr):
    found = tl.zeros([BLOCK], tl.float32)
    for step in range(tl.cdiv(size, tl.num_programs(0) * BLOCK)):
        block, _, _ = _load_values(values, size, step, BLOCK)
        magnitude = tl.abs(block.to(tl.float32))
        found = tl.maximum(found, tl.where(magnitude < float("inf"), magnitude, 0.0))
    tl.store(largest + tl.program_id(0), tl.max(found, 0))


@triton.jit(do_not_specialize=["size", "size_cmp"])
def _largest_kernel(
    v,  # [size]
    v_cmp,  # [size_cmp], or None
    largest,  # fp32 [2, MOST_PROGRAMS]: the largest finite magnitude that each program finds in v, in v_cmp
    size,
    size_cmp,
    MOST_PROGRAMS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    _store_largest(v, size, largest, BLOCK)
    if v_cmp is not None:
        _store_largest(v_cmp, size_cmp, largest + MOST_PROGRAMS, BLOCK)


@triton.jit
def _divide(values, quotients, size, largest, unit, MOST_PROGRAMS: tl.constexpr, BLOCK: tl.constexpr):
    program = tl.arange(0, MOST_PROGRAMS)
    found = tl.max(tl.load(largest + program, mask=program < tl.num_programs(0), other=0.0), 0)
    bound = tl.maximum(found * _BELOW_LARGEST, _SMALLEST)
    power = (bound.to(tl.int32, bitcast=True) & 0x7F800000).to(tl.float32, bitcast=True)  # its exponent alone
    tl.store(unit, power, mask=tl.program_id(0) == 0)
    for step in range(tl.cdiv(size, tl.num_programs(0) * BLOCK)):
        block, position, mask = _load_values(values, size, step, BLOCK)
        tl.store(quotients + position, (block.to(tl.float32) / power).to(quotients.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["size", "size_cmp"])
def _divide_kernel(
    v,  # these five as `_largest_kernel`
    v_cmp,
    largest,
    size,
    size_cmp,
    quotients,  # fp16 [size]
    quotients_cmp,  # fp16 [size_cmp], or None
    units,  # fp32 [1] or [2]
    MOST_PROGRAMS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    _divide(v, quotients, size, largest, units, MOST_PROGRAMS, BLOCK)
    if v_cmp is not None:
        _divide(v_cmp, quotients_cmp, size_cmp, largest + MOST_PROGRAMS, units + 1, MOST_PROGRAMS, BLOCK)


def in_units(v: Tensor, v_cmp: Tensor | None = None) -> tuple[list[Tensor], Tensor]:
    """The one or two tensors in units, of `kept_dtype`; and their units, fp32 [1 or 2].

    The largest finite value counts, so that one that is not finite spoils only outputs that it is part of. fp32 values
    stay as they are.
    """
    values = [v] if v_cmp is None else [v, v_cmp]
    if v.dtype == torch.float32:
        return values, torch.ones(len(values), dtype=torch.float32, device=v.device)
    largest = torch.empty(2, _MOST_PROGRAMS, dtype=torch.float32, device=v.device)
    units = torch.empty(len(values), dtype=torch.float32, device=v.device)
    quotients = [torch.empty_like(each, dtype=torch.float16) for each in values]
    quotients_cmp = None if v_cmp is None else quotients[1]
    sizes = [v.numel(), 0 if v_cmp is None else v_cmp.numel()]
    grid = (min(max(triton.cdiv(max(sizes), _BLOCK), 1), _MOST_PROGRAMS),)
    constants = {"MOST_PROGRAMS": _MOST_PROGRAMS, "BLOCK": _BLOCK, "num_warps": 8}
    _largest_kernel[grid](v, v_cmp, largest, *sizes, **constants)
    _divide_kernel[grid](v, v_cmp, largest, *sizes, quotients[0], quotients_cmp, units, **constants)
    return quotients, units


def kept_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type of kept outputs, and of values in units, where inputs have `dtype`."""
    return torch.float32 if dtype == torch.float32 else torch.float16


def lse_dtype(dtype: torch.dtype) -> torch.dtype:
    """Of an LSE on its way to backward, for inputs of a dtype: see `primitives.probabilities`."""
    return torch.float64 if dtype == torch.float32 else torch.float32
