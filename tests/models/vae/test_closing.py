"""Decoded surfaces end nowhere: points beside a block that is not there are on its side."""

from __future__ import annotations

import itertools

import pytest
import shapes
import torch
from small import fields
from torch import Tensor

from models.data.isosurface import isosurface
from models.sparse.tensor import SparseTensor
from models.vae.batch import fields_of, targets_of
from models.vae.closing import closed
from models.vae.config import FACTOR

R = 64


@pytest.fixture(scope="module")
def right() -> SparseTensor:
    """What a faultless decoder answers for two solids that have blocks without a latent inside and outside."""
    meshes = [shapes.sphere(0.8, 3), shapes.moved(shapes.box(1.1, 1.0, 0.9), shapes.rotation(1))]
    return targets_of(fields(R, meshes)).values


def beside_nothing(x: SparseTensor) -> Tensor:
    """bool [N]: points with a neighbour, over a face, an edge or a corner, in a block that is not there. Dense."""
    blocks = R // FACTOR + 2
    there = torch.zeros(x.batch_size, blocks, blocks, blocks, dtype=torch.bool)
    sample, *place = x.coords.long().T
    there[(sample, *(axis // FACTOR + 1 for axis in place))] = True
    found = torch.zeros(x.num_voxels, dtype=torch.bool)
    for step in itertools.product((-1, 0, 1), repeat=3):
        found |= ~there[(sample, *((axis + by) // FACTOR + 1 for axis, by in zip(place, step, strict=True)))]
    return found


def spoiled(x: SparseTensor, share: float, device: str = "cpu") -> SparseTensor:
    """Some points beside nothing, at random, on the wrong side."""
    border = beside_nothing(x)
    wrong = border & (torch.rand(x.num_voxels, generator=torch.Generator().manual_seed(0)) < share)
    assert int(wrong.sum()) > 100
    return x.replace(torch.where(wrong[:, None], -0.7 * x.feats.sign(), x.feats)).to(device)


def open_edges(x: SparseTensor) -> int:
    count = 0
    for field in fields_of(x, R, 4 / R):
        faces = isosurface(field).faces.cpu()
        edges = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).sort(dim=1).values
        count += int((edges.unique(dim=0, return_counts=True)[1] != 2).sum())
    return count


def test_what_is_right_stays(right: SparseTensor) -> None:
    assert bool((right.feats[beside_nothing(right)] < 0).any())  # there is a block without a latent inside
    assert torch.equal(closed(right).feats, right.feats)


@pytest.mark.parametrize("share", [0.02, 0.3])
def test_points_beside_nothing_take_its_side_and_no_other_changes(right: SparseTensor, share: float) -> None:
    given = spoiled(right, share)
    found = closed(given).feats
    border = beside_nothing(right)
    assert torch.equal(found[~border], given.feats[~border])
    assert torch.equal(found < 0, right.feats < 0)
    assert torch.equal(found.abs(), given.feats.abs())


def test_a_surface_that_left_its_blocks_is_closed(right: SparseTensor, monkeypatch: pytest.MonkeyPatch) -> None:
    given = spoiled(right, 0.05)
    assert open_edges(given) == 0
    monkeypatch.setattr("models.vae.batch.closed", lambda decoded: decoded)
    assert open_edges(given) > 0


def test_a_point_of_zero_comes_to_the_inside(right: SparseTensor) -> None:
    border = beside_nothing(right) & (right.feats[:, 0] < 0)
    given = right.replace(torch.where(border[:, None] & (right.coords[:, 1:2] % 2 == 0), 0.0, right.feats))
    assert torch.equal(closed(given).feats < 0, right.feats < 0)


def test_nothing_is_closed(right: SparseTensor) -> None:
    empty = right.select(torch.zeros(right.num_voxels, dtype=torch.bool))
    assert closed(empty).num_voxels == 0


@pytest.mark.gpu
def test_cuda_closes_like_the_cpu(right: SparseTensor) -> None:
    assert torch.equal(closed(spoiled(right, 0.3, "cuda")).feats.cpu(), closed(spoiled(right, 0.3)).feats)
