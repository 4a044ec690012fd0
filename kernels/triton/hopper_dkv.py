"""dK and dV of the compressed and the selected branch in Gluon, for Hopper (sm_90).

The same numbers as `segment_dkv`'s Triton kernel, by a schedule that Triton cannot express. One warp does nothing but
copy queries, token by token, to shared memory; four compute, with a tile of keys and values in registers. Shared memory
is what limits these products: from there the matrix units read half as much as if keys and values lay there too, and no
warp that computes needs addresses or waits for others' copies.
"""

from __future__ import annotations

from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    mbarrier,
    warpgroup_mma,
    warpgroup_mma_init,
    warpgroup_mma_wait,
)

from kernels.segments import Segments
from kernels.triton.hopper import HopperDkvConfig, triton_version
from kernels.triton.hopper_copies import (
    copy_queries,
    copy_whole_tile,
    query_tiles,
    row_descriptor,
    terms_descriptor,
    tile_descriptor,
    tile_of_queries,
)
from kernels.triton.long_lists import CHUNK_FIELDS
from kernels.triton.primitives import LOG2E, TILE_FIELDS

# Loaded while the scores are computed, which is 5 to 9 % faster. Triton 3.9's assembler lacks one register for it.
_TERMS_EARLY = gl.constexpr(triton_version() < (3, 9))


@gluon.jit
def _split_of_list(bounds, split, splits, limit, TOKENS: gl.constexpr):
    """First and last + 1 position of a split, in whole tiles and at most `limit`, of the list between two offsets."""
    first = gl.load(bounds)
    last = gl.load(bounds + 1)
    length = gl.minimum(gl.cdiv(gl.cdiv(last - first, TOKENS), splits) * TOKENS, limit)
    return first + split * length, gl.minimum(first + (split + 1) * length, last)


@gluon.jit
def _key_tile(tiles, chunks, num_tiles, LISTS: gl.constexpr, CHUNKS: gl.constexpr):
    """segment, first key, keys, share of the program; segment -1 where it has none."""
    program = gl.program_id(0)
    tile = program % num_tiles
    share = program // num_tiles
    if CHUNKS:
        list_index = gl.program_id(1) if LISTS > 1 else 0
        tile = gl.load(chunks + (list_index * gl.num_programs(0) + program) * CHUNK_FIELDS)
        share = 0
    tiles += gl.maximum(tile, 0) * TILE_FIELDS
    first = gl.load(tiles + 1)
    return gl.where(tile < 0, -1, gl.load(tiles)), first, gl.load(tiles + 2) - first, share


@gluon.jit
def _copy_lists(
    sources,  # descriptors, see `copy_queries`
    whole,  # descriptors, see `copy_whole_tile`
    queries,  # tiles, see `query_tiles`
    lists,  # slots; where the first part's list is bounded, and how far on the next one; parts; as `_split_of_list`
    kv_head,
    num_tokens,
    SLOTS: gl.constexpr,
    HAS_SLOTS: gl.constexpr,
    HEADS: gl.constexpr,
    G: gl.constexpr,
):
    query_slots, bounds, bounds_a_part, parts, split, splits, limit = lists
    STAGES: gl.constexpr = queries[0].shape[0]
    TOKENS: gl.constexpr = queries[0].shape[1] // G
    stage = 0
    phase = 1  # that of the barriers' last round is over from the start
    for part in range(parts):
        first, last = _split_of_list(bounds + part * bounds_a_part, split, splits, limit, TOKENS)
        for start in range(first, last, TOKENS):
            mbarrier.wait(queries[4].index(stage), phase)
            in_order = False
            if not HAS_SLOTS:
                in_order = start + TOKENS <= last
                if in_order:
                    copy_whole_tile(whole, queries, stage, start, kv_head, G)
            if not in_order:
                copy_queries(
                    *(sources, queries, stage, query_slots, start, last, kv_head, num_tokens),
                    *(SLOTS, HAS_SLOTS, HEADS, G),
                )
            stage += 1
            if stage == STAGES:
                stage = 0
                phase ^= 1


