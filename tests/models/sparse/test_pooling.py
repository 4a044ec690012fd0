"""Pooling and subdivision against loops over voxels."""

from __future__ import annotations

import pytest
import torch
from voxels import random_structure, random_tensor

from models.sparse.pooling import mean_pool, subdivide
from models.sparse.structure import Structure
from models.sparse.tensor import SparseTensor


@pytest.mark.parametrize("side", [1, 2, 5, 8])
def test_a_parent_has_the_mean_of_the_children_that_are_there(side: int) -> None:
    x = random_tensor(side, channels=3)
    y = mean_pool(x)
    children: dict[tuple[int, ...], list[torch.Tensor]] = {}
    for (b, i, j, k), feats in zip(x.coords.tolist(), x.feats, strict=True):
        children.setdefault((b, i // 2, j // 2, k // 2), []).append(feats)
    assert {tuple(row) for row in y.coords.tolist()} == set(children)
    expected = torch.stack([torch.stack(children[tuple(row)]).mean(0) for row in y.coords.tolist()])
    torch.testing.assert_close(y.feats, expected)
    grad = torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad(y.feats, x.feats, grad)[0], torch.autograd.grad(expected, x.feats, grad)[0]
    )


def test_eight_children_have_the_features_of_their_parent() -> None:
    x = random_tensor(5, channels=3)
    y = subdivide(x)
    feats = {tuple(row): value for row, value in zip(x.coords.tolist(), x.feats, strict=True)}
    assert y.num_voxels == 8 * x.num_voxels
    expected = torch.stack([feats[b, i // 2, j // 2, k // 2] for b, i, j, k in y.coords.tolist()])
    assert torch.equal(y.feats, expected)
    grad = torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad(y.feats, x.feats, grad)[0], torch.autograd.grad(expected, x.feats, grad)[0]
    )


def test_pooling_undoes_a_subdivision() -> None:
    x = random_tensor(6, channels=3)
    y = mean_pool(subdivide(x))
    assert torch.equal(y.coords, x.coords)
    torch.testing.assert_close(y.feats, x.feats)


def test_gradients_are_those_of_finite_differences() -> None:
    x = random_tensor(3, channels=2)
    assert torch.autograd.gradcheck(lambda feats: mean_pool(x.replace(feats)).feats, (x.feats,))
    assert torch.autograd.gradcheck(lambda feats: subdivide(x.replace(feats)).feats, (x.feats,))


def test_halves_are_averaged_in_single_precision() -> None:
    structure = random_structure(4, share=1.0, samples=1)
    feats = (1 + torch.rand(64, 3)).bfloat16()
    y = mean_pool(SparseTensor(feats, structure)).feats
    assert torch.equal(y, feats.float().view(8, 8, 3).mean(1).bfloat16())


def test_empty_samples_stay_empty() -> None:
    structure, _ = Structure.from_coords(torch.tensor([[4, 5, 6]]), torch.tensor([1]), batch_size=3)
    x = SparseTensor(torch.ones(1, 2), structure)
    assert mean_pool(x).batch_offsets.tolist() == [0, 0, 1, 1]
    assert subdivide(x).batch_offsets.tolist() == [0, 0, 8, 8]
    nothing = x.select(torch.tensor([False]))
    assert mean_pool(nothing).feats.shape == (0, 2)
    assert subdivide(nothing).feats.shape == (0, 2)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_gpu_gives_what_a_cpu_does(dtype: torch.dtype) -> None:
    x = random_tensor(20, channels=48, share=0.2, dtype=dtype)
    leaf = x.feats.detach().cuda().requires_grad_()
    moved = SparseTensor(leaf, x.structure.to("cuda"))
    for layer in (mean_pool, subdivide):
        y, z = layer(x), layer(moved)
        torch.testing.assert_close(z.feats.cpu(), y.feats)
        grad = torch.randn_like(y.feats)
        expected = torch.autograd.grad(y.feats, x.feats, grad)[0]
        torch.testing.assert_close(torch.autograd.grad(z.feats, leaf, grad.cuda())[0].cpu(), expected)
