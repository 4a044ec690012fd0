"""Block scores and top-k: which selection blocks each token attends to.

The compressed probabilities are recomputed from q, k_cmp and the saved LSE and summed over the group on chip. A program
writes those of its tokens to a workspace, adds up each selection block's compression blocks in a fixed order and keeps
the best: while one program waits for scores, others on the same multiprocessor compute exponentials. The workspace
holds a chunk of the tokens, so memory does not grow with N x M.
"""

from __future__ import annotations

import re

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.triton.configs import padded, tile_config
from kernels.triton.primitives import LOG2E, exponential, key_rows, load_rows, load_tile, score_factor, tile_list

# Where no block is left: above every block id, and below every score (see `_ordered`).
_NO_BLOCK = tl.constexpr(2**30)
_NO_SCORE = tl.constexpr(-(2**30))
# A token's selection blocks are dealt out to so many groups, one for each lane of a warp.
_GROUPS = tl.constexpr(32)
# Tokens of a warp whose blocks are chosen at a time: as many as leave their scores in registers.
_TOKENS_A_WARP = 4
# Tiles of groups and tokens, [GROUPS, TOKENS] or [TOKENS, GROUPS]: the compiler should give each token a warp. Where
# addresses tell it nothing, Triton 3.6 has neighbouring lanes follow the first dimension, 3.7 to 3.9 the last; the
# other way round every sum of compression blocks and every maximum exchanges numbers between warps.
_GROUP_AXIS = 0 if tuple(map(int, re.findall(r"\d+", triton.__version__)[:2])) < (3, 7) else 1


