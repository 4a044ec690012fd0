"""Decoding with a bound on memory: box by box, each with the latents around it that its values depend on.

Attention runs once over all latents: its features are an eight-thousandth of what the convolutions need at the grid's
resolution. The result is that of decoding in one piece.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.sparse.tensor import SparseTensor
from models.vae.blocks import Runner
from models.vae.config import FACTOR
from models.vae.model import SparseVAE

# Latents that a convolution stack can see beyond its own: steps of 1, 1/2, 1/2, 1/4, 1/4 and 1/8 of a latent.
_HALO = 3


@torch.no_grad()
def decode(vae: SparseVAE, latents: SparseTensor, *, max_latents: int = 32_768) -> SparseTensor:
    """Values in (-1, 1), fp32 [512 L, 1], on the CPU or wherever the latents are, as of `SparseVAE.decode`.

    Args:
        latents: [L, latent_channels].
        max_latents: decoded at once, those around a box included; about 70 kB each for 512 channels in bf16.

    Raises:
        ValueError: max_latents is not positive.
    """
    if max_latents < 1:
        raise ValueError(f"max_latents must be positive, got {max_latents}")
    run = Runner(checkpointing=False)
    features = vae.decoder.transform(latents, run)
    values = features.feats.new_empty(latents.num_voxels, FACTOR**3, dtype=torch.float32)
    everything = torch.arange(latents.num_voxels, device=latents.device)
    for inside, around in _boxes(latents.coords.long(), everything, max_latents):
        chosen = torch.zeros(latents.num_voxels, dtype=torch.bool, device=latents.device)
        chosen[around] = True
        part = vae.decoder.refine(features.select(chosen), run).feats.view(-1, FACTOR**3)
        rank = chosen.cumsum(0) - 1
        values[inside] = part[rank[inside]]
    structure = latents.structure.children.children.children
    return SparseTensor(values.view(-1, 1), structure)


def _boxes(coords: Tensor, inside: Tensor, most: int) -> list[tuple[Tensor, Tensor]]:
    """Latents by number, cut at the median of the longest side until they and those around them are few enough.

    A box that cannot be cut any further may hold more than `most`.
    """
    around = _around(coords, inside)
    low, high = coords[inside].aminmax(dim=0)
    longest = int((high - low).argmax())
    along = coords[inside, longest]
    middle = int(along.median())
    left = along <= middle if middle < int(high[longest]) else along < middle
    if len(around) <= most or not bool(left.any()) or bool(left.all()):
        return [(inside, around)]
    return [*_boxes(coords, inside[left], most), *_boxes(coords, inside[~left], most)]


def _around(coords: Tensor, inside: Tensor) -> Tensor:
    """Numbers of the latents in the box around some, its halo included, in the samples that the box has."""
    if not len(inside):
        return inside
    low, high = coords[inside].aminmax(dim=0)
    margin = coords.new_tensor([0, _HALO, _HALO, _HALO])
    return ((coords >= low - margin) & (coords <= high + margin)).all(1).nonzero()[:, 0]
