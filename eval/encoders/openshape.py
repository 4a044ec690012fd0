"""OpenShape's Point-BERT (Liu et al., arXiv 2305.10764; Colin97/OpenShape_code).

The published code begins its farthest-point sampling at a random point, so its embeddings differ from run to run. Here
it begins at the first.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eval.encoders.grouping import ball_neighbours, farthest_points, gather
from eval.encoders.layers import Pointwise, attend
from eval.encoders.point_encoder import PointEncoder


@dataclass(frozen=True)
class OpenShapeConfig:
    """One of the published sizes."""

    groups: int
    radius: float
    group_size: int
    token_width: int
    hidden: int  # of the MLPs
    dim: int | None  # of the embedding; None: the transformer's width, unprojected
    width: int = 512
    depth: int = 12
    heads: int = 8
    head_dim: int = 64


class PointPatchTransformer(PointEncoder):
    """Balls of points around centres, embedded and transformed; the class token is the embedding.

    A ball has the first points, in the cloud's order, so the order of points matters.
    """

    def __init__(self, config: OpenShapeConfig) -> None:
        super().__init__()
        self.least_points = config.groups
        self.cls_token = nn.Parameter(torch.zeros(config.width))
        self.sa = _SetAbstraction(config)
        # The published sequence has a permutation without parameters at index 1.
        self.lift = nn.Sequential(
            Pointwise(config.token_width + 3, config.width, 1), nn.Identity(), nn.LayerNorm(config.width)
        )
        self.transformer = _Transformer(config)
        self.eval()

    def embed(self, xyz: Tensor, colours: Tensor) -> Tensor:
        centres, features = self.sa(xyz, colours)
        tokens = self.lift(torch.cat([centres, features], -1))
        first = self.cls_token.expand(len(tokens), 1, -1)
        return self.transformer(torch.cat([first, tokens], 1))[:, 0]


class OpenShape(PointEncoder):
    """A `PointPatchTransformer` and a projection to the embedding."""

    def __init__(self, config: OpenShapeConfig, dim: int) -> None:
        super().__init__()
        self.least_points = config.groups
        self.ppat = PointPatchTransformer(config)
        self.proj = nn.Linear(config.width, dim)
        self.eval()

    def embed(self, xyz: Tensor, colours: Tensor) -> Tensor:
        return self.proj(self.ppat.embed(xyz, colours))


def openshape(config: OpenShapeConfig) -> PointEncoder:
    """The encoder of a published size; what is not projected has another layout."""
    return PointPatchTransformer(config) if config.dim is None else OpenShape(config, config.dim)


class _SetAbstraction(nn.Module):
    def __init__(self, config: OpenShapeConfig) -> None:
        super().__init__()
        self.config = config
        widths = (9, 64, 64, config.token_width)
        self.mlp_convs = nn.ModuleList(Pointwise(a, b, 2) for a, b in pairwise(widths))
        self.mlp_bns = nn.ModuleList(nn.BatchNorm1d(width) for width in widths[1:])

    def forward(self, xyz: Tensor, colours: Tensor) -> tuple[Tensor, Tensor]:
        """Centres [B, G, 3] and features of their balls [B, G, token_width]."""
        centres = gather(xyz, farthest_points(xyz, self.config.groups))
        members = ball_neighbours(xyz, centres, self.config.radius, self.config.group_size)
        place = gather(xyz, members)
        rows = torch.cat([place - centres[:, :, None], place, gather(colours, members)], -1).flatten(0, 2)
        for convolution, norm in zip(self.mlp_convs, self.mlp_bns, strict=True):
            rows = F.relu(norm(convolution(rows)))
        return centres, rows.view(*members.shape, -1).amax(2)


class _Transformer(nn.Module):
    def __init__(self, config: OpenShapeConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    _PreNorm(config.width, _Attention(config)),
                    _PreNorm(config.width, _FeedForward(config)),
                ]
            )
            for _ in range(config.depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            for part in layer.children():
                x = x + part(x)
        return x


class _PreNorm(nn.Module):
    def __init__(self, width: int, fn: nn.Module) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fn = fn

    def forward(self, x: Tensor) -> Tensor:
        return self.fn(self.norm(x))


class _Attention(nn.Module):
    def __init__(self, config: OpenShapeConfig) -> None:
        super().__init__()
        self.heads = config.heads
        inner = config.heads * config.head_dim
        self.to_qkv = nn.Linear(config.width, 3 * inner, bias=False)
        self.to_out = nn.Sequential(nn.Linear(inner, config.width))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.to_qkv(x).chunk(3, -1)
        return self.to_out(attend(q, k, v, self.heads))


class _FeedForward(nn.Module):
    def __init__(self, config: OpenShapeConfig) -> None:
        super().__init__()
        # Dropouts of the published sequence do nothing here, but they number its layers.
        self.net = nn.Sequential(
            nn.Linear(config.width, config.hidden),
            nn.GELU(),
            nn.Identity(),
            nn.Linear(config.hidden, config.width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)
