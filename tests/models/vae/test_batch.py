"""Inputs are fields over tau; targets are on all grid points of the latents' blocks, in the decoder's order."""

from __future__ import annotations

import pytest
import shapes
import torch
from small import MESHES, fields

from models.data.isosurface import isosurface
from models.sparse.tensor import SparseTensor
from models.vae.batch import fields_of, inputs_of, targets_of
from models.vae.config import FACTOR


def test_inputs_are_distances_over_tau_sample_by_sample() -> None:
    batch = fields()
    x = inputs_of(batch.fields)
    assert x.batch_size == 2
    assert float(x.feats.abs().max()) < 1
    for part, field in zip(x.split(), batch.fields, strict=True):
        order = SparseTensor.from_coords(field.coords, field.values[:, None])
        assert torch.equal(part.coords[:, 1:], order.coords[:, 1:])
        torch.testing.assert_close(part.feats * field.tau, order.feats)


def test_targets_fill_the_blocks_of_the_latents() -> None:
    batch = fields()
    targets = targets_of(batch)
    latents = inputs_of(batch.fields).structure
    for _ in range(3):
        latents = latents.parents.structure
    assert FACTOR == 2**3
    assert torch.equal(targets.values.coords, latents.children.children.children.coords)
    assert int(targets.band.sum()) == sum(len(field.coords) for field in batch.fields)
    assert set(targets.values.feats[~targets.band].unique().tolist()) == {-1.0, 1.0}
    assert int(targets.sharp.sum()) == sum(int(sharp.sum()) for sharp in batch.sharp)
    assert not bool((targets.sharp & ~targets.band).any())


def test_points_off_the_band_have_the_side_of_the_solid() -> None:
    batch = fields(meshes=[shapes.sphere(0.6, 3)])
    values = targets_of(batch).values
    radius = (values.coords[:, 1:] * (2 / 32) - 1).norm(dim=1)
    off = values.feats[:, 0].abs() == 1
    assert torch.equal(values.feats[off, 0] < 0, radius[off] < 0.6)


@pytest.mark.gpu
def test_a_batch_reaches_a_gpu_unchanged_while_the_cpu_goes_on() -> None:
    given = fields()
    pinned = given.pin_memory()
    moved = pinned.to(torch.device("cuda"))
    for before, held, after in zip(given.fields, pinned.fields, moved.fields, strict=True):
        assert held.coords.is_pinned()
        assert held.values.is_pinned()
        assert torch.equal(after.coords.cpu(), before.coords)
        assert torch.equal(after.values.cpu(), before.values)
    assert all(torch.equal(x.cpu(), y) for x, y in zip(moved.sharp, given.sharp, strict=True))


def test_a_decoded_field_gives_the_surface_back() -> None:
    batch = fields()
    targets = targets_of(batch)
    for given, found in zip(batch.fields, fields_of(targets.values, 32, batch.fields[0].tau), strict=True):
        ours, theirs = isosurface(found), isosurface(given)
        assert len(ours.faces) == len(theirs.faces)
        torch.testing.assert_close(ours.vertices, theirs.vertices, atol=1e-6, rtol=0)
    assert len(MESHES) == len(batch.fields)
