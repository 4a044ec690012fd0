"""FID's Inception v3 again, block by block from nothing but a state_dict, in its precision; pools are sums and windows.

Written from the layout of the published file and the behaviour of pytorch-fid's network, sharing nothing with
`eval.encoders`. Pools can be those of torchvision's network, which FID's differ from.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

State = dict[str, Tensor]


def unit(x: Tensor, state: State, name: str, stride: int = 1, padding: tuple[int, int] = (0, 0)) -> Tensor:
    x = F.conv2d(F.pad(x, (padding[1], padding[1], padding[0], padding[0])), state[f"{name}.conv.weight"], None, stride)
    mean, variance, scale, shift = (
        state[f"{name}.bn.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
    )
    return ((x - mean) / (variance + 0.001).sqrt() * scale + shift).clamp(min=0)


def windows(x: Tensor, stride: int, border: float | None) -> Tensor:
    """All values [B, C, H', W', 9] of windows of 3 x 3, with a border of one pixel where a value for it is given."""
    if border is not None:
        x = F.pad(x, (1, 1, 1, 1), value=border)
    return x.unfold(2, 3, stride).unfold(3, 3, stride).flatten(4)


def mean_pool(x: Tensor, count_padding: bool) -> Tensor:
    return windows(x, 1, 0.0).sum(4) / (9 if count_padding else windows(torch.ones_like(x), 1, 0.0).sum(4))


def max_pool(x: Tensor) -> Tensor:
    return windows(x, 1, -torch.inf).amax(4)


def halved(x: Tensor) -> Tensor:
    return windows(x, 2, None).amax(4)


def block_a(x: Tensor, state: State, p: str, count_padding: bool) -> Tensor:
    five = unit(unit(x, state, f"{p}.branch5x5_1"), state, f"{p}.branch5x5_2", padding=(2, 2))
    three = unit(unit(x, state, f"{p}.branch3x3dbl_1"), state, f"{p}.branch3x3dbl_2", padding=(1, 1))
    three = unit(three, state, f"{p}.branch3x3dbl_3", padding=(1, 1))
    pooled = unit(mean_pool(x, count_padding), state, f"{p}.branch_pool")
    return torch.cat([unit(x, state, f"{p}.branch1x1"), five, three, pooled], 1)


def block_b(x: Tensor, state: State, p: str) -> Tensor:
    three = unit(unit(x, state, f"{p}.branch3x3dbl_1"), state, f"{p}.branch3x3dbl_2", padding=(1, 1))
    three = unit(three, state, f"{p}.branch3x3dbl_3", stride=2)
    return torch.cat([unit(x, state, f"{p}.branch3x3", stride=2), three, halved(x)], 1)


def block_c(x: Tensor, state: State, p: str, count_padding: bool) -> Tensor:
    seven = unit(x, state, f"{p}.branch7x7_1")
    seven = unit(seven, state, f"{p}.branch7x7_2", padding=(0, 3))
    seven = unit(seven, state, f"{p}.branch7x7_3", padding=(3, 0))
    double = unit(x, state, f"{p}.branch7x7dbl_1")
    for number, padding in ((2, (3, 0)), (3, (0, 3)), (4, (3, 0)), (5, (0, 3))):
        double = unit(double, state, f"{p}.branch7x7dbl_{number}", padding=padding)
    pooled = unit(mean_pool(x, count_padding), state, f"{p}.branch_pool")
    return torch.cat([unit(x, state, f"{p}.branch1x1"), seven, double, pooled], 1)


def block_d(x: Tensor, state: State, p: str) -> Tensor:
    three = unit(unit(x, state, f"{p}.branch3x3_1"), state, f"{p}.branch3x3_2", stride=2)
    seven = unit(unit(x, state, f"{p}.branch7x7x3_1"), state, f"{p}.branch7x7x3_2", padding=(0, 3))
    seven = unit(seven, state, f"{p}.branch7x7x3_3", padding=(3, 0))
    return torch.cat([three, unit(seven, state, f"{p}.branch7x7x3_4", stride=2), halved(x)], 1)


def block_e(x: Tensor, pooled: Tensor, state: State, p: str) -> Tensor:
    three = unit(x, state, f"{p}.branch3x3_1")
    double = unit(unit(x, state, f"{p}.branch3x3dbl_1"), state, f"{p}.branch3x3dbl_2", padding=(1, 1))
    parts = [unit(x, state, f"{p}.branch1x1")]
    for shared, name in ((three, "branch3x3_2"), (double, "branch3x3dbl_3")):
        parts.append(unit(shared, state, f"{p}.{name}a", padding=(0, 1)))
        parts.append(unit(shared, state, f"{p}.{name}b", padding=(1, 0)))
    return torch.cat([*parts, unit(pooled, state, f"{p}.branch_pool")], 1)


def inception(pixels: Tensor, state: State, *, count_padding: bool = False, last_is_mean: bool = False) -> Tensor:
    """Features [B, 2048] of images [B, 3, H, W] in -1..1."""
    x = unit(pixels, state, "Conv2d_1a_3x3", stride=2)
    x = unit(unit(x, state, "Conv2d_2a_3x3"), state, "Conv2d_2b_3x3", padding=(1, 1))
    x = unit(unit(halved(x), state, "Conv2d_3b_1x1"), state, "Conv2d_4a_3x3")
    x = halved(x)
    for letter in "bcd":
        x = block_a(x, state, f"Mixed_5{letter}", count_padding)
    x = block_b(x, state, "Mixed_6a")
    for letter in "bcde":
        x = block_c(x, state, f"Mixed_6{letter}", count_padding)
    x = block_d(x, state, "Mixed_7a")
    x = block_e(x, mean_pool(x, count_padding), state, "Mixed_7b")
    x = block_e(x, mean_pool(x, count_padding) if last_is_mean else max_pool(x), state, "Mixed_7c")
    return x.flatten(2).mean(2)
