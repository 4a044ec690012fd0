"""Pieces that several kernels share: which rows a tile covers, loading and storing them, and the tile list of a launch.

A tile's rows are ``base + offsets``: a scalar, and numbers that stay the same from tile to tile wherever rows lie at a
fixed distance. The inner loops then advance the scalar alone, which costs almost nothing; recomputing 64-bit row
numbers in every iteration cost a third of their time.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
TILE_FIELDS = tl.constexpr(5)


@triton.jit
def score_factor(scale, PRECISION: tl.constexpr):
    """What dot products are multiplied by to be scores, for `exponential` of their differences.

    In 16 bits scores and LSEs are in base 2, which saves a product a score. That rounds log2(e) into every score, and
    beside the rounding of fp32 it counts: there they are natural, and only differences are multiplied.
    """
    if PRECISION == "ieee":
        factor = scale
    else:
        factor = scale * LOG2E
    return factor


@triton.jit
def exponential(difference, PRECISION: tl.constexpr):
    """exp of a difference of scores, see `score_factor`."""
    if PRECISION == "ieee":
        p = tl.exp2(difference * LOG2E)
    else:
        p = tl.exp2(difference)
    return p


@triton.jit
def probabilities(scores, lse, PRECISION: tl.constexpr):
    """exp(scores - lse), both as `score_factor` says.

    An LSE is as large as the largest score, and rounding it is an error of all of a row's probabilities, where plain
    softmax has none: the largest score less itself is zero. So fp32 has it in fp64, and takes it off in two parts.
    """
    if PRECISION == "ieee":
        leading = lse.to(tl.float32)
        p = exponential((scores - leading) - (lse - leading).to(tl.float32), PRECISION)
    else:
        p = exponential(scores - lse, PRECISION)
    return p


@triton.jit
def load_rows(pointer, base, offsets, mask, MASKED: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """[R, BLOCK_D]: rows base + offsets of a row-major matrix with D columns; zero where masked or past D.

    `mask` [R] is ignored unless MASKED. base is 64-bit; offsets are 32-bit unless gathered rows need more.
    """
    d = tl.arange(0, BLOCK_D)
    pointers = pointer + base * D + (offsets[:, None] * D + d[None, :])
    if MASKED and D == BLOCK_D:
        tile = tl.load(pointers, mask=mask[:, None], other=0.0)
    elif MASKED:
        tile = tl.load(pointers, mask=mask[:, None] & (d < D)[None, :], other=0.0)
    elif D == BLOCK_D:
        tile = tl.load(pointers)
    else:
        tile = tl.load(pointers, mask=(d < D)[None, :], other=0.0)
    return tile


@triton.jit
def store_rows(pointer, base, offsets, values, mask, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """Counterpart of `load_rows`, always masked; casts to the element type of `pointer`."""
    d = tl.arange(0, BLOCK_D)
    pointers = pointer + base * D + (offsets[:, None] * D + d[None, :])
    if D == BLOCK_D:
        tl.store(pointers, values.to(pointer.dtype.element_ty), mask=mask[:, None])
    else:
        tl.store(pointers, values.to(pointer.dtype.element_ty), mask=mask[:, None] & (d < D)[None, :])


@triton.jit
def load_terms(terms, base, offsets, mask, MASKED: tl.constexpr):
    """lse, delta [R] of rows of an [N, H, 2] array; where masked, 0 and an LSE that makes every probability zero.

    `mask` and the rest as `load_rows`.

    Both numbers in one load: vectors of fewer elements than threads are copied to shared memory by every thread.
    """
    column = tl.arange(0, 2)[None, :]
    pointers = terms + base * 2 + (offsets[:, None] * 2 + column)
    if MASKED:
        pairs = tl.load(pointers, mask=mask[:, None], other=0.0)
        pairs = tl.where(mask[:, None] | (column == 1), pairs, 1e38)
    else:
        pairs = tl.load(pointers)
    lse, delta = tl.split(pairs)
    return lse, delta.to(tl.float32)


@triton.jit
def _widened(rows, WIDE: tl.constexpr):
    """Row numbers as wide as their elements' addresses need: 64-bit arithmetic takes twice the instructions."""
    if WIDE:
        rows = rows.to(tl.int64)
    return rows


