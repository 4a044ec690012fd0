"""Submanifold convolution: the output lives on the voxels of the input, and voxels that are not there count as zero.

Equal to a dense 3^3 convolution with zero padding, masked to the active voxels (Graham et al., arXiv 1711.10275).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from models.sparse.structure import Structure
from models.sparse.tensor import SparseTensor

_CUDA_DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def sparse_conv3d(feats: Tensor, kernel: Tensor, bias: Tensor | None, structure: Structure) -> Tensor:
    """Submanifold 3^3 convolution of features on the voxels of a structure.

    PyTorch on a CPU, any floating dtype; Triton on CUDA, fp16, bf16 and fp32 (rounded to TF32 only where
    `torch.backends.cuda.matmul` may). Under autocast in its dtype, like torch's own convolutions. Differentiable once
    in feats, kernel and bias; sums in fp32, deterministic.

    The order of kernel elements is that of the public checkpoints; `from_dense_kernel` makes it.

    Args:
        feats: [N, Cin]. kernel: [27, Cin, Cout], elements in the order of `structure.OFFSETS`. bias: [Cout].

    Returns:
        [N, Cout].

    Raises:
        ValueError: names the argument and what was expected.
    """
    if torch.is_autocast_enabled(feats.device.type):
        dtype = torch.get_autocast_dtype(feats.device.type)
        feats, kernel = feats.to(dtype), kernel.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    if feats.ndim != 2 or feats.shape[0] != structure.num_voxels or not feats.is_floating_point():
        raise ValueError(
            f"feats must be floating point [N={structure.num_voxels}, Cin], got {feats.dtype} {list(feats.shape)}"
        )
    if feats.is_cuda and feats.dtype not in _CUDA_DTYPES:
        raise ValueError(f"feats must be fp16, bf16 or fp32 on CUDA, got {feats.dtype}")
    if kernel.ndim != 3 or kernel.shape[:2] != (27, feats.shape[1]) or kernel.dtype != feats.dtype:
        raise ValueError(
            f"kernel must be {feats.dtype} [27, {feats.shape[1]}, Cout], got {kernel.dtype} {list(kernel.shape)}"
        )
    if bias is not None and (bias.shape != kernel.shape[2:] or bias.dtype != feats.dtype):
        raise ValueError(f"bias must be {feats.dtype} [{kernel.shape[2]}], got {bias.dtype} {list(bias.shape)}")
    return _convolution(feats, kernel, bias, structure.neighbors, structure.neighbor_masks)


class SparseConv3d(nn.Module):
    """Submanifold convolution with a kernel of 3^3 or 1 voxels, with bias.

    Parameters: `kernel` [27, Cin, Cout], of 1^3 [Cin, Cout], and `bias` [Cout]: names and shapes of torchsparse and so
    of the public checkpoints. Initialised like torch.nn.Conv3d.

    Raises:
        ValueError: a kernel size other than 1 and 3.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3) -> None:
        super().__init__()
        if kernel_size not in (1, 3):
            raise ValueError(f"kernel_size must be 1 or 3, got {kernel_size}")
        shape = (in_channels, out_channels) if kernel_size == 1 else (27, in_channels, out_channels)
        self.kernel = nn.Parameter(torch.empty(shape))
        self.bias = nn.Parameter(torch.empty(out_channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        bound = 1 / math.sqrt(self.kernel.numel() / self.kernel.shape[-1])
        nn.init.uniform_(self.kernel, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: SparseTensor) -> SparseTensor:
        if self.kernel.ndim == 2:
            return x.replace(nn.functional.linear(x.feats, self.kernel.T, self.bias))
        return x.replace(sparse_conv3d(x.feats, self.kernel, self.bias, x.structure))

    def extra_repr(self) -> str:
        size = 1 if self.kernel.ndim == 2 else 3
        return f"{self.kernel.shape[-2]}, {self.kernel.shape[-1]}, kernel_size={size}"


def from_dense_kernel(weight: Tensor) -> Tensor:
    """[27, Cin, Cout], in the order of `structure.OFFSETS`, from a weight of torch.nn.Conv3d, [Cout, Cin, 3, 3, 3] with
    the spatial axes x, y, z."""
    return weight.permute(4, 3, 2, 1, 0).reshape(27, weight.shape[1], weight.shape[0])


def to_dense_kernel(kernel: Tensor) -> Tensor:
    """The inverse of `from_dense_kernel`."""
    return kernel.reshape(3, 3, 3, *kernel.shape[1:]).permute(4, 3, 2, 1, 0)


@torch.library.custom_op("ssabench::sparse_convolution", mutates_args=(), device_types="cpu")
def _convolution(feats: Tensor, kernel: Tensor, bias: Tensor | None, neighbors: Tensor, masks: Tensor) -> Tensor:
    wide = torch.promote_types(feats.dtype, torch.float32)
    feats_wide, kernel_wide = feats.to(wide), kernel.to(wide)
    out = feats_wide.new_zeros(feats.shape[0], kernel.shape[2])
    with torch.autocast("cpu", enabled=False):
        for row, weights in zip(neighbors, kernel_wide, strict=True):
            to = (row >= 0).nonzero()[:, 0]
            out.index_add_(0, to, feats_wide[row[to]] @ weights)
    if bias is not None:
        out += bias
    return out.to(feats.dtype)


@_convolution.register_kernel("cuda")
def _convolution_cuda(feats: Tensor, kernel: Tensor, bias: Tensor | None, neighbors: Tensor, masks: Tensor) -> Tensor:
    from models.sparse.triton_convolution import convolve

    bias = None if bias is None else bias.contiguous()
    return convolve(feats.contiguous(), kernel.contiguous(), bias, neighbors, masks)


@_convolution.register_fake
def _convolution_fake(feats: Tensor, kernel: Tensor, bias: Tensor | None, neighbors: Tensor, masks: Tensor) -> Tensor:
    return feats.new_empty(feats.shape[0], kernel.shape[2])


@torch.library.custom_op("ssabench::sparse_convolution_feats", mutates_args=(), device_types="cpu")
def _feature_gradient(grad: Tensor, kernel: Tensor, neighbors: Tensor, masks: Tensor) -> Tensor:
    # Element i sends voxel n to its neighbour; seen from there, n is the neighbour at 26 - i.
    return _convolution(grad, kernel.flip(0).transpose(1, 2), None, neighbors, masks)


@_feature_gradient.register_kernel("cuda")
def _feature_gradient_cuda(grad: Tensor, kernel: Tensor, neighbors: Tensor, masks: Tensor) -> Tensor:
    from models.sparse.triton_convolution import convolve

    grad = grad.contiguous()
    if grad.dtype == torch.float32:
        # Reading mirrored weights spills registers where products are not rounded; two small copies cost less.
        return convolve(grad, kernel.flip(0).transpose(1, 2).contiguous(), None, neighbors, masks)
    return convolve(grad, kernel.contiguous(), None, neighbors, masks, mirrored=True)


@_feature_gradient.register_fake
def _feature_gradient_fake(grad: Tensor, kernel: Tensor, neighbors: Tensor, masks: Tensor) -> Tensor:
    return grad.new_empty(grad.shape[0], kernel.shape[1])


@torch.library.custom_op("ssabench::sparse_convolution_weight", mutates_args=(), device_types="cpu")
def _weight_gradient(feats: Tensor, grad: Tensor, neighbors: Tensor) -> Tensor:
    wide = torch.promote_types(feats.dtype, torch.float32)
    feats_wide, grad_wide = feats.to(wide), grad.to(wide)
    parts = []
    with torch.autocast("cpu", enabled=False):
        for row in neighbors:
            to = (row >= 0).nonzero()[:, 0]
            parts.append(feats_wide[row[to]].T @ grad_wide[to])
    return torch.stack(parts).to(feats.dtype)


@_weight_gradient.register_kernel("cuda")
def _weight_gradient_cuda(feats: Tensor, grad: Tensor, neighbors: Tensor) -> Tensor:
    from models.sparse.triton_convolution import weight_gradient

    return weight_gradient(feats.contiguous(), grad.contiguous(), neighbors).to(feats.dtype)


@_weight_gradient.register_fake
def _weight_gradient_fake(feats: Tensor, grad: Tensor, neighbors: Tensor) -> Tensor:
    return feats.new_empty(27, feats.shape[1], grad.shape[1])


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    feats, kernel, _, neighbors, masks = inputs
    ctx.save_for_backward(feats, kernel, neighbors, masks)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    feats, kernel, neighbors, masks = ctx.saved_tensors
    wants_feats, wants_kernel, wants_bias = ctx.needs_input_grad[:3]
    dfeats = dkernel = dbias = None
    if wants_feats:
        dfeats = _feature_gradient(grad, kernel, neighbors, masks)
    if wants_kernel:
        dkernel = _weight_gradient(feats, grad, neighbors)
    if wants_bias:
        dbias = grad.sum(0)
    return dfeats, dkernel, dbias, None, None


_convolution.register_autograd(_backward, setup_context=_setup)
