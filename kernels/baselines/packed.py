"""Latent packing: full attention between the means of small cubic regions, copied back to their tokens.

The "full attention" row of Direct3D-S2's ablation (NeurIPS 2025, table 2) packs 2^3 latents before attending, so it is
not exact attention on the same tokens. Legend: N tokens, B samples, R occupied regions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.baselines.dense import full_attention
from kernels.layout import BlockLayout


@dataclass(frozen=True, eq=False)
class PackedRegions:
    """Tokens grouped by region. Build it with `from_layout`, once for all layers and steps."""

    region_ids: Tensor  # int64 [N]: region of each token; regions are sorted by sample
    token_order: Tensor  # int64 [N]: tokens sorted by region
    offsets: Tensor  # int64 [R + 1]: first position of each region in token_order
    cu_seqlens: Tensor  # int32 [B + 1]: first region of each sample

    @classmethod
    def from_layout(cls, layout: BlockLayout, side: int = 2) -> PackedRegions:
        """Regions of `side`^3 voxels, aligned to the origin; only occupied ones exist.

        Raises:
            ValueError: `side` is not positive.
        """
        if side < 1:
            raise ValueError(f"side must be a positive integer, got {side}")
        cells = torch.cat([layout.coords[:, :1], layout.coords[:, 1:] // side], dim=1)
        regions, region_ids, counts = cells.unique(dim=0, return_inverse=True, return_counts=True)
        samples = torch.arange(layout.batch_size + 1, dtype=torch.int32, device=layout.device)
        return cls(
            region_ids=region_ids,
            token_order=region_ids.argsort(stable=True),
            offsets=torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
            cu_seqlens=torch.searchsorted(regions[:, 0].contiguous(), samples).int(),
        )

    @property
    def batch_size(self) -> int:
        return self.cu_seqlens.shape[0] - 1

    @property
    def num_tokens(self) -> int:
        """R: regions are the tokens of the packed attention."""
        return self.offsets.shape[0] - 1

    def mean(self, x: Tensor) -> Tensor:
        """[R, ...] in the dtype of x: mean over the tokens of each region of x [N, ...], summed in at least fp32.

        Deterministic in both directions: each region is summed in token order, without atomics.
        """
        wide = x[self.token_order].to(torch.promote_types(x.dtype, torch.float32))
        return torch.segment_reduce(wide, "mean", offsets=self.offsets, axis=0).to(x.dtype)

    def copy_back(self, x: Tensor) -> Tensor:
        """[N, ...]: each token gets the row of its region from x [R, ...]."""
        return x[self.region_ids]


def packed_full_attention(
    q: Tensor, k: Tensor, v: Tensor, regions: PackedRegions, *, scale: float | None = None, impl: str = "auto"
) -> Tensor:
    """Full attention between region means inside each sample; every token of a region gets its region's output.

    Args:
        q: [N, H, D]. k, v: [N, Hkv, D]. In layout order.
        scale, impl: as in `full_attention`.

    Returns:
        [N, H, D] in the dtype of q. Differentiable and deterministic as far as `impl` is.
    """
    packed = full_attention(regions.mean(q), regions.mean(k), regions.mean(v), regions, scale=scale, impl=impl)
    return regions.copy_back(packed)
