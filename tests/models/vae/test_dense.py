"""The whole model equals a plain computation on a dense grid, from the state dict alone."""

from __future__ import annotations

import math

import pytest
import torch
from small import CONFIG, random_vae
from torch import Tensor
from torch.nn import functional

from models.sparse.tensor import SparseTensor

R = 16
Weights = dict[str, Tensor]


class Dense:
    """Layers on grids [C, R, R, R], with a mask [R, R, R] of the voxels that are there."""

    def __init__(self, weights: Weights, window: int, head_channels: int) -> None:
        self.w, self.window, self.head_channels = weights, window, head_channels

    def linear(self, name: str, x: Tensor, mask: Tensor) -> Tensor:
        y = torch.einsum("oc,cxyz->oxyz", self.w[f"{name}.weight"], x) + self.w[f"{name}.bias"][:, None, None, None]
        return y * mask

    def convolution(self, name: str, x: Tensor, mask: Tensor) -> Tensor:
        kernel, bias = self.w[f"{name}.conv.kernel"], self.w[f"{name}.conv.bias"]
        if kernel.ndim == 2:
            return (torch.einsum("co,cxyz->oxyz", kernel, x) + bias[:, None, None, None]) * mask
        # In the checkpoint z is the slowest and x the fastest axis of the 27.
        weight = kernel.view(3, 3, 3, *kernel.shape[1:]).permute(4, 3, 2, 1, 0)
        return functional.conv3d(x[None], weight, bias, padding=1)[0] * mask

    def group_norm(self, name: str, x: Tensor, mask: Tensor) -> Tensor:
        rows = x[:, mask]  # [C, N]
        normal = functional.group_norm(
            rows[None], math.gcd(32, len(rows)), self.w[f"{name}.weight"], self.w[f"{name}.bias"], eps=1e-5
        )
        return put(normal[0], mask)

    def transform(self, part: str, x: Tensor, mask: Tensor) -> Tensor:
        x = self.linear(f"{part}.input_layer", x, mask)
        channels = len(x)
        waves = channels // 6
        frequency = 10_000.0 ** -(torch.arange(waves) / waves)
        for place in mask.nonzero().tolist():
            angles = [coordinate * frequency for coordinate in place]
            position = torch.cat([torch.cat([angle.sin(), angle.cos()]) for angle in angles])
            x[: len(position), place[0], place[1], place[2]] += position
        for block in range(CONFIG.blocks):
            name = f"{part}.blocks.{block}"
            x = x + self.attention(f"{name}.attn", normalised(x, mask, 1e-6), mask, self.window // 2 * (block % 2))
            h = self.linear(f"{name}.mlp.mlp.0", normalised(x, mask, 1e-6), mask)
            x = x + self.linear(f"{name}.mlp.mlp.2", functional.gelu(h, approximate="tanh") * mask, mask)
        return x

    def attention(self, name: str, x: Tensor, mask: Tensor, shift: int) -> Tensor:
        qkv = self.linear(f"{name}.to_qkv", x, mask)
        out = torch.zeros_like(x)
        windows: dict[tuple[int, ...], list[list[int]]] = {}
        for place in mask.nonzero().tolist():
            windows.setdefault(tuple((c + shift) // self.window for c in place), []).append(place)
        for places in windows.values():
            index = torch.tensor(places).T
            rows = qkv[:, index[0], index[1], index[2]].T.view(len(places), 3, -1, self.head_channels)
            q, k, v = rows.permute(1, 2, 0, 3)  # [heads, N, D]
            probability = (q @ k.transpose(1, 2) / math.sqrt(self.head_channels)).softmax(-1)
            out[:, index[0], index[1], index[2]] = (probability @ v).permute(0, 2, 1).flatten(0, 1)
        return self.linear(f"{name}.to_out", out, mask)

    def encode(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        x = self.linear("encoder.input_layer1", x, mask)
        for level in range(3):
            name = f"encoder.downsample.{level}"
            h = functional.silu(self.group_norm(f"{name}.act_layers.0", x, mask)) * mask
            h, x, mask = pooled(h, mask), pooled(x, mask), halved(mask)
            h = self.convolution(f"{name}.out_layers.0", h, mask)
            h = functional.silu(self.group_norm(f"{name}.out_layers.1", h, mask)) * mask
            h = self.convolution(f"{name}.out_layers.3", h, mask)
            x = h + self.convolution(f"{name}.skip_connection", x, mask)
        h = normalised(self.transform("encoder", x, mask), mask, 1e-5)
        return self.linear("encoder.out_layer", h, mask), mask

    def decode(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        x = self.transform("decoder", x, mask)
        for level in range(3):
            name = f"decoder.upsample.{level}"
            x = functional.silu(self.convolution(f"{name}.act_layers.0", x, mask)) * mask
            x, mask = (
                each.repeat_interleave(2, -1).repeat_interleave(2, -2).repeat_interleave(2, -3) for each in (x, mask)
            )
            x = functional.silu(self.convolution(f"{name}.out_layers.0", x, mask)) * mask
        return self.linear("decoder.out_layer", x, mask).tanh(), mask


def put(rows: Tensor, mask: Tensor) -> Tensor:
    grid = rows.new_zeros(len(rows), *mask.shape)
    grid[:, mask] = rows
    return grid


def normalised(x: Tensor, mask: Tensor, eps: float) -> Tensor:
    return put(functional.layer_norm(x[:, mask].T, (len(x),), eps=eps).T, mask)


def doubled(x: Tensor) -> Tensor:
    for axis in (-1, -2, -3):
        x = x.repeat_interleave(2, axis)
    return x


def halved(mask: Tensor) -> Tensor:
    half = mask.shape[0] // 2
    return mask.view(half, 2, half, 2, half, 2).amax((1, 3, 5))


def pooled(x: Tensor, mask: Tensor) -> Tensor:
    half = mask.shape[0] // 2
    count = mask.view(half, 2, half, 2, half, 2).sum((1, 3, 5)).clamp(min=1)
    return x.view(len(x), half, 2, half, 2, half, 2).sum((2, 4, 6)) / count


@pytest.fixture(scope="module")
def given() -> tuple[Dense, Tensor, Tensor, SparseTensor]:
    torch.manual_seed(1)
    mask = torch.rand(R, R, R) < 0.15
    values = torch.rand(R, R, R) * 2 - 1
    weights = {name: x.detach() for name, x in random_vae().state_dict().items()}
    x = SparseTensor.from_coords(mask.nonzero(), values[mask][:, None])
    return Dense(weights, CONFIG.window, CONFIG.head_channels), values[None] * mask, mask, x


def test_encoding(given: tuple[Dense, Tensor, Tensor, SparseTensor]) -> None:
    dense, values, mask, x = given
    expected, latents = dense.encode(values, mask)
    with torch.no_grad():
        posterior = random_vae().encode(x)
    assert posterior.mean.num_voxels == int(latents.sum())
    place = posterior.mean.coords[:, 1:].long().unbind(1)
    found = torch.cat([posterior.mean.feats, posterior.log_variance], 1)
    torch.testing.assert_close(found, expected[:, place[0], place[1], place[2]].T, atol=1e-5, rtol=1e-4)


def test_decoding(given: tuple[Dense, Tensor, Tensor, SparseTensor]) -> None:
    dense = given[0]
    torch.manual_seed(2)
    mask = torch.rand(4, 4, 4) < 0.4
    grid = torch.randn(CONFIG.latent_channels, 4, 4, 4) * mask
    latents = SparseTensor.from_coords(mask.nonzero(), grid[:, mask].T.contiguous())
    expected, fine = dense.decode(grid, mask)
    with torch.no_grad():
        found = random_vae().decode(latents)
    assert found.num_voxels == int(fine.sum()) == 512 * int(mask.sum())
    place = found.coords[:, 1:].long().unbind(1)
    torch.testing.assert_close(found.feats[:, 0], expected[0][place[0], place[1], place[2]], atol=1e-5, rtol=1e-4)
