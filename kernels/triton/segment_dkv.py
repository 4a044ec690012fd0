"""Backward of segment attention from the key side: dK and dV, without atomics.

A program keeps a tile of keys and walks a stretch of its segment's query list; each stretch has gradients of its own,
which are added up in a fixed order. What the longest lists have beyond a limit is a launch of its own: one kernel for
both takes ten registers more, and with them the third program on a multiprocessor.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.segments import Segments
from kernels.triton import hopper
from kernels.triton.configs import padded, segment_config
from kernels.triton.long_lists import CHUNK_FIELDS, add_chunks, long_lists
from kernels.triton.primitives import (
    key_rows,
    load_rows,
    load_terms,
    load_tile,
    probabilities,
    query_rows,
    score_factor,
    store_rows,
    tile_list,
)
from kernels.triton.segment_forward import segment_constants

# A key tile's query list is split until the device has about this many programs: key tiles are few where all tokens
# share a few hundred compression blocks, and lists differ in length by orders of magnitude where blocks are selected.
_PROGRAMS = 4096
_MAX_SPLITS = 64
# Lists in so many splits are never far longer than others: cutting them further takes more launches than it saves.
_ENOUGH_SPLITS = 8
# Shares into which the parts of the query lists go: each has gradients of its own to be added up.
_MOST_PART_SHARES = 8


@triton.jit
def _key_gradients(
    k_tile,  # [BLOCK_N, BLOCK_D]
    v_tile,  # [BLOCK_N, BLOCK_D]
    q_tile,  # [BLOCK_M, BLOCK_D]
    do_tile,  # [BLOCK_M, BLOCK_D]
    row_lse,  # [BLOCK_M], as `score_factor` says; where masked it makes p zero
    row_delta,  # fp32 [BLOCK_M]
    dk_tile,  # fp32 [BLOCK_N, BLOCK_D]
    dv_tile,  # fp32 [BLOCK_N, BLOCK_D]
    factor,
    PRECISION: tl.constexpr,
):
    scores = tl.dot(k_tile, tl.trans(q_tile), input_precision=PRECISION)  # [BLOCK_N, BLOCK_M]
    dp = tl.dot(v_tile, tl.trans(do_tile), input_precision=PRECISION)
    p = probabilities(scores * factor, row_lse[None, :], PRECISION)
    dv_tile = tl.dot(p.to(do_tile.dtype), do_tile, dv_tile, input_precision=PRECISION)
    ds = p * (dp - row_delta[None, :])
    dk_tile = tl.dot(ds.to(q_tile.dtype), q_tile, dk_tile, input_precision=PRECISION)
    return dk_tile, dv_tile


@triton.jit
def _split_of_list(bounds, split, splits, limit, TOKENS: tl.constexpr):
    """First and last + 1 position of a split, in whole tiles and at most `limit`, of the list between two offsets."""
    first = tl.load(bounds)
    last = tl.load(bounds + 1)
    length = tl.minimum(tl.cdiv(tl.cdiv(last - first, TOKENS), splits) * TOKENS, limit)
    return first + split * length, tl.minimum(first + (split + 1) * length, last)


@triton.jit
def _add_list(
    q,
    do,
    terms,
    k_tile,
    v_tile,
    dk_tile,
    dv_tile,
    query_slots,
    first,
    last,
    kv_head,
    factor,
    SLOTS: tl.constexpr,
    HAS_SLOTS: tl.constexpr,
    WIDE: tl.constexpr,
    KV_HEADS: tl.constexpr,
    G: tl.constexpr,
    D: tl.constexpr,
    PRECISION: tl.constexpr,
    PEELED: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """Adds the queries at list positions first to last - 1 to a key tile's gradients."""
    TOKENS: tl.constexpr = BLOCK_M // BLOCK_G
    loop_last = last
    if PEELED:
        loop_last = first + tl.maximum(last - first, 0) // TOKENS * TOKENS
    PAST_LAST: tl.constexpr = not PEELED
    MASKED: tl.constexpr = PAST_LAST or BLOCK_G != G  # rows past G are no queries
    for start in range(first, loop_last, TOKENS):
        base, offsets, mask = query_rows(
            start, last, kv_head, query_slots, PAST_LAST, SLOTS, HAS_SLOTS, WIDE, KV_HEADS, G, BLOCK_G, BLOCK_M
        )
        q_tile = load_rows(q, base, offsets, mask, MASKED, D, BLOCK_D)  # [BLOCK_M, BLOCK_D]
        do_tile = load_rows(do, base, offsets, mask, MASKED, D, BLOCK_D)
        row_lse, row_delta = load_terms(terms, base, offsets, mask, MASKED)
        dk_tile, dv_tile = _key_gradients(
            k_tile, v_tile, q_tile, do_tile, row_lse, row_delta, dk_tile, dv_tile, factor, PRECISION
        )
    if PEELED and loop_last < last:
        base, offsets, mask = query_rows(
            loop_last, last, kv_head, query_slots, True, SLOTS, HAS_SLOTS, WIDE, KV_HEADS, G, BLOCK_G, BLOCK_M
        )
        q_tile = load_rows(q, base, offsets, mask, True, D, BLOCK_D)
        do_tile = load_rows(do, base, offsets, mask, True, D, BLOCK_D)
        row_lse, row_delta = load_terms(terms, base, offsets, mask, True)
        dk_tile, dv_tile = _key_gradients(
            k_tile, v_tile, q_tile, do_tile, row_lse, row_delta, dk_tile, dv_tile, factor, PRECISION
        )
    return dk_tile, dv_tile


