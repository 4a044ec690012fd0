"""Forward of segment attention: queries of a segment against its keys, and the merge of a token's slots.

Row order of partial results: slot, then query head. With one slot a token the partial result is the result.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.segments import Segments
from kernels.triton.configs import padded, tile_config
from kernels.triton.primitives import LN2, LOG2E, key_row_indices, load_rows, query_rows, store_rows, tile_list


@triton.jit(do_not_specialize=["num_tiles", "list_length", "num_segments"])
def _segment_forward_kernel(
    q,  # [N, H, D]
    k,  # [K, Hkv, D]
    v,  # [K, Hkv, D]
    o,  # [N * SLOTS, H, D]
    lse,  # fp32 [N * SLOTS, H]
    query_slots,  # int32 [C, list_length]
    query_offsets,  # int32 [C, num_segments + 1]
    key_rows,  # int32 [K]
    key_offsets,  # int32 [num_segments + 1]
    tile_segment,  # int32 [C, num_tiles]
    tile_first,  # int32 [C, num_tiles]
    num_tiles,
    list_length,
    num_segments,
    scale,
    KV_HEADS: tl.constexpr,
    G: tl.constexpr,
    D: tl.constexpr,
    SLOTS: tl.constexpr,
    LISTS: tl.constexpr,
    HAS_SLOTS: tl.constexpr,
    HAS_KEY_ROWS: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    kv_head = tl.program_id(1)
    list_index = kv_head if LISTS > 1 else 0
    tile = list_index * num_tiles + tl.program_id(0)
    segment = tl.load(tile_segment + tile)
    if segment < 0:
        return
    last = tl.load(query_offsets + list_index * (num_segments + 1) + segment + 1)
    key_first = tl.load(key_offsets + segment)
    key_last = tl.load(key_offsets + segment + 1)

    slot, token, head, row_mask = query_rows(
        tl.load(tile_first + tile), last, query_slots, list_index * list_length, HAS_SLOTS, SLOTS, G, BLOCK_G, BLOCK_M
    )
    q_head = kv_head * G + head
    q_tile = load_rows(q, token.to(tl.int64) * (KV_HEADS * G) + q_head, row_mask, D, BLOCK_D)  # [BLOCK_M, BLOCK_D]

    # Softmax in base 2, streamed over the keys.
    running_max = tl.full([BLOCK_M], -float("inf"), tl.float32)
    running_sum = tl.zeros([BLOCK_M], tl.float32)
    accumulator = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    for start in range(key_first, key_last, BLOCK_N):
        key, key_mask = key_row_indices(start, key_last, key_rows, HAS_KEY_ROWS, BLOCK_N)
        k_tile = load_rows(k, key.to(tl.int64) * KV_HEADS + kv_head, key_mask, D, BLOCK_D)  # [BLOCK_N, BLOCK_D]
        v_tile = load_rows(v, key.to(tl.int64) * KV_HEADS + kv_head, key_mask, D, BLOCK_D)
        scores = tl.dot(q_tile, tl.trans(k_tile), input_precision=PRECISION) * (scale * LOG2E)  # [BLOCK_M, BLOCK_N]
        scores = tl.where(key_mask[None, :], scores, -float("inf"))
        new_max = tl.maximum(running_max, tl.max(scores, 1))
        correction = tl.exp2(running_max - new_max)
        p = tl.exp2(scores - new_max[:, None])
        running_sum = running_sum * correction + tl.sum(p, 1)
        accumulator = accumulator * correction[:, None]
        accumulator = tl.dot(p.to(v_tile.dtype), v_tile, accumulator, input_precision=PRECISION)
        running_max = new_max

    out_row = slot.to(tl.int64) * (KV_HEADS * G) + q_head
    store_rows(o, out_row, accumulator / running_sum[:, None], row_mask, D, BLOCK_D)
    tl.store(lse + out_row, (running_max + tl.log2(running_sum)) * LN2, mask=row_mask)


@triton.jit
def _merge_slots_kernel(
    part,  # [N, S, H, D]
    part_lse,  # fp32 [N, S, H]
    block_indices,  # int32 [Hkv, N, S]
    o_slc,  # [N, H, D]
    lse,  # fp32 [N, H]
    o_cmp,  # [N, H, D], with GATED
    o_win,
    gates,  # [N, 3]
    o,  # [N, H, D]
    num_tokens,
    H: tl.constexpr,
    G: tl.constexpr,
    D: tl.constexpr,
    S: tl.constexpr,
    GATED: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Merge a token's slots by their LSE; with GATED also add up the three gated branches."""
    token = tl.program_id(0)
    head = tl.arange(0, BLOCK_H)
    head_mask = head < H
    choice = block_indices + ((head // G).to(tl.int64) * num_tokens + token) * S
    row = token.to(tl.int64) * H + head

    largest = tl.full([BLOCK_H], -float("inf"), tl.float32)
    for slot in range(S):
        used = head_mask & (tl.load(choice + slot, mask=head_mask, other=-1) >= 0)
        slot_lse = tl.load(part_lse + (token.to(tl.int64) * S + slot) * H + head, mask=used, other=-float("inf"))
        largest = tl.maximum(largest, slot_lse)
    # A token without a block has largest = -inf, total = 0, and an output of zero.
    reference = tl.where(largest == -float("inf"), 0.0, largest)
    total = tl.zeros([BLOCK_H], tl.float32)
    accumulator = tl.zeros([BLOCK_H, BLOCK_D], tl.float32)
    for slot in range(S):
        used = head_mask & (tl.load(choice + slot, mask=head_mask, other=-1) >= 0)
        slot_row = (token.to(tl.int64) * S + slot) * H + head
        weight = tl.exp2((tl.load(part_lse + slot_row, mask=used, other=-float("inf")) - reference) * LOG2E)
        total += weight
        accumulator += weight[:, None] * load_rows(part, slot_row, used, D, BLOCK_D).to(tl.float32)
    divisor = tl.where(total == 0.0, 1.0, total)
    merged = accumulator / divisor[:, None]
    store_rows(o_slc, row, merged, head_mask, D, BLOCK_D)
    tl.store(lse + row, largest + tl.log2(divisor) * LN2, mask=head_mask)
    if GATED:
        gate = gates + token.to(tl.int64) * 3
        out = tl.load(gate + 1).to(tl.float32) * merged
        out += tl.load(gate).to(tl.float32) * load_rows(o_cmp, row, head_mask, D, BLOCK_D).to(tl.float32)
        out += tl.load(gate + 2).to(tl.float32) * load_rows(o_win, row, head_mask, D, BLOCK_D).to(tl.float32)
        store_rows(o, row, out, head_mask, D, BLOCK_D)


def segment_forward(q: Tensor, k: Tensor, v: Tensor, segments: Segments, scale: float) -> tuple[Tensor, Tensor]:
    """Partial results of every slot: o [N * slots, H, D] in q's dtype and natural-log LSE fp32 [N * slots, H].

    Slots that no segment lists are left unwritten.
    """
    num_tokens, heads, head_dim = q.shape
    kv_heads = k.shape[1]
    config = tile_config("segment_forward", head_dim, q.dtype, q.device)
    block_g = padded(heads // kv_heads)
    o = torch.empty(num_tokens * segments.slots, heads, head_dim, dtype=q.dtype, device=q.device)
    lse = torch.empty(num_tokens * segments.slots, heads, dtype=torch.float32, device=q.device)
    if num_tokens == 0:
        return o, lse
    length = num_tokens * segments.slots
    tile_segment, tile_first = tile_list(segments.query_offsets, config.block_m // block_g, length)
    _segment_forward_kernel[(tile_segment.shape[1], kv_heads)](
        q,
        k,
        v,
        o,
        lse,
        segments.query_slots,
        segments.query_offsets,
        segments.key_rows,
        segments.key_offsets,
        tile_segment,
        tile_first,
        tile_segment.shape[1],
        length,
        segments.count,
        scale,
        **segment_constants(q, k, segments),
        BLOCK_M=config.block_m,
        BLOCK_N=config.block_n,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )
    return o, lse


def merge_slots(
    part: Tensor,
    part_lse: Tensor,
    block_indices: Tensor,
    branches: tuple[Tensor, Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Merge the slots of each token by their LSE.

    Args:
        part: [N * S, H, D]. part_lse: fp32 [N * S, H]. block_indices: int32 [Hkv, N, S]; -1 marks unused slots.
        branches: o_cmp, o_win [N, H, D] and gates [N, 3], to add up the whole operator in the same pass.

    Returns:
        o_slc [N, H, D], its LSE fp32 [N, H] (-inf for a token without a block), and the gated sum or None.
    """
    kv_heads, num_tokens, slots = block_indices.shape
    _, heads, head_dim = part.shape
    o_slc = part.new_empty(num_tokens, heads, head_dim)
    lse = part_lse.new_empty(num_tokens, heads)
    o_cmp, o_win, gates = branches if branches is not None else (None, None, None)
    o = torch.empty_like(o_slc) if branches is not None else None
    if num_tokens:
        _merge_slots_kernel[(num_tokens,)](
            part,
            part_lse,
            block_indices,
            o_slc,
            lse,
            o_cmp,
            o_win,
            gates,
            o,
            num_tokens,
            H=heads,
            G=heads // kv_heads,
            D=head_dim,
            S=slots,
            GATED=branches is not None,
            BLOCK_H=padded(heads),
            BLOCK_D=padded(head_dim),
            num_warps=4,
        )
    return o_slc, lse, o


def segment_constants(q: Tensor, k: Tensor, segments: Segments) -> dict[str, int | bool | str]:
    """The compile-time arguments that the segment kernels have in common."""
    _, heads, head_dim = q.shape
    kv_heads = k.shape[1]
    return {
        "KV_HEADS": kv_heads,
        "G": heads // kv_heads,
        "D": head_dim,
        "SLOTS": segments.slots,
        "LISTS": segments.query_offsets.shape[0],
        "HAS_SLOTS": segments.query_slots is not None,
        "HAS_KEY_ROWS": segments.key_rows is not None,
        "PRECISION": "ieee" if q.dtype == torch.float32 else "tf32",
        "BLOCK_G": padded(heads // kv_heads),
        "BLOCK_D": padded(head_dim),
    }
