"""What encoder and decoder are made of. Names of parameters are those of the published checkpoints."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.sparse.attention import SparseWindowAttention
from models.sparse.convolution import SparseConv3d
from models.sparse.norm import SparseGroupNorm, SparseLayerNorm
from models.sparse.pooling import mean_pool, subdivide
from models.sparse.tensor import SparseTensor
from models.vae.config import FACTOR, VAEConfig

_EPSILON = 1e-6
_LONGEST_WAVE = 10_000.0


class SparseLinear(nn.Linear):
    """A linear layer on every voxel."""

    def forward(self, x: SparseTensor) -> SparseTensor:  # type: ignore[override]  # features with their voxels
        return x.replace(super().forward(x.feats))


class SparseSiLU(nn.Module):
    def forward(self, x: SparseTensor) -> SparseTensor:
        return x.replace(nn.functional.silu(x.feats))


def position_embedding(coords: Tensor, channels: int) -> Tensor:
    """Sines and cosines of x, y and z in waves from 2 pi to 10,000 times as long, a third of the channels each.

    Args:
        coords: int [N, 3].

    Returns:
        fp32 [N, channels]; what three axes cannot share is zero.
    """
    waves = channels // 6
    frequency = _LONGEST_WAVE ** -(torch.arange(waves, device=coords.device) / waves)
    angle = coords.float()[:, :, None] * frequency  # [N, 3, waves]
    embedded = torch.cat([angle.sin(), angle.cos()], 2).flatten(1)
    return nn.functional.pad(embedded, (0, channels - embedded.shape[1]))


class BlockPosition(nn.Module):
    """Adds what is learned for x, for y and for z within a latent's block of 8^3 points."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, FACTOR, channels) / math.sqrt(3))

    def forward(self, x: SparseTensor) -> SparseTensor:
        place = nn.functional.one_hot(x.coords[:, 1:].long() % FACTOR, FACTOR)  # [N, 3, 8]
        return x.replace(x.feats + place.to(x.dtype).flatten(1) @ self.weight.to(x.dtype).flatten(0, 1))


class FeedForward(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(channels, 4 * channels), nn.GELU("tanh"), nn.Linear(4 * channels, channels))

    def forward(self, x: SparseTensor) -> SparseTensor:
        return x.replace(self.mlp(x.feats))


class TransformerBlock(nn.Module):
    """Attention in windows and a feed-forward network, each on normalised features and added to what came in."""

    def __init__(self, config: VAEConfig, shift: int) -> None:
        super().__init__()
        heads = config.channels // config.head_channels
        self.norm = SparseLayerNorm(config.channels, eps=_EPSILON, elementwise_affine=False)
        self.attn = SparseWindowAttention(config.channels, heads, window=config.window, shift=shift)
        self.mlp = FeedForward(config.channels)

    def forward(self, x: SparseTensor) -> SparseTensor:
        x = x.replace(x.feats + self.attn(self.norm(x)).feats)
        return x.replace(x.feats + self.mlp(self.norm(x)).feats)


class Runner:
    """Calls blocks; where checkpointing is on they keep only what came in, and compute again in the backward pass."""

    def __init__(self, checkpointing: bool) -> None:
        self._checkpointing = checkpointing

    def __call__(self, block: nn.Module, x: SparseTensor) -> SparseTensor:
        found: SparseTensor
        if self._checkpointing and torch.is_grad_enabled():
            found = checkpoint(block, x, use_reentrant=False)
        else:
            found = block(x)
        return found


class Transformer(nn.Module):
    """Positions and blocks, with windows that shift."""

    def __init__(self, in_channels: int, config: VAEConfig) -> None:
        super().__init__()
        self.input_layer = SparseLinear(in_channels, config.channels)
        shifts = [config.window // 2 * (block % 2) for block in range(config.blocks)]
        self.blocks = nn.ModuleList(TransformerBlock(config, shift) for shift in shifts)

    def transform(self, x: SparseTensor, run: Runner) -> SparseTensor:
        x = self.input_layer(x)
        x = x.replace(x.feats + position_embedding(x.coords[:, 1:], x.feats.shape[1]).to(x.feats.dtype))
        for block in self.blocks:
            x = run(block, x)
        return x


class Convolution(nn.Module):
    """A convolution whose parameters lie one level deeper, where the published checkpoints have them."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3) -> None:
        super().__init__()
        self.conv = SparseConv3d(in_channels, out_channels, kernel_size)

    def forward(self, x: SparseTensor) -> SparseTensor:
        found: SparseTensor = self.conv(x)
        return found


class DownBlock(nn.Module):
    """Half the resolution: the mean of the voxels there are, and a residual of two convolutions."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.act_layers = nn.Sequential(SparseGroupNorm(_groups(channels), channels), SparseSiLU())
        self.out_layers = nn.Sequential(
            Convolution(channels, out_channels),
            SparseGroupNorm(_groups(out_channels), out_channels),
            SparseSiLU(),
            Convolution(out_channels, out_channels),
        )
        self.skip_connection = Convolution(channels, out_channels, kernel_size=1)

    def forward(self, x: SparseTensor) -> SparseTensor:
        residual = self.out_layers(mean_pool(self.act_layers(x)))
        return residual.replace(residual.feats + self.skip_connection(mean_pool(x)).feats)


class SubdivideBlock(nn.Module):
    """Twice the resolution: every voxel becomes eight, with a convolution before and one after."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.act_layers = nn.Sequential(Convolution(channels, out_channels), SparseSiLU())
        self.out_layers = nn.Sequential(Convolution(out_channels, out_channels), SparseSiLU())

    def forward(self, x: SparseTensor) -> SparseTensor:
        return self.out_layers(subdivide(self.act_layers(x)))


def _groups(channels: int) -> int:
    """32 as published, or what a smaller model can share its channels out to."""
    return math.gcd(32, channels)
