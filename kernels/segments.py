"""Segments: the one shape that all three branches share.

A segment pairs a list of query tokens with a list of key rows; every query of a segment attends to all its keys.

* compressed: one segment a sample; its tokens against its compression blocks.
* window: one segment a window; its tokens against themselves.
* selected: one segment a selection block and kv head; the tokens that chose the block against the block's tokens. A
  token appears in up to S segments, once for each slot of `block_indices`; its partial results are merged by their LSE.

Seeing the selected branch from the block's side (an inversion of `block_indices` to CSR) loads each block's keys once
for many queries, which is what gives the matrix units enough rows to work on. The partial results of all slots would
be S times as large as q, so tokens are taken in parts, each with lists of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Bytes of partial results alive at once. The fewer parts, the longer each block's list of queries and the less of a
# program's time goes by waiting for keys. 131,072 tokens of 16 x 64 heads go in three parts; with two, forward and
# backward together would take more than 3 GB.
_PART_BYTES = 720 * 2**20


@dataclass(frozen=True, eq=False)
class Segments:
    """Query lists against key lists. Legend: P parts, C = Hkv if lists differ by kv head, else 1, M segments."""

    query_slots: Tensor | None  # int32 [C, N * slots]: slots of the queries, by part and segment; None: 0, 1, 2, ...
    query_offsets: Tensor  # int32 [P, C, M + 1]: where the segments of each part begin in query_slots
    key_index: Tensor | None  # int32 [L_k]: key rows, segment by segment; None: 0, 1, 2, ...
    key_offsets: Tensor  # int32 [M + 1]
    slots: int = 1  # slots a token has; slot // slots is the token

    @property
    def count(self) -> int:
        return self.key_offsets.shape[0] - 1

    @property
    def parts(self) -> int:
        return self.query_offsets.shape[0]

    def token_range(self, part: int, num_tokens: int) -> tuple[int, int]:
        """First and last + 1 token of a part."""
        return token_range(part, self.parts, num_tokens)

    def slot_range(self, part: int, num_tokens: int) -> tuple[int, int]:
        """First and last + 1 slot of a part."""
        first, last = self.token_range(part, num_tokens)
        return first * self.slots, last * self.slots


def compressed_segments(cu_seqlens: Tensor, cu_compression: Tensor) -> Segments:
    """Tokens of each sample against its compression blocks."""
    return Segments(None, cu_seqlens[None, None], None, cu_compression)


def window_segments(window_order: Tensor, window_offsets: Tensor) -> Segments:
    """Tokens of each window against themselves."""
    return Segments(window_order[None], window_offsets[None, None], window_order, window_offsets)


def selected_segments(block_indices: Tensor, selection_offsets: Tensor, parts: int) -> Segments:
    """Tokens that chose a selection block against its tokens: the CSR inversion of `block_indices` [Hkv, N, S].

    Padding (-1) sorts before the first segment, so no segment contains it.
    """
    kv_heads, num_tokens, slots = block_indices.shape
    device, length = block_indices.device, num_tokens * slots
    num_keys = selection_offsets.shape[0]  # of one part: padding, then one for each block
    # One sort of all kv heads and parts, which are its upper digits: many small sorts take longer. A radix sort's
    # passes are as many as the key has bytes. With few tokens every launch counts.
    end = kv_heads * parts * num_keys
    dtype = torch.int16 if end < 2**15 else torch.int32
    size = token_range(0, parts, num_tokens)[1]
    upper = torch.arange(1, end + 1, num_keys, dtype=torch.int32, device=device).view(kv_heads, parts, 1)
    upper = upper.expand(-1, -1, size).reshape(kv_heads, parts * size)[:, :num_tokens, None]
    keys, order = (block_indices + upper).to(dtype).flatten().sort(stable=True)
    boundaries = torch.arange(1, end + 1, dtype=dtype, device=device)
    offsets = torch.searchsorted(keys, boundaries, out_int32=True).view(kv_heads, parts, num_keys)
    starts = torch.arange(kv_heads, dtype=torch.int32, device=device) * length
    query_slots = (order.view(kv_heads, length) - starts[:, None]).to(torch.int32)
    offsets = (offsets - starts[:, None, None]).transpose(0, 1).contiguous()
    return Segments(query_slots, offsets, None, selection_offsets, slots)


def token_range(part: int, parts: int, num_tokens: int) -> tuple[int, int]:
    """First and last + 1 token of a part."""
    size = -(-num_tokens // parts)
    return min(part * size, num_tokens), min((part + 1) * size, num_tokens)


def selection_parts(q: Tensor, slots: int) -> int:
    """How many parts the selected branch of queries like `q` [N, H, D] is computed in."""
    return max(1, -(-q.numel() * slots * q.element_size() // _PART_BYTES))
