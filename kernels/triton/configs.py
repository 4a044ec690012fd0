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


_Table = dict[KernelName, list[tuple[int, TileConfig]]]

# For each architecture and kernel: (largest padded head dim, configuration). Every row compiles without register
# spills. fp32 inputs multiply in full fp32 on the FMA units: small tiles keep their operands in registers.
_FP32: _Table = {
    "segment_forward": [(64, TileConfig(32, 16, 4, 1)), (128, TileConfig(32, 16, 8, 1))],
    "segment_dq": [(128, TileConfig(32, 16, 4, 1))],
    "segment_dkv": [(64, TileConfig(32, 32, 4, 1)), (128, TileConfig(32, 32, 8, 1))],
    "block_scores": [(64, TileConfig(32, 32, 4, 1)), (128, TileConfig(32, 32, 8, 1))],
}
_HALF: dict[int, _Table] = {
    80: {
        "segment_forward": [(64, TileConfig(128, 64, 4, 3)), (128, TileConfig(64, 32, 4, 2))],
        "segment_dq": [(64, TileConfig(64, 64, 4, 2)), (128, TileConfig(64, 64, 8, 2))],
        "segment_dkv": [
            (32, TileConfig(64, 64, 4, 2)),
            (128, TileConfig(32, 64, 8, 2)),
        ],
        "block_scores": [(64, TileConfig(128, 64, 4, 3)), (128, TileConfig(128, 64, 8, 2))],
    },
    90: {
        "segment_forward": [
            (32, TileConfig(64, 64, 4, 3)),
            (64, TileConfig(128, 64, 8, 3)),
            (128, TileConfig(128, 64, 8, 2)),
        ],
        "segment_dq": [(128, TileConfig(64, 64, 4, 2))],
        "segment_dkv": [
            (32, TileConfig(64, 64, 4, 2)),
            (64, TileConfig(64, 64, 4, 3)),
            (128, TileConfig(32, 64, 8, 2)),
        ],
        "block_scores": [(64, TileConfig(128, 64, 4, 3)), (128, TileConfig(128, 64, 8, 2))],
    },
    100: {
        "segment_forward": [
            (32, TileConfig(128, 64, 4, 3)),
            (64, TileConfig(128, 64, 8, 3)),
            (128, TileConfig(128, 64, 8, 2)),
        ],
        "segment_dq": [(128, TileConfig(64, 64, 4, 2))],
        "segment_dkv": [(64, TileConfig(64, 64, 4, 2)), (128, TileConfig(64, 64, 8, 2))],
        "block_scores": [(64, TileConfig(128, 64, 4, 3)), (128, TileConfig(128, 64, 8, 2))],
    },
}


def tile_config(kernel: KernelName, head_dim: int, dtype: torch.dtype, device: torch.device) -> TileConfig:
    """The configuration of a kernel for a head dim (at most 128), input dtype and device."""
    table = _FP32 if dtype == torch.float32 else _HALF[architecture(device)]
    width = padded(head_dim)
    if width != head_dim:
        width = min(2 * width, 128)  # masks take registers, so these head dims take the next row
    return next(config for largest, config in table[kernel] if width <= largest)


def architecture(device: torch.device) -> int:
    """The newest table made for the device's compute capability or an older one; Hopper's in the interpreter."""
    if device.type != "cuda":
        return 90
    major, minor = torch.cuda.get_device_capability(device)
    return max((known for known in _HALF if known <= 10 * major + minor), default=min(_HALF))


def padded(size: int) -> int:
    """Next power of two: the sides of Triton's tiles."""
    return triton.next_power_of_2(size)
