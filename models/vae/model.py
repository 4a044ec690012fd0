"""SS-VAE: encoder, decoder, and the distribution between them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.sparse.convolution import SparseConv3d
from models.sparse.norm import SparseLayerNorm
from models.sparse.tensor import SparseTensor
from models.vae.blocks import BlockPosition, DownBlock, Runner, SparseLinear, SubdivideBlock, Transformer
from models.vae.config import VAEConfig

# Of the logarithm of the variance: beyond it the exponential means nothing in half precision.
_LOG_VARIANCE = (-30.0, 20.0)
_FIRST_LOG_VARIANCE = -4.0


@dataclass(frozen=True, eq=False)
class Posterior:
    """A normal distribution with its own mean and variance for every number of every latent."""

    mean: SparseTensor  # fp32 [L, latent_channels]
    log_variance: Tensor  # fp32 [L, latent_channels]

    def sample(self) -> SparseTensor:
        mean = self.mean.feats
        return self.mean.replace(mean + (self.log_variance / 2).exp() * torch.randn_like(mean))

    def divergence(self) -> Tensor:
        """From the standard normal distribution, in nats for each number: the mean over all, fp32 scalar."""
        mean = self.mean.feats
        return (mean.square() + self.log_variance.exp() - 1 - self.log_variance).mean() / 2


class Encoder(Transformer):
    def __init__(self, config: VAEConfig) -> None:
        super().__init__(config.channels, config)
        c = config.channels
        self.input_layer1 = SparseLinear(1, c // 16)
        self.block_position = BlockPosition(c // 16) if config.block_positions else None
        sizes = [(c // 16, c // 8), (c // 8, c // 4), (c // 4, c)]
        self.downsample = nn.ModuleList(DownBlock(*size) for size in sizes)
        self.norm = SparseLayerNorm(c, elementwise_affine=False)
        self.out_layer = SparseLinear(c, 2 * config.latent_channels)

    def forward(self, x: SparseTensor, run: Runner) -> Posterior:
        x = self.input_layer1(x)
        if self.block_position is not None:
            x = self.block_position(x)
        for block in self.downsample:
            x = run(block, x)
        x = self.out_layer(self.norm(self.transform(x, run)))
        mean, log_variance = x.feats.float().chunk(2, dim=1)
        return Posterior(x.replace(mean), log_variance.clamp(*_LOG_VARIANCE))


class Decoder(Transformer):
    def __init__(self, config: VAEConfig) -> None:
        super().__init__(config.latent_channels, config)
        c = config.channels
        self.upsample = nn.ModuleList(
            SubdivideBlock(*size) for size in [(c, c // 4), (c // 4, c // 8), (c // 8, c // 16)]
        )
        self.out_layer = SparseLinear(c // 16, 1)

    def forward(self, x: SparseTensor, run: Runner) -> SparseTensor:
        return self.refine(self.transform(x, run), run)

    def refine(self, x: SparseTensor, run: Runner) -> SparseTensor:
        """Features of latents to the values of their 8^3 grid points, fp32 [512 L, 1] in (-1, 1)."""
        for block in self.upsample:
            x = run(block, x)
        x = self.out_layer(x)
        return x.replace(x.feats.float().tanh())


class SparseVAE(nn.Module):
    """Distances divided by tau, on the grid points nearer than tau, to latents and back.

    The decoder answers on all 8^3 grid points of a latent: those off the band are where it says about 1 or -1.
    Parameters have the names and shapes of the published checkpoints.
    """

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self._initialise()

    def _initialise(self) -> None:
        """So that a new model passes signals on: nothing normalises between the decoder's convolutions, and with
        PyTorch's default weights its values would come out a thousand times smaller than the features that enter."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
            elif isinstance(module, SparseConv3d):
                inputs = module.kernel.numel() // module.kernel.shape[-1]
                nn.init.normal_(module.kernel, std=math.sqrt(2 / inputs))
                nn.init.zeros_(module.bias)
        # Latents begin as their means with a little noise: noise alone would teach the decoder to ignore them.
        mean, log_variance = self.encoder.out_layer.weight.data.chunk(2)
        nn.init.xavier_uniform_(mean)
        nn.init.zeros_(log_variance)
        nn.init.constant_(self.encoder.out_layer.bias.data.chunk(2)[1], _FIRST_LOG_VARIANCE)

    def encode(self, x: SparseTensor, *, checkpointing: bool = False) -> Posterior:
        """
        Args:
            x: [N, 1], distances over tau.
        """
        return self.encoder(x, Runner(checkpointing))

    def decode(self, latents: SparseTensor, *, checkpointing: bool = False) -> SparseTensor:
        """Values in (-1, 1), fp32 [512 L, 1], of the grid points of latents [L, latent_channels]."""
        return self.decoder(latents, Runner(checkpointing))

    def forward(self, x: SparseTensor, *, checkpointing: bool = False) -> tuple[SparseTensor, Posterior]:
        """What is decoded from a sample of the posterior, and the posterior."""
        posterior = self.encode(x, checkpointing=checkpointing)
        return self.decode(posterior.sample(), checkpointing=checkpointing), posterior
