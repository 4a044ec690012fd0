"""Forward of segment attention: the queries of a segment against its keys.

Softmax needs a number near the row's largest score, to keep exponentials in range; it need not be the largest. The
kernel takes the largest of the first tile of keys and stays with it, which saves the running maximum and the rescaling
of the accumulator, a third of the loop's instructions. Where later scores are so much larger that this fails, the tile
is computed again with a running maximum.

On Hopper the selected branch goes to `hopper_selected` instead, where `hopper.supported` says so.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.segments import Segments
from kernels.triton import hopper
from kernels.triton.configs import padded, segment_config
from kernels.triton.kept_outputs import kept_dtype, lse_dtype
from kernels.triton.primitives import (
    LN2,
    exponential,
    key_rows,
    load_rows,
    load_tile,
    query_rows,
    score_factor,
    slot_rows,
    store_rows,
    tile_list,
)

# A tensor of so many elements needs 64-bit offsets where its rows are gathered.
_WIDE_ELEMENTS = 2**31
# Below every score; finite, so that differences are never NaN.
_LOWEST = tl.constexpr(-1e38)


@triton.jit
def _attend_first(
    q_tile,  # [BLOCK_M, BLOCK_D]
    k_tile,  # [BLOCK_N, BLOCK_D]
    v_tile,  # [BLOCK_N, BLOCK_D]
    factor,
    key_mask,  # [BLOCK_N], true for at least one key
    HEADROOM: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """reference, total fp32 [BLOCK_M] and accumulator fp32 [BLOCK_M, BLOCK_D] of the first tile of keys.

    HEADROOM: by how much the reference is above the largest score, in base 2 (0 in fp32).
    """
    scores = tl.dot(q_tile, tl.trans(k_tile), input_precision=PRECISION) * factor  # [BLOCK_M, BLOCK_N]
    scores = tl.where(key_mask[None, :], scores, _LOWEST)
    reference = tl.max(scores, 1) + HEADROOM
    p = exponential(scores - reference[:, None], PRECISION)
    return reference, tl.sum(p, 1), tl.dot(p.to(v_tile.dtype), v_tile, input_precision=PRECISION)


@triton.jit
def _attend(
    q_tile,
    k_tile,
    v_tile,
    reference,  # fp32 [BLOCK_M], a score
    total,  # fp32 [BLOCK_M]
    accumulator,  # fp32 [BLOCK_M, BLOCK_D]
    factor,
    PRECISION: tl.constexpr,
):
    """Adds a tile of keys to a softmax with a fixed reference."""
    scores = tl.dot(q_tile, tl.trans(k_tile), input_precision=PRECISION)  # [BLOCK_M, BLOCK_N]
    p = exponential(scores * factor - reference[:, None], PRECISION)
    accumulator = tl.dot(p.to(v_tile.dtype), v_tile, accumulator, input_precision=PRECISION)
    return total + tl.sum(p, 1), accumulator


@triton.jit
def _attend_running(
    q_tile,
    k_tile,
    v_tile,
    largest,  # fp32 [BLOCK_M], a score
    total,
    accumulator,
    factor,
    key_mask,
    PRECISION: tl.constexpr,
):
    """Adds a tile of keys to a softmax with a running maximum, to begin with `_LOWEST`, 0 and 0."""
    scores = tl.dot(q_tile, tl.trans(k_tile), input_precision=PRECISION) * factor  # [BLOCK_M, BLOCK_N]
    scores = tl.where(key_mask[None, :], scores, _LOWEST)
    new_largest = tl.maximum(largest, tl.max(scores, 1))
    correction = exponential(largest - new_largest, PRECISION)
    p = exponential(scores - new_largest[:, None], PRECISION)
    accumulator = accumulator * correction[:, None]
    accumulator = tl.dot(p.to(v_tile.dtype), v_tile, accumulator, input_precision=PRECISION)
    return new_largest, total * correction + tl.sum(p, 1), accumulator


@triton.jit
def _attend_all(
    q_tile,  # [BLOCK_M, BLOCK_D]
    k,  # [K, Hkv, D]
    v,  # [K, Hkv, D]
    key_first,
    key_last,
    kv_head,
    key_index,  # int32 [K], or None
    factor,
    HAS_KEY_INDEX: tl.constexpr,
    WIDE: tl.constexpr,
    PRECISION: tl.constexpr,
    KV_HEADS: tl.constexpr,
    D: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """The softmax over all keys of a segment with a running maximum, without a pipeline.

    The registers of a kernel are those of its hungriest part: where this is the rare part, BLOCK_N should be small.
    """
    BLOCK_M: tl.constexpr = q_tile.shape[0]
    BLOCK_D: tl.constexpr = q_tile.shape[1]
    largest = tl.full([BLOCK_M], _LOWEST, tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    accumulator = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    for start in tl.range(key_first, key_last, BLOCK_N, num_stages=1):
        base, offsets, key_mask = key_rows(
            start, key_last, kv_head, key_index, True, HAS_KEY_INDEX, WIDE, KV_HEADS, BLOCK_N
        )
        k_tile = load_rows(k, base, offsets, key_mask, True, D, BLOCK_D)  # [BLOCK_N, BLOCK_D]
        v_tile = load_rows(v, base, offsets, key_mask, True, D, BLOCK_D)
        largest, total, accumulator = _attend_running(
            q_tile, k_tile, v_tile, largest, total, accumulator, factor, key_mask, PRECISION
        )
    return largest, total, accumulator


@triton.jit(do_not_specialize=["num_tiles", "list_length", "first_slot"])
def _segment_forward_kernel(
    q,  # [N, H, D]
    k,  # [K, Hkv, D]
    v,  # [K, Hkv, D]
    kept,  # [slots of the lists, H, D]
    lse,  # [slots of the lists, H], in `lse_dtype`
    o,  # None, or as `kept`
    unit,  # fp32 [1], with o
    query_slots,  # int32 [C, list_length]
    key_index,  # int32 [K]
    tiles,  # int32 [C, num_tiles, TILE_FIELDS]: of the query lists
    num_tiles,
    list_length,
    first_slot,  # the slot of the first row
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
    QUERIES_IN_REGISTERS: tl.constexpr,
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
    if PEELED:
        # The first tile takes the keys that fill no whole tile, and is loaded before the queries: their slots take
        # a memory latency more.
        loop_first = key_first + (key_last - key_first - 1) % BLOCK_N + 1
        k_base, k_offsets, key_mask = key_rows(
            key_first, loop_first, kv_head, key_index, True, HAS_KEY_INDEX, WIDE, KV_HEADS, BLOCK_N
        )
        k_tile = load_rows(k, k_base, k_offsets, key_mask, True, D, BLOCK_D)  # [BLOCK_N, BLOCK_D]
        v_tile = load_rows(v, k_base, k_offsets, key_mask, True, D, BLOCK_D)
    base, offsets, mask = query_rows(
        first, last, kv_head, query_slots, True, SLOTS, HAS_SLOTS, WIDE, KV_HEADS, G, BLOCK_G, BLOCK_M
    )
    q_tile = load_rows(q, base, offsets, mask, True, D, BLOCK_D)  # [BLOCK_M, BLOCK_D]
    if QUERIES_IN_REGISTERS:  # what comes straight from a load goes to shared memory, anything computed does not
        q_tile = tl.where(mask[:, None], q_tile, 0.0)

    # Probabilities are multiplied in the type of v. fp16 rounds to multiples of 2^-24 at least, which is little beside
    # a total of 2^-8 and more, and to the other side it leaves 23 powers of two.
    HEADROOM: tl.constexpr = 8.0 if v.dtype.element_ty == tl.float16 else 0.0
    reference = tl.zeros([BLOCK_M], tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    accumulator = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    if PEELED:
        reference, total, accumulator = _attend_first(q_tile, k_tile, v_tile, factor, key_mask, HEADROOM, PRECISION)
        for start in range(loop_first, key_last, BLOCK_N):
            k_base, k_offsets, key_mask = key_rows(
                start, key_last, kv_head, key_index, False, HAS_KEY_INDEX, WIDE, KV_HEADS, BLOCK_N
            )
            k_tile = load_rows(k, k_base, k_offsets, key_mask, False, D, BLOCK_D)
            v_tile = load_rows(v, k_base, k_offsets, key_mask, False, D, BLOCK_D)
            total, accumulator = _attend(q_tile, k_tile, v_tile, reference, total, accumulator, factor, PRECISION)

    # The first tile's largest score gives a total that is no less, so nothing was lost below. Above, p must fit fp16;
    # in fp32 the difference from a reference that is far from a score is rounded more coarsely than the score.
    LIMIT: tl.constexpr = 2.0**15
    if not PEELED or tl.min((total < LIMIT).to(tl.int32), 0) == 0:
        reference, total, accumulator = _attend_all(
            *(q_tile, k, v, key_first, key_last, kv_head, key_index, factor),
            *(HAS_KEY_INDEX, WIDE, PRECISION, KV_HEADS, D, 16 if PEELED else BLOCK_N),
        )

    if HAS_SLOTS:
        offsets = slot_rows(query_slots, first, first_slot, mask, WIDE, KV_HEADS * G, BLOCK_G, BLOCK_M)
    if PRECISION == "ieee":  # before the result: after it the numbers in fp64 would be the registers too many
        lse_rows = lse + base + offsets
        tl.store(lse_rows, reference.to(tl.float64) + tl.log2(total).to(tl.float64) * LN2, mask=mask)
    result = accumulator * (1.0 / total)[:, None]
    store_rows(kept, base, offsets, result, mask, D, BLOCK_D)
    if o is not None:
        store_rows(o, base, offsets, result * tl.load(unit), mask, D, BLOCK_D)
    if PRECISION != "ieee":
        tl.store(lse + base + offsets, (reference + tl.log2(total)) * LN2, mask=mask)


def segment_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    segments: Segments,
    scale: float,
    part: int = 0,
    output: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Results of every slot of one part of the query lists.

    Args:
        q: [N, H, D]. k, v: [K, Hkv, D], v in units (`kept_outputs`). scale: of the dot products.
        output: where a token is its own slot, [N, H, D] to be filled with the output times a unit, and that unit,
            fp32 [1].

    Returns:
        The output as it is kept (`kept_outputs`) [slots of the part, H, D], and natural-log LSE in
        `lse_dtype` [slots of the part, H]. Slots that no segment lists are left unwritten.
    """
    _, heads, head_dim = q.shape
    kv_heads = k.shape[1]
    config = segment_config("forward", segments, q)
    first, last = segments.slot_range(part, q.shape[0])
    kept = torch.empty(last - first, heads, head_dim, dtype=kept_dtype(q.dtype), device=q.device)
    lse = torch.empty(last - first, heads, dtype=lse_dtype(q.dtype), device=q.device)
    if last == first:
        return kept, lse
    if segments.query_slots is not None and segments.key_index is None and hopper.supported(q, k, v):
        from kernels.triton.hopper_selected import hopper_selected_forward  # what it imports is not in every Triton

        hopper_selected_forward(q, k, v, segments, scale, part, kept, lse)
        return kept, lse
    block_tokens = config.block_m // padded(heads // kv_heads)
    tiles = tile_list(segments.query_offsets[part], segments.key_offsets, block_tokens, last - first)
    _segment_forward_kernel[(tiles.shape[1], kv_heads)](
        *(q, k, v, kept, lse, *(output or (None, None))),
        *(segments.query_slots, segments.key_index, tiles, tiles.shape[1]),
        *(q.shape[0] * segments.slots, first, scale),
        **segment_constants(q, k, segments),
        QUERIES_IN_REGISTERS=config.queries_in_registers,
        **config.launch_arguments(),
    )
    return kept, lse


def segment_constants(q: Tensor, k: Tensor, segments: Segments) -> dict[str, int | bool | str]:
    """The compile-time arguments that the segment kernels have in common."""
    _, heads, head_dim = q.shape
    kv_heads = k.shape[1]
    gathered = segments.query_slots is not None or segments.key_index is not None
    return {
        "KV_HEADS": kv_heads,
        "G": heads // kv_heads,
        "D": head_dim,
        "SLOTS": segments.slots,
        "LISTS": segments.query_offsets.shape[1],
        "HAS_SLOTS": segments.query_slots is not None,
        "HAS_KEY_INDEX": segments.key_index is not None,
        # Partial results by slot are smaller: `kernels.segments` bounds their bytes.
        "WIDE": gathered and q.numel() >= _WIDE_ELEMENTS,
        "PRECISION": "ieee" if q.dtype == torch.float32 else "tf32",
        "BLOCK_G": padded(heads // kv_heads),
        "BLOCK_D": padded(head_dim),
    }
