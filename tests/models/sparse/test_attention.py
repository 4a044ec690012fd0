"""Window attention against a loop over windows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from voxels import random_tensor

from models.sparse.attention import SparseWindowAttention
from models.sparse.structure import Structure
from models.sparse.tensor import SparseTensor


def expected_output(layer: SparseWindowAttention, x: SparseTensor) -> Tensor:
    windows: dict[tuple[int, ...], list[int]] = {}
    for voxel, (b, *place) in enumerate(x.coords.tolist()):
        windows.setdefault((b, *((c + layer.shift) // layer.window for c in place)), []).append(voxel)
    qkv = layer.to_qkv(x.feats)
    rows: dict[int, Tensor] = {}
    for members in windows.values():
        q, k, v = (part.view(len(members), layer.heads, -1).transpose(0, 1) for part in qkv[members].chunk(3, dim=1))
        o = nn.functional.scaled_dot_product_attention(q, k, v).transpose(0, 1).flatten(1)
        rows.update(zip(members, o, strict=True))
    return layer.to_out(torch.stack([rows[voxel] for voxel in range(x.num_voxels)]))


@pytest.mark.parametrize("shift", [0, 2])
@pytest.mark.parametrize("side", [1, 4, 9])
def test_voxels_attend_to_those_of_their_window(side: int, shift: int) -> None:
    x = random_tensor(side, channels=32)
    layer = SparseWindowAttention(32, 2, window=4, shift=shift).double()
    y, expected = layer(x).feats, expected_output(layer, x)
    torch.testing.assert_close(y, expected)
    grad = torch.randn_like(y)
    inputs = [x.feats, *layer.parameters()]
    for value, other in zip(
        torch.autograd.grad(y, inputs, grad), torch.autograd.grad(expected, inputs, grad), strict=True
    ):
        torch.testing.assert_close(value, other)


def test_layers_share_the_windows_of_a_structure() -> None:
    x = random_tensor(5, channels=16, dtype=torch.float32)
    layer = SparseWindowAttention(16, 1)
    layer(layer(x))
    assert sum(isinstance(key, tuple) for key in x.structure._maps) == 1


def test_no_voxels_are_no_problem() -> None:
    structure, _ = Structure.from_coords(torch.zeros(0, 3, dtype=torch.int32), batch_size=2)
    assert SparseWindowAttention(16, 1)(SparseTensor(torch.zeros(0, 16), structure)).feats.shape == (0, 16)


def test_parameters_have_the_names_of_the_public_checkpoints() -> None:
    shapes = {name: tuple(value.shape) for name, value in SparseWindowAttention(64, 4).state_dict().items()}
    assert shapes == {
        "to_qkv.weight": (192, 64),
        "to_qkv.bias": (192,),
        "to_out.weight": (64, 64),
        "to_out.bias": (64,),
    }


def test_arguments_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="heads must divide channels=64, got 5"):
        SparseWindowAttention(64, 5)
    with pytest.raises(ValueError, match=r"shift must be in \[0, window=8\), got 8"):
        SparseWindowAttention(64, 4, shift=8)


@pytest.mark.gpu
@pytest.mark.parametrize("shift", [0, 4])
def test_a_gpu_gives_what_a_cpu_does(shift: int) -> None:
    x = random_tensor(24, channels=128, share=0.1, dtype=torch.float32)
    layer = SparseWindowAttention(128, 2, shift=shift)
    expected = layer(x).feats
    grad = torch.randn_like(expected)
    expected_grad = torch.autograd.grad(expected, x.feats, grad)[0]
    leaf = x.feats.detach().cuda().requires_grad_()
    found = layer.cuda()(SparseTensor(leaf, x.structure.to("cuda"))).feats
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-4, atol=1e-5)
    found_grad = torch.autograd.grad(found, leaf, grad.cuda())[0]
    torch.testing.assert_close(found_grad.cpu(), expected_grad, rtol=1e-4, atol=1e-4)
