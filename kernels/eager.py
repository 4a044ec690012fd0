"""Vectorised PyTorch implementation: any device, any floating dtype, differentiable, no N x N array.

Segments are processed one after the other and long ones in chunks of queries, so scores never take more than a fixed
number of elements. As on the matrix units, scores accumulate in fp32 (fp64 for fp64 inputs) and so does every sum;
probabilities are rounded to the input dtype before they multiply.

Legend: n queries and m keys of a segment, G query heads per kv head, D head dim, S selected blocks.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.layout import BlockLayout
from kernels.segments import Segments, compressed_segments, selected_segments, window_segments

# Most score elements alive at once: 64 MiB in fp32 where launches cost more than memory, 4 MiB where caches matter.
_CHUNK_ELEMENTS = {"cuda": 2**24, "cpu": 2**20}

_Rows = slice | Tensor


def compressed_attention(
    q: Tensor, k_cmp: Tensor, v_cmp: Tensor, layout: BlockLayout, *, scale: float
) -> tuple[Tensor, Tensor]:
    """o [N, H, D] and its natural-log LSE [N, H]."""
    return segment_attention(q, k_cmp, v_cmp, compressed_segments(layout.cu_seqlens, layout.cu_compression), scale)


def select_blocks(q: Tensor, k_cmp: Tensor, lse: Tensor, layout: BlockLayout, *, topk: int, scale: float) -> Tensor:
    """int32 [Hkv, N, S]: best-scored selection blocks, best first, ties to the lower id, padded with -1."""
    num_tokens, heads, _ = q.shape
    kv_heads = k_cmp.shape[1]
    chosen = torch.full((kv_heads, num_tokens, topk), -1, dtype=torch.int32, device=q.device)
    samples = zip(_spans(layout.cu_seqlens), _spans(layout.cu_compression), _spans(layout.cu_selection), strict=True)
    for (first, last), (cmp_first, cmp_last), (slc_first, slc_last) in samples:
        keys = k_cmp[cmp_first:cmp_last]
        inner = layout.selection_compression[slc_first + 1 : slc_last] - cmp_first
        parent = torch.searchsorted(inner, torch.arange(len(keys), device=q.device, dtype=torch.int32), right=True)
        kept = min(topk, slc_last - slc_first)
        for rows in _chunks(first, last, heads * len(keys), q.device):
            by_group = q[rows].unflatten(1, (kv_heads, -1)).to(lse.dtype)
            scores = torch.einsum("nhgd,mhd->hngm", by_group, keys.to(lse.dtype)) * scale
            by_head = (scores - lse[rows].unflatten(1, (kv_heads, -1)).transpose(0, 1)[..., None]).exp()
            # Head after head: torch's reductions may sum each column in another order, which breaks exact ties.
            probabilities = functools.reduce(torch.add, by_head.unbind(2))
            by_block = probabilities.new_zeros(*probabilities.shape[:2], slc_last - slc_first)
            by_block.index_add_(2, parent, probabilities)
            order = by_block.sort(dim=2, descending=True, stable=True).indices
            chosen[:, rows, :kept] = order[..., :kept].int() + slc_first
    return chosen


def selected_attention(
    q: Tensor, k: Tensor, v: Tensor, block_indices: Tensor, layout: BlockLayout, *, scale: float
) -> Tensor:
    """o [N, H, D] of each token against the tokens of its selected blocks."""
    return segment_attention(q, k, v, selected_segments(block_indices, layout.selection_offsets, parts=1), scale)[0]


def window_attention(q: Tensor, k: Tensor, v: Tensor, layout: BlockLayout, *, scale: float) -> Tensor:
    """o [N, H, D] of each token against the tokens of its window."""
    return segment_attention(q, k, v, window_segments(layout.window_order, layout.window_offsets), scale)[0]


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
    scale: float,
) -> Tensor:
    """o [N, H, D]: the gated sum of the three branches."""
    o_cmp, lse = compressed_attention(q, k_cmp, v_cmp, layout, scale=scale)
    with torch.no_grad():
        block_indices = select_blocks(q, k_cmp, lse, layout, topk=topk, scale=scale)
    o_slc = selected_attention(q, k, v, block_indices, layout, scale=scale)
    o_win = window_attention(q, k, v, layout, scale=scale)
    g_cmp, g_slc, g_win = gates[:, :, None, None].unbind(1)
    return g_cmp * o_cmp + g_slc * o_slc + g_win * o_win


def segment_attention(q: Tensor, k: Tensor, v: Tensor, segments: Segments, scale: float) -> tuple[Tensor, Tensor]:
    """Softmax attention of each token over the keys of all its segments.

    Args:
        q: [N, H, D]. k, v: [K, Hkv, D], rows as `segments` numbers them.

    Returns:
        o [N, H, D] and the natural-log LSE [N, H] (-inf where a token has no key; o is zero there). The LSE carries no
        gradient.
    """
    o, lse = _SegmentAttention.apply(q, k, v, segments, scale)
    return o, lse


class _SegmentAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, segments: Segments, scale: float) -> tuple[Tensor, Tensor]:
        wide = _accumulation_dtype(q)
        group = q.shape[1] // k.shape[1]
        o = torch.zeros(q.shape, dtype=wide, device=q.device)
        lse = torch.full(q.shape[:2], -math.inf, dtype=wide, device=q.device)
        for kv_head, tokens, keys in _tiles(segments, k.shape[1], group):
            heads = slice(kv_head * group, (kv_head + 1) * group)
            scores = _scores(q[tokens, heads], k[keys, kv_head], scale, wide)  # [n, G, m]
            part_lse = scores.logsumexp(-1)
            probabilities = (scores - part_lse[..., None]).exp()
            part = (probabilities.to(q.dtype) @ v[keys, kv_head]).to(wide)
            # Merge with what the token's earlier segments gave.
            total = torch.logaddexp(lse[tokens, heads], part_lse)
            old_weight = (lse[tokens, heads] - total).exp()[..., None]
            o[tokens, heads] = o[tokens, heads] * old_weight + part * (part_lse - total).exp()[..., None]
            lse[tokens, heads] = total
        o = o.to(q.dtype)
        ctx.save_for_backward(q, k, v, o, lse)
        ctx.segments, ctx.scale = segments, scale
        ctx.mark_non_differentiable(lse)
        return o, lse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, do: Tensor, _dlse: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, o, lse = ctx.saved_tensors
        segments, scale = ctx.segments, ctx.scale
        wide = lse.dtype
        group = q.shape[1] // k.shape[1]
        delta = (do.to(wide) * o.to(wide)).sum(-1)  # [N, H]
        dq, dk, dv = (torch.zeros(x.shape, dtype=wide, device=x.device) for x in (q, k, v))
        for kv_head, tokens, keys in _tiles(segments, k.shape[1], group):
            heads = slice(kv_head * group, (kv_head + 1) * group)
            q_rows, do_rows = q[tokens, heads], do[tokens, heads]  # [n, G, D]
            k_rows, v_rows = k[keys, kv_head], v[keys, kv_head]  # [m, D]
            probabilities = (_scores(q_rows, k_rows, scale, wide) - lse[tokens, heads, None]).exp()
            dp = do_rows.to(wide) @ v_rows.to(wide).T
            ds = (probabilities * (dp - delta[tokens, heads, None]) * scale).to(q.dtype)
            dq[tokens, heads] += (ds @ k_rows).to(wide)
            dk[keys, kv_head] += (ds.flatten(0, 1).T @ q_rows.flatten(0, 1)).to(wide)
            dv[keys, kv_head] += (probabilities.to(q.dtype).flatten(0, 1).T @ do_rows.flatten(0, 1)).to(wide)
        return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), None, None


def _scores(q_rows: Tensor, k_rows: Tensor, scale: float, wide: torch.dtype) -> Tensor:
    """[n, G, m] scaled dot products."""
    return (q_rows.to(wide) @ k_rows.to(wide).T) * scale


def _accumulation_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _tiles(segments: Segments, kv_heads: int, group: int) -> Iterator[tuple[int, _Rows, _Rows]]:
    """kv head, query tokens and key rows of each segment, long segments in chunks. No token repeats within a tile."""
    key_spans = _spans(segments.key_offsets)
    for kv_head in range(kv_heads):
        row = min(kv_head, segments.query_offsets.shape[1] - 1)
        query_spans = _spans(segments.query_offsets[0, row])
        for (first, last), (key_first, key_last) in zip(query_spans, key_spans, strict=True):
            if first == last:
                continue
            keys: _Rows = slice(key_first, key_last)
            if segments.key_index is not None:
                keys = segments.key_index[keys].long()
            for chunk in _chunks(first, last, group * (key_last - key_first), segments.key_offsets.device):
                tokens: _Rows = chunk
                if segments.query_slots is not None:
                    tokens = segments.query_slots[row, chunk].long() // segments.slots
                yield kv_head, tokens, keys


def _spans(offsets: Tensor) -> list[tuple[int, int]]:
    return list(pairwise(offsets.tolist()))


def _chunks(first: int, last: int, elements_per_row: int, device: torch.device) -> Iterator[slice]:
    most = _CHUNK_ELEMENTS.get(device.type, _CHUNK_ELEMENTS["cuda"])
    step = max(1, most // max(1, elements_per_row))
    for start in range(first, last, step):
        yield slice(start, min(start + step, last))
