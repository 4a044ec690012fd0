"""Block scores and top-k: which selection blocks each token attends to.

The compressed probabilities are recomputed from q, k_cmp and the saved LSE, summed over the group on chip, and written
for a chunk of tokens at a time, so memory does not grow with N x M. A second kernel adds up each selection block's
compression blocks in a fixed order and keeps the best.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.triton.configs import padded, tile_config
from kernels.triton.primitives import LOG2E, key_rows, load_rows, load_tile, tile_list

# Bytes of fp32 scores alive at once: enough tokens that a launch fills the device many times over.
_SCORE_WORKSPACE = 512 * 2**20

# Marks a place among the best that no block has taken: above every block id.
_NO_BLOCK = tl.constexpr(2**30)


@triton.jit
def _store_probabilities(
    q_tile,  # [BLOCK_M, BLOCK_D]
    k_tile,  # [BLOCK_N, BLOCK_D]
    row_lse,  # fp32 [BLOCK_M], base 2
    scores,  # where the tile's first token and first key go
    num_cmp,
    scale_log2,
    mask,  # [BLOCK_N, TOKENS]
    PRECISION: tl.constexpr,
    TOKENS: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    logits = tl.dot(k_tile, tl.trans(q_tile), input_precision=PRECISION)  # [BLOCK_N, BLOCK_M]
    p = tl.exp2(logits * scale_log2 - row_lse[None, :])
    PAIR: tl.constexpr = 2 if BLOCK_G > 1 else 1
    p = tl.reshape(p, [BLOCK_N, BLOCK_G // PAIR, TOKENS, PAIR])
    by_token = tl.sum(tl.sum(p, 3), 1)  # [BLOCK_N, TOKENS]
    offsets = tl.arange(0, TOKENS)[None, :] * num_cmp + tl.arange(0, BLOCK_N)[:, None]
    tl.store(scores + offsets, by_token, mask=mask)


@triton.jit(do_not_specialize=["first_tile", "chunk_rows", "num_cmp"])
def _block_scores_kernel(
    q,  # [N, H, D]
    k_cmp,  # [M_cmp, Hkv, D]
    lse,  # fp32 [N, H], natural
    scores,  # fp32 [Hkv, chunk_rows, M_cmp]
    tiles,  # int32 [tiles, TILE_FIELDS]: of the tokens of each sample
    first_tile,
    chunk_rows,
    num_cmp,
    scale,
    KV_HEADS: tl.constexpr,
    G: tl.constexpr,
    D: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Compressed probability of each (token, compression block), summed over the heads of the group."""
    local_tile = tl.program_id(0)
    kv_head = tl.program_id(1)
    sample, first, last, key_first, key_last = load_tile(tiles, first_tile + local_tile)
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
    q_tile = load_rows(q, base, offsets, mask, True, D, BLOCK_D)  # [BLOCK_M, BLOCK_D]
    row_lse = tl.load(lse + base + offsets, mask=mask, other=float("inf")) * LOG2E
    scale_log2 = scale * LOG2E

    full_last = key_first + (key_last - key_first) // BLOCK_N * BLOCK_N
    # Rows past the sample's last token are written too: nobody reads them.
    scores += (kv_head.to(tl.int64) * chunk_rows + local_tile * TOKENS) * num_cmp
    for start in range(key_first, full_last, BLOCK_N):
        k_base, k_offsets, key_mask = key_rows(start, key_last, kv_head, None, False, False, False, KV_HEADS, BLOCK_N)
        k_tile = load_rows(k_cmp, k_base, k_offsets, key_mask, False, D, BLOCK_D)  # [BLOCK_N, BLOCK_D]
        _store_probabilities(
            q_tile, k_tile, row_lse, scores + start, num_cmp, scale_log2, None, PRECISION, TOKENS, BLOCK_G, BLOCK_N
        )
    if full_last < key_last:
        k_base, k_offsets, key_mask = key_rows(
            full_last, key_last, kv_head, None, True, False, False, KV_HEADS, BLOCK_N
        )
        k_tile = load_rows(k_cmp, k_base, k_offsets, key_mask, True, D, BLOCK_D)
        key_mask = key_mask[:, None]
        scores += full_last
        _store_probabilities(
            q_tile, k_tile, row_lse, scores, num_cmp, scale_log2, key_mask, PRECISION, TOKENS, BLOCK_G, BLOCK_N
        )


@triton.jit
def _selection_scores(row_scores, selection_compression, block, mask, NESTED: tl.constexpr):
    """Scores of selection blocks: their compression blocks added up in order; -1 where masked."""
    begin = tl.load(selection_compression + block, mask=mask, other=0)
    end = tl.load(selection_compression + block + 1, mask=mask, other=0)
    score = tl.zeros(block.shape, tl.float32)
    for inner in range(NESTED):
        score += tl.load(row_scores + begin + inner, mask=begin + inner < end, other=0.0)
    return tl.where(mask, score, -1.0)


