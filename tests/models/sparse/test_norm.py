"""Norms equal those of torch on the voxels of each sample."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from voxels import DEVICE, random_coords, random_tensor

from models.sparse import norm, triton_norm
from models.sparse.norm import SparseGroupNorm, SparseLayerNorm
from models.sparse.structure import Structure
from models.sparse.tensor import SparseTensor


def randomised(layer: nn.GroupNorm) -> nn.GroupNorm:
    with torch.no_grad():
        layer.weight.normal_()
        layer.bias.normal_()
    return layer


def with_an_empty_sample(channels: int) -> SparseTensor:
    coords = random_coords(7, samples=3)
    structure, _ = Structure.from_coords(coords[coords[:, 0] != 1], batch_size=4)  # 1 and 3 are empty
    feats = torch.randn(structure.num_voxels, channels, dtype=torch.float64) * 3 + 5
    return SparseTensor(feats.requires_grad_(), structure)


@pytest.mark.parametrize("groups", [1, 3, 6])
def test_group_norm_is_that_of_torch_on_each_sample(groups: int) -> None:
    x = with_an_empty_sample(channels=6)
    layer = randomised(SparseGroupNorm(groups, 6, dtype=torch.float64))
    y = layer(x).feats
    expected = torch.cat(
        [
            nn.functional.group_norm(part.feats.T[None], groups, layer.weight, layer.bias)[0].T
            for part in x.split()
            if part.num_voxels
        ]
    )
    torch.testing.assert_close(y, expected)
    grad = torch.randn_like(expected)
    inputs = x.feats, layer.weight, layer.bias
    for value, other in zip(
        torch.autograd.grad(y, inputs, grad), torch.autograd.grad(expected, inputs, grad), strict=True
    ):
        torch.testing.assert_close(value, other)


def test_gradients_are_those_of_finite_differences() -> None:
    x = random_tensor(3, channels=4)
    weight, bias = (torch.randn(4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    offsets = x.batch_offsets
    assert torch.autograd.gradcheck(lambda *args: norm.group_norm(*args, offsets, 2), (x.feats, weight, bias))


def test_a_mean_far_from_zero_costs_no_digits() -> None:
    x = random_tensor(8, channels=4, dtype=torch.float32)
    far = x.replace(x.feats.detach() * 0.125 + 1000)
    exact = SparseGroupNorm(2, 4, dtype=torch.float64)(far.to(dtype=torch.float64)).feats
    torch.testing.assert_close(SparseGroupNorm(2, 4)(far).feats.double(), exact, rtol=0, atol=1e-3)


def test_halves_are_normalised_in_single_precision() -> None:
    x = random_tensor(8, channels=4, dtype=torch.float32)
    half = x.to(dtype=torch.bfloat16)
    y = SparseGroupNorm(2, 4)(half)
    assert y.dtype == torch.bfloat16
    expected = SparseGroupNorm(2, 4)(half.to(dtype=torch.float32)).feats
    torch.testing.assert_close(y.feats, expected.bfloat16())
    expected = nn.functional.layer_norm(half.feats.float(), (4,)).bfloat16()
    for layer in (SparseLayerNorm(4), SparseLayerNorm(4).bfloat16(), SparseLayerNorm(4, elementwise_affine=False)):
        assert torch.equal(layer(half).feats, expected)


def test_layer_norm_is_that_of_torch_on_each_voxel() -> None:
    x = random_tensor(4, channels=6)
    layer = SparseLayerNorm(6, dtype=torch.float64)
    torch.testing.assert_close(layer(x).feats, nn.functional.layer_norm(x.feats, (6,)))
    assert set(layer.state_dict()) == {"weight", "bias"}


def test_the_operator_is_registered_as_torch_wants_and_can_be_compiled() -> None:
    x = with_an_empty_sample(channels=4)
    weight, bias = (torch.randn(4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    torch.library.opcheck(norm._group_norm, (x.feats, weight, bias, x.batch_offsets, 2, 1e-5))
    layer = SparseGroupNorm(2, 4, dtype=torch.float64)
    compiled = torch.compile(lambda x: layer(x).feats, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), layer(x).feats)


def test_channels_that_do_not_fit_are_refused() -> None:
    x = random_tensor(3, channels=6)
    one = torch.ones(6)
    with pytest.raises(ValueError, match="C divisible by groups=4"):
        norm.group_norm(x.feats, one, one, x.batch_offsets, 4)
    with pytest.raises(ValueError, match=r"weight and bias must be \[6\]"):
        norm.group_norm(x.feats, one[:3], one, x.batch_offsets, 2)


@pytest.mark.parametrize("channels", [5, 64, 100])
@pytest.mark.parametrize("both", [False, True])
def test_kernels_agree_with_pytorch(channels: int, both: bool) -> None:
    x = with_an_empty_sample(channels)
    feats = x.feats.detach().float()
    other = torch.randn_like(feats) if both else None
    coefficients = [torch.randn(4, channels) for _ in range(4)]

    def moved(*tensors: Tensor | None) -> list[Tensor | None]:
        return [None if tensor is None else tensor.to(DEVICE) for tensor in tensors]

    offsets = x.batch_offsets.to(DEVICE)
    expected = norm._sums(feats, other, coefficients[0], x.batch_offsets)
    found = triton_norm.sums(*moved(feats, other, coefficients[0]), offsets)
    for value, other_value in zip(found, expected, strict=True):
        torch.testing.assert_close(value.cpu(), other_value, rtol=1e-4, atol=1e-3)
    exact = norm._affine(feats, other, *coefficients, x.batch_offsets)
    torch.testing.assert_close(triton_norm.affine(*moved(feats, other, *coefficients), offsets).cpu(), exact)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_gpu_gives_what_a_cpu_does(dtype: torch.dtype) -> None:
    x = with_an_empty_sample(channels=64)
    layer = randomised(SparseGroupNorm(32, 64))
    feats = x.feats.detach().to(dtype)
    leaves = [feats.clone().requires_grad_(), feats.cuda().requires_grad_()]
    expected = layer(SparseTensor(leaves[0], x.structure)).feats
    grad = torch.randn_like(expected)
    expected_grads = torch.autograd.grad(expected, (leaves[0], *layer.parameters()), grad)
    layer.cuda()
    found = layer(SparseTensor(leaves[1], x.structure.to("cuda"))).feats
    grads = torch.autograd.grad(found, (leaves[1], *layer.parameters()), grad.cuda())
    torch.testing.assert_close(found.cpu(), expected)
    for value, other in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(value.cpu(), other, rtol=0.02 if dtype == torch.bfloat16 else 1e-4, atol=1e-4)
