"""A small encoder of points that this project trains itself: a stand-in where no published weights can be had.

A transformer over groups of points, as in Point-BERT (Yu et al., arXiv 2111.14819), trained as ULIP trains (Xue et al.,
arXiv 2212.05171): clouds against renders of the same shape. `scripts/train_point_standin.py` makes the weights, and
README.md says of what, and how far they carry. Its name always begins with ``standin-``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from eval.encoders.grouping import gather
from eval.encoders.layers import Block, FusedAttention, Mlp, group, position_embedding
from eval.encoders.point_encoder import PointEncoder

_EPS = 1e-5


@dataclass(frozen=True)
class PointStandInConfig:
    """Its size."""

    dim: int = 192  # of the embedding
    width: int = 128
    heads: int = 4
    depth: int = 4
    groups: int = 48
    group_size: int = 24


class PointStandIn(PointEncoder):
    """Sees neither colours nor the order of points, and behaves alike in training: it has no batch norm."""

    def __init__(self, config: PointStandInConfig) -> None:
        super().__init__()
        self.config = config
        self.least_points = max(config.groups, config.group_size)
        width = config.width
        self.tokens = _Tokens(width)
        self.positions = position_embedding(width)
        self.blocks = nn.Sequential(
            *(
                Block(width, FusedAttention(width, config.heads, bias=False), Mlp(width, 4 * width), _EPS)
                for _ in range(config.depth)
            )
        )
        self.norm = nn.LayerNorm(2 * width, eps=_EPS)
        self.projection = nn.Linear(2 * width, config.dim)
        self.eval()

    def embed(self, xyz: Tensor, colours: Tensor) -> Tensor:
        groups, centres = group(_outermost_first(xyz), None, self.config.groups, self.config.group_size)
        tokens = self.blocks(self.tokens(groups) + self.positions(centres))
        return self.projection(self.norm(torch.cat([tokens.amax(1), tokens.mean(1)], -1)))


class _Tokens(nn.Module):
    """A feature [B, G, width] of each group of offsets [B, G, K, 3]: the most of each channel over its members."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.members = nn.Sequential(nn.Linear(3, width // 2), nn.GELU(), nn.Linear(width // 2, width))
        self.together = nn.Sequential(nn.LayerNorm(width, eps=_EPS), nn.Linear(width, width))

    def forward(self, groups: Tensor) -> Tensor:
        return self.together(self.members(groups).amax(2))


def _outermost_first(xyz: Tensor) -> Tensor:
    """The clouds [B, N, 3] with the point farthest from the origin in the first place: groups begin there."""
    order = torch.arange(xyz.shape[1], device=xyz.device).repeat(len(xyz), 1)
    outermost = xyz.square().sum(-1).argmax(1, keepdim=True)
    order.scatter_(1, outermost, 0)
    order[:, :1] = outermost
    return gather(xyz, order)
