"""Norms over features of voxels, computed in fp32 whatever the features are."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from models.sparse.tensor import SparseTensor


class SparseGroupNorm(nn.GroupNorm):
    """torch.nn.GroupNorm over the voxels of each sample, as on a dense tensor of these voxels alone."""

    def __init__(
        self, num_groups: int, num_channels: int, eps: float = 1e-5, *, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__(num_groups, num_channels, eps, dtype=dtype)

    def forward(self, x: SparseTensor) -> SparseTensor:  # type: ignore[override]  # features with their voxels
        return x.replace(group_norm(x.feats, self.weight, self.bias, x.batch_offsets, self.num_groups, self.eps))


class SparseLayerNorm(nn.LayerNorm):
    """torch.nn.LayerNorm over the channels of each voxel."""

    def forward(self, x: SparseTensor) -> SparseTensor:  # type: ignore[override]  # features with their voxels
        wide = torch.promote_types(x.dtype, torch.float32)
        weight, bias = (None if p is None else p.to(wide) for p in (self.weight, self.bias))
        with torch.autocast(x.device.type, enabled=False):
            y = nn.functional.layer_norm(x.feats.to(wide), self.normalized_shape, weight, bias, self.eps)
        return x.replace(y.to(x.dtype))


def group_norm(
    feats: Tensor, weight: Tensor, bias: Tensor, batch_offsets: Tensor, groups: int, eps: float = 1e-5
) -> Tensor:
    """Subtracts the mean and divides by the deviation of the channels of a group over all voxels of a sample.

    Deterministic; never waits for the device.

    Args:
        feats: [N, C]. weight, bias: [C], of any floating dtype.
        batch_offsets: int64 [B + 1], first voxel of each sample.
        groups: divides C.

    Returns:
        [N, C] in the dtype of feats.

    Raises:
        ValueError: names the argument and what was expected.
    """
    if feats.ndim != 2 or feats.shape[1] % groups:
        raise ValueError(f"feats must be [N, C] with C divisible by groups={groups}, got {list(feats.shape)}")
    if weight.shape != feats.shape[1:] or bias.shape != feats.shape[1:]:
        raise ValueError(f"weight and bias must be [{feats.shape[1]}], got {list(weight.shape)} and {list(bias.shape)}")
    out: Tensor = _group_norm(feats, weight, bias, batch_offsets, groups, eps)[0]
    return out


@torch.library.custom_op("ssabench::sparse_group_norm", mutates_args=())
def _group_norm(
    feats: Tensor, weight: Tensor, bias: Tensor, batch_offsets: Tensor, groups: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The result, and mean and reciprocal deviation, fp32 [B, C] (the same for all channels of a group)."""
    feats = feats.contiguous()
    wide = torch.promote_types(feats.dtype, torch.float32)
    counts = _counts(batch_offsets, feats.shape[1] // groups, wide)
    zero = torch.zeros(len(counts), feats.shape[1], dtype=wide, device=feats.device)
    mean = _over_groups(_sums(feats, None, zero, batch_offsets)[0], groups) / counts
    # Squares of differences from the mean: those of the values themselves would cancel where the mean is large.
    rstd = (_over_groups(_sums(feats, None, mean, batch_offsets)[1], groups) / counts + eps).rsqrt()
    out = _affine(feats, None, mean, rstd * weight.to(wide), zero, bias.to(wide) + zero, batch_offsets)
    return out, mean, rstd


@_group_norm.register_fake
def _group_norm_fake(
    feats: Tensor, weight: Tensor, bias: Tensor, batch_offsets: Tensor, groups: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    wide = torch.promote_types(feats.dtype, torch.float32)
    mean = feats.new_empty(batch_offsets.shape[0] - 1, feats.shape[1], dtype=wide)
    return feats.new_empty(feats.shape), mean, torch.empty_like(mean)


@torch.library.custom_op("ssabench::sparse_group_norm_backward", mutates_args=())
def _group_norm_backward(
    grad: Tensor, feats: Tensor, weight: Tensor, mean: Tensor, rstd: Tensor, batch_offsets: Tensor, groups: int
) -> tuple[Tensor, Tensor, Tensor]:
    grad, feats = grad.contiguous(), feats.contiguous()
    wide = mean.dtype
    counts = _counts(batch_offsets, feats.shape[1] // groups, wide)
    total, product = _sums(feats, grad, mean, batch_offsets)
    normalised = product * rstd
    scale = rstd * weight.to(wide)
    mean_grad = _over_groups(total * weight.to(wide), groups) / counts
    mean_product = _over_groups(normalised * weight.to(wide), groups) / counts
    dfeats = _affine(feats, grad, mean, -rstd * rstd * mean_product, scale, -rstd * mean_grad, batch_offsets)
    return dfeats, normalised.sum(0).to(weight.dtype), total.sum(0).to(weight.dtype)


@_group_norm_backward.register_fake
def _group_norm_backward_fake(
    grad: Tensor, feats: Tensor, weight: Tensor, mean: Tensor, rstd: Tensor, batch_offsets: Tensor, groups: int
) -> tuple[Tensor, Tensor, Tensor]:
    return feats.new_empty(feats.shape), weight.new_empty(weight.shape), weight.new_empty(weight.shape)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    feats, weight, bias, batch_offsets, groups, _ = inputs
    _, mean, rstd = output
    ctx.save_for_backward(feats, weight, mean, rstd, batch_offsets)
    ctx.groups, ctx.bias_dtype = groups, bias.dtype
    ctx.mark_non_differentiable(mean, rstd)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad: Tensor | None, *_unused: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 6
    dfeats, dweight, dbias = _group_norm_backward(grad, *ctx.saved_tensors, ctx.groups)
    return dfeats, dweight, dbias.to(ctx.bias_dtype), None, None, None


_group_norm.register_autograd(_backward, setup_context=_setup)


def _counts(batch_offsets: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """[B, 1]: numbers that a mean is of; 1 for an empty sample."""
    return (batch_offsets.diff() * width).clamp(min=1).to(dtype)[:, None]


def _over_groups(x: Tensor, groups: int) -> Tensor:
    """[B, C]: every channel has the sum of its group."""
    width = x.shape[1] // groups
    return x.view(x.shape[0], groups, width).sum(2).repeat_interleave(width, 1)


def _sums(x: Tensor, other: Tensor | None, centre: Tensor, batch_offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Over the voxels of each sample: the sums of v and of (x - centre) v, [B, C] in the dtype of centre.

    Args:
        x: [N, C]. centre: [B, C]. other: v, [N, C]; x - centre if None.
    """
    if x.is_cuda:
        from models.sparse import triton_norm

        return triton_norm.sums(x, other, centre, batch_offsets)
    total, product = torch.zeros_like(centre), torch.zeros_like(centre)
    for sample, (part, v) in enumerate(_samples(batch_offsets, x, other)):
        centred = part.to(centre.dtype) - centre[sample]
        v = centred if v is None else v.to(centre.dtype)
        total[sample], product[sample] = v.sum(0), (centred * v).sum(0)
    return total, product


def _affine(
    x: Tensor, other: Tensor | None, centre: Tensor, scale: Tensor, factor: Tensor, shift: Tensor, batch_offsets: Tensor
) -> Tensor:
    """(x - centre) scale + other factor + shift, [N, C] in the dtype of x, with coefficients [B, C] of each sample."""
    if x.is_cuda:
        from models.sparse import triton_norm

        return triton_norm.affine(x, other, centre, scale, factor, shift, batch_offsets)
    parts = []
    for sample, (part, v) in enumerate(_samples(batch_offsets, x, other)):
        y = (part.to(centre.dtype) - centre[sample]) * scale[sample] + shift[sample]
        parts.append((y if v is None else y + v.to(centre.dtype) * factor[sample]).to(x.dtype))
    return torch.cat(parts) if parts else torch.empty_like(x)


def _samples(batch_offsets: Tensor, x: Tensor, other: Tensor | None) -> list[tuple[Tensor, Tensor | None]]:
    sizes = batch_offsets.diff().tolist()
    others: list[Tensor | None] = [None] * len(sizes) if other is None else list(other.split(sizes))
    return list(zip(x.split(sizes), others, strict=True))
