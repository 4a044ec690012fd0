"""Attention of voxels to those of their window."""

from __future__ import annotations

from torch import nn

from kernels.api import window_attention
from models.sparse.tensor import SparseTensor


class SparseWindowAttention(nn.Module):
    """Multi-head self-attention inside cubic windows (shifted ones: Liu et al., arXiv 2103.14030).

    A voxel's window is ``(coords + shift) // window``. Parameters: `to_qkv`, `to_out`, the names of the public
    checkpoints; the outputs of `to_qkv` are [3, heads, channels / heads].

    Args:
        window: side in voxels. shift: in [0, window); windows of every other layer are usually shifted by half.

    Raises:
        ValueError: names the argument and what was expected.
    """

    def __init__(self, channels: int, heads: int, *, window: int = 8, shift: int = 0) -> None:
        super().__init__()
        if heads < 1 or channels % heads:
            raise ValueError(f"heads must divide channels={channels}, got {heads}")
        if not 0 <= shift < window:
            raise ValueError(f"shift must be in [0, window={window}), got {shift}")
        self.heads, self.window, self.shift = heads, window, shift
        self.to_qkv = nn.Linear(channels, 3 * channels)
        self.to_out = nn.Linear(channels, channels)

    def forward(self, x: SparseTensor) -> SparseTensor:
        layout = x.structure.windows(self.window, self.shift)
        q, k, v = self.to_qkv(layout.sort(x.feats)).unflatten(1, (3, self.heads, -1)).unbind(1)
        o = window_attention(q, k, v, layout)
        return x.replace(layout.unsort(self.to_out(o.flatten(1))))

    def extra_repr(self) -> str:
        return f"heads={self.heads}, window={self.window}, shift={self.shift}"
