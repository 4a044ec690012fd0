"""A small SS-VAE and small fields for it."""

from __future__ import annotations

from collections.abc import Sequence

import shapes
import torch

from models.data.masks import sharp_voxels
from models.data.sdf import sparse_sdf
from models.vae.batch import Fields
from models.vae.config import VAEConfig
from models.vae.model import SparseVAE

CONFIG = VAEConfig(channels=32, latent_channels=4, blocks=2, head_channels=16, window=4)
MESHES = (shapes.sphere(0.6, 1), shapes.moved(shapes.box(0.9, 0.7, 0.5), shapes.rotation(1)))


def fields(resolution: int = 32, meshes: Sequence[shapes.Mesh] = MESHES) -> Fields:
    found = [sparse_sdf(*mesh, resolution) for mesh in meshes]
    return Fields(found, [sharp_voxels(field) for field in found])


def random_vae(config: VAEConfig = CONFIG, seed: int = 0) -> SparseVAE:
    """With weights in all layers: those of the latents' variance are zero at first."""
    torch.manual_seed(seed)
    vae = SparseVAE(config).eval()
    for layer in (vae.encoder.out_layer, vae.decoder.out_layer):
        torch.nn.init.normal_(layer.weight, std=0.2)
    return vae
