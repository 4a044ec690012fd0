"""Submanifold convolution equals a dense one on the grid of its voxels, on every device and as an operator of torch."""

from __future__ import annotations

import re
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from voxels import DEVICE, at_voxels, densified, random_coords, random_structure, random_tensor

from models.sparse import convolution, triton_convolution
from models.sparse.convolution import SparseConv3d, from_dense_kernel, sparse_conv3d, to_dense_kernel
from models.sparse.structure import OFFSETS, Structure
from models.sparse.tensor import SparseTensor
from models.sparse.triton_convolution import Tile, convolve, weight_gradient


def dense_twin(layer: SparseConv3d) -> nn.Conv3d:
    """A dense convolution with the weights of the sparse one, fp64."""
    kernel = layer.kernel.detach()
    kernel = kernel.expand(1, -1, -1) if kernel.ndim == 2 else kernel
    size = round(len(kernel) ** (1 / 3))
    twin = nn.Conv3d(kernel.shape[1], kernel.shape[2], size, padding=size // 2, dtype=torch.float64)
    assert twin.bias is not None
    with torch.no_grad():
        twin.weight.copy_(to_dense_kernel(kernel) if size == 3 else kernel[0].T[..., None, None, None])
        twin.bias.copy_(layer.bias)
    return twin


@pytest.mark.parametrize("side", [1, 2, 7, 8, 11])
@pytest.mark.parametrize("kernel_size", [1, 3])
def test_forward_and_gradients_are_those_of_a_dense_convolution(side: int, kernel_size: int) -> None:
    x = random_tensor(side, channels=3)
    layer = SparseConv3d(3, 5, kernel_size).double()
    twin = dense_twin(layer)
    y = layer(x)
    expected = at_voxels(twin(densified(x, side)), x.structure)
    torch.testing.assert_close(y.feats, expected)

    grad = torch.randn_like(expected)
    dfeats, dkernel, dbias = torch.autograd.grad(y.feats, (x.feats, layer.kernel, layer.bias), grad)
    dense = torch.autograd.grad(expected, (x.feats, twin.weight, twin.bias), grad)
    torch.testing.assert_close(dfeats, dense[0])
    torch.testing.assert_close(dkernel, from_dense_kernel(dense[1]) if kernel_size == 3 else dense[1][..., 0, 0, 0].T)
    torch.testing.assert_close(dbias, dense[2])


def test_a_voxel_on_its_own_meets_the_centre_of_the_kernel() -> None:
    structure, _ = Structure.from_coords(torch.tensor([[5, 0, 65535]]))
    kernel = torch.randn(27, 2, 4, dtype=torch.float64)
    feats = torch.randn(1, 2, dtype=torch.float64)
    torch.testing.assert_close(sparse_conv3d(feats, kernel, None, structure), feats @ kernel[13])


def test_elements_of_a_kernel_belong_to_their_offsets() -> None:
    structure = random_structure(5, samples=1)
    place = {tuple(row[1:]): number for number, row in enumerate(structure.coords.tolist())}
    feats = torch.randn(structure.num_voxels, 2, dtype=torch.float64)
    kernel = torch.randn(27, 2, 3, dtype=torch.float64)
    expected = torch.zeros(structure.num_voxels, 3, dtype=torch.float64)
    for (x, y, z), number in place.items():
        for element, (dx, dy, dz) in enumerate(OFFSETS):
            if (neighbor := place.get((x + dx, y + dy, z + dz))) is not None:
                expected[number] += feats[neighbor] @ kernel[element]
    torch.testing.assert_close(sparse_conv3d(feats, kernel, None, structure), expected)


def test_the_first_axis_is_the_fastest_of_a_kernel() -> None:
    assert OFFSETS[:4] == ((-1, -1, -1), (0, -1, -1), (1, -1, -1), (-1, 0, -1))
    weight = torch.randn(5, 4, 3, 3, 3)
    kernel = from_dense_kernel(weight)
    for element, (dx, dy, dz) in enumerate(OFFSETS):
        assert torch.equal(kernel[element], weight[:, :, dx + 1, dy + 1, dz + 1].T)
    assert torch.equal(to_dense_kernel(kernel), weight)


def test_samples_do_not_see_each_other() -> None:
    x = random_tensor(6, channels=2, samples=3)
    layer = SparseConv3d(2, 2).double()
    together = layer(x).split()
    for part, alone in zip(together, x.split(), strict=True):
        torch.testing.assert_close(part.feats, layer(alone).feats)


def test_no_voxels_give_no_features_and_gradients_of_zero() -> None:
    structure, _ = Structure.from_coords(torch.zeros(0, 3, dtype=torch.int32), batch_size=2)
    x = SparseTensor(torch.zeros(0, 2, requires_grad=True), structure)
    layer = SparseConv3d(2, 3)
    layer(x).feats.sum().backward()
    assert layer.kernel.grad is not None
    assert not layer.kernel.grad.any()


def test_parameters_have_the_names_and_shapes_of_the_public_checkpoints() -> None:
    shapes = {name: tuple(value.shape) for name, value in SparseConv3d(8, 16).state_dict().items()}
    assert shapes == {"kernel": (27, 8, 16), "bias": (16,)}
    shapes = {name: tuple(value.shape) for name, value in SparseConv3d(8, 16, 1).state_dict().items()}
    assert shapes == {"kernel": (8, 16), "bias": (16,)}


def test_weights_start_like_those_of_a_dense_convolution() -> None:
    layer, twin = SparseConv3d(32, 32), nn.Conv3d(32, 32, 3)
    torch.testing.assert_close(layer.kernel.std(), twin.weight.std(), rtol=0.05, atol=0)
    assert layer.bias.abs().max() <= (27 * 32) ** -0.5


def test_gradients_are_those_of_finite_differences() -> None:
    x = random_tensor(3, channels=2, samples=1)
    kernel = torch.randn(27, 2, 3, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *args: sparse_conv3d(*args, x.structure), (x.feats, kernel, bias))


def test_the_operators_are_registered_as_torch_wants() -> None:
    x = random_tensor(4, channels=2)
    kernel = torch.randn(27, 2, 3, dtype=torch.float64, requires_grad=True)
    maps = x.structure.neighbors, x.structure.neighbor_masks
    torch.library.opcheck(convolution._convolution, (x.feats, kernel, None, *maps))
    torch.library.opcheck(convolution._convolution, (x.feats, kernel, kernel.detach()[0, 0].requires_grad_(), *maps))
    torch.library.opcheck(
        convolution._feature_gradient, (torch.randn(x.num_voxels, 3).double(), kernel.detach(), *maps)
    )
    torch.library.opcheck(convolution._weight_gradient, (x.feats.detach(), x.feats.detach(), maps[0]))


def test_compile_captures_one_graph_and_gives_the_same_numbers() -> None:
    layer = SparseConv3d(3, 4).double()

    def run(x: SparseTensor) -> Tensor:
        return layer(x).feats.square().sum()

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    for side in (5, 7):
        x = random_tensor(side, channels=3)
        _ = x.structure.neighbor_masks  # maps are made before the graph
        torch.testing.assert_close(compiled(x), run(x))
        grads = [torch.autograd.grad(f(x), (x.feats, layer.kernel)) for f in (compiled, run)]
        torch.testing.assert_close(*grads)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            torch.testing.assert_close(compiled(x), run(x))


def test_activation_checkpointing_gives_the_same_gradients() -> None:
    x = random_tensor(5, channels=3)
    layer = nn.Sequential(SparseConv3d(3, 4), SparseConv3d(4, 2)).double()
    parameters = [x.feats, *layer.parameters()]
    plain = torch.autograd.grad(layer(x).feats.sum(), parameters)
    again = torch.autograd.grad(checkpoint(layer, x, use_reentrant=False).feats.sum(), parameters)
    torch.testing.assert_close(again, plain, rtol=0, atol=0)


def test_autocast_computes_in_its_dtype_and_gradients_in_that_of_the_parameters() -> None:
    x = random_tensor(5, channels=4, dtype=torch.float32)
    layer = SparseConv3d(4, 4)
    expected = layer(x).feats
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.feats.float(), expected, rtol=0.02, atol=0.02)
    y.feats.sum().backward()
    assert layer.kernel.grad is not None
    assert layer.kernel.grad.dtype == torch.float32


