"""What the longest query lists have beyond a fair share of the work, cut into chunks.

A program of dK and dV walks a query list, and where tokens crowd into few blocks some lists are a hundred times as
long as the mean: their programs run on when all others have ended. So no program walks further than a limit, and what
the longest lists have beyond it goes in chunks to programs of another launch. The results of chunks are
added to those of the lists' beginnings in a fixed order, so gradients stay deterministic.

The limit follows from the lengths on the device: nothing here waits for them on the host.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.segments import Segments
from kernels.triton.configs import padded
from kernels.triton.primitives import key_rows, load_rows, load_tile, store_rows

# Chunks that there is room for, some eight times as many as programs run at once; never more than key tiles, so that
# results of chunks never take more memory than the gradients.
_MOST_CHUNKS = 2048
# A limit is at least this many tiles of queries: less work than that is not worth a program.
_LEAST_TILES = 16
CHUNK_FIELDS = tl.constexpr(3)


@dataclass(frozen=True, eq=False)
class LongLists:
    """Chunks of the query lists of C = Hkv or 1 lists by kv head, P parts and M segments."""

    chunks: Tensor  # int32 [C, room, CHUNK_FIELDS]: key tile (-1: unused), first and last + 1 list position
    offsets: Tensor  # int32 [C, P M + 1]: first chunk of each part's segments; the key tiles of a chunk are adjacent
    limits: Tensor  # int32 [C]: list positions that a program walks, whole tiles of queries

    @property
    def room(self) -> int:
        return self.chunks.shape[1]


@triton.jit
def _list_and_tiles(
    unit, units, list_index, query_offsets, key_offsets, num_segments, LISTS: tl.constexpr, BLOCK_N: tl.constexpr
):
    """Where the lists of (part, segment) pairs begin, their lengths, and the key tiles of their segments."""
    inside = unit < units
    segment = unit % num_segments
    bounds = query_offsets + (unit // num_segments * LISTS + list_index) * (num_segments + 1) + segment
    first = tl.load(bounds, mask=inside, other=0)
    length = tl.load(bounds + 1, mask=inside, other=0) - first
    key_first = tl.load(key_offsets + segment, mask=inside, other=0)
    key_last = tl.load(key_offsets + segment + 1, mask=inside, other=0)
    return first, length, key_first // BLOCK_N + segment, tl.cdiv(key_last - key_first, BLOCK_N)


@triton.jit(do_not_specialize=["num_segments", "units", "splits", "room", "least"])
def _chunk_offsets_kernel(
    query_offsets,  # int32 [P, C, M + 1]
    key_offsets,  # int32 [M + 1]
    offsets,  # int32 [C, P M + 1]
    limits,  # int32 [C]
    num_segments,
    units,  # P M
    splits,
    room,
    least,
    LISTS: tl.constexpr,
    TOKENS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK: tl.constexpr,
):
    list_index = tl.program_id(0)
    offsets += list_index * (units + 1)
    work = tl.zeros([BLOCK], tl.int64)
    for start in range(0, units, BLOCK):
        unit = start + tl.arange(0, BLOCK)
        _, length, _, tiles = _list_and_tiles(
            unit, units, list_index, query_offsets, key_offsets, num_segments, LISTS, BLOCK_N
        )
        work += length.to(tl.int64) * tiles
    # No more chunks than room: each is a whole limit of work but for the lists' last, whose first limit is no chunk.
    fair = tl.cdiv(tl.sum(work, 0), room).to(tl.int32)
    limit = tl.cdiv(tl.maximum(fair, least), TOKENS) * TOKENS
    tl.store(limits + list_index, limit)
    before = tl.program_id(0) * 0
    tl.store(offsets, before)
    for start in range(0, units, BLOCK):
        unit = start + tl.arange(0, BLOCK)
        _, length, _, tiles = _list_and_tiles(
            unit, units, list_index, query_offsets, key_offsets, num_segments, LISTS, BLOCK_N
        )
        count = tiles * tl.cdiv(tl.maximum(length - splits * limit, 0), limit)
        tl.store(offsets + unit + 1, before + tl.cumsum(count), mask=unit < units)
        before += tl.sum(count, 0)


@triton.jit(do_not_specialize=["num_segments", "units", "splits", "room", "steps"])
def _chunks_kernel(
    query_offsets,  # int32 [P, C, M + 1]
    key_offsets,  # int32 [M + 1]
    offsets,  # int32 [C, P M + 1]
    limits,  # int32 [C]
    chunks,  # int32 [C, room, CHUNK_FIELDS]
    num_segments,
    units,
    splits,
    room,
    steps,  # 2^steps > units
    LISTS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK: tl.constexpr,
):
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    list_index = tl.program_id(1)
    offsets += list_index * (units + 1)
    # The last unit whose first chunk is not beyond ours, by bisection.
    unit = tl.zeros([BLOCK], tl.int32)
    for step in range(steps):
        candidate = unit + (1 << (steps - 1 - step))
        inside = candidate < units
        before = tl.load(offsets + candidate, mask=inside, other=0)
        unit = tl.where(inside & (before <= index), candidate, unit)
    used = index < tl.load(offsets + units)
    limit = tl.load(limits + list_index)
    rank = index - tl.load(offsets + unit)
    first, length, tile, tiles = _list_and_tiles(
        unit, units, list_index, query_offsets, key_offsets, num_segments, LISTS, BLOCK_N
    )
    tiles = tl.maximum(tiles, 1)
    begin = first + (splits + rank // tiles) * limit
    out = chunks + (list_index * room + index) * CHUNK_FIELDS
    mask = index < room
    tl.store(out, tl.where(used, tile + rank % tiles, -1), mask=mask)
    tl.store(out + 1, begin, mask=mask)
    tl.store(out + 2, tl.minimum(begin + limit, first + length), mask=mask)


@triton.jit(do_not_specialize=["num_segments", "parts"])
def _add_chunks_kernel(
    dk,  # fp32 [K, Hkv, D]
    dv,  # fp32 [K, Hkv, D]
    chunk_dk,  # fp32 [room, BLOCK_N, Hkv, D]
    chunk_dv,  # fp32 [room, BLOCK_N, Hkv, D]
    offsets,  # int32 [C, P M + 1]
    tiles,  # int32 [num_tiles, TILE_FIELDS]: of the keys
    num_segments,
    parts,
    KV_HEADS: tl.constexpr,
    D: tl.constexpr,
    LISTS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    kv_head = tl.program_id(1)
    segment, key_first, key_end, segment_first, segment_end = load_tile(tiles, tl.program_id(0))
    if segment < 0:
        return
    if LISTS > 1:
        offsets += kv_head * (parts * num_segments + 1)
    place = (key_first - segment_first) // BLOCK_N
    stride = tl.cdiv(segment_end - segment_first, BLOCK_N)
    base, rows, mask = key_rows(key_first, key_end, kv_head, None, True, False, False, KV_HEADS, BLOCK_N)
    dk_tile = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    dv_tile = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    found = segment * 0
    for part in range(parts):
        bounds = offsets + part * num_segments + segment
        first, last = tl.load(bounds), tl.load(bounds + 1)
        found += last - first
        for chunk in range(first + place, last, stride):
            chunk_base = tl.cast(chunk, tl.int64) * (BLOCK_N * KV_HEADS) + kv_head
            dk_tile += load_rows(chunk_dk, chunk_base, rows, mask, True, D, BLOCK_D)
            dv_tile += load_rows(chunk_dv, chunk_base, rows, mask, True, D, BLOCK_D)
    if found > 0:
        store_rows(dk, base, rows, load_rows(dk, base, rows, mask, True, D, BLOCK_D) + dk_tile, mask, D, BLOCK_D)
        store_rows(dv, base, rows, load_rows(dv, base, rows, mask, True, D, BLOCK_D) + dv_tile, mask, D, BLOCK_D)


def long_lists(segments: Segments, tokens: int, block_n: int, splits: int, num_tiles: int) -> LongLists:
    """Chunks of lists that programs begin to walk in `splits` pieces of at most the limit each.

    Args:
        segments: of contiguous keys. tokens: of a tile of queries. block_n: keys a tile. num_tiles: of the keys.
    """
    device = segments.query_offsets.device
    parts, lists, _ = segments.query_offsets.shape
    units = parts * segments.count
    room = min(_MOST_CHUNKS, num_tiles)
    found = LongLists(
        torch.empty(lists, room, CHUNK_FIELDS.value, dtype=torch.int32, device=device),
        torch.empty(lists, units + 1, dtype=torch.int32, device=device),
        torch.empty(lists, dtype=torch.int32, device=device),
    )
    _chunk_offsets_kernel[(lists,)](
        *(segments.query_offsets, segments.key_offsets, found.offsets, found.limits),
        *(segments.count, units, splits, room, _LEAST_TILES * tokens),
        LISTS=lists,
        TOKENS=tokens,
        BLOCK_N=block_n,
        BLOCK=2048,
        num_warps=8,
    )
    block = 128
    _chunks_kernel[(triton.cdiv(room, block), lists)](
        *(segments.query_offsets, segments.key_offsets, found.offsets, found.limits, found.chunks),
        *(segments.count, units, splits, room, units.bit_length()),
        LISTS=lists,
        BLOCK_N=block_n,
        BLOCK=block,
        num_warps=4,
    )
    return found


def add_chunks(
    dk: Tensor, dv: Tensor, chunk_dk: Tensor, chunk_dv: Tensor, lists: LongLists, segments: Segments, tiles: Tensor
) -> None:
    """Add the gradients of chunks to those of all keys.

    Args:
        dk, dv: fp32 [K, Hkv, D]. chunk_dk, chunk_dv: fp32 [room, keys a tile, Hkv, D]. tiles: of the keys.
    """
    _, kv_heads, head_dim = dk.shape
    _add_chunks_kernel[(tiles.shape[1], kv_heads)](
        *(dk, dv, chunk_dk, chunk_dv, lists.offsets, tiles, segments.count, segments.parts),
        KV_HEADS=kv_heads,
        D=head_dim,
        LISTS=segments.query_offsets.shape[1],
        BLOCK_D=padded(head_dim),
        BLOCK_N=chunk_dk.shape[1],
        num_warps=4,
    )