@triton.jit(
    do_not_specialize=[
        "list_length",
        "num_tiles",
        "num_segments",
        "num_keys",
        "parts",
        "parts_a_share",
        "splits",
    ]
)
def _segment_dkv_kernel(
    q,  # [N, H, D]
    k,  # [K, Hkv, D]
    v,  # [K, Hkv, D]
    do,  # [N, H, D]
    terms,  # [N, H, 2]: LSE and delta, in `lse_dtype`
    dk,  # fp32 [shares, K, Hkv, D]; CHUNKS: [room, BLOCK_N, Hkv, D]
    dv,  # as dk
    query_slots,  # int32 [C, list_length]
    query_offsets,  # int32 [P, C, num_segments + 1]
    key_index,  # int32 [K]
    tiles,  # int32 [num_tiles, TILE_FIELDS]: of the keys
    chunks,  # int32 [C, room, CHUNK_FIELDS], with CHUNKS: see `kernels.triton.long_lists`
    limits,  # int32 [C], with LIMITED
    list_length,
    num_tiles,
    num_segments,
    num_keys,
    parts,
    parts_a_share,
    splits,
    scale,
    KV_HEADS: tl.constexpr,
    G: tl.constexpr,
    D: tl.constexpr,
    SLOTS: tl.constexpr,
    LISTS: tl.constexpr,
    HAS_SLOTS: tl.constexpr,
    HAS_KEY_INDEX: tl.constexpr,
    WIDE: tl.constexpr,
    SEVERAL_PARTS: tl.constexpr,  # whether a share takes more than one
    LIMITED: tl.constexpr,  # whether no split goes beyond a limit
    CHUNKS: tl.constexpr,  # whether programs take chunks of lists in place of shares
    PRECISION: tl.constexpr,
    PEELED: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    kv_head = tl.program_id(1)
    list_index = kv_head if LISTS > 1 else 0
    # All tiles of one share after the other: the longest lists of a share end before the last ones begin.
    program = tl.program_id(0)
    tile = program % num_tiles
    share = program // num_tiles
    if CHUNKS:
        chunks += (list_index * tl.num_programs(0) + program) * CHUNK_FIELDS
        tile = tl.load(chunks)
        if tile < 0:
            return
        share = 0
    segment, key_first, key_last, _, _ = load_tile(tiles, tile)
    if segment < 0:
        return
    k_base, k_offsets, k_mask = key_rows(
        key_first, key_last, kv_head, key_index, True, HAS_KEY_INDEX, WIDE, KV_HEADS, BLOCK_N
    )
    k_tile = load_rows(k, k_base, k_offsets, k_mask, True, D, BLOCK_D)  # [BLOCK_N, BLOCK_D]
    v_tile = load_rows(v, k_base, k_offsets, k_mask, True, D, BLOCK_D)

    if HAS_SLOTS:
        query_slots += list_index * list_length
    dk_tile = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    dv_tile = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    factor = score_factor(scale, PRECISION)
    # This program's share of the segment's queries: of its parts of the tokens one split each, in whole tiles.
    bounds = query_offsets + list_index * (num_segments + 1) + segment
    first_part = share // splits * parts_a_share
    split = share % splits
    limit = list_length
    if LIMITED:
        limit = tl.load(limits + list_index)
    if CHUNKS:  # a chunk is a list of its own
        bounds = chunks + 1
    if SEVERAL_PARTS:
        for part in range(first_part, tl.minimum(first_part + parts_a_share, parts)):
            first, last = _split_of_list(
                bounds + part * LISTS * (num_segments + 1), split, splits, limit, BLOCK_M // BLOCK_G
            )
            dk_tile, dv_tile = _add_list(
                *(q, do, terms, k_tile, v_tile, dk_tile, dv_tile, query_slots, first, last, kv_head, factor),
                *(SLOTS, HAS_SLOTS, WIDE, KV_HEADS, G, D, PRECISION, PEELED, BLOCK_G, BLOCK_D, BLOCK_M),
            )
    else:  # a loop of one turn would cost registers
        first, last = _split_of_list(
            bounds + first_part * LISTS * (num_segments + 1), split, splits, limit, BLOCK_M // BLOCK_G
        )
        dk_tile, dv_tile = _add_list(
            *(q, do, terms, k_tile, v_tile, dk_tile, dv_tile, query_slots, first, last, kv_head, factor),
            *(SLOTS, HAS_SLOTS, WIDE, KV_HEADS, G, D, PRECISION, PEELED, BLOCK_G, BLOCK_D, BLOCK_M),
        )

    if CHUNKS:
        k_base = program.to(tl.int64) * (BLOCK_N * KV_HEADS) + kv_head
    else:
        k_base += share.to(tl.int64) * num_keys * KV_HEADS
    store_rows(dk, k_base, k_offsets, dk_tile * scale, k_mask, D, BLOCK_D)
    store_rows(dv, k_base, k_offsets, dv_tile, k_mask, D, BLOCK_D)


def segment_dkv(
    do: Tensor, q: Tensor, k: Tensor, v: Tensor, terms: Tensor, segments: Segments, scale: float
) -> tuple[Tensor, Tensor]:
    """Key and value gradients of all parts.

    Args:
        do, q: [N, H, D]. k, v: [K, Hkv, D]. terms: of the branch, see `gradient_terms`.

    Returns:
        dk, dv fp32 [K, Hkv, D].
    """
    num_tokens, heads, head_dim = q.shape
    num_keys, kv_heads, _ = k.shape
    if num_tokens == 0:
        return torch.zeros_like(k, dtype=torch.float32), torch.zeros_like(v, dtype=torch.float32)
    config = segment_config("dkv", segments, q)
    gluon = hopper.dkv_config(do, q, k, v, terms, segments)
    block_m, block_n = (gluon or config).block_m, (gluon or config).block_n
    # The other side of a key tile is read from the parts' offsets.
    tiles = tile_list(segments.key_offsets[None], segments.key_offsets, block_n, num_keys)
    num_tiles, length = tiles.shape[1], num_tokens * segments.slots
    parts = segments.parts
    parts_a_share = -(-parts // _MOST_PART_SHARES)
    part_shares = -(-parts // parts_a_share)
    splits = max(1, min(_PROGRAMS // (num_tiles * kv_heads * part_shares), triton.cdiv(length, block_m), _MAX_SPLITS))
    shares = part_shares * splits
    lists = None
    # Selected: any token may choose any block. Lists in many splits need no limit besides.
    if segments.query_slots is not None and segments.key_index is None and splits < _ENOUGH_SPLITS:
        lists = long_lists(segments, block_m // padded(heads // kv_heads), block_n, splits, num_tiles)

    def gradients(count: int, rows: int, programs: int, splits: int, *, chunks: Tensor | None) -> tuple[Tensor, Tensor]:
        dk = torch.empty(count, rows, kv_heads, head_dim, dtype=torch.float32, device=q.device)
        dv = torch.empty_like(dk)
        limits = None if lists is None or chunks is not None else lists.limits
        if gluon is not None:
            from kernels.triton.hopper_dkv import hopper_segment_dkv  # what it imports is not in every Triton

            hopper_segment_dkv(
                *(do, q, k, v, terms, segments, gluon, dk, dv, tiles, chunks, limits),
                *((programs, kv_heads), parts_a_share, splits, scale),
            )
            return dk, dv
        _segment_dkv_kernel[(programs, kv_heads)](
            *(q, k, v, do, terms, dk, dv),
            *(segments.query_slots, segments.query_offsets, segments.key_index, tiles, chunks, limits),
            *(length, num_tiles, segments.count, num_keys, parts, parts_a_share, splits, scale),
            **segment_constants(q, k, segments),
            SEVERAL_PARTS=chunks is None and parts_a_share > 1,
            CHUNKS=chunks is not None,
            LIMITED=limits is not None,
            **config.launch_arguments(),
        )
        return dk, dv

    of_chunks = None if lists is None else gradients(lists.room, block_n, lists.room, 1, chunks=lists.chunks)
    of_shares = gradients(shares, num_keys, num_tiles * shares, splits, chunks=None)
    dk, dv = (x[0] if shares == 1 else x.sum(0) for x in of_shares)
    if lists is not None and of_chunks is not None:
        add_chunks(dk, dv, *of_chunks, lists, segments, tiles)
    return dk, dv