def test_halves_are_summed_in_single_precision() -> None:
    x = random_tensor(6, channels=16, dtype=torch.float32)
    kernel = torch.randn(27, 16, 8).bfloat16()
    exact = sparse_conv3d(x.feats.bfloat16().double(), kernel.double(), None, x.structure)
    assert torch.equal(sparse_conv3d(x.feats.bfloat16(), kernel, None, x.structure), exact.bfloat16())


@pytest.mark.parametrize(
    ("feats", "kernel", "bias", "message"),
    [
        (torch.zeros(1, 2), torch.zeros(27, 2, 3), None, "feats must be floating point [N=2, Cin]"),
        (torch.zeros(2, 2), torch.zeros(9, 2, 3), None, "kernel must be torch.float32 [27, 2, Cout]"),
        (torch.zeros(2, 2), torch.zeros(27, 2, 3).half(), None, "kernel must be torch.float32 [27, 2, Cout]"),
        (torch.zeros(2, 2), torch.zeros(27, 2, 3), torch.zeros(2), "bias must be torch.float32 [3]"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(
    feats: Tensor, kernel: Tensor, bias: Tensor | None, message: str
) -> None:
    structure, _ = Structure.from_coords(torch.tensor([[0, 0, 0], [0, 0, 1]]))
    with pytest.raises(ValueError, match=re.escape(message)):
        sparse_conv3d(feats, kernel, bias, structure)


def test_other_kernel_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="kernel_size must be 1 or 3, got 5"):
        SparseConv3d(2, 2, 5)


# fp16 rounds the result once; beyond that the sums differ in their order.
TOLERANCE = {torch.float16: 1e-3, torch.float32: 1e-5}
# Channels that fill tiles, that do not, and that take several tiles and steps.
CHANNELS = [(16, 32), (5, 7), (48, 20), (80, 144)]


def relative_error(value: Tensor, exact: Tensor) -> float:
    return float((value.double().cpu() - exact).norm() / exact.norm())


@pytest.mark.parametrize(("in_channels", "out_channels"), CHANNELS)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_kernels_agree_with_pytorch(in_channels: int, out_channels: int, dtype: torch.dtype) -> None:
    structure = random_structure(6)
    maps = structure.neighbors, structure.neighbor_masks
    feats = torch.randn(structure.num_voxels, in_channels).to(dtype)
    grad = torch.randn(structure.num_voxels, out_channels).to(dtype)
    kernel, bias = torch.randn(27, in_channels, out_channels).to(dtype), torch.randn(out_channels).to(dtype)

    on_device = [x.to(DEVICE) for x in (feats, kernel, bias, *maps, grad)]
    exact = convolution._convolution(feats.double(), kernel.double(), bias.double(), *maps)
    assert relative_error(convolve(*on_device[:5]), exact) < TOLERANCE[dtype]
    exact = convolution._feature_gradient(grad.double(), kernel.double(), *maps)
    dfeats = convolve(on_device[5], on_device[1], None, *on_device[3:5], mirrored=True)
    assert relative_error(dfeats, exact) < TOLERANCE[dtype]
    exact = convolution._weight_gradient(feats.double(), grad.double(), maps[0])
    assert relative_error(weight_gradient(on_device[0], on_device[5], on_device[3]), exact) < TOLERANCE[torch.float32]


def test_tiles_leave_out_elements_that_no_voxel_of_theirs_meets() -> None:
    # A line along x in one sample, along z in the other: tiles with different elements, most of them with three.
    line = torch.arange(300)
    zero = torch.zeros_like(line)
    coords = torch.cat([torch.stack([zero, line, zero, zero], 1), torch.stack([zero + 1, zero, zero, line], 1)])
    structure, _ = Structure.from_coords(coords)
    assert len(structure.neighbor_masks.unique()) == 3
    feats, kernel = torch.randn(600, 16), torch.randn(27, 16, 16)
    exact = sparse_conv3d(feats.double(), kernel.double(), None, structure)
    on_device = [x.to(DEVICE) for x in (feats, kernel, structure.neighbors, structure.neighbor_masks)]
    y = convolve(*on_device[:2], None, *on_device[2:], Tile(32, 16, 16, 4, 2))
    assert relative_error(y, exact) < 1e-5


def test_shares_of_rows_and_wide_addresses_give_the_same() -> None:
    structure = random_structure(8)
    maps = [x.to(DEVICE) for x in (structure.neighbors, structure.neighbor_masks)]
    feats, kernel = torch.randn(structure.num_voxels, 16), torch.randn(27, 16, 16)
    x, w = feats.to(DEVICE), kernel.to(DEVICE)
    exact = convolution._weight_gradient(feats.double(), feats.double(), structure.neighbors)
    with (
        mock.patch.object(triton_convolution, "_SHARE_ROWS", 64),
        mock.patch.object(triton_convolution, "_WIDE_ELEMENTS", 1),
    ):
        assert relative_error(weight_gradient(x, x, maps[0]), exact) < 1e-5
        wide = convolve(x, w, None, *maps)
    assert torch.equal(wide, convolve(x, w, None, *maps))


# Against fp64 on the same rounded inputs: the weight gradient and the result are rounded once to the dtype.
GPU_TOLERANCE = {torch.bfloat16: 4e-3, torch.float16: 5e-4, torch.float32: 1e-5}


@pytest.mark.gpu
@pytest.mark.parametrize(("in_channels", "out_channels"), [*CHANNELS, (32, 64), (128, 512), (512, 512)])
@pytest.mark.parametrize("dtype", GPU_TOLERANCE)
def test_a_layer_on_a_gpu_agrees_with_one_on_a_cpu(in_channels: int, out_channels: int, dtype: torch.dtype) -> None:
    x = random_tensor(16, in_channels, samples=2, dtype=torch.float32)
    layer = SparseConv3d(in_channels, out_channels).to(dtype)
    grad = torch.randn(x.num_voxels, out_channels).to(dtype)

    def results(device: str, dtype: torch.dtype, rounded: torch.dtype) -> list[Tensor]:
        leaf = x.feats.detach().to(rounded).to(device, dtype).requires_grad_()
        parameters = [p.detach().to(device, dtype).requires_grad_() for p in layer.parameters()]
        y = sparse_conv3d(leaf, *parameters, x.structure.to(device))
        return [y, *torch.autograd.grad(y, (leaf, *parameters), grad.to(device, dtype))]

    exact = results("cpu", torch.float64, dtype)
    found = results("cuda", dtype, dtype)
    again = results("cuda", dtype, dtype)
    for value, repeated, expected in zip(found, again, exact, strict=True):
        assert torch.equal(value, repeated)
        assert relative_error(value.detach(), expected.detach()) < GPU_TOLERANCE[dtype]


@pytest.mark.gpu
def test_double_precision_on_a_gpu_is_refused() -> None:
    x = random_tensor(4, channels=2).to("cuda")
    with pytest.raises(ValueError, match="feats must be fp16, bf16 or fp32 on CUDA"):
        SparseConv3d(2, 2).double().cuda()(x)


@pytest.mark.gpu
def test_compile_on_a_gpu_captures_one_graph() -> None:
    x = random_tensor(8, channels=16, dtype=torch.float32).to("cuda")
    layer = SparseConv3d(16, 32).cuda()
    _ = x.structure.neighbor_masks
    compiled = torch.compile(lambda x: layer(x).feats, fullgraph=True)
    torch.testing.assert_close(compiled(x), layer(x).feats)


@pytest.mark.gpu
@pytest.mark.slow
def test_ten_million_voxels_and_more_than_2_31_features() -> None:
    plane = torch.cartesian_prod(torch.arange(1024), torch.arange(1024), torch.arange(100, 110)).int()
    structure, _ = Structure.from_coords(plane.cuda())
    assert structure.num_voxels > 10_000_000
    feats = torch.randn(structure.num_voxels, 256, dtype=torch.bfloat16, device="cuda", requires_grad=True)
    kernel = torch.randn(27, 256, 16, dtype=torch.bfloat16, device="cuda", requires_grad=True)
    y = sparse_conv3d(feats, kernel, None, structure)
    grad = torch.randn_like(y)
    dfeats, _ = torch.autograd.grad(y, (feats, kernel), grad)
    rows = torch.randint(0, structure.num_voxels, (1000,), device="cuda")
    rows[0] = structure.num_voxels - 1
    around = structure.neighbors[:, rows].long()
    there = (around >= 0)[..., None]
    with torch.no_grad():
        gathered = torch.where(there, feats[around], 0).double()
        exact = torch.einsum("knc,kcd->nd", gathered, kernel.double()).cpu()
        gathered = torch.where(there, grad[around], 0).double()
        exact_grad = torch.einsum("knd,kcd->nc", gathered, kernel.double().flip(0)).cpu()
    assert relative_error(y[rows].detach(), exact) < 4e-3
    assert relative_error(dfeats[rows], exact_grad) < 4e-3


def test_random_coordinates_of_these_tests_reach_both_corners() -> None:
    coords = random_coords(5)
    assert coords.amin(0).tolist() == [0, 0, 0, 0]
    assert coords.amax(0).tolist() == [1, 4, 4, 4]
