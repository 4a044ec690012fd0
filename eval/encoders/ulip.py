"""ULIP-2's Point-BERT (Xue et al., arXiv 2305.08275; salesforce/ULIP)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from eval.encoders.layers import Block, FusedAttention, MiniPointNet, Mlp, group, position_embedding
from eval.encoders.point_encoder import PointEncoder

_EPS = 1e-5


@dataclass(frozen=True)
class UlipConfig:
    """One of the published layouts."""

    colours: bool
    depth: int
    dim: int  # of the embedding
    width: int = 384
    heads: int = 6
    hidden: int = 1536  # of the MLPs
    token_width: int = 256
    groups: int = 512
    group_size: int = 32


class Ulip(PointEncoder):
    """Group, embed each group, transform with the embedded centres added before every block.

    The class token and the largest value of each channel over the other tokens are projected to the embedding.
    """

    def __init__(self, config: UlipConfig) -> None:
        super().__init__()
        self.config = config
        self.least_points = max(config.groups, config.group_size)
        self.logit_scale = nn.Parameter(torch.zeros(()))
        self.pc_projection = nn.Parameter(torch.empty(2 * config.width, config.dim))
        nn.init.normal_(self.pc_projection, std=config.dim**-0.5)
        self.point_encoder = _PointTransformer(config)
        self.eval()

    def embed(self, xyz: Tensor, colours: Tensor) -> Tensor:
        return self.point_encoder(xyz, colours if self.config.colours else None) @ self.pc_projection


class _PointTransformer(nn.Module):
    def __init__(self, config: UlipConfig) -> None:
        super().__init__()
        self.config = config
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.cls_pos = nn.Parameter(torch.zeros(1, 1, config.width))
        self.encoder = MiniPointNet(6 if config.colours else 3, config.token_width)
        self.reduce_dim = nn.Linear(config.token_width, config.width)
        self.pos_embed = position_embedding(config.width)
        self.blocks = _Blocks(config)
        self.norm = nn.LayerNorm(config.width, eps=_EPS)

    def forward(self, xyz: Tensor, colours: Tensor | None) -> Tensor:
        groups, centres = group(xyz, colours, self.config.groups, self.config.group_size)
        tokens = self.reduce_dim(self.encoder(groups))
        tokens = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], 1)
        positions = torch.cat([self.cls_pos.expand(len(tokens), -1, -1), self.pos_embed(centres)], 1)
        tokens = self.norm(self.blocks(tokens, positions))
        return torch.cat([tokens[:, 0], tokens[:, 1:].amax(1)], -1)


class _Blocks(nn.Module):
    def __init__(self, config: UlipConfig) -> None:
        super().__init__()
        width = config.width
        self.blocks = nn.ModuleList(
            Block(width, FusedAttention(width, config.heads, bias=False), Mlp(width, config.hidden), _EPS)
            for _ in range(config.depth)
        )

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        for block in self.blocks:
            tokens = block(tokens + positions)
        return tokens