@triton.jit
def _store_probabilities(
    q_tile,  # [BLOCK_D, BLOCK_M]
    k_tile,  # [BLOCK_N, BLOCK_D]
    row_lse,  # fp32 [BLOCK_M], as `score_factor` says
    scores,  # where the tile's first token and first key go
    num_cmp,
    factor,
    mask,  # [BLOCK_N, TOKENS]
    PRECISION: tl.constexpr,
    TOKENS: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    logits = tl.dot(k_tile, q_tile, input_precision=PRECISION)  # [BLOCK_N, BLOCK_M]
    p = exponential(logits * factor - row_lse[None, :], PRECISION)
    PAIR: tl.constexpr = 2 if BLOCK_G > 1 else 1
    p = tl.reshape(p, [BLOCK_N, BLOCK_G // PAIR, TOKENS, PAIR])
    by_token = tl.sum(tl.sum(p, 3), 1)  # [BLOCK_N, TOKENS]
    offsets = tl.arange(0, TOKENS)[None, :] * num_cmp + tl.arange(0, BLOCK_N)[:, None]
    tl.store(scores + offsets, by_token, mask=mask)


@triton.jit
def _along_groups(x, GROUP_AXIS: tl.constexpr):
    return x[:, None] if GROUP_AXIS == 0 else x[None, :]


@triton.jit
def _along_tokens(x, GROUP_AXIS: tl.constexpr):
    return x[None, :] if GROUP_AXIS == 0 else x[:, None]


@triton.jit
def _selection_scores(scores, selection_compression, block, mask, NESTED: tl.constexpr):
    """Scores of selection blocks: their compression blocks added up in order; -1 where masked.

    scores: pointers to the tokens' rows. They, block and mask broadcast to a tile of groups and tokens.
    """
    if NESTED == 1:  # then selection and compression blocks are the same
        return tl.load(scores + block, mask=mask, other=-1.0)
    begin = tl.load(selection_compression + block, mask=mask, other=0)
    end = tl.load(selection_compression + block + 1, mask=mask, other=0)
    places = scores + begin
    length = tl.broadcast_to(end - begin, places.shape)
    score = tl.zeros(places.shape, tl.float32)
    for inner in tl.static_range(NESTED):
        score += tl.load(places + inner, mask=inner < length, other=0.0)
    return tl.where(mask, score, -1.0)


@triton.jit
def _ordered(score):
    """Scores as integers of the same order: a warp finds the largest of its integers in one instruction."""
    return score.to(tl.int32, bitcast=True)  # none is negative but -1, where there is no block


@triton.jit
def _better(score, block, best_score, best_block):
    """The better of two blocks; the best one where they are equal."""
    better = score > best_score
    return tl.where(better, score, best_score), tl.where(better, block, best_block)


@triton.jit
def _best(score, block, GROUP_AXIS: tl.constexpr):
    """Highest score along the groups and the lowest block that has it."""
    best = tl.max(score, GROUP_AXIS, keep_dims=True)
    return best, tl.min(tl.where(score == best, block, _NO_BLOCK), GROUP_AXIS, keep_dims=True)


@triton.jit
def _store_best_blocks(
    scores,  # pointers to the tokens' rows of the workspace, along the tokens
    out,  # int32 pointers to the tokens' rows of the result, along the tokens
    token_mask,  # along the tokens
    first_block,
    last_block,  # of the sample's selection blocks
    selection_compression,
    TOPK: tl.constexpr,
    NESTED: tl.constexpr,  # most compression blocks in a selection block
    TOKENS: tl.constexpr,
    GROUP_AXIS: tl.constexpr,
):
    """The TOPK best selection blocks of each token, best first, ties to the lower id, padded with -1.

    Of each group of blocks the best is kept. The best of those is taken, and its group alone read again: taking a block
    costs a group, not a row.
    """
    lane = _along_groups(tl.arange(0, _GROUPS), GROUP_AXIS)
    SHAPE: tl.constexpr = (_GROUPS, TOKENS) if GROUP_AXIS == 0 else (TOKENS, _GROUPS)
    best_score = tl.full(SHAPE, _NO_SCORE, tl.int32)
    best_block = tl.full(SHAPE, _NO_BLOCK, tl.int32)
    for start in range(first_block, last_block, 2 * _GROUPS):
        # Two blocks of each group together: their loads overlap and share a barrier.
        block = start + lane
        mask = (block < last_block) & token_mask
        next_block = block + _GROUPS
        next_mask = (next_block < last_block) & token_mask
        score = _selection_scores(scores, selection_compression, block, mask, NESTED)
        next_score = _selection_scores(scores, selection_compression, next_block, next_mask, NESTED)
        if NESTED > 1:
            # Kept for reading again. A block has a compression block at least, so its own place never comes after
            # those of its compression blocks: what later iterations read is not written over.
            tl.debug_barrier()
            tl.store(scores + block, score, mask=mask)
            tl.store(scores + next_block, next_score, mask=next_mask)
        best_score, best_block = _better(_ordered(score), block, best_score, best_block)
        best_score, best_block = _better(_ordered(next_score), next_block, best_score, best_block)
    if NESTED > 1:
        tl.debug_barrier()

    for rank in range(TOPK):
        found, taken = _best(best_score, best_block, GROUP_AXIS)
        # Stored by one lane: all have it, and a vector along the tokens would be exchanged between warps.
        chosen = tl.broadcast_to(tl.where(found < 0, -1, taken), SHAPE)
        tl.store(tl.broadcast_to(out + rank, SHAPE), chosen, mask=token_mask & (lane == 0))
        group = (taken - first_block) % _GROUPS
        left_score = tl.full(SHAPE, _NO_SCORE, tl.int32)
        left_block = tl.full(SHAPE, _NO_BLOCK, tl.int32)
        if rank + 1 < TOPK:
            for start in range(first_block, last_block, _GROUPS * _GROUPS):
                block = start + group + lane * _GROUPS
                score = _ordered(tl.load(scores + block, mask=(block < last_block) & token_mask, other=-1.0))
                score = tl.where((score < found) | ((score == found) & (block > taken)), score, _NO_SCORE)
                left_score, left_block = _better(score, block, left_score, left_block)
        left_score, left_block = _best(left_score, left_block, GROUP_AXIS)
        best_score = tl.where(lane == group, left_score, best_score)
        best_block = tl.where(lane == group, left_block, best_block)


@triton.jit(do_not_specialize=["first_tile", "num_cmp", "num_tokens"])
def _select_blocks_kernel(
    q,  # [N, H, D]
    k_cmp,  # [M_cmp, Hkv, D]
    lse,  # fp32 [N, H], natural
    scores,  # fp32 [Hkv, tiles of a launch, TOKENS, M_cmp]
    block_indices,  # int32 [Hkv, N, TOPK]
    cu_selection,  # int32 [B + 1]
    selection_compression,  # int32 [M_slc + 1]
    tiles,  # int32 [tiles, TILE_FIELDS]: of the tokens of each sample
    first_tile,
    num_cmp,
    num_tokens,
    scale,
    KV_HEADS: tl.constexpr,
    G: tl.constexpr,
    D: tl.constexpr,
    PRECISION: tl.constexpr,
    TOPK: tl.constexpr,
    NESTED: tl.constexpr,
    SHARE: tl.constexpr,  # tokens whose blocks are chosen at a time
    GROUP_AXIS: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Compressed probability of each (token, compression block), summed over the heads of the group; then top-k."""
    kv_head = tl.program_id(1)
    sample, first, last, key_first, key_last = load_tile(tiles, first_tile + tl.program_id(0))
    if sample < 0:
        return
    TOKENS: tl.constexpr = BLOCK_M // BLOCK_G
    # The sum over the group should run along the registers of a thread. Keys are the rows of the product, and of each
    # row a thread holds two neighbours of every eight: so a token's heads come in pairs, the tokens' pairs in turn.
    PAIR: tl.constexpr = 2 if BLOCK_G > 1 else 1
    row = tl.arange(0, BLOCK_M)
    position = row // PAIR % TOKENS
    head = row // (PAIR * TOKENS) * PAIR + row % PAIR
    base = tl.cast(first, tl.int64) * (KV_HEADS * G) + kv_head * G
    offsets = position * (KV_HEADS * G) + head
    mask = (head < G) & (first + position < last)
    q_tile = tl.trans(load_rows(q, base, offsets, mask, True, D, BLOCK_D))  # [BLOCK_D, BLOCK_M]
    row_lse = tl.load(lse + base + offsets, mask=mask, other=float("inf"))
    if PRECISION != "ieee":
        row_lse *= LOG2E
    factor = score_factor(scale, PRECISION)

    full_last = key_first + (key_last - key_first) // BLOCK_N * BLOCK_N
    # Rows past the sample's last token are written too: nobody reads them.
    scores += (tl.program_id(0).to(tl.int64) * KV_HEADS + kv_head) * TOKENS * num_cmp
    place = scores + key_first
    for start in range(key_first, full_last, BLOCK_N):
        k_base, k_offsets, key_mask = key_rows(start, key_last, kv_head, None, False, False, False, KV_HEADS, BLOCK_N)
        k_tile = load_rows(k_cmp, k_base, k_offsets, key_mask, False, D, BLOCK_D)  # [BLOCK_N, BLOCK_D]
        _store_probabilities(q_tile, k_tile, row_lse, place, num_cmp, factor, None, PRECISION, TOKENS, BLOCK_G, BLOCK_N)
        place += BLOCK_N
    if full_last < key_last:
        k_base, k_offsets, key_mask = key_rows(
            full_last, key_last, kv_head, None, True, False, False, KV_HEADS, BLOCK_N
        )
        k_tile = load_rows(k_cmp, k_base, k_offsets, key_mask, True, D, BLOCK_D)
        key_mask = key_mask[:, None]
        _store_probabilities(
            *(q_tile, k_tile, row_lse, scores + full_last, num_cmp, factor, key_mask),
            *(PRECISION, TOKENS, BLOCK_G, BLOCK_N),
        )

    tl.debug_barrier()  # any thread of the program may read what another has written
    first_block = tl.load(cu_selection + sample)
    last_block = tl.load(cu_selection + sample + 1)
    block_indices += (kv_head.to(tl.int64) * num_tokens + first) * TOPK
    for turn in range(0, TOKENS, SHARE):
        local = turn + _along_tokens(tl.arange(0, SHARE), GROUP_AXIS)
        _store_best_blocks(
            *(scores + local * num_cmp, block_indices + local * TOPK, first + local < last),
            *(first_block, last_block, selection_compression, TOPK, NESTED, SHARE, GROUP_AXIS),
        )


def select_blocks(
    q: Tensor,
    k_cmp: Tensor,
    lse: Tensor,
    cu_seqlens: Tensor,
    cu_compression: Tensor,
    cu_selection: Tensor,
    selection_compression: Tensor,
    nested: int,
    topk: int,
    scale: float,
) -> Tensor:
    """int32 [Hkv, N, topk] from q [N, H, D], k_cmp [M_cmp, Hkv, D] and the compressed branch's LSE fp32 [N, H]."""
    num_tokens, heads, head_dim = q.shape
    num_cmp, kv_heads, _ = k_cmp.shape
    block_indices = torch.empty(kv_heads, num_tokens, topk, dtype=torch.int32, device=q.device)
    if num_tokens == 0:
        return block_indices
    config = tile_config("block_scores", head_dim, q.dtype, q.device)
    block_g = padded(heads // kv_heads)
    tokens = config.block_m // block_g
    tiles = tile_list(cu_seqlens[None], cu_compression, tokens, num_tokens)
    num_tiles = tiles.shape[1]
    chunk_tiles = min(num_tiles, max(1, _score_bytes(q) // (4 * kv_heads * num_cmp * tokens)))
    scores = torch.empty(kv_heads, chunk_tiles, tokens, num_cmp, dtype=torch.float32, device=q.device)
    for first_tile in range(0, num_tiles, chunk_tiles):
        _select_blocks_kernel[(min(chunk_tiles, num_tiles - first_tile), kv_heads)](
            *(q, k_cmp, lse, scores, block_indices, cu_selection, selection_compression, tiles),
            *(first_tile, num_cmp, num_tokens, scale),
            KV_HEADS=kv_heads,
            G=heads // kv_heads,
            D=head_dim,
            PRECISION="ieee" if q.dtype == torch.float32 else "tf32",
            TOPK=topk,
            NESTED=nested,
            SHARE=min(tokens, _TOKENS_A_WARP * config.num_warps),
            GROUP_AXIS=_GROUP_AXIS,
            BLOCK_G=block_g,
            BLOCK_D=padded(head_dim),
            BLOCK_M=config.block_m,
            BLOCK_N=config.block_n,
            num_warps=config.num_warps,
            num_stages=config.num_stages,
        )
    return block_indices


def _score_bytes(q: Tensor) -> int:
    """Bytes of fp32 scores alive at once: enough tokens that few launches end with an idle device. What a training step
    needs at its peak is about as much with them as in its backward (131,072 tokens, compression blocks of 4).
    """
    return max(2**31, 2 * q.numel() * q.element_size())
