"""Pieces that several kernels share: addressing tiles of a segment, loading rows, and the tile list of a launch."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def load_rows(base, rows, mask, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """[R, BLOCK_D] of a row-major matrix with D columns; zero where masked or past D. Addresses are 64-bit."""
    d = tl.arange(0, BLOCK_D)
    pointers = base + rows.to(tl.int64)[:, None] * D + d[None, :]
    if D == BLOCK_D:
        return tl.load(pointers, mask=mask[:, None], other=0.0)
    return tl.load(pointers, mask=mask[:, None] & (d < D)[None, :], other=0.0)


@triton.jit
def store_rows(base, rows, values, mask, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """Counterpart of `load_rows`; casts to the element type of `base`."""
    d = tl.arange(0, BLOCK_D)
    pointers = base + rows.to(tl.int64)[:, None] * D + d[None, :]
    if D == BLOCK_D:
        tl.store(pointers, values.to(base.dtype.element_ty), mask=mask[:, None])
    else:
        tl.store(pointers, values.to(base.dtype.element_ty), mask=mask[:, None] & (d < D)[None, :])


@triton.jit
def query_rows(
    first,
    last,
    slots,  # int32 pointer to the slots of all lists, or None
    list_start,
    HAS_SLOTS: tl.constexpr,
    SLOTS: tl.constexpr,
    G: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """slot, token, head of the group and mask [BLOCK_M] of the tile that begins at list position `first`."""
    row = tl.arange(0, BLOCK_M)
    position = first + row // BLOCK_G
    head = row % BLOCK_G
    mask = (position < last) & (head < G)
    if HAS_SLOTS:
        slot = tl.load(slots + list_start + position, mask=mask, other=0)
    else:
        slot = position
    return slot, slot // SLOTS, head, mask


@triton.jit
def key_row_indices(first, last, rows, HAS_ROWS: tl.constexpr, BLOCK_N: tl.constexpr):
    """Row numbers and mask [BLOCK_N] of the keys at list positions `first`, `first` + 1, ..."""
    position = first + tl.arange(0, BLOCK_N)
    mask = position < last
    if HAS_ROWS:
        return tl.load(rows + position, mask=mask, other=0), mask
    return position, mask


def tile_list(offsets: Tensor, tile: int, length: int) -> tuple[Tensor, Tensor]:
    """Cut the segments of each list into tiles, on the device and without knowing how many there are.

    Segment i of a list starts at tile ``offsets[i] // tile + i``: enough room for every segment, never more than
    ``length // tile + M`` tiles in all. Tiles that fall into the slack belong to segment -1.

    Args:
        offsets: int32 [C, M + 1], M >= 1. tile: positions a tile. length: upper bound of the offsets.

    Returns:
        segment and first position of each tile, int32 [C, tiles].
    """
    lists, segments = offsets.shape[0], offsets.shape[1] - 1
    device = offsets.device
    first_tile = offsets[:, :-1] // tile + torch.arange(segments, dtype=torch.int32, device=device)
    tiles = torch.arange(length // tile + segments, dtype=torch.int32, device=device).expand(lists, -1).contiguous()
    segment = (torch.searchsorted(first_tile.contiguous(), tiles, right=True) - 1).clamp(min=0)
    begin = offsets.gather(1, segment)
    first = begin + (tiles - first_tile.gather(1, segment)) * tile
    used = (first >= begin) & (first < offsets.gather(1, segment + 1))
    return torch.where(used, segment, -1).int(), first.int()
