"""Native Sparse Attention on serialised voxels: 1-D blocks of fixed length instead of cubes of space.

The "NSA" row of Direct3D-S2's ablation (NeurIPS 2025, table 2). It runs the operators of SSA on a 1-D layout, so that
only the block shape differs. Against the NSA paper (arXiv 2502.11089): compression blocks do not overlap, the window
is the token's own block of the sequence instead of its last tokens, and attention is not causal.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from kernels import spatial_sparse_attention
from kernels.layout import BlockLayout

# Bits of a coordinate that fit three times into a positive int64.
_MORTON_BITS = 20


def serialise(
    layout: BlockLayout,
    order: Literal["raster", "morton"] = "raster",
    *,
    compression_block: int = 32,
    selection_block: int = 64,
    window: int = 64,
) -> tuple[BlockLayout, Tensor]:
    """Put the voxels of each sample in one line and cut it into blocks.

    Args:
        layout: whose voxels are serialised.
        order: "raster" sorts by x, then y, then z; "morton" along the Z-order curve.
        compression_block, selection_block, window: lengths in tokens.

    Returns:
        The 1-D layout, and the permutation int64 [N]: `x[permutation]` puts x from `layout`'s order into serial order.

    Raises:
        ValueError: `order` is unknown, or a length does not fit (see `BlockLayout.from_sequence`).
    """
    if order not in ("raster", "morton"):
        raise ValueError(f"order must be 'raster' or 'morton', got {order!r}")
    sample, voxel = layout.coords[:, 0], layout.coords[:, 1:].long()
    keys = list(voxel.unbind(1)) if order == "raster" else [_morton(voxel)]
    permutation = torch.arange(layout.num_tokens, device=layout.device)
    for key in reversed([sample, *keys]):  # least significant first; stable sorts keep what is already sorted
        permutation = permutation[key[permutation].argsort(stable=True)]
    serial = BlockLayout.from_sequence(
        layout.cu_seqlens, compression_block=compression_block, selection_block=selection_block, window=window
    )
    return serial, permutation


def nsa_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    k_cmp: Tensor,
    v_cmp: Tensor,
    gates: Tensor,
    layout: BlockLayout,
    permutation: Tensor,
    *,
    topk: int,
    scale: float | None = None,
    impl: str = "auto",
) -> Tensor:
    """Compressed, selected and window attention over serial blocks, gated.

    Args:
        q: [N, H, D]. k, v: [N, Hkv, D]. gates: [N, 3]. In the token order that `permutation` starts from.
        k_cmp, v_cmp: [M_cmp, Hkv, D], one row for each compression block of the serial `layout`.
        layout, permutation: from `serialise`.
        topk, scale, impl: as in `kernels.spatial_sparse_attention`.

    Returns:
        [N, H, D] in the order of q.
    """
    q, k, v, gates = (x[permutation] for x in (q, k, v, gates))
    o = spatial_sparse_attention(q, k, v, k_cmp, v_cmp, gates, layout, topk=topk, scale=scale, impl=impl)
    inverse = torch.empty_like(permutation)
    inverse[permutation] = torch.arange(permutation.shape[0], device=permutation.device)
    return o[inverse]


def _morton(voxel: Tensor) -> Tensor:
    """int64 [N]: bits of x, y, z interleaved, x the most significant of each triple; voxel is int64 [N, 3]."""
    code = torch.zeros_like(voxel[:, 0])
    for bit in range(_MORTON_BITS):
        for axis in range(3):
            code |= (voxel[:, axis] >> bit & 1) << (3 * bit + 2 - axis)
    return code
