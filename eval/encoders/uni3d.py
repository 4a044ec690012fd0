"""Uni3D (Zhou et al., arXiv 2310.06773; baaivision/Uni3D): a vision transformer of EVA on tokens of point groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from eval.encoders.layers import (
    Block,
    FusedAttention,
    MiniPointNet,
    Mlp,
    NormedSwiGlu,
    PackedSwiGlu,
    SplitAttention,
    group,
    position_embedding,
)
from eval.encoders.point_encoder import PointEncoder

_EPS = 1e-6


@dataclass(frozen=True)
class Uni3DConfig:
    """One size; all sizes group alike."""

    width: int
    depth: int
    heads: int
    hidden: int  # of the MLPs
    blocks: Literal["eva", "eva02-packed", "eva02-normed"]
    image_tokens: int  # of the vision transformer it was initialised from, which checkpoints still carry
    image_classes: int
    groups: int = 512
    group_size: int = 64
    dim: int = 1024  # of the embedding
    token_width: int = 512


class Uni3D(PointEncoder):
    """Group, embed each group, add the embedded centres, transform; the class token is the embedding."""

    def __init__(self, config: Uni3DConfig) -> None:
        super().__init__()
        self.least_points = max(config.groups, config.group_size)
        self.logit_scale = nn.Parameter(torch.zeros(()))
        self.point_encoder = _PointTransformer(config)
        self.eval()

    def embed(self, xyz: Tensor, colours: Tensor) -> Tensor:
        return self.point_encoder(xyz, colours)


class _PointTransformer(nn.Module):
    def __init__(self, config: Uni3DConfig) -> None:
        super().__init__()
        self.config = config
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.cls_pos = nn.Parameter(torch.zeros(1, 1, config.width))
        self.encoder = MiniPointNet(6, config.token_width)
        self.encoder2trans = nn.Linear(config.token_width, config.width)
        self.trans2embed = nn.Linear(config.width, config.dim)
        self.pos_embed = position_embedding(config.width)
        self.visual = _VisionTransformer(config)

    def forward(self, xyz: Tensor, colours: Tensor) -> Tensor:
        groups, centres = group(xyz, colours, self.config.groups, self.config.group_size)
        tokens = self.encoder2trans(self.encoder(groups)) + self.pos_embed(centres)
        first = (self.cls_token + self.cls_pos).expand(len(tokens), -1, -1)
        return self.trans2embed(self.visual(torch.cat([first, tokens], 1)))


class _VisionTransformer(nn.Module):
    """Blocks without rotary embedding, and the normed first token. The parts that see images are only carried along."""

    def __init__(self, config: Uni3DConfig) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, config.image_tokens, config.width))
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, config.width, 14, 14)
        self.blocks = nn.Sequential(*[_block(config) for _ in range(config.depth)])
        self.fc_norm = nn.LayerNorm(config.width, eps=_EPS)
        self.head = nn.Linear(config.width, config.image_classes) if config.image_classes else nn.Identity()

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc_norm(self.blocks(tokens)[:, 0])


def _block(config: Uni3DConfig) -> Block:
    width, heads, hidden = config.width, config.heads, config.hidden
    if config.blocks == "eva":
        return Block(width, FusedAttention(width, heads, bias=True), Mlp(width, hidden), _EPS)
    if config.blocks == "eva02-packed":
        return Block(width, FusedAttention(width, heads, bias=True), PackedSwiGlu(width, hidden), _EPS)
    return Block(width, SplitAttention(width, heads), NormedSwiGlu(width, hidden, _EPS), _EPS)
