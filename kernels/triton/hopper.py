"""Where the Gluon kernel for Hopper replaces the Triton kernel in the selected branch's forward, and its tile sizes."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import triton
from torch import Tensor


@dataclass(frozen=True)
class HopperConfig:
    """BLOCK_M query rows (token, head pairs) by BLOCK_N keys."""

    block_m: int
    block_n: int
    num_warps: int
    resident: int  # tiles of keys that stay in shared memory
    run: int  # tiles of queries that a program computes
    registers: int  # per thread at most: so many that as many programs fit as shared memory allows


# By head dim. 32 and 64: the fastest of five on an NVIDIA H200 (torch 2.11.0, triton 3.6.0; gyroid, 131,072 tokens,
# bfloat16, compression blocks of 4 and 8). 128: what fits without spills, never timed.
CONFIGS = {
    32: HopperConfig(64, 64, 4, 4, 8, registers=96),
    64: HopperConfig(128, 64, 8, 4, 8, registers=128),
    128: HopperConfig(128, 64, 8, 4, 8, registers=255),
}

_OLDEST_TRITON = (3, 6)
_forced_off = False


def supported(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether the selected branch's forward on contiguous q [N, H, D] and k, v [K, Hkv, D] runs on the Gluon kernel.

    Needs compute capability 9.0 (warpgroup instructions exist nowhere else), Triton 3.6, fp16 or bf16, a head dim in
    `CONFIGS`, a group that is a power of two, row offsets below 2^31, and rows at multiples of 16 bytes.
    """
    heads, head_dim = q.shape[1:]
    group = heads // k.shape[1]
    return (
        not _forced_off
        and _available(q.device)
        and q.dtype in (torch.float16, torch.bfloat16)
        and head_dim in CONFIGS
        and group & (group - 1) == 0
        and max(q.numel(), k.numel()) < 2**31
        and all(x.data_ptr() % 16 == 0 for x in (q, k, v))
    )


@contextmanager
def triton_only() -> Iterator[None]:
    """Everything runs on Triton kernels. For tuning it and for tests."""
    global _forced_off
    before, _forced_off = _forced_off, True
    try:
        yield
    finally:
        _forced_off = before


def _available(device: torch.device) -> bool:
    if device.type != "cuda" or torch.version.hip is not None:
        return False
    return _triton_version() >= _OLDEST_TRITON and torch.cuda.get_device_capability(device) == (9, 0)


@functools.cache
def _triton_version() -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", triton.__version__)[:2])
