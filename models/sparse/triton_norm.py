"""What a norm over the voxels of a sample needs on a GPU: sums over samples, and coefficients of samples applied.

Sums have two stages and so a fixed order. Samples are found on the device: the host never waits.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

# Programs that share a sample in the first stage.
_SHARES = 512
_ROWS = 64
_CHANNELS = 64
_ELEMENTS = 2048


def sums(x: Tensor, other: Tensor | None, centre: Tensor, batch_offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Over the voxels of each sample: the sums of v and of (x - centre) v, fp32 [B, C].

    Args:
        x: [N, C], contiguous. other: v, like x; x - centre if None. centre: fp32 [B, C].
        batch_offsets: int64 [B + 1].
    """
    samples, channels = centre.shape
    block = min(_CHANNELS, triton.next_power_of_2(channels))
    shares = min(_SHARES, triton.cdiv(max(len(x), 1), _ROWS))
    parts = torch.empty(2, shares, samples, channels, dtype=torch.float32, device=x.device)
    if samples:
        with torch.cuda.device_of(x):
            _sums_kernel[(shares, samples, triton.cdiv(channels, block))](
                *(x, other, centre, batch_offsets, parts, parts[1]), C=channels, ROWS=_ROWS, BLOCK=block, num_warps=4
            )
    total, product = parts.sum(1)
    return total, product


def affine(
    x: Tensor, other: Tensor | None, centre: Tensor, scale: Tensor, factor: Tensor, shift: Tensor, batch_offsets: Tensor
) -> Tensor:
    """(x - centre) scale + other factor + shift, [N, C] in the dtype of x.

    Args:
        x, other: [N, C], contiguous. centre, scale, factor, shift: fp32 [B, C], of each sample.
        batch_offsets: int64 [B + 1].
    """
    out = torch.empty_like(x)
    rows, channels = x.shape
    if not rows:
        return out
    block = triton.next_power_of_2(channels)
    tile = max(1, _ELEMENTS // block)
    with torch.cuda.device_of(x):
        _affine_kernel[(triton.cdiv(rows, tile),)](
            *(x, other, centre.contiguous(), scale.contiguous(), factor.contiguous(), shift.contiguous()),
            *(batch_offsets, out, rows, len(centre)),
            C=channels,
            ROWS=tile,
            BLOCK=block,
            num_warps=4,
        )
    return out


@triton.jit
def _sums_kernel(
    x,  # [N, C]
    other,  # [N, C] or None
    centre,  # fp32 [B, C]
    batch_offsets,  # int64 [B + 1]
    totals,  # fp32 [shares, B, C]
    products,  # fp32 [shares, B, C]
    C: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    share, shares = tl.program_id(0), tl.num_programs(0)
    sample, samples = tl.program_id(1), tl.num_programs(1)
    c = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    in_columns = (c < C)[None, :]
    first, last = tl.load(batch_offsets + sample), tl.load(batch_offsets + sample + 1)
    middle = tl.load(centre + sample * C + c, mask=c < C, other=0.0)[None, :]
    total = tl.zeros([ROWS, BLOCK], tl.float32)
    product = tl.zeros([ROWS, BLOCK], tl.float32)
    tiles = tl.cdiv(last - first, ROWS)
    for tile in range(share, tiles, shares):
        row = first + tile * ROWS + tl.arange(0, ROWS)
        there = (row < last)[:, None] & in_columns
        address = row[:, None] * C + c[None, :]
        u = tl.where(there, tl.load(x + address, mask=there, other=0.0).to(tl.float32) - middle, 0.0)
        v = u
        if other is not None:
            v = tl.load(other + address, mask=there, other=0.0).to(tl.float32)
        total += v
        product += u * v
    address = (share * samples + sample).to(tl.int64) * C + c
    tl.store(totals + address, tl.sum(total, 0), mask=c < C)
    tl.store(products + address, tl.sum(product, 0), mask=c < C)


@triton.jit(do_not_specialize=["num_rows", "num_samples"])
def _affine_kernel(
    x,  # [N, C]
    other,  # [N, C] or None
    centre,  # fp32 [B, C]
    scale,  # fp32 [B, C]
    factor,  # fp32 [B, C]
    shift,  # fp32 [B, C]
    batch_offsets,  # int64 [B + 1]
    out,  # [N, C]
    num_rows,
    num_samples,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    c = tl.arange(0, BLOCK)[None, :]
    there = (row < num_rows)[:, None] & (c < C)
    sample = tl.zeros([ROWS], tl.int32)
    for following in range(1, num_samples):
        sample += (row >= tl.load(batch_offsets + following)).to(tl.int32)
    coefficient = sample[:, None] * C + c
    address = row[:, None] * C + c
    u = tl.load(x + address, mask=there, other=0.0).to(tl.float32) - tl.load(
        centre + coefficient, mask=there, other=0.0
    )
    y = u * tl.load(scale + coefficient, mask=there, other=0.0) + tl.load(shift + coefficient, mask=there, other=0.0)
    if other is not None:
        v = tl.load(other + address, mask=there, other=0.0).to(tl.float32)
        y += v * tl.load(factor + coefficient, mask=there, other=0.0)
    tl.store(out + address, y.to(out.dtype.element_ty), mask=there)
