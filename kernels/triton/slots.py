"""Partial results by slot: merged by their LSE in forward, added up in backward.

Both kernels take the tokens of one part (see `kernels.segments`), one token a program.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from kernels.triton.configs import padded
from kernels.triton.primitives import LN2, LOG2E, load_rows, store_rows


@triton.jit(do_not_specialize=["first_token", "num_tokens"])
def _merge_slots_kernel(
    part,  # [tokens of the part, S, H, D], in the first unit
    part_lse,  # [tokens of the part, S, H], in `lse_dtype`
    block_indices,  # int32 [Hkv, N, S]
    units,  # fp32 [1], or [2]: of v and v_cmp
    kept,  # [N, H, D], in the first unit
    lse,  # [N, H], in `lse_dtype`
    o,  # [N, H, D]
    kept_cmp,  # [N, H, D], with GATED, in the second unit
    kept_win,  # in the first
    gates,  # [N, 3]
    first_token,
    num_tokens,
    H: tl.constexpr,
    G: tl.constexpr,
    D: tl.constexpr,
    S: tl.constexpr,
    GATED: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Merge a token's slots by their LSE; with GATED o is the sum of the three gated branches."""
    local_token = tl.program_id(0).to(tl.int64)
    token = local_token + first_token
    head = tl.arange(0, BLOCK_H)
    head_mask = head < H
    choice = block_indices + ((head // G).to(tl.int64) * num_tokens + token) * S
    row = token * H

    largest = tl.full([BLOCK_H], -float("inf"), part_lse.dtype.element_ty)
    for slot in range(S):
        used = head_mask & (tl.load(choice + slot, mask=head_mask, other=-1) >= 0)
        slot_lse = tl.load(part_lse + (local_token * S + slot) * H + head, mask=used, other=-float("inf"))
        largest = tl.maximum(largest, slot_lse)
    # A token without a block has largest = -inf, total = 0, and an output of zero.
    reference = tl.where(largest == -float("inf"), 0.0, largest)
    total = tl.zeros([BLOCK_H], tl.float32)
    accumulator = tl.zeros([BLOCK_H, BLOCK_D], tl.float32)
    for slot in range(S):
        used = head_mask & (tl.load(choice + slot, mask=head_mask, other=-1) >= 0)
        slot_row = (local_token * S + slot) * H
        slot_lse = tl.load(part_lse + slot_row + head, mask=used, other=-float("inf"))
        weight = tl.exp2(((slot_lse - reference) * LOG2E).to(tl.float32))
        total += weight
        accumulator += weight[:, None] * load_rows(part, slot_row, head, used, True, D, BLOCK_D).to(tl.float32)
    divisor = tl.where(total == 0.0, 1.0, total)
    merged = accumulator / divisor[:, None]
    store_rows(kept, row, head, merged, head_mask, D, BLOCK_D)
    tl.store(lse + row + head, largest + tl.log2(divisor) * LN2, mask=head_mask)
    unit = tl.load(units)
    if GATED:
        gate = gates + token * 3
        compressed = load_rows(kept_cmp, row, head, head_mask, True, D, BLOCK_D).to(tl.float32)
        window = load_rows(kept_win, row, head, head_mask, True, D, BLOCK_D).to(tl.float32)
        merged = tl.load(gate + 1).to(tl.float32) * unit * merged
        merged += tl.load(gate).to(tl.float32) * tl.load(units + 1) * compressed
        merged += tl.load(gate + 2).to(tl.float32) * unit * window
    else:
        merged *= unit
    store_rows(o, row, head, merged, head_mask, D, BLOCK_D)


@triton.jit(do_not_specialize=["first_token", "num_tokens"])
def _sum_slots_kernel(
    part,  # [tokens of the part, S, H, D]
    block_indices,  # int32 [Hkv, N, S]
    dq,  # [N, H, D]; with BRANCHES it holds the compressed branch's and is added to
    dq_win,  # [N, H, D], with BRANCHES
    first_token,
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
    local_token = tl.program_id(0).to(tl.int64)
    token = local_token + first_token
    head = tl.arange(0, BLOCK_H)
    head_mask = head < H
    choice = block_indices + ((head // G).to(tl.int64) * num_tokens + token) * S
    accumulator = tl.zeros([BLOCK_H, BLOCK_D], tl.float32)
    for slot in range(S):
        used = head_mask & (tl.load(choice + slot, mask=head_mask, other=-1) >= 0)
        accumulator += load_rows(part, (local_token * S + slot) * H, head, used, True, D, BLOCK_D).to(tl.float32)
    if BRANCHES:
        accumulator += load_rows(dq, token * H, head, head_mask, True, D, BLOCK_D).to(tl.float32)
        accumulator += load_rows(dq_win, token * H, head, head_mask, True, D, BLOCK_D).to(tl.float32)
    store_rows(dq, token * H, head, accumulator, head_mask, D, BLOCK_D)


def merge_slots(
    part: Tensor,
    part_lse: Tensor,
    block_indices: Tensor,
    tokens: tuple[int, int],
    units: Tensor,
    kept: Tensor,
    lse: Tensor,
    o: Tensor,
    branches: tuple[Tensor, Tensor, Tensor] | None = None,
) -> None:
    """Merge the slots of a range of tokens by their LSE into `kept`, `lse` and `o`.

    Args:
        part: [tokens * S, H, D], kept outputs of slots. part_lse: [tokens * S, H], in `lse_dtype`.
        block_indices: int32 [Hkv, N, S]; -1 marks unused slots.
        tokens: first and last + 1 token of the range.
        units: fp32 [1], of v; with `branches` [2], of v and v_cmp (`kept_outputs`).
        kept: [N, H, D]. lse: [N, H], in `lse_dtype`, -inf for a token without a block. o: [N, H, D], the merged output.
        branches: kept outputs of cmp and win [N, H, D], and gates [N, 3]: o becomes the gated sum of all three.
    """
    kv_heads, num_tokens, slots = block_indices.shape
    _, heads, head_dim = part.shape
    first, last = tokens
    if first == last:
        return
    kept_cmp, kept_win, gates = branches if branches is not None else (None, None, None)
    _merge_slots_kernel[(last - first,)](
        *(part, part_lse, block_indices, units, kept, lse, o, kept_cmp, kept_win, gates, first, num_tokens),
        H=heads,
        G=heads // kv_heads,
        D=head_dim,
        S=slots,
        GATED=branches is not None,
        BLOCK_H=padded(heads),
        BLOCK_D=padded(head_dim),
        num_warps=4,
    )


def sum_slots(
    part: Tensor, block_indices: Tensor, tokens: tuple[int, int], dq: Tensor, dq_win: Tensor | None = None
) -> None:
    """Add up the slots of a range of tokens into `dq` [N, H, D], which with `dq_win` already holds the compressed
    branch's gradient. Shapes as `merge_slots`.
    """
    kv_heads, num_tokens, slots = block_indices.shape
    _, heads, head_dim = part.shape
    first, last = tokens
    if first == last:
        return
    _sum_slots_kernel[(last - first,)](
        *(part, block_indices, dq, dq_win, first, num_tokens),
        H=heads,
        G=heads // kv_heads,
        D=head_dim,
        S=slots,
        BRANCHES=dq_win is not None,
        BLOCK_H=padded(heads),
        BLOCK_D=padded(head_dim),
        num_warps=4,
    )
