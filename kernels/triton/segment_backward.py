"""Backward of segment attention: dQ from the query side, dK and dV from the key side, no atomics.

With p the final probabilities, g the gate of the branch and dO the gradient of the gated sum:
dV = (g p)^T dO,  dS = g p (dO V^T - delta),  dQ = scale dS K,  dK = scale dS^T Q,  delta = rowsum(dO * o).
Both kernels recompute p from q, k and the LSE. The order of every sum is fixed, so gradients are deterministic.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.segments import Segments
from kernels.triton.configs import padded, tile_config
from kernels.triton.primitives import LOG2E, key_row_indices, load_rows, query_rows, store_rows, tile_list
from kernels.triton.segment_forward import segment_constants

# Key tiles are few when all tokens share a few hundred compression blocks; their query lists are then split so that the
# device has at least this many programs.
_MIN_PROGRAMS = 1024


@triton.jit(do_not_specialize=["num_tiles", "list_length", "num_segments", "gate_column"])
def _segment_dq_kernel(
    q,  # [N, H, D]
    k,  # [K, Hkv, D]
    v,  # [K, Hkv, D]
    do,  # [N, H, D]
    lse,  # fp32 [N, H]
    delta,  # fp32 [N, H]
    gates,  # [N, 3], with GATED
    gate_column,
    dq,  # [N * SLOTS, H, D]
    query_slots,
    query_offsets,
    key_rows,
    key_offsets,
    tile_segment,
    tile_first,
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
    GATED: tl.constexpr,
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
    row = token.to(tl.int64) * (KV_HEADS * G) + q_head
    q_tile = load_rows(q, row, row_mask, D, BLOCK_D)  # [BLOCK_M, BLOCK_D]
    do_tile = load_rows(do, row, row_mask, D, BLOCK_D)
    row_lse = tl.load(lse + row, mask=row_mask, other=float("inf")) * LOG2E
    row_delta = tl.load(delta + row, mask=row_mask, other=0.0)

    accumulator = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    for start in range(key_first, key_last, BLOCK_N):
        key, key_mask = key_row_indices(start, key_last, key_rows, HAS_KEY_ROWS, BLOCK_N)
        key_row = key.to(tl.int64) * KV_HEADS + kv_head
        k_tile = load_rows(k, key_row, key_mask, D, BLOCK_D)  # [BLOCK_N, BLOCK_D]
        v_tile = load_rows(v, key_row, key_mask, D, BLOCK_D)
        scores = tl.dot(q_tile, tl.trans(k_tile), input_precision=PRECISION) * (scale * LOG2E)  # [BLOCK_M, BLOCK_N]
        p = tl.exp2(scores - row_lse[:, None])
        # Masked keys have k = v = 0, but p = exp2(-lse) may overflow there.
        p = tl.where(key_mask[None, :], p, 0.0)
        dp = tl.dot(do_tile, tl.trans(v_tile), input_precision=PRECISION)
        ds = p * (dp - row_delta[:, None])
        accumulator = tl.dot(ds.to(k_tile.dtype), k_tile, accumulator, input_precision=PRECISION)

    if GATED:  # one gate a row: it need not enter the loop
        gate = tl.load(gates + token.to(tl.int64) * 3 + gate_column, mask=row_mask, other=0.0).to(tl.float32)
        accumulator = accumulator * gate[:, None]
    out_row = slot.to(tl.int64) * (KV_HEADS * G) + q_head
    store_rows(dq, out_row, accumulator * scale, row_mask, D, BLOCK_D)


@triton.jit(do_not_specialize=["num_tiles", "list_length", "num_segments", "num_keys", "splits", "gate_column"])
def _segment_dkv_kernel(
    q,  # [N, H, D]
    k,  # [K, Hkv, D]
    v,  # [K, Hkv, D]
    do,  # [N, H, D]
    lse,  # fp32 [N, H]
    delta,  # fp32 [N, H]
    gates,  # [N, 3], with GATED
    gate_column,
    dk,  # fp32 [splits, K, Hkv, D]
    dv,  # fp32 [splits, K, Hkv, D]
    query_slots,
    query_offsets,
    key_rows,
    key_offsets,
    tile_segment,  # int32 [num_tiles]: key tiles
    tile_first,
    num_tiles,
    list_length,
    num_segments,
    num_keys,
    splits,
    scale,
    KV_HEADS: tl.constexpr,
    G: tl.constexpr,
    D: tl.constexpr,
    SLOTS: tl.constexpr,
    LISTS: tl.constexpr,
    HAS_SLOTS: tl.constexpr,
    HAS_KEY_ROWS: tl.constexpr,
    PRECISION: tl.constexpr,
    GATED: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    tile = tl.program_id(0)
    kv_head = tl.program_id(1)
    split = tl.program_id(2)
    segment = tl.load(tile_segment + tile)
    if segment < 0:
        return
    list_index = kv_head if LISTS > 1 else 0
    key, key_mask = key_row_indices(
        tl.load(tile_first + tile), tl.load(key_offsets + segment + 1), key_rows, HAS_KEY_ROWS, BLOCK_N
    )
    key_row = key.to(tl.int64) * KV_HEADS + kv_head
    k_tile = load_rows(k, key_row, key_mask, D, BLOCK_D)  # [BLOCK_N, BLOCK_D]
    v_tile = load_rows(v, key_row, key_mask, D, BLOCK_D)

    # This split's share of the segment's query list, in whole tiles.
    offsets = query_offsets + list_index * (num_segments + 1) + segment
    list_first = tl.load(offsets)
    list_last = tl.load(offsets + 1)
    TOKENS: tl.constexpr = BLOCK_M // BLOCK_G
    share = tl.cdiv(tl.cdiv(list_last - list_first, TOKENS), splits) * TOKENS
    first = list_first + split * share
    last = tl.minimum(first + share, list_last)

    dk_tile = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    dv_tile = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    for start in range(first, last, TOKENS):
        _, token, head, row_mask = query_rows(
            start, last, query_slots, list_index * list_length, HAS_SLOTS, SLOTS, G, BLOCK_G, BLOCK_M
        )
        row = token.to(tl.int64) * (KV_HEADS * G) + kv_head * G + head
        q_tile = load_rows(q, row, row_mask, D, BLOCK_D)  # [BLOCK_M, BLOCK_D]
        do_tile = load_rows(do, row, row_mask, D, BLOCK_D)
        row_lse = tl.load(lse + row, mask=row_mask, other=float("inf")) * LOG2E
        row_delta = tl.load(delta + row, mask=row_mask, other=0.0)
        scores = tl.dot(k_tile, tl.trans(q_tile), input_precision=PRECISION) * (scale * LOG2E)  # [BLOCK_N, BLOCK_M]
        p = tl.exp2(scores - row_lse[None, :])
        dp = tl.dot(v_tile, tl.trans(do_tile), input_precision=PRECISION)
        if GATED:
            gate = tl.load(gates + token.to(tl.int64) * 3 + gate_column, mask=row_mask, other=0.0).to(tl.float32)
            p = p * gate[None, :]
        dv_tile = tl.dot(p.to(do_tile.dtype), do_tile, dv_tile, input_precision=PRECISION)
        ds = p * (dp - row_delta[None, :])
        dk_tile = tl.dot(ds.to(q_tile.dtype), q_tile, dk_tile, input_precision=PRECISION)

    out_row = split.to(tl.int64) * num_keys * KV_HEADS + key_row
    store_rows(dk, out_row, dk_tile * scale, key_mask, D, BLOCK_D)
    store_rows(dv, out_row, dv_tile, key_mask, D, BLOCK_D)


@triton.jit(do_not_specialize=["gate_column"])
def _delta_kernel(
    do,  # [N, H, D]
    o,  # [N, H, D]: output of one branch
    delta,  # fp32 [N, H]
    dgates,  # [N, 3], with GATED
    gate_column,
    H: tl.constexpr,
    D: tl.constexpr,
    GATED: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    head = tl.arange(0, BLOCK_H)
    head_mask = head < H
    row = token * H + head
    product = load_rows(do, row, head_mask, D, BLOCK_D).to(tl.float32)
    product *= load_rows(o, row, head_mask, D, BLOCK_D).to(tl.float32)
    inner = tl.sum(product, 1)  # [BLOCK_H]
    if GATED:
        tl.store(dgates + token * 3 + gate_column, tl.sum(inner, 0).to(dgates.dtype.element_ty))
    tl.store(delta + row, inner, mask=head_mask)


@triton.jit
def _sum_slots_kernel(
    part,  # [N, S, H, D]
    block_indices,  # int32 [Hkv, N, S]
    dq_cmp,  # [N, H, D], with BRANCHES
    dq_win,
    dq,  # [N, H, D]
    num_tokens,
    H: tl.constexpr,
    G: tl.constexpr,
    D: tl.constexpr,
    S: tl.constexpr,
    BRANCHES: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Add up the query gradients of a token's slots; with BRANCHES also those of the other two branches."""
    token = tl.program_id(0)
    head = tl.arange(0, BLOCK_H)
    head_mask = head < H
    choice = block_indices + ((head // G).to(tl.int64) * num_tokens + token) * S
    row = token.to(tl.int64) * H + head
    accumulator = tl.zeros([BLOCK_H, BLOCK_D], tl.float32)
    for slot in range(S):
        used = head_mask & (tl.load(choice + slot, mask=head_mask, other=-1) >= 0)
        slot_row = (token.to(tl.int64) * S + slot) * H + head
        accumulator += load_rows(part, slot_row, used, D, BLOCK_D).to(tl.float32)
    if BRANCHES:
        accumulator += load_rows(dq_cmp, row, head_mask, D, BLOCK_D).to(tl.float32)
        accumulator += load_rows(dq_win, row, head_mask, D, BLOCK_D).to(tl.float32)
    store_rows(dq, row, accumulator, head_mask, D, BLOCK_D)


def segment_backward(
    do: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lse: Tensor,
    delta: Tensor,
    segments: Segments,
    scale: float,
    gates: Tensor | None = None,
    gate_column: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of one branch.

    Args:
        do: [N, H, D], gradient of the gated sum (of the output itself where `gates` is None).
        lse, delta: fp32 [N, H] of the branch, all slots together.
        gates: [N, 3] and the branch's column in it.

    Returns:
        dq [N * slots, H, D] by slot, in q's dtype (slots that no segment lists are left unwritten); dk, dv
        fp32 [K, Hkv, D].
    """
    num_tokens, heads, head_dim = q.shape
    num_keys, kv_heads, _ = k.shape
    dq = torch.empty(num_tokens * segments.slots, heads, head_dim, dtype=q.dtype, device=q.device)
    if num_tokens == 0:
        return dq, torch.zeros_like(k, dtype=torch.float32), torch.zeros_like(v, dtype=torch.float32)
    length = num_tokens * segments.slots
    constants = {**segment_constants(q, k, segments), "GATED": gates is not None}
    lists = (segments.query_slots, segments.query_offsets, segments.key_rows, segments.key_offsets)

    config = tile_config("segment_dq", head_dim, q.dtype, q.device)
    tile_segment, tile_first = tile_list(segments.query_offsets, config.block_m // padded(heads // kv_heads), length)
    _segment_dq_kernel[(tile_segment.shape[1], kv_heads)](
        *(q, k, v, do, lse, delta, gates, gate_column, dq),
        *lists,
        *(tile_segment, tile_first, tile_segment.shape[1], length, segments.count, scale),
        **constants,
        BLOCK_M=config.block_m,
        BLOCK_N=config.block_n,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )

    config = tile_config("segment_dkv", head_dim, q.dtype, q.device)
    tile_segment, tile_first = tile_list(segments.key_offsets[None], config.block_n, num_keys)
    num_tiles = tile_segment.shape[1]
    splits = max(1, min(_MIN_PROGRAMS // (num_tiles * kv_heads), triton.cdiv(length, config.block_m)))
    dk = torch.empty(splits, num_keys, kv_heads, head_dim, dtype=torch.float32, device=q.device)
    dv = torch.empty_like(dk)
    _segment_dkv_kernel[(num_tiles, kv_heads, splits)](
        *(q, k, v, do, lse, delta, gates, gate_column, dk, dv),
        *lists,
        *(tile_segment, tile_first, num_tiles, length, segments.count, num_keys, splits, scale),
        **constants,
        BLOCK_M=config.block_m,
        BLOCK_N=config.block_n,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )
    return dq, dk.sum(0), dv.sum(0)


def row_delta(do: Tensor, o: Tensor, dgates: Tensor | None = None, gate_column: int = 0) -> Tensor:
    """delta fp32 [N, H]: rowsum(dO * o). Summed over heads it is the gradient of the gate, column of `dgates`."""
    num_tokens, heads, head_dim = o.shape
    delta = torch.empty(num_tokens, heads, dtype=torch.float32, device=o.device)
    if num_tokens:
        _delta_kernel[(num_tokens,)](
            *(do, o, delta, dgates, gate_column),
            H=heads,
            D=head_dim,
            GATED=dgates is not None,
            BLOCK_H=padded(heads),
            BLOCK_D=padded(head_dim),
            num_warps=4,
        )
    return delta


def sum_slots(part: Tensor, block_indices: Tensor, branches: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """dq [N, H, D]: the used slots of `part` [N * S, H, D] added up, plus the dq of the other two branches if given."""
    kv_heads, num_tokens, slots = block_indices.shape
    _, heads, head_dim = part.shape
    dq = part.new_empty(num_tokens, heads, head_dim)
    dq_cmp, dq_win = branches if branches is not None else (None, None)
    if num_tokens:
        _sum_slots_kernel[(num_tokens,)](
            *(part, block_indices, dq_cmp, dq_win, dq, num_tokens),
            H=heads,
            G=heads // kv_heads,
            D=head_dim,
            S=slots,
            BRANCHES=branches is not None,
            BLOCK_H=padded(heads),
            BLOCK_D=padded(head_dim),
            num_warps=4,
        )
    return dq
