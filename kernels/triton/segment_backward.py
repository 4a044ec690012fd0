"""Backward of segment attention: dQ from the query side, dK and dV from the key side, no atomics.

With p the final probabilities and dO the gradient of the branch's output:
dV = p^T dO,  dS = p (dO V^T - delta),  dQ = scale dS K,  dK = scale dS^T Q,  delta = rowsum(dO * o).
Both kernels recompute p from q, k and the LSE. The order of every sum is fixed, so gradients are deterministic.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.segments import Segments
from kernels.triton.configs import padded, segment_config
from kernels.triton.primitives import (
    LOG2E,
    key_rows,
    load_rows,
    load_terms,
    load_tile,
    query_rows,
    slot_rows,
    store_rows,
    tile_list,
)
from kernels.triton.segment_forward import segment_constants

# A key tile's query list is split until the device has about this many programs: key tiles are few where all tokens
# share a few hundred compression blocks, and lists differ in length by orders of magnitude where blocks are selected.
_PROGRAMS = 4096
_MAX_SPLITS = 64
# Shares into which the parts of the query lists go: each has gradients of its own to be added up.
_MOST_PART_SHARES = 8


@triton.jit
def _query_gradient(
    q_tile,  # [BLOCK_M, BLOCK_D]
    do_tile,  # [BLOCK_M, BLOCK_D]
    k_tile,  # [BLOCK_N, BLOCK_D]
    v_tile,  # [BLOCK_N, BLOCK_D]
    row_lse,  # fp32 [BLOCK_M], base 2
    row_delta,  # fp32 [BLOCK_M]
    accumulator,  # fp32 [BLOCK_M, BLOCK_D]
    scale_log2,
    key_mask,  # [BLOCK_N]
    MASKED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    scores = tl.dot(q_tile, tl.trans(k_tile), input_precision=PRECISION)  # [BLOCK_M, BLOCK_N]
    dp = tl.dot(do_tile, tl.trans(v_tile), input_precision=PRECISION)
    p = tl.exp2(scores * scale_log2 - row_lse[:, None])
    if MASKED:  # masked keys have k = v = 0, but p = exp2(-lse) may overflow there
        p = tl.where(key_mask[None, :], p, 0.0)
    ds = p * (dp - row_delta[:, None])
    return tl.dot(ds.to(k_tile.dtype), k_tile, accumulator, input_precision=PRECISION)


@triton.jit(do_not_specialize=["num_tiles", "list_length", "first_slot"])
def _segment_dq_kernel(
    q,  # [N, H, D]
    k,  # [K, Hkv, D]
    v,  # [K, Hkv, D]
    do,  # [N, H, D]
    terms,  # fp32 [N, H, 2]: base-2 LSE and delta
    dq,  # [slots of the lists, H, D]
    query_slots,  # int32 [C, list_length]
    key_index,  # int32 [K]
    tiles,  # int32 [C, num_tiles, TILE_FIELDS]: of the query lists
    num_tiles,
    list_length,
    first_slot,  # the slot of dq's first row
    scale,
    KV_HEADS: tl.constexpr,
    G: tl.constexpr,
    D: tl.constexpr,
    SLOTS: tl.constexpr,
    LISTS: tl.constexpr,
    HAS_SLOTS: tl.constexpr,
    HAS_KEY_INDEX: tl.constexpr,
    WIDE: tl.constexpr,
    PRECISION: tl.constexpr,
    PEELED: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    kv_head = tl.program_id(1)
    list_index = kv_head if LISTS > 1 else 0
    segment, first, last, key_first, key_last = load_tile(tiles, list_index * num_tiles + tl.program_id(0))
    if segment < 0:
        return
    if HAS_SLOTS:
        query_slots += list_index * list_length

    scale_log2 = scale * LOG2E
    loop_first = key_first
    if PEELED:
        # The first tile takes the keys that fill no whole tile, and is loaded before the queries: their slots take
        # a memory latency more.
        loop_first = key_first + (key_last - key_first - 1) % BLOCK_N + 1
        k_base, k_offsets, k_mask = key_rows(
            key_first, loop_first, kv_head, key_index, True, HAS_KEY_INDEX, WIDE, KV_HEADS, BLOCK_N
        )
        k_tile = load_rows(k, k_base, k_offsets, k_mask, True, D, BLOCK_D)  # [BLOCK_N, BLOCK_D]
        v_tile = load_rows(v, k_base, k_offsets, k_mask, True, D, BLOCK_D)
    base, offsets, mask = query_rows(
        first, last, kv_head, query_slots, True, SLOTS, HAS_SLOTS, WIDE, KV_HEADS, G, BLOCK_G, BLOCK_M
    )
    q_tile = load_rows(q, base, offsets, mask, True, D, BLOCK_D)  # [BLOCK_M, BLOCK_D]
    do_tile = load_rows(do, base, offsets, mask, True, D, BLOCK_D)
    row_lse, row_delta = load_terms(terms, base, offsets, mask, True)

    accumulator = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    if PEELED:
        accumulator = _query_gradient(
            q_tile, do_tile, k_tile, v_tile, row_lse, row_delta, accumulator, scale_log2, k_mask, True, PRECISION
        )
    MASKED: tl.constexpr = not PEELED
    for start in range(loop_first, key_last, BLOCK_N):
        k_base, k_offsets, k_mask = key_rows(
            start, key_last, kv_head, key_index, MASKED, HAS_KEY_INDEX, WIDE, KV_HEADS, BLOCK_N
        )
        k_tile = load_rows(k, k_base, k_offsets, k_mask, MASKED, D, BLOCK_D)
        v_tile = load_rows(v, k_base, k_offsets, k_mask, MASKED, D, BLOCK_D)
        accumulator = _query_gradient(
            q_tile, do_tile, k_tile, v_tile, row_lse, row_delta, accumulator, scale_log2, k_mask, MASKED, PRECISION
        )

    if HAS_SLOTS:
        offsets = slot_rows(query_slots, first, first_slot, mask, WIDE, KV_HEADS * G, BLOCK_G, BLOCK_M)
    store_rows(dq, base, offsets, accumulator * scale, mask, D, BLOCK_D)


@triton.jit
def _key_gradients(
    k_tile,  # [BLOCK_N, BLOCK_D]
    v_tile,  # [BLOCK_N, BLOCK_D]
    q_tile,  # [BLOCK_M, BLOCK_D]
    do_tile,  # [BLOCK_M, BLOCK_D]
    row_lse,  # fp32 [BLOCK_M], base 2; inf where masked, which makes p zero
    row_delta,  # fp32 [BLOCK_M]
    dk_tile,  # fp32 [BLOCK_N, BLOCK_D]
    dv_tile,  # fp32 [BLOCK_N, BLOCK_D]
    scale_log2,
    PRECISION: tl.constexpr,
):
    scores = tl.dot(k_tile, tl.trans(q_tile), input_precision=PRECISION)  # [BLOCK_N, BLOCK_M]
    dp = tl.dot(v_tile, tl.trans(do_tile), input_precision=PRECISION)
    p = tl.exp2(scores * scale_log2 - row_lse[None, :])
    dv_tile = tl.dot(p.to(do_tile.dtype), do_tile, dv_tile, input_precision=PRECISION)
    ds = p * (dp - row_delta[None, :])
    dk_tile = tl.dot(ds.to(q_tile.dtype), q_tile, dk_tile, input_precision=PRECISION)
    return dk_tile, dv_tile


@triton.jit
def _split_of_list(bounds, split, splits, TOKENS: tl.constexpr):
    """First and last + 1 position of a split, in whole tiles, of the list between two offsets."""
    first = tl.load(bounds)
    last = tl.load(bounds + 1)
    length = tl.cdiv(tl.cdiv(last - first, TOKENS), splits) * TOKENS
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
    scale_log2,
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
            k_tile, v_tile, q_tile, do_tile, row_lse, row_delta, dk_tile, dv_tile, scale_log2, PRECISION
        )
    if PEELED and loop_last < last:
        base, offsets, mask = query_rows(
            loop_last, last, kv_head, query_slots, True, SLOTS, HAS_SLOTS, WIDE, KV_HEADS, G, BLOCK_G, BLOCK_M
        )
        q_tile = load_rows(q, base, offsets, mask, True, D, BLOCK_D)
        do_tile = load_rows(do, base, offsets, mask, True, D, BLOCK_D)
        row_lse, row_delta = load_terms(terms, base, offsets, mask, True)
        dk_tile, dv_tile = _key_gradients(
            k_tile, v_tile, q_tile, do_tile, row_lse, row_delta, dk_tile, dv_tile, scale_log2, PRECISION
        )
    return dk_tile, dv_tile


@triton.jit(do_not_specialize=["list_length", "num_segments", "num_keys", "parts", "parts_a_share", "splits"])
def _segment_dkv_kernel(
    q,  # [N, H, D]
    k,  # [K, Hkv, D]
    v,  # [K, Hkv, D]
    do,  # [N, H, D]
    terms,  # fp32 [N, H, 2]: base-2 LSE and delta
    dk,  # fp32 [shares, K, Hkv, D]
    dv,  # fp32 [shares, K, Hkv, D]
    query_slots,  # int32 [C, list_length]
    query_offsets,  # int32 [P, C, num_segments + 1]
    key_index,  # int32 [K]
    tiles,  # int32 [num_tiles, TILE_FIELDS]: of the keys
    list_length,
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
    PRECISION: tl.constexpr,
    PEELED: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    kv_head = tl.program_id(1)
    share = tl.program_id(2)
    segment, key_first, key_last, _, _ = load_tile(tiles, tl.program_id(0))
    if segment < 0:
        return
    list_index = kv_head if LISTS > 1 else 0
    k_base, k_offsets, k_mask = key_rows(
        key_first, key_last, kv_head, key_index, True, HAS_KEY_INDEX, WIDE, KV_HEADS, BLOCK_N
    )
    k_tile = load_rows(k, k_base, k_offsets, k_mask, True, D, BLOCK_D)  # [BLOCK_N, BLOCK_D]
    v_tile = load_rows(v, k_base, k_offsets, k_mask, True, D, BLOCK_D)

    if HAS_SLOTS:
        query_slots += list_index * list_length
    dk_tile = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    dv_tile = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    scale_log2 = scale * LOG2E
    # This program's share of the segment's queries: of its parts of the tokens one split each, in whole tiles.
    bounds = query_offsets + list_index * (num_segments + 1) + segment
    first_part = share // splits * parts_a_share
    split = share % splits
    if SEVERAL_PARTS:
        for part in range(first_part, tl.minimum(first_part + parts_a_share, parts)):
            first, last = _split_of_list(bounds + part * LISTS * (num_segments + 1), split, splits, BLOCK_M // BLOCK_G)
            dk_tile, dv_tile = _add_list(
                *(q, do, terms, k_tile, v_tile, dk_tile, dv_tile, query_slots, first, last, kv_head, scale_log2),
                *(SLOTS, HAS_SLOTS, WIDE, KV_HEADS, G, D, PRECISION, PEELED, BLOCK_G, BLOCK_D, BLOCK_M),
            )
    else:  # a loop of one turn would cost registers
        first, last = _split_of_list(
            bounds + first_part * LISTS * (num_segments + 1), split, splits, BLOCK_M // BLOCK_G
        )
        dk_tile, dv_tile = _add_list(
            *(q, do, terms, k_tile, v_tile, dk_tile, dv_tile, query_slots, first, last, kv_head, scale_log2),
            *(SLOTS, HAS_SLOTS, WIDE, KV_HEADS, G, D, PRECISION, PEELED, BLOCK_G, BLOCK_D, BLOCK_M),
        )

    k_base += share.to(tl.int64) * num_keys * KV_HEADS
    store_rows(dk, k_base, k_offsets, dk_tile * scale, k_mask, D, BLOCK_D)
    store_rows(dv, k_base, k_offsets, dv_tile, k_mask, D, BLOCK_D)


@triton.jit(do_not_specialize=["gate_column"])
def _output_gradient_kernel(
    do,  # [N, H, D]: gradient of the gated sum
    o,  # [N, H, D]: output of one branch
    lse,  # fp32 [N, H], natural
    gates,  # [N, 3], with GATED
    gate_column,
    branch_do,  # [N, H, D], with GATED: gradient of o
    dgates,  # [N, 3], with GATED
    terms,  # fp32 [N, H, 2]
    H: tl.constexpr,
    D: tl.constexpr,
    GATED: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    head = tl.arange(0, BLOCK_H)
    mask = head < H
    row = token * H
    gradient = load_rows(do, row, head, mask, True, D, BLOCK_D).to(tl.float32)  # [BLOCK_H, BLOCK_D]
    output = load_rows(o, row, head, mask, True, D, BLOCK_D).to(tl.float32)
    if GATED:
        column = token * 3 + gate_column
        tl.store(dgates + column, tl.sum(gradient * output).to(dgates.dtype.element_ty))
        # Rounded as it is stored, so that delta matches it.
        gradient = (gradient * tl.load(gates + column).to(tl.float32)).to(branch_do.dtype.element_ty)
        store_rows(branch_do, row, head, gradient, mask, D, BLOCK_D)
        gradient = gradient.to(tl.float32)
    out = terms + (row + head) * 2
    tl.store(out, tl.load(lse + row + head, mask=mask) * LOG2E, mask=mask)
    tl.store(out + 1, tl.sum(gradient * output, 1), mask=mask)


def output_gradient(
    do: Tensor,
    o: Tensor,
    lse: Tensor,
    gates: Tensor | None = None,
    dgates: Tensor | None = None,
    gate_column: int = 0,
) -> tuple[Tensor, Tensor]:
    """What `segment_dq` and `segment_dkv` need of one branch.

    Args:
        do: [N, H, D], gradient of the gated sum (of the branch's output itself where `gates` is None).
        o: [N, H, D], the branch's output. lse: natural, fp32 [N, H].
        gates, dgates: [N, 3]; the branch's column of `dgates` is filled.

    Returns:
        The gradient of o in do's dtype, and fp32 [N, H, 2]: the base-2 LSE and delta = rowsum(gradient * o).
    """
    num_tokens, heads, head_dim = o.shape
    branch_do = do if gates is None else torch.empty_like(do)
    terms = torch.empty(num_tokens, heads, 2, dtype=torch.float32, device=o.device)
    if num_tokens:
        _output_gradient_kernel[(num_tokens,)](
            *(do, o, lse, gates, gate_column, branch_do, dgates, terms),
            H=heads,
            D=head_dim,
            GATED=gates is not None,
            BLOCK_H=padded(heads),
            BLOCK_D=padded(head_dim),
            num_warps=4,
        )
    return branch_do, terms


def segment_dq(
    do: Tensor, q: Tensor, k: Tensor, v: Tensor, terms: Tensor, segments: Segments, scale: float, part: int = 0
) -> Tensor:
    """Query gradients by slot of one part of the query lists.

    Args:
        do, q: [N, H, D]. k, v: [K, Hkv, D]. terms: of the branch, see `output_gradient`.

    Returns:
        [slots of the part, H, D] in q's dtype; slots that no segment lists are left unwritten.
    """
    _, heads, head_dim = q.shape
    kv_heads = k.shape[1]
    first, last = segments.slot_range(part, q.shape[0])
    dq = torch.empty(last - first, heads, head_dim, dtype=q.dtype, device=q.device)
    if first == last:
        return dq
    config = segment_config("dq", segments, q)
    block_tokens = config.block_m // padded(heads // kv_heads)
    tiles = tile_list(segments.query_offsets[part], segments.key_offsets, block_tokens, last - first)
    _segment_dq_kernel[(tiles.shape[1], kv_heads)](
        *(q, k, v, do, terms, dq, segments.query_slots, segments.key_index, tiles, tiles.shape[1]),
        *(q.shape[0] * segments.slots, first, scale),
        **segment_constants(q, k, segments),
        **config.launch_arguments(),
    )
    return dq


def segment_dkv(
    do: Tensor, q: Tensor, k: Tensor, v: Tensor, terms: Tensor, segments: Segments, scale: float
) -> tuple[Tensor, Tensor]:
    """dk, dv fp32 [K, Hkv, D] of all parts. Arguments as `segment_dq`."""
    num_tokens, _, head_dim = q.shape
    num_keys, kv_heads, _ = k.shape
    if num_tokens == 0:
        return torch.zeros_like(k, dtype=torch.float32), torch.zeros_like(v, dtype=torch.float32)
    config = segment_config("dkv", segments, q)
    # The other side of a key tile is read from the parts' offsets.
    tiles = tile_list(segments.key_offsets[None], segments.key_offsets, config.block_n, num_keys)
    num_tiles, length = tiles.shape[1], num_tokens * segments.slots
    parts = segments.parts
    parts_a_share = -(-parts // _MOST_PART_SHARES)
    part_shares = -(-parts // parts_a_share)
    splits = max(
        1, min(_PROGRAMS // (num_tiles * kv_heads * part_shares), triton.cdiv(length, config.block_m), _MAX_SPLITS)
    )
    shares = part_shares * splits
    dk = torch.empty(shares, num_keys, kv_heads, head_dim, dtype=torch.float32, device=q.device)
    dv = torch.empty_like(dk)
    _segment_dkv_kernel[(num_tiles, kv_heads, shares)](
        *(q, k, v, do, terms, dk, dv),
        *(segments.query_slots, segments.query_offsets, segments.key_index, tiles),
        *(length, segments.count, num_keys, parts, parts_a_share, splits, scale),
        **segment_constants(q, k, segments),
        SEVERAL_PARTS=parts_a_share > 1,
        **config.launch_arguments(),
    )
    return (dk[0], dv[0]) if shares == 1 else (dk.sum(0), dv.sum(0))
