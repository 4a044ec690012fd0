"""Layers that the published point encoders share, with the names their checkpoints give to parameters."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eval.encoders.grouping import farthest_points, gather, nearest_neighbours


class Pointwise(nn.Module):
    """A convolution of kernel size 1 on rows [..., inputs], as a matrix product.

    cuDNN's convolutions round fp32 to TF32 unless told otherwise, matrix products do not.
    """

    def __init__(self, inputs: int, outputs: int, axes: int) -> None:
        """axes: dimensions of the kernel, all 1 long, which checkpoints keep."""
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, *[1] * axes))
        self.bias = nn.Parameter(torch.empty(outputs))
        nn.init.trunc_normal_(self.weight, std=0.02)
        nn.init.zeros_(self.bias)

    def forward(self, rows: Tensor) -> Tensor:
        return F.linear(rows, self.weight.flatten(1), self.bias)


class MiniPointNet(nn.Module):
    """A feature [B, G, width] of each group of points [B, G, K, channels]: the tokeniser of Point-BERT."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.first_conv = nn.Sequential(
            Pointwise(channels, 128, 1), nn.BatchNorm1d(128), nn.ReLU(), Pointwise(128, 256, 1)
        )
        self.second_conv = nn.Sequential(
            Pointwise(512, 512, 1), nn.BatchNorm1d(512), nn.ReLU(), Pointwise(512, width, 1)
        )

    def forward(self, groups: Tensor) -> Tensor:
        members = groups.shape[:-1]
        local = self.first_conv(groups.flatten(0, 2)).view(*members, -1)
        pooled = local.amax(2, keepdim=True).expand_as(local)
        mixed = self.second_conv(torch.cat([pooled, local], -1).flatten(0, 2)).view(*members, -1)
        return mixed.amax(2)


def group(xyz: Tensor, colours: Tensor | None, groups: int, size: int) -> tuple[Tensor, Tensor]:
    """Groups [B, groups, size, 3 or 6] of offsets from their centres, and colours; and the centres [B, groups, 3].

    Args:
        xyz: floating [B, N, 3]. colours: the same shape, or None.
    """
    centres = gather(xyz, farthest_points(xyz, groups, skip_origin=True))
    members = nearest_neighbours(xyz, centres, size)
    offsets = gather(xyz, members) - centres[:, :, None]
    return offsets if colours is None else torch.cat([offsets, gather(colours, members)], -1), centres


def position_embedding(width: int) -> nn.Sequential:
    """Of centres [..., 3]."""
    return nn.Sequential(nn.Linear(3, 128), nn.GELU(), nn.Linear(128, width))


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Softmax attention of all tokens to all; q, k, v and the result [B, N, heads * head_dim]."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class FusedAttention(nn.Module):
    """Self-attention with one projection to q, k and v, which has biases of q and v or none."""

    def __init__(self, width: int, heads: int, *, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width)) if bias else None
        self.v_bias = nn.Parameter(torch.zeros(width)) if bias else None
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        if self.q_bias is not None and self.v_bias is not None:
            q, v = q + self.q_bias, v + self.v_bias
        return self.proj(attend(q, k, v, self.heads))


class SplitAttention(nn.Module):
    """Self-attention with three projections, that of k without bias."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(attend(self.q_proj(x), self.k_proj(x), self.v_proj(x), self.heads))


class Mlp(nn.Module):
    """Linear, GELU, linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class PackedSwiGlu(nn.Module):
    """SwiGLU whose gate is the first half of one projection."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 2 * hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.fc1(x).chunk(2, -1)
        return self.fc2(F.silu(gate) * value)


class NormedSwiGlu(nn.Module):
    """SwiGLU with a projection each for gate and value, and a norm in between."""

    def __init__(self, width: int, hidden: int, eps: float) -> None:
        super().__init__()
        self.fc1_g = nn.Linear(width, hidden)
        self.fc1_x = nn.Linear(width, hidden)
        self.norm = nn.LayerNorm(hidden, eps=eps)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.norm(F.silu(self.fc1_g(x)) * self.fc1_x(x)))


class Block(nn.Module):
    """A transformer block with norms before attention and MLP."""

    def __init__(self, width: int, attention: nn.Module, mlp: nn.Module, eps: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = attention
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = mlp

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))
