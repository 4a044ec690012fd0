"""Spatial Sparse Attention written with FlexAttention: what a user gets from PyTorch without writing a kernel.

Legend: N tokens, M blocks, H query heads, Hkv kv heads, G = H / Hkv, D head dim, S selected blocks,
T = ceil(N / 128) tiles.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from kernels import select_blocks
from kernels.baselines.flex_masks import (
    TILE,
    equality_mask,
    flex_unavailable,
    packed_flex_attention,
    tile_labels,
    tile_mask,
)
from kernels.layout import BlockLayout

_MAX_TABLE = 2**31 - 1


class FlexSpatialSparseAttention:
    """SSA (arXiv 2505.17412, section 3.3) as three FlexAttention calls on one layout.

    The masks of the compressed and window branches depend on the layout alone and are built here, once. The mask of the
    selected branch depends on the data: every call builds its tiles and a bool [Hkv, N, M_slc] lookup table.
    """

    def __init__(self, layout: BlockLayout) -> None:
        self._layout = layout
        self._compressed: BlockMask | None = None
        self._window: BlockMask | None = None
        self._block_of_token = _repeat_ids(layout.selection_offsets, layout.num_tokens)
        if layout.num_tokens == 0:
            return
        if layout.batch_size > 1:
            self._compressed = equality_mask(
                layout.coords[:, 0].long(), layout.compression_coords[:, 0].long(), layout.batch_size
            )
        self._window = equality_mask(
            layout.window_ids.long(), layout.window_ids.long(), layout.window_offsets.shape[0] - 1
        )

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        k_cmp: Tensor,
        v_cmp: Tensor,
        gates: Tensor,
        *,
        topk: int,
        scale: float | None = None,
    ) -> Tensor:
        """Arguments, result and errors as in `flex_spatial_sparse_attention`."""
        tensors = (q, k, v, k_cmp, v_cmp, gates)
        backward = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
        if reason := flex_unavailable(device=q.device, dtype=q.dtype, head_dim=q.shape[2], backward=backward):
            raise RuntimeError(reason)
        if q.shape[0] == 0:
            return torch.zeros_like(q)
        scale = 1.0 / math.sqrt(q.shape[2]) if scale is None else scale
        with torch.no_grad():
            block_indices = select_blocks(q, k_cmp, self._layout, topk=topk, scale=scale)
            selected = self._selected_mask(block_indices, q.shape[1])
        g_cmp, g_slc, g_win = gates[:, :, None, None].unbind(1)
        o = g_cmp * packed_flex_attention(q, k_cmp, v_cmp, self._compressed, scale)
        o = o + g_slc * packed_flex_attention(q, k, v, selected, scale)
        return o + g_win * packed_flex_attention(q, k, v, self._window, scale)

    def _selected_mask(self, block_indices: Tensor, heads: int) -> BlockMask:
        """Queries see the tokens of the blocks they chose. `block_indices`: int32 [Hkv, N, S], padded with -1."""
        kv_heads, num_tokens, _ = block_indices.shape
        num_blocks = self._layout.selection_coords.shape[0]
        block_of_token = self._block_of_token
        # Padding goes to a last column that no token belongs to.
        columns = block_indices.long().masked_fill(block_indices < 0, num_blocks)
        if kv_heads * num_tokens * (num_blocks + 1) > _MAX_TABLE:
            raise RuntimeError(
                f"the table of {kv_heads} kv heads x {num_tokens} tokens x {num_blocks} blocks is too large for "
                "FlexAttention, which may address what a mask reads with 32 bits"
            )
        chosen = torch.zeros(kv_heads, num_tokens, num_blocks + 1, dtype=torch.bool, device=columns.device)
        chosen.scatter_(2, columns, True)

        query_tile = torch.arange(num_tokens, device=columns.device) // TILE
        wanted = torch.zeros(kv_heads, -(-num_tokens // TILE), num_blocks + 1, device=columns.device)
        kv_head = torch.arange(kv_heads, device=columns.device)
        wanted[kv_head[:, None, None], query_tile[None, :, None], columns] = 1.0
        touched = wanted[..., :num_blocks] @ tile_labels(block_of_token, num_blocks).T > 0  # [Hkv, T, T]
        group = heads // kv_heads
        if kv_heads > 1:  # with one kv head the mask is broadcast over the query heads
            touched = touched.repeat_interleave(group, dim=0)

        def is_chosen(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return chosen[head // group, query, block_of_token[key]]

        return tile_mask(touched, None, is_chosen, (num_tokens, num_tokens))


def flex_spatial_sparse_attention(
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
) -> Tensor:
    """SSA by FlexAttention, all masks built in the call; keep a `FlexSpatialSparseAttention` to build them once.

    Compiled on CUDA. On the CPU it is unfused, builds N x N scores and has no backward pass (`flex_unavailable`).

    Args:
        q: [N, H, D]. k, v: [N, Hkv, D]. k_cmp, v_cmp: [M_cmp, Hkv, D]. gates: [N, 3] for cmp, slc, win, in [0, 1].
        layout: tokens and blocks in layout order.
        topk: selected blocks a token.
        scale: of the dot products; 1 / sqrt(D) if None.

    Returns:
        [N, H, D] in the dtype of q.

    Raises:
        RuntimeError: FlexAttention cannot run here (the message is the sentence of `flex_unavailable`), or the lookup
            table of the selected branch would be too large.
    """
    return FlexSpatialSparseAttention(layout)(q, k, v, k_cmp, v_cmp, gates, topk=topk, scale=scale)


def _repeat_ids(offsets: Tensor, length: int) -> Tensor:
    """int64 [length]: which of the ranges that `offsets` [M + 1] bounds each position lies in."""
    ids = torch.arange(offsets.shape[0] - 1, device=offsets.device)
    return torch.repeat_interleave(ids, offsets.diff(), output_size=length)
