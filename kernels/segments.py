"""Segments: the one shape that all three branches share.

A segment pairs a list of query tokens with a list of key rows; every query of a segment attends to all its keys.

* compressed: one segment a sample; its tokens against its compression blocks.
* window: one segment a window; its tokens against themselves.
* selected: one segment a selection block and kv head; the tokens that chose the block against the block's tokens. A
token   appears in up to S segments, once for each slot of `block_indices`; its partial results are merged by their LSE.

Seeing the selected branch from the block's side (an inversion of `block_indices` to CSR) loads each block's keys once
for many queries, which is what gives the matrix units enough rows to work on.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Segments:
    """Query lists against key lists. Legend: M segments, L list length, C = Hkv if lists differ by kv head, else 1."""

    query_slots: Tensor | None  # int32 [C, L]: slots of the queries, segment by segment; None: 0, 1, 2, ...
    query_offsets: Tensor  # int32 [C, M + 1]: first position of each segment in query_slots
    key_rows: Tensor | None  # int32 [L_k]: key rows, segment by segment; None: 0, 1, 2, ...
    key_offsets: Tensor  # int32 [M + 1]
    slots: int = 1  # slots a token has; slot // slots is the token

    @property
    def count(self) -> int:
        return self.key_offsets.shape[0] - 1


def compressed_segments(cu_seqlens: Tensor, cu_compression: Tensor) -> Segments:
    """Tokens of each sample against its compression blocks."""
    return Segments(None, cu_seqlens[None], None, cu_compression)


def window_segments(window_order: Tensor, window_offsets: Tensor) -> Segments:
    """Tokens of each window against themselves."""
    return Segments(window_order[None], window_offsets[None], window_order, window_offsets)


def selected_segments(block_indices: Tensor, selection_offsets: Tensor) -> Segments:
    """Tokens that chose a selection block against its tokens: the CSR inversion of `block_indices` [Hkv, N, S].

    Padding (-1) sorts before the first segment, so no segment contains it.
    """
    kv_heads, _, slots = block_indices.shape
    blocks, order = block_indices.reshape(kv_heads, -1).sort(dim=1, stable=True)
    first = torch.arange(selection_offsets.shape[0], dtype=torch.int32, device=blocks.device)
    offsets = torch.searchsorted(blocks, first.expand(kv_heads, -1).contiguous()).int()
    return Segments(order.int(), offsets, None, selection_offsets, slots)
