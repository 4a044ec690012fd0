"""Submanifold convolution as implicit matrix products in Triton.

Forward, and backward to the features: a program makes a tile of output rows. For every element of the kernel that one
of its rows has a neighbour for, it gathers their features and multiplies them with that element's weights; no row of
the result is written by two programs, so there are no atomics. Backward to the weights: a program makes a tile of one
element's weights from a share of the rows, and the shares are summed afterwards. Both sum in fp32 and in a fixed order.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from models.sparse.structure import NEIGHBOR_GROUP

# A tensor of so many elements needs 64-bit offsets where its rows are gathered.
_WIDE_ELEMENTS = 2**31
# Programs that the weight gradient is divided into: a few for each multiprocessor of the largest GPUs.
_SHARES_TARGET = 1024
# Fewer rows than these are not worth a share.
_SHARE_ROWS = 2048


@dataclass(frozen=True)
class Tile:
    """BLOCK_M rows (of the weight gradient: input channels) by BLOCK_N output channels, in steps of BLOCK_K input
    channels (there: rows)."""

    BLOCK_M: int
    BLOCK_N: int
    BLOCK_K: int
    num_warps: int
    num_stages: int


def convolution_tile(dtype: torch.dtype, in_channels: int, out_channels: int) -> Tile:
    """The tile of `convolve`."""
    width, depth = _padded(out_channels), _padded(in_channels)
    if dtype == torch.float32:
        return Tile(64, min(width, 64), min(depth, 32), 4, 2)
    return Tile(128, min(width, 128), min(depth, 64), 8 if width >= 64 else 4, 3)


def weight_tile(dtype: torch.dtype, in_channels: int, out_channels: int) -> Tile:
    """The tile of `weight_gradient`."""
    height, width = _padded(in_channels), _padded(out_channels)
    if dtype == torch.float32:
        return Tile(min(height, 64), min(width, 64), 32, 4, 2)
    if min(height, width) >= 128:
        return Tile(128, 128, 64, 8, 3)
    return Tile(min(height, 128), min(width, 128), 64, 4, 3)


def convolve(
    feats: Tensor,
    kernel: Tensor,
    bias: Tensor | None,
    neighbors: Tensor,
    masks: Tensor,
    tile: Tile | None = None,
    *,
    mirrored: bool = False,
) -> Tensor:
    """out[n] = sum over i of feats[neighbors[i, n]] @ kernel[i], plus bias.

    Args:
        feats: fp16, bf16 or fp32 [N, Cin]. kernel: [27, Cin, Cout], bias: [Cout] of the same dtype. All contiguous.
        neighbors: int32 [27, N], -1 where there is none.
        masks: int32 [ceil(N / 128)]: bit i where some row of the group has neighbour i.
        tile: for measurements; `convolution_tile` if None.
        mirrored: kernel is [27, Cout, Cin], and its element 26 - i, transposed, takes the place of element i.

    Returns:
        [N, Cout] in the dtype of feats.
    """
    rows, in_channels = feats.shape
    out_channels = kernel.shape[1 if mirrored else 2]
    out = torch.empty(rows, out_channels, dtype=feats.dtype, device=feats.device)
    if not rows:
        return out
    tile = tile or convolution_tile(feats.dtype, in_channels, out_channels)
    columns = triton.cdiv(out_channels, tile.BLOCK_N)
    with _on_device(feats):
        _convolution_kernel[(triton.cdiv(rows, tile.BLOCK_M) * columns,)](
            *(feats, kernel, bias, neighbors, masks, out, rows),
            CIN=in_channels,
            COUT=out_channels,
            GROUP=NEIGHBOR_GROUP,
            MIRRORED=mirrored,
            WIDE=feats.numel() >= _WIDE_ELEMENTS,
            PRECISION=_precision(feats.dtype),
            **vars(tile),
        )
    return out


def weight_gradient(feats: Tensor, grad: Tensor, neighbors: Tensor, tile: Tile | None = None) -> Tensor:
    """dkernel[i] = sum over n of feats[neighbors[i, n]]^T grad[n].

    Args:
        feats: [N, Cin] and grad: [N, Cout], fp16, bf16 or fp32, contiguous. neighbors: as in `convolve`.
        tile: for measurements; `weight_tile` if None.

    Returns:
        fp32 [27, Cin, Cout].
    """
    rows, in_channels = feats.shape
    out_channels = grad.shape[1]
    if not rows:
        return torch.zeros(27, in_channels, out_channels, dtype=torch.float32, device=feats.device)
    tile = tile or weight_tile(feats.dtype, in_channels, out_channels)
    tiles = 27 * triton.cdiv(in_channels, tile.BLOCK_M) * triton.cdiv(out_channels, tile.BLOCK_N)
    shares = max(1, min(triton.cdiv(_SHARES_TARGET, tiles), triton.cdiv(rows, _SHARE_ROWS)))
    share = triton.cdiv(triton.cdiv(rows, shares), tile.BLOCK_K) * tile.BLOCK_K
    shares = triton.cdiv(rows, share)
    parts = torch.empty(shares, 27, in_channels, out_channels, dtype=torch.float32, device=feats.device)
    with _on_device(feats):
        _weight_kernel[(tiles, shares)](
            *(feats, grad, neighbors, parts, rows, share),
            CIN=in_channels,
            COUT=out_channels,
            WIDE=max(feats.numel(), grad.numel()) >= _WIDE_ELEMENTS,
            PRECISION=_precision(feats.dtype),
            **vars(tile),
        )
    return parts.sum(0) if shares > 1 else parts[0]


@triton.jit(do_not_specialize=["num_rows"])
def _convolution_kernel(
    feats,  # [N, CIN]
    kernel,  # [27, CIN, COUT]; MIRRORED: [27, COUT, CIN]
    bias,  # [COUT] or None
    neighbors,  # int32 [27, N]
    masks,  # int32 [ceil(N / GROUP)]
    out,  # [N, COUT]
    num_rows,
    CIN: tl.constexpr,
    COUT: tl.constexpr,
    GROUP: tl.constexpr,  # a multiple of BLOCK_M
    MIRRORED: tl.constexpr,
    WIDE: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    # Programs of the same rows follow one another, so that what they gather is in the cache.
    COLUMNS: tl.constexpr = (COUT + BLOCK_N - 1) // BLOCK_N
    STEPS: tl.constexpr = (CIN + BLOCK_K - 1) // BLOCK_K
    first = (tl.program_id(0) // COLUMNS) * BLOCK_M
    n = (tl.program_id(0) % COLUMNS) * BLOCK_N + tl.arange(0, BLOCK_N)
    m = first + tl.arange(0, BLOCK_M)
    k = tl.arange(0, BLOCK_K)
    in_rows, in_columns = m < num_rows, n < COUT
    stride = num_rows.to(tl.int64)

    mask = tl.load(masks + first // GROUP)
    accumulator = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    channel = 0
    # One loop over elements and channels, so that loads of the next element are under way during products of this one.
    for _ in range(_ones(mask) * STEPS):
        element = _lowest(mask)
        row = tl.load(neighbors + element * stride + m, mask=in_rows, other=-1)
        there = (row >= 0)[:, None]
        address = _offsets(row, CIN, WIDE)[:, None] + (channel + k)[None, :]
        if MIRRORED:
            weights = ((26 - element) * COUT + n)[None, :] * CIN + (channel + k)[:, None]
        else:
            weights = (element * CIN + channel + k)[:, None] * COUT + n[None, :]
        if CIN % BLOCK_K:
            there = there & (channel + k < CIN)[None, :]
        x = tl.load(feats + address, mask=there, other=0.0)
        if CIN % BLOCK_K:
            w = tl.load(kernel + weights, mask=(channel + k < CIN)[:, None] & in_columns[None, :], other=0.0)
        elif COUT % BLOCK_N:
            w = tl.load(kernel + weights, mask=in_columns[None, :], other=0.0)
        else:
            w = tl.load(kernel + weights)
        accumulator = tl.dot(x, w, accumulator, input_precision=PRECISION)
        if STEPS == 1:
            mask = mask & (mask - 1)
        else:
            channel += BLOCK_K
            last = channel >= CIN
            mask = tl.where(last, mask & (mask - 1), mask)
            channel = tl.where(last, 0, channel)

    if bias is not None:
        accumulator += tl.load(bias + n, mask=in_columns, other=0.0).to(tl.float32)[None, :]
    base = out + first.to(tl.int64) * COUT
    address = tl.arange(0, BLOCK_M)[:, None] * COUT + n[None, :]
    tl.store(base + address, accumulator.to(out.dtype.element_ty), mask=in_rows[:, None] & in_columns[None, :])


@triton.jit(do_not_specialize=["num_rows", "share"])
def _weight_kernel(
    feats,  # [N, CIN]
    grad,  # [N, COUT]
    neighbors,  # int32 [27, N]
    parts,  # fp32 [shares, 27, CIN, COUT]
    num_rows,
    share,  # rows a share, a multiple of BLOCK_K
    CIN: tl.constexpr,
    COUT: tl.constexpr,
    WIDE: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    # The 27 elements of the same rows and channels follow one another, so that those are in the cache.
    COLUMNS: tl.constexpr = (COUT + BLOCK_N - 1) // BLOCK_N
    element, place = tl.program_id(0) % 27, tl.program_id(0) // 27
    m = (place // COLUMNS) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = (place % COLUMNS) * BLOCK_N + tl.arange(0, BLOCK_N)
    neighbors += element * num_rows.to(tl.int64)

    first = tl.program_id(1) * share
    last = tl.minimum(first + share, num_rows)
    accumulator = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for start in range(first, last, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        row = tl.load(neighbors + k, mask=k < last, other=-1)
        there = (row >= 0)[:, None]
        x_there, g_there = there, there
        if CIN % BLOCK_M:
            x_there = there & (m < CIN)[None, :]
        if COUT % BLOCK_N:
            g_there = there & (n < COUT)[None, :]
        x = tl.load(feats + _offsets(row, CIN, WIDE)[:, None] + m[None, :], mask=x_there, other=0.0)
        g = tl.load(grad + _offsets(k, COUT, WIDE)[:, None] + n[None, :], mask=g_there, other=0.0)
        accumulator = tl.dot(tl.trans(x), g, accumulator, input_precision=PRECISION)

    base = parts + (tl.program_id(1) * 27 + element).to(tl.int64) * (CIN * COUT)
    tl.store(base + m[:, None] * COUT + n[None, :], accumulator, mask=(m < CIN)[:, None] & (n < COUT)[None, :])


@triton.jit
def _offsets(row, width, WIDE: tl.constexpr):
    """Where rows begin, as wide as addresses need: 64-bit arithmetic takes twice the instructions."""
    if WIDE:
        row = row.to(tl.int64)
    return row * width


@triton.jit
def _lowest(mask):
    """The lowest bit that is set, read off the exponent that it has as a float."""
    return (((mask & -mask).to(tl.float32).to(tl.int32, bitcast=True)) >> 23) - 127


@triton.jit
def _ones(mask):
    """How many of 27 bits are set."""
    mask = mask - ((mask >> 1) & 0x55555555)
    mask = (mask & 0x33333333) + ((mask >> 2) & 0x33333333)
    mask = (mask + (mask >> 4)) & 0x0F0F0F0F
    return (mask + (mask >> 8) + (mask >> 16) + (mask >> 24)) & 0x3F


def _padded(channels: int) -> int:
    """A power of two that a matrix product takes."""
    return max(16, triton.next_power_of_2(channels))


def _precision(dtype: torch.dtype) -> str:
    """Rounds fp32 only where torch may do so in products of its own."""
    return "ieee" if dtype == torch.float32 and torch.backends.cuda.matmul.fp32_precision != "tf32" else "tf32"


def _on_device(x: Tensor) -> AbstractContextManager[Any]:
    """Triton launches on the current device, which need not be the tensor's."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()
