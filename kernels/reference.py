"""The oracle: every stage of Spatial Sparse Attention as plain masked softmax, in any floating dtype.

Written to be read and to be right, not to be fast: each stage builds its [rows, H, keys] scores. It shares no helper
with the other implementations and derives every mask from coordinates, never from the offsets that the kernels trust.

Every function takes `rows`: an int64 [R] list of query tokens, None for all. Outputs then have R rows. That is how
large problems are checked: exactly, on a sample of rows.

Legend: N tokens, M blocks, H query heads, Hkv kv heads, G = H / Hkv, D head dim, S selected blocks.
Source: arXiv 2505.17412, section 3.3.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from kernels.layout import BlockLayout


def compressed_attention(
    q: Tensor,
    k_cmp: Tensor,
    v_cmp: Tensor,
    layout: BlockLayout,
    *,
    scale: float | None = None,
    rows: Tensor | None = None,
) -> Tensor:
    """[R, H, D]: each token attends to all compression blocks of its sample."""
    probabilities = _compressed_probabilities(q, k_cmp, layout, scale, rows)
    return _weighted_sum(probabilities, v_cmp)


def compressed_lse(
    q: Tensor, k_cmp: Tensor, layout: BlockLayout, *, scale: float | None = None, rows: Tensor | None = None
) -> Tensor:
    """[R, H]: natural logarithm of the sum over compression blocks of exp(score)."""
    mask = _select_rows(layout.coords[:, 0], rows)[:, None] == layout.compression_coords[:, 0]
    return _scores(q, k_cmp, scale, rows).masked_fill(~mask[:, None], -math.inf).logsumexp(-1)


def block_scores(
    q: Tensor, k_cmp: Tensor, layout: BlockLayout, *, scale: float | None = None, rows: Tensor | None = None
) -> Tensor:
    """[Hkv, R, M_slc]: compressed probability that falls into each selection block, summed over the group's heads.

    Blocks of other samples get -1, so that they are never selected.
    """
    probabilities = _compressed_probabilities(q, k_cmp, layout, scale, rows)  # [R, H, M_cmp]
    kv_heads = k_cmp.shape[1]
    # Head after head, then child after child: torch's reductions and matrix products may sum each column in another
    # order, which breaks exact ties.
    by_head = probabilities.unflatten(1, (kv_heads, -1)).unbind(2)
    by_group = functools.reduce(torch.add, by_head).transpose(0, 1)  # [Hkv, R, M_cmp]
    parent = _cells(layout.compression_coords, layout.selection_block // layout.compression_block)
    inside = _same(layout.selection_coords, parent)  # [M_slc, M_cmp]
    present, child = inside.byte().sort(dim=1, descending=True, stable=True)
    scores = by_group.new_zeros(*by_group.shape[:2], inside.shape[0])
    for nth in range(int(inside.sum(1).max()) if inside.numel() else 0):
        scores = scores + by_group[..., child[:, nth]] * present[:, nth]
    sample = _select_rows(layout.coords[:, 0], rows)
    foreign = sample[:, None] != layout.selection_coords[None, :, 0]  # [R, M_slc]
    return scores.masked_fill(foreign, -1.0)


def select_blocks(
    q: Tensor,
    k_cmp: Tensor,
    layout: BlockLayout,
    *,
    topk: int,
    scale: float | None = None,
    rows: Tensor | None = None,
) -> Tensor:
    """int32 [Hkv, R, S = topk]: the best-scored selection blocks, best first, ties to the lower id, padded with -1."""
    scores = block_scores(q, k_cmp, layout, scale=scale, rows=rows)
    ranked, blocks = scores.sort(dim=-1, descending=True, stable=True)
    blocks = blocks.masked_fill(ranked < 0, -1)[..., :topk].int()
    missing = topk - blocks.shape[-1]
    return torch.nn.functional.pad(blocks, (0, missing), value=-1)


def selected_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    block_indices: Tensor,
    layout: BlockLayout,
    *,
    scale: float | None = None,
    rows: Tensor | None = None,
) -> Tensor:
    """[R, H, D]: each token attends to the tokens of its selected blocks. `block_indices` is int32 [Hkv, R, S]."""
    kv_heads, num_rows, slots = block_indices.shape
    block_of_token = _cells(layout.coords, layout.selection_block)
    mask = torch.zeros(kv_heads, num_rows, k.shape[0], dtype=torch.bool, device=q.device)
    for kv_head in range(kv_heads):
        for slot in range(slots):
            chosen = block_indices[kv_head, :, slot]
            block = torch.where(chosen[:, None] >= 0, layout.selection_coords[chosen.clamp(min=0).long()], -1)
            mask[kv_head] |= _same(block, block_of_token)
    by_head = mask.transpose(0, 1).repeat_interleave(q.shape[1] // kv_heads, dim=1)  # [R, H, N]
    return _weighted_sum(_masked_softmax(_scores(q, k, scale, rows), by_head), v)


def window_attention(
    q: Tensor, k: Tensor, v: Tensor, layout: BlockLayout, *, scale: float | None = None, rows: Tensor | None = None
) -> Tensor:
    """[R, H, D]: each token attends to the tokens of its window."""
    shift = layout.coords.new_tensor([0, 1, 1, 1]) * layout.window_shift
    window = _cells(layout.coords + shift, layout.window)
    mask = _same(_select_rows(window, rows), window)
    return _weighted_sum(_masked_softmax(_scores(q, k, scale, rows), mask[:, None]), v)


def full_attention(
    q: Tensor, k: Tensor, v: Tensor, layout: BlockLayout, *, scale: float | None = None, rows: Tensor | None = None
) -> Tensor:
    """[R, H, D]: each token attends to all tokens of its sample."""
    mask = _select_rows(layout.coords[:, 0], rows)[:, None] == layout.coords[:, 0]
    return _weighted_sum(_masked_softmax(_scores(q, k, scale, rows), mask[:, None]), v)


def spatial_sparse_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    k_cmp: Tensor,
    v_cmp: Tensor,
    gates: Tensor,
    layout: BlockLayout,
    *,
    topk: int,
    scale: float | None = None,
    rows: Tensor | None = None,
    block_indices: Tensor | None = None,
) -> Tensor:
    """[R, H, D]: the gated sum of the three branches.

    `block_indices` [Hkv, R, S] fixes the selection instead of computing it: a kernel that resolves a near-tie the other
    way is then still compared on equal terms (the selection itself is judged by its scores).
    """
    if block_indices is None:
        with torch.no_grad():
            block_indices = select_blocks(q, k_cmp, layout, topk=topk, scale=scale, rows=rows)
    branches = (
        compressed_attention(q, k_cmp, v_cmp, layout, scale=scale, rows=rows),
        selected_attention(q, k, v, block_indices, layout, scale=scale, rows=rows),
        window_attention(q, k, v, layout, scale=scale, rows=rows),
    )
    gate = _select_rows(gates, rows)
    o = torch.zeros_like(branches[0])
    for column, branch in enumerate(branches):
        o = o + gate[:, column, None, None] * branch
    return o


def _compressed_probabilities(
    q: Tensor, k_cmp: Tensor, layout: BlockLayout, scale: float | None, rows: Tensor | None
) -> Tensor:
    mask = _select_rows(layout.coords[:, 0], rows)[:, None] == layout.compression_coords[:, 0]  # [R, M_cmp]
    return _masked_softmax(_scores(q, k_cmp, scale, rows), mask[:, None])


def _scores(q: Tensor, k: Tensor, scale: float | None, rows: Tensor | None) -> Tensor:
    """[R, H, keys]: scaled dot products; query head h reads kv head h // G."""
    scale = 1.0 / math.sqrt(q.shape[2]) if scale is None else scale
    group = q.shape[1] // k.shape[1]
    return torch.einsum("nhd,mhd->nhm", _select_rows(q, rows), k.repeat_interleave(group, dim=1)) * scale


def _masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the last dimension where `mask`; all zero where a row has no key."""
    scores = scores.masked_fill(~mask, -math.inf)
    empty = ~mask.any(-1, keepdim=True)
    return scores.masked_fill(empty, 0.0).softmax(-1).masked_fill(empty, 0.0)


def _weighted_sum(probabilities: Tensor, v: Tensor) -> Tensor:
    group = probabilities.shape[1] // v.shape[1]
    return torch.einsum("nhm,mhd->nhd", probabilities, v.repeat_interleave(group, dim=1))


def _cells(coords: Tensor, side: int) -> Tensor:
    """[M, 4]: sample and cell of each voxel, for cubic cells of this side."""
    return torch.cat([coords[:, :1], coords[:, 1:] // side], dim=1)


def _same(a: Tensor, b: Tensor) -> Tensor:
    """bool [A, B]: which rows of a [A, 4] equal which rows of b [B, 4]."""
    return torch.stack([a[:, None, axis] == b[None, :, axis] for axis in range(4)]).all(0)


def _select_rows(x: Tensor, rows: Tensor | None) -> Tensor:
    return x if rows is None else x[rows]
