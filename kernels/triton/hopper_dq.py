"""dQ of the selected branch in Gluon, for Hopper (sm_90).

The same numbers as `segment_backward`'s Triton kernel, by a schedule that Triton cannot express. A program computes a
run of a segment's queries: one warp copies them tile by tile, and the segment's keys and values once; four compute.
Triton's programs copy all keys for every tile of queries, which the L2 cache cannot deliver fast enough.
"""

from __future__ import annotations

from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_init,
    warpgroup_mma_wait,
)

from kernels.segments import Segments
from kernels.triton.hopper import HopperDqConfig
from kernels.triton.hopper_copies import (
    barriers,
    clear_rows,
    copy_queries,
    copy_tile,
    key_descriptor,
    query_tiles,
    row_descriptor,
    store_tile,
    terms_descriptor,
    tile_of_queries,
    warps_meet,
)
from kernels.triton.primitives import LOG2E, TILE_FIELDS, tile_list


@gluon.jit
def _copy_all(
    sources,  # descriptors, see `copy_queries`
    k,  # descriptors as `key_descriptor` makes them
    v,
    queries,  # tiles, see `query_tiles`
    keys,  # tiles of keys and values in shared memory [RESIDENT, BLOCK_N, D], and their barriers
    run,  # slots of the kv head's list; first and last + 1 position of the run
    key_first,
    key_tiles,
    kv_head,
    num_tokens,
    SLOTS: gl.constexpr,
    HEADS: gl.constexpr,
    G: gl.constexpr,
):
    query_slots, first, last = run
    k_tiles, v_tiles, k_full, k_empty = keys
    STAGES: gl.constexpr = queries[0].shape[0]
    RESIDENT: gl.constexpr = k_tiles.shape[0]
    BLOCK_N: gl.constexpr = k_tiles.shape[1]
    D: gl.constexpr = k_tiles.shape[2]
    TOKENS: gl.constexpr = queries[0].shape[1] // G
    for group in range(gl.cdiv(last - first, TOKENS)):
        stage = group % STAGES
        mbarrier.wait(queries[4].index(stage), group // STAGES % 2 ^ 1)
        start = first + group * TOKENS
        copy_queries(sources, queries, stage, query_slots, start, last, kv_head, num_tokens, SLOTS, True, HEADS, G)
        if (key_tiles > RESIDENT) | (group == 0):  # keys that fit are copied once
            for index in range(key_tiles):
                count = group * key_tiles + index
                place = count % RESIDENT
                mbarrier.wait(k_empty.index(place), count // RESIDENT % 2 ^ 1)
                mbarrier.expect(k_full.index(place), BLOCK_N * 4 * D)
                # The last tile, which may not be whole, comes first.
                key = key_first + (index + key_tiles - 1) % key_tiles * BLOCK_N
                copy_tile(k, [key, kv_head * D], k_full.index(place), k_tiles.index(place))
                copy_tile(v, [key, kv_head * D], k_full.index(place), v_tiles.index(place))


@gluon.jit
def _add_keys(
    rows,  # q and dO as operands [BLOCK_M, D]; LSE in base 2 and delta, fp32 [BLOCK_M]
    keys,  # as `_copy_all`
    count,  # tiles of keys that the program copied before these
    streamed,  # whether they are copied for every tile of queries
    key_mask,  # [BLOCK_N], with MASKED
    dq,  # being added up
    zero,
    scale_log2,
    MASKED: gl.constexpr,
    o_layout: gl.constexpr,
):
    q_tile, do_tile, row_lse, row_delta = rows
    k_tiles, v_tiles, k_full, k_empty = keys
    RESIDENT: gl.constexpr = k_tiles.shape[0]
    place = count % RESIDENT
    mbarrier.wait(k_full.index(place), count // RESIDENT % 2)
    k_tile = k_tiles.index(place)
    scores = warpgroup_mma(q_tile, k_tile.permute((1, 0)), zero, use_acc=False, is_async=True)
    dp = warpgroup_mma(do_tile, v_tiles.index(place).permute((1, 0)), zero, use_acc=False, is_async=True)
    # The tile of keys before this one has been read when the scores are there.
    scores, dq = warpgroup_mma_wait(1, deps=[scores, dq])
    mbarrier.arrive(k_empty.index((count + RESIDENT - 1) % RESIDENT), count=1, pred=streamed & (count > 0))
    p = gl.exp2(scores * scale_log2 - row_lse[:, None])
    if MASKED:  # masked keys have k = v = 0, but p = exp2(-lse) may overflow there
        p = gl.where(key_mask[None, :], p, 0.0)
    dp, p = warpgroup_mma_wait(0, deps=[dp, p])
    ds = (p * (dp - row_delta[:, None])).to(k_tiles.dtype)
    return warpgroup_mma(gl.convert_layout(ds, gl.DotOperandLayout(0, o_layout, 2)), k_tile, dq, is_async=True)


@gluon.jit
def _compute(
    queries,  # these three as `_copy_all`
    keys,
    run,
    result,  # shared [BLOCK_M, D]
    dq,  # descriptor as `row_descriptor` makes it
    dq_rows,
    first_slot,
    num_keys,
    kv_head,
    scale,
    HEADS: gl.constexpr,
    G: gl.constexpr,
):
    query_slots, first, last = run
    k_tiles, v_tiles, k_full, _ = keys
    STAGES: gl.constexpr = queries[0].shape[0]
    BLOCK_M: gl.constexpr = result.shape[0]
    D: gl.constexpr = result.shape[1]
    RESIDENT: gl.constexpr = k_tiles.shape[0]
    BLOCK_N: gl.constexpr = k_tiles.shape[1]
    TOKENS: gl.constexpr = BLOCK_M // G
    s_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_N, 16])
    o_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 16])
    operand: gl.constexpr = gl.DotOperandLayout(0, s_layout, 2)
    # The rows of the products that are a thread's: two, eight apart; of each LSE and delta by one load.
    W: gl.constexpr = 2 * G
    numbers: gl.constexpr = gl.DistributedLinearLayout(
        [[0, 1], [0, 16]],
        [[0, 0], [0, 0], [0, 2], [0, 4], [0, 8]],
        [[32 // W, 32 % W], [64 // W, 64 % W]],
        [],
        [BLOCK_M // G, W],
    )
    zero = gl.zeros([BLOCK_M, BLOCK_N], gl.float32, s_layout)
    key_tiles = gl.cdiv(num_keys, BLOCK_N)
    streamed = key_tiles > RESIDENT
    last_keys = (num_keys - 1) % BLOCK_N + 1
    key_mask = gl.arange(0, BLOCK_N, layout=gl.SliceLayout(0, s_layout)) < last_keys
    scale_log2 = scale * LOG2E
    for group in range(gl.cdiv(last - first, TOKENS)):
        q, do, terms, copied, read = tile_of_queries(queries, group % STAGES)
        mbarrier.wait(copied, group // STAGES % 2)
        q_tile = q.load(operand)
        do_tile = do.load(operand)
        lse, delta = gl.split(terms.load(numbers).reshape([BLOCK_M, 2]))
        row_lse = gl.convert_layout(lse, gl.SliceLayout(1, s_layout))
        row_delta = gl.convert_layout(delta, gl.SliceLayout(1, s_layout))
        mbarrier.arrive(read, count=1)

        count = group * key_tiles if streamed else 0
        if streamed | (group == 0):
            place = count % RESIDENT
            mbarrier.wait(k_full.index(place), count // RESIDENT % 2)
            clear_rows(k_tiles.index(place), last_keys, 4)
            clear_rows(v_tiles.index(place), last_keys, 4)
            fence_async_shared()
            warps_meet()
        rows = (q_tile, do_tile, row_lse, row_delta)
        added = warpgroup_mma_init(gl.zeros([BLOCK_M, D], gl.float32, o_layout))
        added = _add_keys(rows, keys, count, streamed, key_mask, added, zero, scale_log2, True, o_layout)
        for index in range(1, key_tiles):
            added = _add_keys(rows, keys, count + index, streamed, key_mask, added, zero, scale_log2, False, o_layout)
        gradient = warpgroup_mma_wait(0, deps=[added]) * scale

        tma.store_wait(pendings=0)  # of the tile before
        warps_meet()
        result.store(gradient.to(result.dtype))
        fence_async_shared()
        warps_meet()
        for position in gl.static_range(TOKENS):
            here = first + group * TOKENS + position
            slot = gl.load(query_slots + gl.minimum(here, last - 1)) - first_slot
            # Rows beyond the last are not stored.
            row = gl.where(here < last, slot * HEADS + kv_head * G, dq_rows)
            store_tile(dq, [row, 0], result.slice(position * G, G))
    tma.store_wait(pendings=0)


@gluon.jit(do_not_specialize=["num_tokens", "dq_rows", "num_tiles", "list_length", "first_slot"])
def _hopper_dq_kernel(
    q,  # descriptors: see `copy_queries` and `_copy_all`
    do,
    terms,
    k,
    v,
    dq,  # descriptor of [slots of the lists, H, D]
    query_slots,  # int32 [C, list_length]
    tiles,  # int32 [C, num_tiles, TILE_FIELDS]: runs of the query lists
    num_tokens,
    dq_rows,
    num_tiles,
    list_length,
    first_slot,  # the slot of dq's first row
    scale,
    KV_HEADS: gl.constexpr,
    G: gl.constexpr,
    D: gl.constexpr,
    SLOTS: gl.constexpr,
    LISTS: gl.constexpr,
    BLOCK_M: gl.constexpr,
    BLOCK_N: gl.constexpr,
    RESIDENT: gl.constexpr,
    STAGES: gl.constexpr,
    RUN: gl.constexpr,  # list positions a program
    COPY_REGISTERS: gl.constexpr,
):
    HEADS: gl.constexpr = KV_HEADS * G
    dtype: gl.constexpr = q.dtype
    kv_head = gl.program_id(1)
    list_index = kv_head if LISTS > 1 else 0
    tile = tiles + (list_index * num_tiles + gl.program_id(0)) * TILE_FIELDS
    if gl.load(tile) < 0:
        return
    first = gl.load(tile + 1)
    last = gl.minimum(first + RUN, gl.load(tile + 2))
    key_first = gl.load(tile + 3)
    num_keys = gl.load(tile + 4) - key_first
    query_slots += list_index * list_length

    swizzled: gl.constexpr = gl.NVMMASharedLayout(min(2 * D, 128), 16, 2)
    queries = query_tiles(dtype, STAGES, BLOCK_M, G, D)
    k_tiles = gl.allocate_shared_memory(dtype, [RESIDENT, BLOCK_N, D], swizzled)
    v_tiles = gl.allocate_shared_memory(dtype, [RESIDENT, BLOCK_N, D], swizzled)
    k_full, k_empty = barriers(RESIDENT)
    keys = (k_tiles, v_tiles, k_full, k_empty)
    result = gl.allocate_shared_memory(dtype, [BLOCK_M, D], swizzled)

    run = (query_slots, first, last)
    key_tiles = gl.cdiv(num_keys, BLOCK_N)
    gl.warp_specialize(
        [
            (_compute, (queries, keys, run, result, dq, dq_rows, first_slot, num_keys, kv_head, scale, HEADS, G)),
            (
                _copy_all,
                ((q, do, terms), k, v, queries, keys, run, key_first, key_tiles, kv_head, num_tokens, SLOTS, HEADS, G),
            ),
        ],
        [1],
        [COPY_REGISTERS],
    )


def hopper_segment_dq(
    do: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    terms: Tensor,
    segments: Segments,
    scale: float,
    part: int,
    config: HopperDqConfig,
    dq: Tensor,
) -> None:
    """Fills what `segment_dq` returns, where `hopper.dq_config` gives `config`."""
    num_tokens, heads, head_dim = q.shape
    kv_heads = k.shape[1]
    group = heads // kv_heads
    first, last = segments.slot_range(part, num_tokens)
    run = config.run * config.block_m // group
    tiles = tile_list(segments.query_offsets[part], segments.key_offsets, run, last - first)
    _hopper_dq_kernel[(tiles.shape[1], kv_heads)](
        *(row_descriptor(q, group), row_descriptor(do, group), terms_descriptor(terms, 1, group)),
        *(key_descriptor(k, config.block_n), key_descriptor(v, config.block_n), row_descriptor(dq, group)),
        *(segments.query_slots, tiles, num_tokens, dq.shape[0] * heads, tiles.shape[1]),
        *(num_tokens * segments.slots, first, scale),
        KV_HEADS=kv_heads,
        G=group,
        D=head_dim,
        SLOTS=segments.slots,
        LISTS=segments.query_offsets.shape[1],
        BLOCK_M=config.block_m,
        BLOCK_N=config.block_n,
        RESIDENT=config.resident,
        STAGES=config.stages,
        RUN=run,
        COPY_REGISTERS=config.copy_registers,
        num_warps=4,
        maxnreg=config.registers,
    )
