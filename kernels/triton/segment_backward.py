"""Backward of segment attention from the query side: dQ. `segment_dkv` computes dK and dV.

With p the final probabilities and dO the gradient of the branch's output:
dV = p^T dO,  dS = p (dO V^T - delta),  dQ = scale dS K,  dK = scale dS^T Q,  delta = rowsum(dO * o).
Both sides recompute p from q, k and the LSE (`gradient_terms`). The order of every sum is fixed, so gradients are
deterministic.

delta is off by the rounding of o (`kept_outputs`), so the rows of dS do not quite add up to zero, and dQ is off by the
sum times a mean of the keys. Trained compressed keys are nearly all mean: their dQ is computed from keys without it,
which have the same p, the LSE being less by what the mean adds to a score. (Keys of tokens differ too much to gain by
it.)
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.segments import Segments
from kernels.triton import hopper
from kernels.triton.configs import padded, segment_config
from kernels.triton.primitives import (
    key_rows,
    load_rows,
    load_terms,
    load_tile,
    probabilities,
    query_rows,
    score_factor,
    slot_rows,
    store_rows,
    tile_list,
)
from kernels.triton.segment_forward import segment_constants


@triton.jit
def _query_gradient(
    q_tile,  # [BLOCK_M, BLOCK_D]
    do_tile,  # [BLOCK_M, BLOCK_D]
    k_tile,  # [BLOCK_N, BLOCK_D]
    v_tile,  # [BLOCK_N, BLOCK_D]
    row_lse,  # [BLOCK_M], as `score_factor` says
    row_delta,  # fp32 [BLOCK_M]
    accumulator,  # fp32 [BLOCK_M, BLOCK_D]
    factor,
    key_mask,  # [BLOCK_N]
    MASKED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    scores = tl.dot(q_tile, tl.trans(k_tile), input_precision=PRECISION)  # [BLOCK_M, BLOCK_N]
    dp = tl.dot(do_tile, tl.trans(v_tile), input_precision=PRECISION)
    p = probabilities(scores * factor, row_lse[:, None], PRECISION)
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
    terms,  # [N, H, 2]: LSE and delta, in `lse_dtype`
    dq,  # [slots of the lists, H, D]
    query_slots,  # int32 [C, list_length]
    key_index,  # int32 [K]
    shift,  # [Hkv, D], with SHIFTED: what k lacks
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
    SHIFTED: tl.constexpr,
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

    factor = score_factor(scale, PRECISION)
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
    if SHIFTED:
        d = tl.arange(0, BLOCK_D)
        lacking = tl.load(shift + kv_head * D + d, mask=d < D, other=0.0).to(tl.float32)
        row_lse -= factor * tl.sum(q_tile.to(tl.float32) * lacking[None, :], 1)

    accumulator = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    if PEELED:
        accumulator = _query_gradient(
            q_tile, do_tile, k_tile, v_tile, row_lse, row_delta, accumulator, factor, k_mask, True, PRECISION
        )
    MASKED: tl.constexpr = not PEELED
    for start in range(loop_first, key_last, BLOCK_N):
        k_base, k_offsets, k_mask = key_rows(
            start, key_last, kv_head, key_index, MASKED, HAS_KEY_INDEX, WIDE, KV_HEADS, BLOCK_N
        )
        k_tile = load_rows(k, k_base, k_offsets, k_mask, MASKED, D, BLOCK_D)
        v_tile = load_rows(v, k_base, k_offsets, k_mask, MASKED, D, BLOCK_D)
        accumulator = _query_gradient(
            q_tile, do_tile, k_tile, v_tile, row_lse, row_delta, accumulator, factor, k_mask, MASKED, PRECISION
        )

    if HAS_SLOTS:
        offsets = slot_rows(query_slots, first, first_slot, mask, WIDE, KV_HEADS * G, BLOCK_G, BLOCK_M)
    store_rows(dq, base, offsets, accumulator * scale, mask, D, BLOCK_D)


def common_part(k: Tensor) -> Tensor:
    """[Hkv, D]: the mean of keys k [K, Hkv, D]; zero where they deviate by more than twice as much.

    Taking off less gains nothing, and costs every key a rounding. Zero too where a key is not finite: such a key
    concerns its own sample alone.
    """
    # Means of rows: reducing the first dimension of a few columns takes the device ten times longer.
    deviation, mean = torch.std_mean(k.permute(1, 2, 0).contiguous(), 2, correction=0)
    return torch.where(mean.abs() > deviation / 2, mean, 0.0)


def segment_dq(
    do: Tensor, q: Tensor, k: Tensor, v: Tensor, terms: Tensor, segments: Segments, scale: float, part: int = 0
) -> Tensor:
    """Query gradients by slot of one part of the query lists.

    Args:
        do, q: [N, H, D]. k, v: [K, Hkv, D]. terms: of the branch, see `gradient_terms`.

    Returns:
        [slots of the part, H, D] in q's dtype; slots that no segment lists are left unwritten.
    """
    _, heads, head_dim = q.shape
    kv_heads = k.shape[1]
    first, last = segments.slot_range(part, q.shape[0])
    dq = torch.empty(last - first, heads, head_dim, dtype=q.dtype, device=q.device)
    if first == last:
        return dq
    gluon = hopper.dq_config(do, q, k, v, terms, segments)
    if gluon is not None:
        from kernels.triton.hopper_dq import hopper_segment_dq  # what it imports is not in every Triton

        hopper_segment_dq(do, q, k, v, terms, segments, scale, part, gluon, dq)
        return dq
    config = segment_config("dq", segments, q)
    block_tokens = config.block_m // padded(heads // kv_heads)
    tiles = tile_list(segments.query_offsets[part], segments.key_offsets, block_tokens, last - first)
    # fp32 rounds delta too little to matter.
    shifted = segments.query_slots is None and q.dtype != torch.float32
    shift = common_part(k) if shifted else None
    _segment_dq_kernel[(tiles.shape[1], kv_heads)](
        *(q, k if shift is None else k - shift, v, do, terms, dq),
        *(segments.query_slots, segments.key_index, shift, tiles, tiles.shape[1]),
        *(q.shape[0] * segments.slots, first, scale),
        **segment_constants(q, k, segments),
        SHIFTED=shifted,
        **config.launch_arguments(),
    )
    return dq