@gluon.jit
def _load_terms(terms, layout: gl.constexpr):
    """Base-2 LSE and delta [BLOCK_M] of a tile, both of a query and of its neighbour by one load."""
    BLOCK_M: gl.constexpr = terms.shape[0] * terms.shape[1] // 2
    W: gl.constexpr = terms.shape[1]
    # The rows of the products that are a thread's: two neighbours of every eight.
    registers: gl.constexpr = (
        [[0, 1], [0, 2], [0, 16], [32 // W, 32 % W], [64 // W, 64 % W]]
        if BLOCK_M == 64
        else [[0, 1], [0, 2], [0, 16], [32 // W, 32 % W]]
    )
    numbers: gl.constexpr = gl.DistributedLinearLayout(
        registers, [[0, 4], [0, 8], [0, 0], [0, 0], [0, 0]], [[0, 0], [0, 0]], [], [2 * BLOCK_M // W, W]
    )
    lse, delta = gl.split(terms.load(numbers).reshape([BLOCK_M, 2]))
    return gl.convert_layout(lse, layout), gl.convert_layout(delta, layout)


@gluon.jit
def _add_queries(
    k_tile,  # registers [BLOCK_N, D]
    v_tile,
    queries,  # tiles, see `query_tiles`
    count,  # of them
    dk,
    dv,
    where,  # tiles, chunks and num_tiles, as `_key_tile`; num_keys
    scale,
    LISTS: gl.constexpr,
    CHUNKS: gl.constexpr,
    KV_HEADS: gl.constexpr,
    DV_FIRST: gl.constexpr,
    s_layout: gl.constexpr,
):
    STAGES: gl.constexpr = queries[0].shape[0]
    BLOCK_M: gl.constexpr = queries[0].shape[1]
    BLOCK_N: gl.constexpr = k_tile.shape[0]
    D: gl.constexpr = k_tile.shape[1]
    dtype: gl.constexpr = queries[0].dtype
    scale_log2 = scale * LOG2E
    o_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 16])
    p_layout: gl.constexpr = gl.DotOperandLayout(0, o_layout, 2)
    zero = gl.zeros([BLOCK_N, BLOCK_M], gl.float32, s_layout)
    dk_tile = gl.zeros([BLOCK_N, D], gl.float32, o_layout)
    dv_tile = gl.zeros([BLOCK_N, D], gl.float32, o_layout)
    dk_sum = warpgroup_mma_init(dk_tile)
    dv_sum = warpgroup_mma_init(dv_tile)
    for index in range(count):
        q_tile, do_tile, terms, copied, _ = tile_of_queries(queries, index % STAGES)
        mbarrier.wait(copied, index // STAGES % 2)
        scores = warpgroup_mma(k_tile, q_tile.permute((1, 0)), zero, use_acc=False, is_async=True)
        dp = warpgroup_mma(v_tile, do_tile.permute((1, 0)), zero, use_acc=False, is_async=True)
        if _TERMS_EARLY:
            row_lse, row_delta = _load_terms(terms, gl.SliceLayout(0, s_layout))
        # dK and dV of the tile before this one are over when the scores are.
        scores, dk_tile, dv_tile = warpgroup_mma_wait(1, deps=[scores, dk_sum, dv_sum])
        mbarrier.arrive(queries[4].index((index + STAGES - 1) % STAGES), count=1, pred=index > 0)
        if not _TERMS_EARLY:
            row_lse, row_delta = _load_terms(terms, gl.SliceLayout(0, s_layout))
        p = gl.exp2(scores * scale_log2 - row_lse[None, :])
        if DV_FIRST:
            dv_sum = warpgroup_mma(gl.convert_layout(p.to(dtype), p_layout), do_tile, dv_tile, is_async=True)
            dp, p = warpgroup_mma_wait(1, deps=[dp, p])
        else:
            dp, p = warpgroup_mma_wait(0, deps=[dp, p])
            dv_sum = warpgroup_mma(gl.convert_layout(p.to(dtype), p_layout), do_tile, dv_tile, is_async=True)
        ds = p * (dp - row_delta[None, :])
        dk_sum = warpgroup_mma(gl.convert_layout(ds.to(dtype), p_layout), q_tile, dk_tile, is_async=True)
    dk_tile, dv_tile = warpgroup_mma_wait(0, deps=[dk_sum, dv_sum])
    # Read again, so that the loop has their registers.
    tiles, chunks, num_tiles, num_keys = where
    _, first, keys, share = _key_tile(tiles, chunks, num_tiles, LISTS, CHUNKS)
    if CHUNKS:
        first = gl.program_id(0) * BLOCK_N
    base = ((share * num_keys + first).to(gl.int64) * KV_HEADS + gl.program_id(1)) * D
    n = gl.arange(0, BLOCK_N, layout=gl.SliceLayout(1, o_layout))
    d = gl.arange(0, D, layout=gl.SliceLayout(0, o_layout))
    places = n[:, None] * (KV_HEADS * D) + d[None, :]
    mask = (n < keys)[:, None]
    gl.store(dk + base + places, dk_tile * scale, mask=mask)
    gl.store(dv + base + places, dv_tile, mask=mask)


@gluon.jit(
    do_not_specialize=[
        "list_length",
        "num_tiles",
        "num_segments",
        "num_keys",
        "num_tokens",
        "parts",
        "parts_a_share",
        "splits",
    ]
)
def _hopper_dkv_kernel(
    q,  # descriptors, see `copy_queries`
    do,
    terms,
    whole_q,
    whole_do,
    whole_terms,
    k,  # [K, Hkv, D]
    v,  # [K, Hkv, D]
    dk,  # fp32 [shares, K, Hkv, D]; CHUNKS: [room, BLOCK_N, Hkv, D]
    dv,  # as dk
    query_slots,  # int32 [C, list_length]
    query_offsets,  # int32 [P, C, num_segments + 1]
    tiles,  # int32 [num_tiles, TILE_FIELDS]: of the keys
    chunks,  # int32 [C, room, CHUNK_FIELDS], with CHUNKS: see `kernels.triton.long_lists`
    limits,  # int32 [C], with LIMITED
    list_length,
    num_tiles,
    num_segments,
    num_keys,
    num_tokens,
    parts,
    parts_a_share,
    splits,
    scale,
    KV_HEADS: gl.constexpr,
    G: gl.constexpr,
    D: gl.constexpr,
    SLOTS: gl.constexpr,
    LISTS: gl.constexpr,
    HAS_SLOTS: gl.constexpr,
    LIMITED: gl.constexpr,
    CHUNKS: gl.constexpr,
    BLOCK_M: gl.constexpr,
    BLOCK_N: gl.constexpr,
    STAGES: gl.constexpr,
    DV_FIRST: gl.constexpr,
    COPY_REGISTERS: gl.constexpr,
):
    """The grid and the shares are those of `segment_dkv._segment_dkv_kernel`."""
    dtype: gl.constexpr = k.dtype.element_ty
    TOKENS: gl.constexpr = BLOCK_M // G
    kv_head = gl.program_id(1)
    list_index = kv_head if LISTS > 1 else 0
    segment, key_first, keys, share = _key_tile(tiles, chunks, num_tiles, LISTS, CHUNKS)
    if segment < 0:
        return

    bounds_a_part = LISTS * (num_segments + 1)
    first_part = share // splits * parts_a_share
    bounds = query_offsets + list_index * (num_segments + 1) + segment + first_part * bounds_a_part
    share_parts = gl.minimum(parts - first_part, parts_a_share)
    split = share % splits
    limit = list_length
    if LIMITED:
        limit = gl.load(limits + list_index)
    if CHUNKS:  # a chunk is a list of its own
        bounds = chunks + (list_index * gl.num_programs(0) + gl.program_id(0)) * CHUNK_FIELDS + 1
    count = share * 0
    for part in range(share_parts):
        first, last = _split_of_list(bounds + part * bounds_a_part, split, splits, limit, TOKENS)
        count += gl.cdiv(gl.maximum(last - first, 0), TOKENS)
    if HAS_SLOTS:
        query_slots += list_index * list_length

    layout: gl.constexpr = gl.BlockedLayout([1, 8], [256 // D, D // 8], [4, 1], [1, 0])
    s_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_M, 16])
    n = gl.arange(0, BLOCK_N, layout=gl.SliceLayout(1, layout))
    d = gl.arange(0, D, layout=gl.SliceLayout(0, layout))
    rows = n[:, None] * (KV_HEADS * D) + d[None, :]
    place = (key_first.to(gl.int64) * KV_HEADS + kv_head) * D
    operand: gl.constexpr = gl.DotOperandLayout(0, s_layout, 2)
    k_tile = gl.convert_layout(gl.load(k + place + rows, mask=(n < keys)[:, None], other=0.0), operand)
    v_tile = gl.convert_layout(gl.load(v + place + rows, mask=(n < keys)[:, None], other=0.0), operand)

    queries = query_tiles(dtype, STAGES, BLOCK_M, G, D)
    sources, whole = (q, do, terms), (whole_q, whole_do, whole_terms)
    where = (tiles, chunks, num_tiles, num_keys)
    lists = (query_slots, bounds, bounds_a_part, share_parts, split, splits, limit)
    gl.warp_specialize(
        [
            (
                _add_queries,
                (k_tile, v_tile, queries, count, dk, dv, where, scale, LISTS, CHUNKS, KV_HEADS, DV_FIRST, s_layout),
            ),
            (_copy_lists, (sources, whole, queries, lists, kv_head, num_tokens, SLOTS, HAS_SLOTS, KV_HEADS * G, G)),
        ],
        [1],
        [COPY_REGISTERS],
    )


def hopper_segment_dkv(
    do: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    terms: Tensor,
    segments: Segments,
    config: HopperDkvConfig,
    dk: Tensor,
    dv: Tensor,
    tiles: Tensor,
    chunks: Tensor | None,
    limits: Tensor | None,
    grid: tuple[int, int],
    parts_a_share: int,
    splits: int,
    scale: float,
) -> None:
    """Fills dk and dv as `segment_dkv._segment_dkv_kernel` would, by the `config` that `hopper.dkv_config` gives."""
    num_tokens, heads, head_dim = q.shape
    num_keys, kv_heads, _ = k.shape
    group = heads // kv_heads
    tokens = config.block_m // group
    _hopper_dkv_kernel[grid](
        *(row_descriptor(q, group), row_descriptor(do, group), terms_descriptor(terms, 1, group)),
        *(
            tile_descriptor(q, tokens, group),
            tile_descriptor(do, tokens, group),
            terms_descriptor(terms, tokens, group),
        ),
        *(k, v, dk, dv, segments.query_slots, segments.query_offsets, tiles, chunks, limits),
        *(num_tokens * segments.slots, tiles.shape[1], segments.count, num_keys, num_tokens),
        # A chunk is a list of one part.
        *(segments.parts, 1 if chunks is not None else parts_a_share, splits, scale),
        KV_HEADS=kv_heads,
        G=group,
        D=head_dim,
        SLOTS=segments.slots,
        LISTS=segments.query_offsets.shape[1],
        HAS_SLOTS=segments.query_slots is not None,
        LIMITED=limits is not None,
        CHUNKS=chunks is not None,
        BLOCK_M=config.block_m,
        BLOCK_N=config.block_n,
        STAGES=config.stages,
        DV_FIRST=config.dv_first,
        COPY_REGISTERS=config.copy_registers,
        num_warps=4,
        maxnreg=config.registers,
    )
