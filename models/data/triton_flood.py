"""Connected components of cells that lie side by side, in Triton kernels: `models.data.compiled_flood` on a GPU.

A forest without locks, as in Jaiganesh, Burtscher, "A High-Performance Connected Components Implementation for GPUs"
(2018), with an atomic minimum in place of compare-and-swap (Playne, Hawick, 2018): a parent is always a lower number of
the same component, whoever wrote it last, so that a value read too early only makes the way to the root longer.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 256  # cells of a program


def join(
    parent: Tensor,
    keys: Tensor,
    table: Tensor,
    blocks: Tensor,
    barred: Tensor,
    first: int,
    points: int,
    side: int,
    across: int,
    level: int,
) -> None:
    """As the compiled function of the same name; all tensors contiguous."""
    if not len(keys):
        return
    with torch.cuda.device_of(parent):
        _join_kernel[(triton.cdiv(len(keys), _BLOCK),)](
            *(parent, keys, table, blocks, barred, len(parent), len(keys), first, points, side, across),
            LEVEL=level,
            BLOCK=_BLOCK,
        )


def settle(parent: Tensor) -> None:
    """As the compiled function of the same name."""
    with torch.cuda.device_of(parent):
        _settle_kernel[(triton.cdiv(len(parent), _BLOCK),)](parent, len(parent), BLOCK=_BLOCK)


@triton.jit(do_not_specialize=["num_nodes", "num_keys", "first", "points", "side", "across"])
def _join_kernel(
    parent,
    keys,
    table,
    blocks,
    barred,
    num_nodes,
    num_keys,
    first,
    points,
    side,
    across,
    LEVEL: tl.constexpr,
    BLOCK: tl.constexpr,
):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there = i < num_keys
    key = tl.load(keys + i, there, 0)
    here_x, here_y, here_z = (key // side // side) << LEVEL, (key // side % side) << LEVEL, (key % side) << LEVEL
    bars = barred + i
    stride = tl.zeros([1], tl.int64) + num_nodes
    for axis in tl.static_range(3):
        for forward in tl.static_range(2):
            step = ((1 << LEVEL) + 1) * forward - 1
            x = here_x + (axis == 0) * step
            y = here_y + (axis == 1) * step
            z = here_z + (axis == 2) * step
            span = side << LEVEL
            free = there & (x >= 0) & (x < span) & (y >= 0) & (y < span) & (z >= 0) & (z < span)
            block = tl.load(table + ((x >> 3) * across + (y >> 3)) * across + (z >> 3), free, -1)
            inner = block.to(tl.int64) * 512 + (x & 7) * 64 + (y & 7) * 8 + (z & 7)
            beside = tl.where(block < 0, -1 - block, tl.load(blocks + inner, free & (block >= 0), 0))
            if LEVEL == 0:
                # Of two points the lower one makes the step.
                if forward:
                    free &= (beside >= points) | (tl.load(bars + axis * stride, there, 0) == 0)
                else:
                    free &= beside >= points
            _unite(parent, (first + i).to(tl.int32), beside, free)


@triton.jit
def _unite(parent, a, b, going):
    """Makes one tree of those of a and b, int32, where `going`."""
    going = going & (a != b)
    while tl.max(going.to(tl.int32), 0) > 0:
        above_a, above_b = tl.load(parent + a, going, 0), tl.load(parent + b, going, 0)
        roots = going & (above_a == a) & (above_b == b)
        low, high = tl.minimum(a, b), tl.maximum(a, b)
        was = tl.atomic_min(parent + high, low, roots, sem="relaxed")
        # Who is no root any more goes on to the grandparent, and leaves the parent out for those who follow.
        next_a, next_b = tl.load(parent + above_a, going, 0), tl.load(parent + above_b, going, 0)
        tl.store(parent + a, next_a, going & (above_a != a))
        tl.store(parent + b, next_b, going & (above_b != b))
        going = going & ~(roots & (was == high))
        a, b = tl.where(roots, low, next_a), tl.where(roots, was, next_b)
        going = going & (a != b)


@triton.jit(do_not_specialize=["num_nodes"])
def _settle_kernel(parent, num_nodes, BLOCK: tl.constexpr):
    node = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there = node < num_nodes
    root = tl.load(parent + node, there, 0)
    above = tl.load(parent + root, there, 0)
    while tl.max((above != root).to(tl.int32), 0) > 0:
        root = above
        above = tl.load(parent + root, there, 0)
    tl.store(parent + node, root, there)
