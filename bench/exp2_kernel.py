"""A kernel that does nothing but exponentials."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _repeat_exp2_kernel(numbers, result, REPEATS: tl.constexpr, BLOCK: tl.constexpr):
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(numbers + index)
    for _ in tl.static_range(REPEATS):
        x = tl.exp2(-x)  # the sign is free: an operand modifier
    tl.store(result + index, x)


def repeat_exp2(numbers: Tensor, repeats: int) -> Tensor:
    """2^-x, `repeats` times over; numbers fp32 in [0, 1], a multiple of 1024 of them."""
    block = 1024
    if numbers.numel() % block:
        raise ValueError(f"numbers must be a multiple of {block}, got {numbers.numel()}")
    result = torch.empty_like(numbers)
    _repeat_exp2_kernel[(numbers.numel() // block,)](numbers, result, REPEATS=repeats, BLOCK=block, num_warps=4)
    return result
