"""A field through an SS-VAE to a surface."""

from __future__ import annotations

import torch

from models.data.isosurface import Surface, isosurface
from models.data.sdf import SparseSDF
from models.vae.batch import fields_of, inputs_of
from models.vae.decoding import decode
from models.vae.model import SparseVAE


@torch.no_grad()
def reconstruct(vae: SparseVAE, field: SparseSDF, *, max_latents: int = 32_768) -> tuple[Surface, int]:
    """The surface that the mean of the latents decodes to, and the number of latents.

    Args:
        field: on the device of the model, of a resolution that is a multiple of 8.
        max_latents: decoded at once; a bound on memory, see `models.vae.decoding`.

    Raises:
        ValueError: a resolution that is not a multiple of 8.
    """
    if field.resolution % 8:
        raise ValueError(f"resolution must be a multiple of 8, got {field.resolution}")
    latents = vae.encode(inputs_of([field])).mean
    decoded = decode(vae, latents, max_latents=max_latents)
    return isosurface(fields_of(decoded, field.resolution, field.tau)[0]), latents.num_voxels
