"""Sides of the points around a point in one Triton kernel: `models.data.compiled_sides` on a GPU."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 256  # points of a program


def around(bits: Tensor, coords: Tensor, table: Tensor, blocks: Tensor, across: int, margin: int, kinds: int) -> None:
    """As the compiled function of the same name; all tensors contiguous."""
    if not len(bits):
        return
    with torch.cuda.device_of(bits):
        _around_kernel[(triton.cdiv(len(bits), _BLOCK),)](
            *(bits, coords, table, blocks, len(bits), across, margin), KINDS=kinds, BLOCK=_BLOCK
        )


@triton.jit(do_not_specialize=["num_points", "across", "margin"])
def _around_kernel(
    bits,  # int32 [P]
    coords,  # int64 [3, P]
    table,  # int32 [across^3]
    blocks,  # int8 [B, 8, 8, 8]
    num_points,
    across,
    margin,
    KINDS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    point = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there = point < num_points
    stride = tl.zeros([1], tl.int64) + num_points
    here_x = tl.load(coords + point, there, 0)
    here_y = tl.load(coords + stride + point, there, 0)
    here_z = tl.load(coords + 2 * stride + point, there, 0)
    found = tl.zeros([BLOCK], tl.int32)
    for i in tl.static_range(27):
        x, y, z = here_x + (i // 9 - 1), here_y + (i // 3 % 3 - 1), here_z + (i % 3 - 1)
        cell = (((x >> 3) + margin) * across + (y >> 3) + margin) * across + (z >> 3) + margin
        block = tl.load(table + cell, there, 0).to(tl.int64)
        side = tl.load(blocks + block * 512 + (x & 7) * 64 + (y & 7) * 8 + (z & 7), there, 0).to(tl.int32)
        found |= ((KINDS >> side) & 1) << i
    tl.store(bits + point, found, there)