@triton.jit(do_not_specialize=["first_tile", "chunk_rows", "num_cmp", "num_tokens"])
def _top_blocks_kernel(
    scores,  # fp32 [Hkv, chunk_rows, M_cmp]
    block_indices,  # int32 [Hkv, N, TOPK]
    cu_selection,  # int32 [B + 1]
    selection_compression,  # int32 [M_slc + 1]
    tiles,  # int32 [tiles, TILE_FIELDS]: of the tokens of each sample
    first_tile,
    chunk_rows,
    num_cmp,
    num_tokens,
    TOPK: tl.constexpr,
    NESTED: tl.constexpr,  # most compression blocks in a selection block
    TOKENS: tl.constexpr,  # tokens a tile
    BLOCK_K: tl.constexpr,
    GROUPS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """The TOPK best selection blocks of one token, best first, ties to the lower id, padded with -1.

    Blocks are dealt out to groups, and of each group only the best is kept. The best of those is taken, and its group
    alone read again: taking a block costs a group, not a row.
    """
    local_row = tl.program_id(0)
    kv_head = tl.program_id(1)
    sample, first_token, end, _, _ = load_tile(tiles, first_tile + local_row // TOKENS)
    token = first_token + local_row % TOKENS
    if (sample < 0) | (token >= end):
        return
    scores += (kv_head.to(tl.int64) * chunk_rows + local_row) * num_cmp

    group = tl.arange(0, GROUPS)
    member = tl.arange(0, WIDTH)
    rank = tl.arange(0, BLOCK_K)
    best_score = tl.full([BLOCK_K], -1.0, tl.float32)
    best_block = _NO_BLOCK + rank
    last = tl.load(cu_selection + sample + 1)
    for start in range(tl.load(cu_selection + sample), last, WIDTH * GROUPS):
        blocks = start + tl.arange(0, WIDTH * GROUPS)
        row = _selection_scores(scores, selection_compression, blocks, blocks < last, NESTED)
        row = tl.reshape(row, [WIDTH, GROUPS])
        group_score = tl.max(row, 0)
        blocks = tl.reshape(blocks, [WIDTH, GROUPS])
        group_block = tl.min(tl.where(row == group_score[None, :], blocks, _NO_BLOCK), 0)
        found = tl.max(group_score, 0)
        worst = tl.min(best_score, 0)
        while found > worst:
            taken = tl.min(tl.where(group_score == found, group_block, _NO_BLOCK), 0)
            # Among equals the highest id gives way.
            replaced = best_block == tl.max(tl.where(best_score == worst, best_block, -1), 0)
            best_score = tl.where(replaced, found, best_score)
            best_block = tl.where(replaced, taken, best_block)
            # What the group has left: blocks are taken in order, so it comes after the one just taken.
            members = start + (taken - start) % GROUPS + member * GROUPS
            score = _selection_scores(scores, selection_compression, members, members < last, NESTED)
            score = tl.where((score < found) | ((score == found) & (members > taken)), score, -1.0)
            next_score = tl.max(score, 0)
            next_block = tl.min(tl.where(score == next_score, members, _NO_BLOCK), 0)
            changed = group == (taken - start) % GROUPS
            group_score = tl.where(changed, next_score, group_score)
            group_block = tl.where(changed, next_block, group_block)
            found = tl.max(group_score, 0)
            worst = tl.min(best_score, 0)

    out = block_indices + (kv_head.to(tl.int64) * num_tokens + token) * TOPK
    for position in range(TOPK):
        score = tl.max(best_score, 0)
        block = tl.min(tl.where(best_score == score, best_block, 2 * _NO_BLOCK - 1), 0)
        tl.store(out + position, tl.where(score < 0, -1, block))
        best_score = tl.where(best_block == block, -2.0, best_score)


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
    chunk_tiles = min(num_tiles, max(1, _SCORE_WORKSPACE // (4 * kv_heads * num_cmp * tokens)))
    scores = torch.empty(kv_heads, chunk_tiles * tokens, num_cmp, dtype=torch.float32, device=q.device)
    for first_tile in range(0, num_tiles, chunk_tiles):
        launched = min(chunk_tiles, num_tiles - first_tile)
        _block_scores_kernel[(launched, kv_heads)](
            *(q, k_cmp, lse, scores, tiles, first_tile, chunk_tiles * tokens, num_cmp, scale),
            KV_HEADS=kv_heads,
            G=heads // kv_heads,
            D=head_dim,
            PRECISION="ieee" if q.dtype == torch.float32 else "tf32",
            BLOCK_G=block_g,
            BLOCK_D=padded(head_dim),
            BLOCK_M=config.block_m,
            BLOCK_N=config.block_n,
            num_warps=config.num_warps,
            num_stages=config.num_stages,
        )
        _top_blocks_kernel[(launched * tokens, kv_heads)](
            *(scores, block_indices, cu_selection, selection_compression, tiles),
            *(first_tile, chunk_tiles * tokens, num_cmp, num_tokens),
            TOPK=topk,
            NESTED=nested,
            TOKENS=tokens,
            BLOCK_K=padded(topk),
            GROUPS=32,
            WIDTH=8,
            num_warps=1,
        )
    return block_indices
