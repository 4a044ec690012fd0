"""Sizes of an SS-VAE."""

from __future__ import annotations

from typing import Final

from pydantic import Field, model_validator

from models.training.config import Settings

FACTOR: Final = 8  # a latent stands for 8^3 grid points


class VAEConfig(Settings):
    """The defaults are the published model's (`SparseSDFVAE` of github.com/DreamTechAI/Direct3D-S2, fact sheet 2).

    Raises:
        ValueError: heads or convolutions that the channels cannot be shared out to.
    """

    channels: int = Field(default=512, ge=16)  # at the latents; a quarter, an eighth and a sixteenth towards the grid
    latent_channels: int = Field(default=16, ge=1)
    blocks: int = Field(default=4, ge=0)  # of attention, in the encoder and in the decoder
    head_channels: int = Field(default=64, ge=16)
    window: int = Field(default=8, ge=2)  # latents along a side; every second block is shifted by half of it
    # Tells the encoder where in its latent's block a point is. The published model does not: means over the voxels that
    # are there forget it, and a plane in the lower half of its blocks has the very latents of one in the upper half.
    block_positions: bool = False

    @model_validator(mode="after")
    def _check(self) -> VAEConfig:
        if self.channels % 16:
            raise ValueError(f"channels must be a multiple of 16, got {self.channels}")
        if self.channels % self.head_channels:
            raise ValueError(f"channels must be a multiple of head_channels={self.head_channels}, got {self.channels}")
        return self
