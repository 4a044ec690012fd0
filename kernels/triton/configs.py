"""Tile sizes and launch parameters of every kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import triton

from kernels.segments import Segments

# The segment kernels meet two kinds of work: long lists at fixed distances (compressed), and short or gathered ones
# (gathered: selected and window), where latency counts for more than the rate of the inner loop.
KernelName = Literal[
    "compressed_forward",
    "compressed_dq",
    "compressed_dkv",
    "gathered_forward",
    "gathered_dq",
    "gathered_dkv",
    "block_scores",
]
Pass = Literal["forward", "dq", "dkv"]


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
    "compressed_forward": [(64, TileConfig(32, 16, 4, 1)), (128, TileConfig(32, 16, 8, 1))],
    "compressed_dq": [(128, TileConfig(32, 16, 4, 1))],
    "compressed_dkv": [(64, TileConfig(32, 32, 4, 1)), (128, TileConfig(32, 32, 8, 1))],
    "gathered_forward": [(64, TileConfig(32, 16, 4, 1)), (128, TileConfig(32, 16, 8, 1))],
    "gathered_dq": [(128, TileConfig(32, 16, 4, 1))],
    "gathered_dkv": [(64, TileConfig(32, 32, 4, 1)), (128, TileConfig(32, 32, 8, 1))],
    "block_scores": [(64, TileConfig(32, 32, 4, 1)), (128, TileConfig(32, 32, 8, 1))],
}
_HALF: dict[int, _Table] = {
    80: {
        "compressed_forward": [(64, TileConfig(64, 64, 4, 3)), (128, TileConfig(64, 32, 4, 2))],
        "compressed_dq": [(64, TileConfig(64, 64, 4, 2)), (128, TileConfig(64, 64, 8, 2))],
        "compressed_dkv": [(32, TileConfig(64, 64, 4, 2)), (128, TileConfig(32, 64, 8, 2))],
        "gathered_forward": [(64, TileConfig(64, 32, 4, 3)), (128, TileConfig(64, 32, 4, 2))],
        "gathered_dq": [(64, TileConfig(64, 32, 4, 3)), (128, TileConfig(64, 32, 8, 2))],
        "gathered_dkv": [(32, TileConfig(64, 64, 4, 3)), (128, TileConfig(32, 64, 8, 3))],
        "block_scores": [(64, TileConfig(64, 64, 4, 3)), (128, TileConfig(64, 64, 4, 2))],
    },
    90: {
        "compressed_forward": [
            (32, TileConfig(64, 64, 4, 3)),
            (64, TileConfig(128, 64, 8, 3)),
            (128, TileConfig(128, 64, 8, 2)),
        ],
        "compressed_dq": [
            (32, TileConfig(64, 64, 4, 3)),
            (64, TileConfig(128, 64, 8, 3)),
            (128, TileConfig(64, 64, 4, 2)),
        ],
        "compressed_dkv": [(64, TileConfig(64, 64, 4, 4)), (128, TileConfig(32, 64, 8, 2))],
        "gathered_forward": [(64, TileConfig(64, 32, 4, 3)), (128, TileConfig(64, 32, 4, 2))],
        "gathered_dq": [(64, TileConfig(64, 32, 4, 3)), (128, TileConfig(64, 32, 4, 2))],
        "gathered_dkv": [
            (32, TileConfig(64, 64, 4, 6)),
            (64, TileConfig(64, 64, 4, 5)),
            (128, TileConfig(32, 64, 8, 3)),
        ],
        "block_scores": [(128, TileConfig(64, 64, 4, 3))],
    },
    100: {
        "compressed_forward": [(64, TileConfig(128, 64, 8, 3)), (128, TileConfig(128, 64, 8, 2))],
        "compressed_dq": [(128, TileConfig(64, 64, 4, 2))],
        "compressed_dkv": [(64, TileConfig(64, 64, 4, 2)), (128, TileConfig(64, 64, 8, 2))],
        "gathered_forward": [(64, TileConfig(64, 32, 4, 3)), (128, TileConfig(64, 32, 4, 2))],
        "gathered_dq": [(64, TileConfig(64, 32, 4, 3)), (128, TileConfig(64, 32, 4, 2))],
        "gathered_dkv": [(64, TileConfig(64, 64, 4, 3)), (128, TileConfig(64, 64, 8, 2))],
        "block_scores": [(64, TileConfig(64, 64, 4, 3)), (128, TileConfig(128, 64, 8, 2))],
    },
}


def segment_config(which: Pass, segments: Segments, q: torch.Tensor) -> TileConfig:
    """The configuration of a segment kernel for queries like `q` [N, H, D]."""
    name: KernelName
    if segments.query_slots is None:
        name = "compressed_forward" if which == "forward" else "compressed_dq" if which == "dq" else "compressed_dkv"
    else:
        name = "gathered_forward" if which == "forward" else "gathered_dq" if which == "dq" else "gathered_dkv"
    return tile_config(name, q.shape[2], q.dtype, q.device)


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
