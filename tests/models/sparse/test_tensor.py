"""Features follow their voxels."""

from __future__ import annotations

import pytest
import torch
from torch.utils import _pytree
from voxels import random_coords, random_tensor

from models.sparse.tensor import SparseTensor, cat


def test_features_are_sorted_with_their_voxels_and_gradients_flow_back() -> None:
    coords = random_coords(7)
    feats = coords.double().requires_grad_()
    x = SparseTensor.from_coords(coords, feats)
    assert torch.equal(x.feats, x.coords.double())
    weight = torch.randn(4, dtype=torch.float64)
    (x.feats * weight * x.coords[:, 1:2]).sum().backward()
    torch.testing.assert_close(feats.grad, weight * coords[:, 1:2])


def test_other_features_share_the_structure() -> None:
    x = random_tensor(5, channels=3)
    assert x.replace(x.feats[:, :1]).structure is x.structure
    assert x.to("cpu").structure is x.structure
    assert x.to(dtype=torch.bfloat16).dtype == torch.bfloat16


def test_a_batch_is_the_samples_it_is_made_of() -> None:
    x, y = random_tensor(5, channels=3, samples=3), random_tensor(9, channels=3, samples=1)
    together = cat([x, y])
    assert together.batch_size == 4
    parts = together.split()
    for part, alone in zip(parts, [*x.split(), y], strict=True):
        assert torch.equal(part.feats, alone.feats)
        assert torch.equal(part.coords, alone.coords)


def test_selected_voxels_keep_their_features() -> None:
    x = SparseTensor.from_coords(coords := random_coords(7), coords.double())
    selected = x.select(x.feats[:, 2] > 3)
    assert torch.equal(selected.feats, selected.coords.double())
    assert 0 < selected.num_voxels < x.num_voxels
    assert bool((selected.coords[:, 2] > 3).all())


def test_hooks_of_modules_find_the_features() -> None:
    x = random_tensor(4, channels=2)
    leaves, spec = _pytree.tree_flatten((x, "other"))
    assert leaves[0] is x.feats
    doubled, _ = _pytree.tree_unflatten([leaves[0] * 2, "other"], spec)
    assert torch.equal(doubled.feats, x.feats * 2)
    assert doubled.structure is x.structure


def test_features_of_other_voxels_are_refused() -> None:
    x = random_tensor(4, channels=2)
    with pytest.raises(ValueError, match=r"feats must be \[N=\d+, C\]"):
        x.replace(x.feats[1:])
    with pytest.raises(ValueError, match=r"feats must be \[N=\d+, C\]"):
        SparseTensor.from_coords(x.coords, x.feats[1:])
    with pytest.raises(ValueError, match="feats must be on cpu like the coords, got meta"):
        x.replace(x.feats.to("meta"))
    with pytest.raises(ValueError, match="structures must not be empty"):
        cat([])
