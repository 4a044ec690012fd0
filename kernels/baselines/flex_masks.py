"""FlexAttention over packed tokens, and block masks built from tiles: an N x N array never exists.

FlexAttention skips tiles of 128 queries x 128 keys by a `BlockMask` and masks single scores by a `mask_mod`
(arXiv 2412.05496). Legend: T = ceil(N / 128) tiles, L labels, C head rows of a mask (1, or one for each query head).
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

TILE = 128

# One compiled version is kept for each mask, shape, dtype and grad mode; torch's default limit of 8 raises too early.
_RECOMPILE_LIMIT = 256

MaskMod = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def packed_flex_attention(q: Tensor, k: Tensor, v: Tensor, block_mask: BlockMask | None, scale: float) -> Tensor:
    """[N, H, D] from q [N, H, D] and k, v [K, Hkv, D]. Compiled on CUDA; on the CPU unfused, with N x K scores."""
    attend: Callable[..., Any] = flex_attention
    if q.is_cuda:
        attend = _compiled()
    enable_gqa = q.shape[1] != k.shape[1]
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
    with torch._dynamo.config.patch(recompile_limit=_RECOMPILE_LIMIT), warnings.catch_warnings():
        # What the docstring says about the CPU.
        warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")
        o: Tensor = attend(q, k, v, block_mask=block_mask, scale=scale, enable_gqa=enable_gqa)
    return o[0].transpose(0, 1)


def flex_unavailable(
    *, device: torch.device | str, dtype: torch.dtype, head_dim: int, backward: bool = True
) -> str | None:
    """Why FlexAttention cannot run here, in one sentence; None if it can. On the CPU it has no backward pass."""
    device = torch.device(device)
    if device.type == "cpu":
        return "FlexAttention has no backward pass on the CPU" if backward else None
    if device.type != "cuda" or not torch.cuda.is_available():
        return f"FlexAttention runs here on CUDA and CPU devices, got {device.type}"
    if dtype not in (torch.float16, torch.bfloat16, torch.float32):
        return f"FlexAttention supports float16, bfloat16, float32 on CUDA, got {str(dtype).removeprefix('torch.')}"
    if head_dim < 16:
        return f"FlexAttention needs a head_dim of at least 16 on CUDA, got {head_dim}"
    return None


def equality_mask(query_labels: Tensor, key_labels: Tensor, num_labels: int) -> BlockMask:
    """Each query attends to the keys with its own label: samples of a packed batch, or windows.

    Args:
        query_labels, key_labels: integer [N] and [K], in [0, num_labels).
    """
    queries, keys = tile_labels(query_labels, num_labels), tile_labels(key_labels, num_labels)
    touched = queries @ keys.T > 0
    # Tiles of one label need no mask_mod. Ragged last tiles keep it, as torch's own masks do.
    pure = (_pure(queries, query_labels)[:, None] & _pure(keys, key_labels)) & touched

    def same_label(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return query_labels[query] == key_labels[key]

    return tile_mask(touched[None], pure[None], same_label, (query_labels.shape[0], key_labels.shape[0]))


def tile_labels(labels: Tensor, num_labels: int) -> Tensor:
    """float32 [T, L]: 1 where a tile of tokens holds a label, so that a product of two counts what tiles share."""
    tiles = torch.arange(labels.shape[0], device=labels.device) // TILE
    held = torch.zeros(-(-labels.shape[0] // TILE), num_labels, device=labels.device)
    held[tiles, labels] = 1.0
    return held


def tile_mask(touched: Tensor, full: Tensor | None, mask_mod: MaskMod, lengths: tuple[int, int]) -> BlockMask:
    """A BlockMask from which tiles are touched at all and which are fully visible, both bool [C, T_query, T_key]."""
    partial = touched if full is None else touched & ~full
    num_blocks, indices = _ordered(partial)
    full_num_blocks, full_indices = (None, None) if full is None else _ordered(full)
    return BlockMask.from_kv_blocks(
        num_blocks,
        indices,
        full_num_blocks,
        full_indices,
        BLOCK_SIZE=TILE,
        mask_mod=mask_mod,
        seq_lengths=lengths,
    )


def _ordered(tiles: Tensor) -> tuple[Tensor, Tensor]:
    """int32 [1, C, T_query] and [1, C, T_query, T_key]: how many key tiles are set, and their indices first."""
    indices = tiles.to(torch.int8).argsort(dim=-1, descending=True, stable=True)
    return tiles.sum(-1, dtype=torch.int32)[None], indices.int()[None]


def _pure(held: Tensor, labels: Tensor) -> Tensor:
    """bool [T]: complete tiles that hold one label."""
    complete = torch.arange(1, held.shape[0] + 1, device=held.device) * TILE <= labels.shape[0]
    return complete & (held.sum(1) == 1)


@functools.cache
def _compiled() -> Callable[..., Any]:
    # fullgraph: an error instead of the unfused N x N path if compilation fails. Static shapes give faster kernels;
    # the price is some seconds of compilation for each new shape.
    return torch.compile(flex_attention, fullgraph=True, dynamic=False)
