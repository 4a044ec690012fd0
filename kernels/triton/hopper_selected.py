"""Forward of the selected branch in Gluon, for Hopper's warpgroup matrix instructions (sm_90).

The same numbers as `segment_forward`, by a schedule that Triton cannot express: a program keeps all keys of its segment
in shared memory while many tiles of queries stream past, each copied while the one before it is computed. Triton
would unroll the loop over resident tiles of keys and take all registers for it; here it stays a loop.

Where the softmax with a fixed reference (see `segment_forward`), or with none in bf16, leaves its range, the program
computes its tiles again with a running maximum, reading the keys in rounds of what fits; so it does from the start
where a segment's keys do not fit.
"""

from __future__ import annotations

from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, warpgroup_mma

from kernels.segments import Segments
from kernels.triton.hopper import CONFIGS
from kernels.triton.hopper_copies import warps_meet
from kernels.triton.primitives import LN2, LOG2E, TILE_FIELDS, tile_list

# Below every score; finite, so that differences are never NaN.
_LOWEST = gl.constexpr(-1e38)

# Renamed between Triton 3.6 and 3.9.
_async_copy = getattr(async_copy, "async_load", None) or async_copy.async_copy_global_to_shared


@gluon.jit
def _copy_rows(destination, source, rows, mask, layout: gl.constexpr):
    """Start to copy rows of a row-major matrix to shared memory [R, D]; masked rows become zero."""
    D: gl.constexpr = destination.shape[1]
    d = gl.arange(0, D, layout=gl.SliceLayout(0, layout))
    _async_copy(destination, source + (rows[:, None] * D + d[None, :]), mask=mask[:, None])


@gluon.jit
def _copy_keys(
    k_tile,  # shared [BLOCK_N, D]
    v_tile,
    k,  # of the segment and kv head
    v,
    first,  # of the segment's keys
    last,
    KV_HEADS: gl.constexpr,
    layout: gl.constexpr,
):
    """Start to copy a tile of keys and values; those from `last` on become zero."""
    position = first + gl.arange(0, k_tile.shape[0], layout=gl.SliceLayout(1, layout))
    mask = position < last
    _copy_rows(k_tile, k, position * KV_HEADS, mask, layout)
    _copy_rows(v_tile, v, position * KV_HEADS, mask, layout)


@gluon.jit
def _store_tile(
    kept,  # of the kv head
    lse,
    slot,  # [BLOCK_M], of the rows, from the first of the part
    mask,
    reference,  # fp32 [BLOCK_M]
    total,
    accumulator,  # fp32 [BLOCK_M, D]
    HEADS: gl.constexpr,
    G: gl.constexpr,
    layout: gl.constexpr,
):
    BLOCK_M: gl.constexpr = accumulator.shape[0]
    D: gl.constexpr = accumulator.shape[1]
    row_layout: gl.constexpr = gl.SliceLayout(1, layout)
    rows = slot * HEADS + gl.arange(0, BLOCK_M, layout=row_layout) % G
    d = gl.arange(0, D, layout=gl.SliceLayout(0, layout))
    inverse = gl.convert_layout(1.0 / total, gl.SliceLayout(1, accumulator.type.layout))
    values = gl.convert_layout((accumulator * inverse[:, None]).to(kept.dtype.element_ty), layout)
    gl.store(kept + (rows[:, None] * D + d[None, :]), values, mask=mask[:, None])
    gl.store(lse + rows, gl.convert_layout((reference + gl.log2(total)) * LN2, row_layout), mask=mask)


