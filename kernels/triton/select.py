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
from kernels.triton.primitives import LOG2E, key_row_indices, load_rows, query_rows, tile_list

# Bytes of fp32 scores alive at once.
_SCORE_WORKSPACE = 256 * 2**20


@triton.jit(do_not_specialize=["first_tile", "chunk_rows", "num_cmp"])
def _block_scores_kernel(
    q,  # [N, H, D]
    k_cmp,  # [M_cmp, Hkv, D]
    lse,  # fp32 [N, H]
    scores,  # fp32 [Hkv, chunk_rows, M_cmp]
    cu_seqlens,  # int32 [B + 1]
    cu_compression,  # int32 [B + 1]
    tile_sample,  # int32 [tiles]
    tile_token,  # int32 [tiles]
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
    sample = tl.load(tile_sample + first_tile + local_tile)
    if sample < 0:
        return
    TOKENS: tl.constexpr = BLOCK_M // BLOCK_G
    first = tl.load(tile_token + first_tile + local_tile)
    last = tl.load(cu_seqlens + sample + 1)
    _, token, head, row_mask = query_rows(first, last, None, 0, False, 1, G, BLOCK_G, BLOCK_M)
    row = token.to(tl.int64) * (KV_HEADS * G) + kv_head * G + head
    q_tile = load_rows(q, row, row_mask, D, BLOCK_D)  # [BLOCK_M, BLOCK_D]
    row_lse = tl.load(lse + row, mask=row_mask, other=float("inf")) * LOG2E

    local_token = tl.arange(0, TOKENS)
    out_row = kv_head.to(tl.int64) * chunk_rows + local_tile * TOKENS + local_token
    key_last = tl.load(cu_compression + sample + 1)
    for start in range(tl.load(cu_compression + sample), key_last, BLOCK_N):
        key, key_mask = key_row_indices(start, key_last, None, False, BLOCK_N)
        k_tile = load_rows(k_cmp, key.to(tl.int64) * KV_HEADS + kv_head, key_mask, D, BLOCK_D)  # [BLOCK_N, BLOCK_D]
        logits = tl.dot(q_tile, tl.trans(k_tile), input_precision=PRECISION) * (scale * LOG2E)  # [BLOCK_M, BLOCK_N]
        p = tl.exp2(logits - row_lse[:, None])
        by_token = tl.sum(tl.reshape(p, [TOKENS, BLOCK_G, BLOCK_N]), 1)  # [TOKENS, BLOCK_N]
        pointers = scores + out_row[:, None] * num_cmp + key[None, :]
        tl.store(pointers, by_token, mask=(first + local_token < last)[:, None] & key_mask[None, :])


@triton.jit(do_not_specialize=["first_tile", "chunk_rows", "num_cmp", "num_tokens"])
def _top_blocks_kernel(
    scores,  # fp32 [Hkv, chunk_rows, M_cmp]
    block_indices,  # int32 [Hkv, N, TOPK]
    cu_seqlens,  # int32 [B + 1]
    cu_selection,  # int32 [B + 1]
    selection_compression,  # int32 [M_slc + 1]
    tile_sample,  # int32 [tiles]
    tile_token,  # int32 [tiles]
    first_tile,
    chunk_rows,
    num_cmp,
    num_tokens,
    TOPK: tl.constexpr,
    NESTED: tl.constexpr,  # most compression blocks in a selection block
    TOKENS: tl.constexpr,  # tokens a tile
    BLOCK_K: tl.constexpr,
    BLOCK_S: tl.constexpr,
):
    """The TOPK best selection blocks of one token, best first, ties to the lower id, padded with -1."""
    local_row = tl.program_id(0)
    kv_head = tl.program_id(1)
    tile = first_tile + local_row // TOKENS
    sample = tl.load(tile_sample + tile)
    if sample < 0:
        return
    token = tl.load(tile_token + tile) + local_row % TOKENS
    if token >= tl.load(cu_seqlens + sample + 1):
        return
    row_scores = scores + (kv_head.to(tl.int64) * chunk_rows + local_row) * num_cmp

    # Score and id in one sortable integer: non-negative floats order like their bits, and a lower id gives a larger
    # key.
    rank = tl.arange(0, BLOCK_K)
    best = tl.full([BLOCK_K], -1, tl.int64)
    last = tl.load(cu_selection + sample + 1)
    for start in range(tl.load(cu_selection + sample), last, BLOCK_S):
        block = start + tl.arange(0, BLOCK_S)
        mask = block < last
        begin = tl.load(selection_compression + block, mask=mask, other=0)
        end = tl.load(selection_compression + block + 1, mask=mask, other=0)
        score = tl.zeros([BLOCK_S], tl.float32)
        for inner in range(NESTED):
            score += tl.load(row_scores + begin + inner, mask=begin + inner < end, other=0.0)
        key = (score.to(tl.int32, bitcast=True).to(tl.int64) << 32) | (0x7FFFFFFF - block).to(tl.int64)
        key = tl.where(mask, key, -1)
        merged = tl.full([BLOCK_K], -1, tl.int64)
        for position in range(TOPK):
            top = tl.maximum(tl.max(key, 0), tl.max(best, 0))
            merged = tl.where(rank == position, top, merged)
            key = tl.where(key == top, -1, key)
            best = tl.where(best == top, -1, best)
        best = merged
    chosen = tl.where(best < 0, -1, 0x7FFFFFFF - (best & 0x7FFFFFFF)).to(tl.int32)
    out = block_indices + (kv_head.to(tl.int64) * num_tokens + token) * TOPK
    tl.store(out + rank, chosen, mask=rank < TOPK)


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
    samples, firsts = tile_list(cu_seqlens[None], tokens, num_tokens)
    num_tiles = samples.shape[1]
    chunk_tiles = min(num_tiles, max(1, _SCORE_WORKSPACE // (4 * kv_heads * num_cmp * tokens)))
    scores = torch.empty(kv_heads, chunk_tiles * tokens, num_cmp, dtype=torch.float32, device=q.device)
    for first_tile in range(0, num_tiles, chunk_tiles):
        tiles = min(chunk_tiles, num_tiles - first_tile)
        _block_scores_kernel[(tiles, kv_heads)](
            *(q, k_cmp, lse, scores, cu_seqlens, cu_compression, samples, firsts),
            *(first_tile, chunk_tiles * tokens, num_cmp, scale),
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
        _top_blocks_kernel[(tiles * tokens, kv_heads)](
            *(scores, block_indices, cu_seqlens, cu_selection, selection_compression, samples, firsts),
            *(first_tile, chunk_tiles * tokens, num_cmp, num_tokens),
            TOPK=topk,
            NESTED=nested,
            TOKENS=tokens,
            BLOCK_K=padded(topk),
            BLOCK_S=1024,
            num_warps=4,
        )
    return block_indices