@triton.jit
def query_rows(
    first,
    last,
    kv_head,
    slots,  # int32 pointer to the slots of the kv head's list, or None
    MASKED: tl.constexpr,  # whether the tile may reach past `last`
    SLOTS: tl.constexpr,
    HAS_SLOTS: tl.constexpr,
    WIDE: tl.constexpr,  # whether gathered rows need 64-bit offsets
    KV_HEADS: tl.constexpr,
    G: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """base, offsets, mask of a tile's rows in an [N, H] array; the tile begins at list position `first`."""
    row = tl.arange(0, BLOCK_M)
    position = row // BLOCK_G
    head = row % BLOCK_G
    mask = head < G
    if MASKED:
        mask = mask & (first + position < last)
    HEADS: tl.constexpr = KV_HEADS * G
    if HAS_SLOTS:
        if MASKED:
            slot = tl.load(slots + first + position, mask=first + position < last, other=0)
        else:
            slot = tl.load(slots + first + position)
        base = (kv_head * G).to(tl.int64)
        offsets = _widened(slot // SLOTS, WIDE) * HEADS + head
    else:
        base = tl.cast(first, tl.int64) * HEADS + kv_head * G
        offsets = position * HEADS + head
    return base, offsets, mask


@triton.jit
def slot_rows(
    slots,
    first,
    first_slot,
    mask,
    WIDE: tl.constexpr,
    HEADS: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """The offsets of `query_rows` in an array by slot [slots, H] that begins at `first_slot`.

    Reads the list again, so that the slots need no registers in the loop between.
    """
    row = tl.arange(0, BLOCK_M)
    slot = tl.load(slots + first + row // BLOCK_G, mask=mask, other=0) - first_slot
    return _widened(slot, WIDE) * HEADS + row % BLOCK_G


@triton.jit
def key_rows(
    first,
    last,
    kv_head,
    rows,  # int32 pointer to the key rows, or None
    MASKED: tl.constexpr,
    HAS_ROWS: tl.constexpr,
    WIDE: tl.constexpr,
    KV_HEADS: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """base, offsets, mask of a tile's rows in a [K, Hkv] array; the tile begins at list position `first`."""
    position = tl.arange(0, BLOCK_N)
    mask = first + position < last
    if HAS_ROWS:
        if MASKED:
            row = tl.load(rows + first + position, mask=mask, other=0)
        else:
            row = tl.load(rows + first + position)
        base = kv_head.to(tl.int64)
        offsets = _widened(row, WIDE) * KV_HEADS
    else:
        base = tl.cast(first, tl.int64) * KV_HEADS + kv_head
        offsets = position * KV_HEADS
    return base, offsets, mask


@triton.jit(
    do_not_specialize=["num_tiles", "num_segments", "steps", "tile"],
    do_not_specialize_on_alignment=["offsets", "other_offsets"],  # rows of larger tensors: any alignment
)
def _tile_list_kernel(
    offsets,  # int32 [C, num_segments + 1]
    other_offsets,  # int32 [num_segments + 1]
    tiles,  # int32 [C, num_tiles, TILE_FIELDS]
    num_tiles,
    num_segments,
    steps,  # 2^steps > num_segments
    tile,
    BLOCK: tl.constexpr,
):
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    offsets += tl.program_id(1) * (num_segments + 1)
    origin = tl.load(offsets)
    # The last segment whose first tile is not beyond ours, by bisection.
    segment = tl.zeros([BLOCK], tl.int32)
    for step in range(steps):
        candidate = segment + (1 << (steps - 1 - step))
        inside = candidate < num_segments
        first_tile = (tl.load(offsets + candidate, mask=inside, other=0) - origin) // tile + candidate
        segment = tl.where(inside & (first_tile <= index), candidate, segment)
    begin = tl.load(offsets + segment)
    end = tl.load(offsets + segment + 1)
    first = begin + (index - (begin - origin) // tile - segment) * tile
    out = tiles + (tl.program_id(1) * num_tiles + index) * TILE_FIELDS
    mask = index < num_tiles
    tl.store(out, tl.where(first < end, segment, -1), mask=mask)
    tl.store(out + 1, first, mask=mask)
    tl.store(out + 2, end, mask=mask)
    tl.store(out + 3, tl.load(other_offsets + segment), mask=mask)
    tl.store(out + 4, tl.load(other_offsets + segment + 1), mask=mask)


@triton.jit
def load_tile(tiles, index):
    """segment, first, end, other_first, other_end of a tile: one memory latency where following offsets takes two."""
    tiles += index * TILE_FIELDS
    return tl.load(tiles), tl.load(tiles + 1), tl.load(tiles + 2), tl.load(tiles + 3), tl.load(tiles + 4)


def tile_list(offsets: Tensor, other_offsets: Tensor, tile: int, length: int) -> Tensor:
    """Cut the segments of each list into tiles, on the device and without knowing how many there are.

    Counted from the list's first position, segment i starts at tile ``offsets[i] // tile + i``: enough room for every
    segment, never more than ``length // tile + M`` tiles in all. Tiles that fall into the slack belong to segment -1.

    Args:
        offsets: int32 [C, M + 1], contiguous, M >= 1. other_offsets: int32 [M + 1], of the segments' other side.
        tile: positions a tile. length: upper bound of a list's length.

    Returns:
        int32 [C, tiles, 5]: segment, first position, the segment's end, and where its other side begins and ends.
    """
    lists, segments = offsets.shape[0], offsets.shape[1] - 1
    num_tiles = length // tile + segments
    tiles = torch.empty(lists, num_tiles, TILE_FIELDS.value, dtype=torch.int32, device=offsets.device)
    block = 256
    _tile_list_kernel[(triton.cdiv(num_tiles, block), lists)](
        *(offsets, other_offsets, tiles, num_tiles, segments, segments.bit_length(), tile), BLOCK=block, num_warps=4
    )
    return tiles