@gluon.jit(do_not_specialize=["num_tiles", "list_length", "first_slot"])
def _hopper_selected_forward_kernel(
    q,  # [N, H, D]
    k,  # [K, Hkv, D]
    v,  # [K, Hkv, D]
    kept,  # [slots of the lists, H, D]
    lse,  # fp32 [slots of the lists, H]
    query_slots,  # int32 [C, list_length]
    tiles,  # int32 [C, num_tiles, TILE_FIELDS]: runs of the query lists
    num_tiles,
    list_length,
    first_slot,  # the slot of the first row
    scale,
    KV_HEADS: gl.constexpr,
    G: gl.constexpr,
    D: gl.constexpr,
    SLOTS: gl.constexpr,
    LISTS: gl.constexpr,
    BLOCK_M: gl.constexpr,
    BLOCK_N: gl.constexpr,
    RESIDENT: gl.constexpr,
    RUN: gl.constexpr,  # list positions a program
):
    HEADS: gl.constexpr = KV_HEADS * G
    TOKENS: gl.constexpr = BLOCK_M // G
    dtype: gl.constexpr = q.dtype.element_ty
    WARPS: gl.constexpr = gl.num_warps()
    # Rows in global memory: 16 bytes a thread. Scores and outputs: a warp has 16 whole rows.
    layout: gl.constexpr = gl.BlockedLayout([1, 8], [256 // D, D // 8], [WARPS, 1], [1, 0])
    s_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [WARPS, 1], [16, BLOCK_N, 16])
    o_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [WARPS, 1], [16, D, 16])
    p_layout: gl.constexpr = gl.DotOperandLayout(0, o_layout, 2)
    shared: gl.constexpr = gl.NVMMASharedLayout(min(2 * D, 128), 16, 2)

    kv_head = gl.program_id(1)
    list_index = kv_head if LISTS > 1 else 0
    tile = tiles + (list_index * num_tiles + gl.program_id(0)) * TILE_FIELDS
    if gl.load(tile) < 0:
        return
    first = gl.load(tile + 1)
    last = gl.minimum(first + RUN, gl.load(tile + 2))
    key_first = gl.load(tile + 3)
    keys = gl.load(tile + 4) - key_first
    query_slots += list_index * list_length
    scale_log2 = scale * LOG2E
    q += kv_head * (G * D)
    kept += kv_head * (G * D)
    lse += kv_head * G
    k += (key_first.to(gl.int64) * KV_HEADS + kv_head) * D
    v += (key_first.to(gl.int64) * KV_HEADS + kv_head) * D

    k_shared = gl.allocate_shared_memory(dtype, [RESIDENT, BLOCK_N, D], shared)
    v_shared = gl.allocate_shared_memory(dtype, [RESIDENT, BLOCK_N, D], shared)
    q_shared = gl.allocate_shared_memory(dtype, [2, BLOCK_M, D], shared)
    row = gl.arange(0, BLOCK_M, layout=gl.SliceLayout(1, layout))
    position = first + row // G
    column = gl.arange(0, BLOCK_N, layout=gl.SliceLayout(0, s_layout))
    zero_s = gl.zeros([BLOCK_M, BLOCK_N], gl.float32, s_layout)
    zero_o = gl.zeros([BLOCK_M, D], gl.float32, o_layout)

    running = keys > RESIDENT * BLOCK_N  # whether to compute with a running maximum
    if not running:
        # The first tile takes the keys that fill no whole tile.
        first_keys = (keys - 1) % BLOCK_N + 1
        _copy_keys(k_shared.index(0), v_shared.index(0), k, v, 0, first_keys, KV_HEADS, layout)
        count = gl.cdiv(keys, BLOCK_N)
        for t in range(1, count):
            start = first_keys + (t - 1) * BLOCK_N
            _copy_keys(k_shared.index(t), v_shared.index(t), k, v, start, keys, KV_HEADS, layout)
        key_mask = column < first_keys
        # Rows are copied one tile ahead, their slots loaded two ahead; a tile's own slots are loaded again for its
        # results, which takes fewer registers than keeping them.
        slot = gl.load(query_slots + position, mask=position < last, other=0)
        _copy_rows(q_shared.index(0), q, (slot // SLOTS) * HEADS + row % G, position < last, layout)
        async_copy.commit_group()
        ahead = position + TOKENS
        slot_ahead = gl.load(query_slots + ahead, mask=ahead < last, other=0)
        # bf16 has the range of fp32, so that its softmax needs no reference where scores are neither very large nor all
        # very small. Else as in `segment_forward`: the first tile's largest score, which gives total >= 1.
        NEAR_ZERO: gl.constexpr = dtype == gl.bfloat16
        LIMIT: gl.constexpr = 2.0**15 if dtype == gl.float16 else 2.0**60
        exceeded = gl.zeros([BLOCK_M], gl.int1, gl.SliceLayout(1, s_layout))
        buffer = 0
        for start in range(first, last, TOKENS):
            warps_meet()  # every warp has read the tile before this one, which is copied over now
            _copy_rows(
                q_shared.index(1 - buffer),
                q,
                (slot_ahead // SLOTS) * HEADS + row % G,
                start + TOKENS + row // G < last,
                layout,
            )
            async_copy.commit_group()
            slot = gl.load(query_slots + start + row // G, mask=start + row // G < last, other=0)
            ahead = start + 2 * TOKENS + row // G
            slot_ahead = gl.load(query_slots + ahead, mask=ahead < last, other=0)
            async_copy.wait_group(1)  # all but the group just committed
            fence_async_shared()
            warps_meet()

            q_tile = q_shared.index(buffer)
            s = warpgroup_mma(q_tile, k_shared.index(0).permute((1, 0)), zero_s, use_acc=False)
            if NEAR_ZERO:
                reference = gl.zeros([BLOCK_M], gl.float32, gl.SliceLayout(1, s_layout))
                p = gl.where(key_mask[None, :], gl.exp2(s * scale_log2), 0.0)
            else:
                s = gl.where(key_mask[None, :], s * scale_log2, _LOWEST)
                reference = gl.max(s, 1)
                p = gl.exp2(s - reference[:, None])
            total = gl.sum(p, 1)
            accumulator = warpgroup_mma(
                gl.convert_layout(p.to(dtype), p_layout), v_shared.index(0), zero_o, use_acc=False
            )
            for t in range(1, count):
                s = warpgroup_mma(q_tile, k_shared.index(t).permute((1, 0)), zero_s, use_acc=False)
                p = gl.exp2(s * scale_log2 - reference[:, None])
                total += gl.sum(p, 1)
                accumulator = warpgroup_mma(gl.convert_layout(p.to(dtype), p_layout), v_shared.index(t), accumulator)
            exceeded = exceeded | (total >= LIMIT) | (NEAR_ZERO & (total <= 1 / LIMIT))
            _store_tile(
                *(kept, lse, slot - first_slot, start + row // G < last, reference, total, accumulator),
                *(HEADS, G, layout),
            )
            buffer = 1 - buffer
        async_copy.wait_group(0)
        running = gl.max(exceeded.to(gl.int32), 0) > 0

    if running:  # rare: nothing overlaps, all stored results of the run are replaced
        # Rows by other threads than above: shared addresses would live across the loop, in registers that it needs.
        rare_layout: gl.constexpr = gl.BlockedLayout([1, 8], [256 // D, D // 8], [WARPS, 1], [0, 1])
        rare_row = gl.arange(0, BLOCK_M, layout=gl.SliceLayout(1, rare_layout))
        for start in range(first, last, TOKENS):
            here = start + rare_row // G
            slot = gl.load(query_slots + here, mask=here < last, other=0)
            _copy_rows(q_shared.index(0), q, (slot // SLOTS) * HEADS + rare_row % G, here < last, rare_layout)
            largest = gl.full([BLOCK_M], _LOWEST, gl.float32, gl.SliceLayout(1, s_layout))
            total = gl.zeros([BLOCK_M], gl.float32, gl.SliceLayout(1, s_layout))
            accumulator = zero_o
            for round_first in range(0, keys, RESIDENT * BLOCK_N):
                count = gl.minimum(gl.cdiv(keys - round_first, BLOCK_N), RESIDENT)
                for t in range(count):
                    start_key = round_first + t * BLOCK_N
                    _copy_keys(k_shared.index(t), v_shared.index(t), k, v, start_key, keys, KV_HEADS, rare_layout)
                async_copy.commit_group()
                async_copy.wait_group(0)
                fence_async_shared()
                warps_meet()
                for t in range(count):
                    s = warpgroup_mma(q_shared.index(0), k_shared.index(t).permute((1, 0)), zero_s, use_acc=False)
                    key_mask = column < keys - round_first - t * BLOCK_N
                    s = gl.where(key_mask[None, :], s * scale_log2, _LOWEST)
                    new_largest = gl.maximum(largest, gl.max(s, 1))
                    correction = gl.exp2(largest - new_largest)
                    p = gl.exp2(s - new_largest[:, None])
                    total = total * correction + gl.sum(p, 1)
                    accumulator *= gl.convert_layout(correction, gl.SliceLayout(1, o_layout))[:, None]
                    accumulator = warpgroup_mma(
                        gl.convert_layout(p.to(dtype), p_layout), v_shared.index(t), accumulator
                    )
                    largest = new_largest
                warps_meet()
            _store_tile(kept, lse, slot - first_slot, here < last, largest, total, accumulator, HEADS, G, rare_layout)


def hopper_selected_forward(
    q: Tensor, k: Tensor, v: Tensor, segments: Segments, scale: float, part: int, kept: Tensor, lse: Tensor
) -> None:
    """Fills what `segment_forward` returns, for arguments that `hopper.supported` accepts."""
    _, heads, head_dim = q.shape
    kv_heads = k.shape[1]
    group = heads // kv_heads
    config = CONFIGS[head_dim]
    first, last = segments.slot_range(part, q.shape[0])
    run = config.run * config.block_m // group
    tiles = tile_list(segments.query_offsets[part], segments.key_offsets, run, last - first)
    v = v.to(q.dtype)  # probabilities need the range of bf16 here, and the matrix units want values of their type
    _hopper_selected_forward_kernel[(tiles.shape[1], kv_heads)](
        *(q, k, v, kept, lse, segments.query_slots, tiles, tiles.shape[1]),
        *(q.shape[0] * segments.slots, first, scale),
        KV_HEADS=kv_heads,
        G=group,
        D=head_dim,
        SLOTS=segments.slots,
        LISTS=segments.query_offsets.shape[1],
        BLOCK_M=config.block_m,
        BLOCK_N=config.block_n,
        RESIDENT=config.resident,
        RUN=run,
        num_warps=config.num_warps,
        maxnreg=config.registers,
    )
