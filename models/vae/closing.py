"""What a decoder answers, made to close: no surface leaves the blocks of the latents.

A surface is farther than tau from every block without a latent, so such a block is on one side of it, as are those next
to it and the decoded points beside them: two neighbouring points that are both off the band cannot be on different
sides. A decoder errs there now and then, and its surface would end at the face of a block, with a hole. So the points
beside a block that is not there vote for its side, together with those beside the blocks around it, and take the side
that wins.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from models.sparse.structure import OFFSETS, Structure
from models.sparse.tensor import SparseTensor
from models.vae.config import FACTOR

_POINTS = FACTOR**3
_CENTRE = len(OFFSETS) // 2
# Of a point that changed sides, over tau: zero would be on neither.
_LEAST = 1e-3


def closed(decoded: SparseTensor) -> SparseTensor:
    """The same values but for the sides of points within a step of a block that is not there.

    Args:
        decoded: [512 L, 1], negative inside, on all points of the blocks of L latents: of `SparseVAE.decode`.
    """
    values = decoded.feats.clone().view(-1, _POINTS)
    if not len(values):
        return decoded
    local = decoded.coords[:_POINTS, 1:] % FACTOR
    blocks, latents = _with_surroundings(decoded.coords[::_POINTS])
    votes = values.new_zeros(blocks.num_voxels)
    for beside, points, missing in _borders(blocks, latents, local):
        votes.index_add_(0, missing, values[beside][:, points].sum(1))
    side = _around(blocks, votes)
    for beside, points, missing in _borders(blocks, latents, local):
        faces = values[beside][:, points]
        inside = (side[missing] < 0)[:, None]
        wrong = (faces < 0) != inside
        turned = torch.where(inside, -1.0, 1.0) * faces.abs().clamp(min=_LEAST)
        values[beside[:, None], points] = torch.where(wrong, turned, faces)
    return decoded.replace(values.view(-1, 1))


def _with_surroundings(coords: Tensor) -> tuple[Structure, Tensor]:
    """The blocks of latents and the 26 around each, moved by one so that none is below zero; and the places of the
    latents among them, int64 [L].

    Args:
        coords: int [L, 4], of the first grid point of every latent.
    """
    home = coords.long()
    home[:, 1:] = home[:, 1:] // FACTOR + 1
    steps = torch.tensor([(0, *offset) for offset in OFFSETS], device=coords.device)
    side = int(home[:, 1:].max()) + 2
    base = torch.tensor([side**3, side**2, side, 1], device=coords.device)
    own = (home * base).sum(1)
    every = (own[:, None] + (steps * base).sum(1)).unique()
    found = torch.stack([every // side**3, every // side**2 % side, every // side % side, every % side], 1)
    blocks, order = Structure.from_coords(found, batch_size=int(home[:, 0].max()) + 1)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    return blocks, place[torch.searchsorted(every, own)]


def _borders(blocks: Structure, latents: Tensor, local: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """For each of 26 directions: latents with no latent there, int64 [K]; which of their points are beside what is
    missing, int64; and its place among the blocks, int64 [K].

    Args:
        local: int [512, 3], x, y and z of the points in a block.
    """
    there = torch.zeros(blocks.num_voxels, dtype=torch.bool, device=latents.device)
    there[latents] = True
    for row, offset in zip(blocks.neighbors, OFFSETS, strict=True):
        if any(offset):
            neighbor = row[latents].long()
            beside = (~there[neighbor]).nonzero()[:, 0]
            step = torch.tensor(offset, device=local.device)
            at_face = torch.where(step > 0, local == FACTOR - 1, local == 0) | (step == 0)
            yield beside, at_face.all(1).nonzero()[:, 0], neighbor[beside]


def _around(blocks: Structure, votes: Tensor) -> Tensor:
    """The sum over every block and its 26 neighbours; latents have no votes."""
    found = votes.clone()
    for number, row in enumerate(blocks.neighbors):
        if number != _CENTRE:
            found += torch.where(row >= 0, votes[row.clamp(min=0).long()], 0)
    return found
