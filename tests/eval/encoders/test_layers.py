"""Shared layers, against PyTorch's own."""

from __future__ import annotations

import torch
from torch import nn

from eval.encoders.layers import FusedAttention, MiniPointNet, Pointwise, SplitAttention


def test_a_pointwise_layer_is_a_convolution_of_size_1() -> None:
    layer = Pointwise(5, 7, 2)
    nn.init.normal_(layer.bias)
    convolution = nn.Conv2d(5, 7, 1)
    convolution.load_state_dict(layer.state_dict())
    rows = torch.randn(3, 4, 6, 5)
    torch.testing.assert_close(layer(rows), convolution(rows.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


def test_both_attentions_are_multihead_attention() -> None:
    width, heads = 12, 3
    oracle = nn.MultiheadAttention(width, heads, batch_first=True)
    nn.init.normal_(oracle.in_proj_bias)
    oracle.in_proj_bias.data[width : 2 * width] = 0  # keys have no bias
    q, k, v = oracle.in_proj_weight.chunk(3)
    q_bias, _, v_bias = oracle.in_proj_bias.chunk(3)
    projection = {f"proj.{name}": value for name, value in oracle.out_proj.state_dict().items()}
    fused = FusedAttention(width, heads, bias=True)
    fused.load_state_dict({"qkv.weight": oracle.in_proj_weight, "q_bias": q_bias, "v_bias": v_bias, **projection})
    split = SplitAttention(width, heads)
    split.load_state_dict(
        {"q_proj.weight": q, "q_proj.bias": q_bias, "k_proj.weight": k, "v_proj.weight": v, "v_proj.bias": v_bias}
        | projection
    )
    x = torch.randn(2, 5, width)
    expected = oracle(x, x, x, need_weights=False)[0]
    torch.testing.assert_close(fused(x), expected)
    torch.testing.assert_close(split(x), expected)


def test_a_groups_feature_does_not_depend_on_the_order_of_its_points() -> None:
    net = MiniPointNet(6, 10).eval()
    groups = torch.randn(2, 3, 8, 6)
    torch.testing.assert_close(net(groups[:, :, torch.randperm(8)]), net(groups))
