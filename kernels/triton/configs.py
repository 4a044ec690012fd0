"""Tile sizes and launch parameters of every kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import triton

KernelName = Literal["segment_forward", "segment_dq", "segment_dkv", "block_scores"]


@dataclass(frozen=True)
class TileConfig:
    """BLOCK_M query rows (token, head pairs) by BLOCK_N keys, and the launch parameters."""

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int


# Rows: (largest padded head dim, configuration). 16-bit inputs feed the matrix units.
_HALF: dict[KernelName, list[tuple[int, TileConfig]]] = {
    "segment_forward": [(64, TileConfig(128, 64, 4, 3)), (128, TileConfig(128, 64, 8, 2))],
    "segment_dq": [(64, TileConfig(128, 64, 8, 2)), (128, TileConfig(64, 64, 4, 2))],
    "segment_dkv": [(64, TileConfig(64, 64, 4, 2)), (128, TileConfig(64, 64, 8, 2))],
    "block_scores": [(64, TileConfig(128, 64, 4, 3)), (128, TileConfig(128, 64, 8, 2))],
}
# fp32 inputs multiply in full fp32 on the FMA units: small tiles keep the operands in registers.
_SINGLE: dict[KernelName, list[tuple[int, TileConfig]]] = {
    "segment_forward": [(64, TileConfig(32, 32, 4, 1)), (128, TileConfig(32, 32, 8, 1))],
    "segment_dq": [(64, TileConfig(32, 32, 4, 1)), (128, TileConfig(32, 32, 8, 1))],
    "segment_dkv": [(64, TileConfig(32, 32, 4, 1)), (128, TileConfig(32, 32, 8, 1))],
    "block_scores": [(64, TileConfig(32, 32, 4, 1)), (128, TileConfig(32, 32, 8, 1))],
}


def tile_config(kernel: KernelName, head_dim: int, dtype: torch.dtype) -> TileConfig:
    """The configuration of a kernel for a head dim (at most 128) and input dtype."""
    table = _SINGLE if dtype == torch.float32 else _HALF
    block_d = padded(head_dim)
    return next(config for largest, config in table[kernel] if block_d <= largest)


def padded(size: int) -> int:
    """Next power of two: Triton's tile sides. At least 16 for a head dim, which the matrix units need."""
    return triton.next_power_of_2(size)
