"""Where the Gluon kernels for Hopper replace Triton kernels, and their tile sizes."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from kernels.segments import Segments


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


@dataclass(frozen=True)
class HopperDkvConfig:
    """A tile of BLOCK_N keys a program, which BLOCK_M query rows (token, head pairs) pass at a time."""

    block_m: int
    block_n: int
    stages: int  # tiles of queries in shared memory
    registers: int  # per thread, on average over the warpgroup that computes and the one that copies
    copy_registers: int  # of these, per thread that copies
    dv_first: bool  # whether a tile's dV is begun before its dS is computed


# By head dim, and whether queries are gathered: the selected branch, or the compressed one. The fastest of those tried
# (kernels/PERFORMANCE.md). Where there is none, Triton's kernel is faster, or the accumulators do not fit.
DKV_CONFIGS = {
    (32, True): HopperDkvConfig(32, 64, 4, registers=80, copy_registers=24, dv_first=False),
    (64, True): HopperDkvConfig(64, 64, 4, registers=128, copy_registers=24, dv_first=True),
    (64, False): HopperDkvConfig(64, 64, 4, registers=128, copy_registers=24, dv_first=True),
}


@dataclass(frozen=True)
class HopperDqConfig:
    """BLOCK_M query rows (token, head pairs) by BLOCK_N keys."""

    block_m: int
    block_n: int
    resident: int  # tiles of keys in shared memory
    stages: int  # tiles of queries in shared memory
    run: int  # tiles of queries that a program computes
    registers: int  # these two as `HopperDkvConfig`
    copy_registers: int


# By head dim, of the selected branch. The fastest of those tried.
DQ_CONFIGS = {
    32: HopperDqConfig(64, 32, 8, 2, 16, registers=64, copy_registers=24),
    64: HopperDqConfig(64, 64, 4, 2, 16, registers=128, copy_registers=24),
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


def _gradients_supported(do: Tensor, q: Tensor, k: Tensor, v: Tensor, terms: Tensor, segments: Segments) -> bool:
    """Whether dQ, dK and dV can be computed in Gluon.

    Needs what `supported` does, keys in order, and queries of 16, 32 or 64 heads a kv head: a token is copied as a
    whole, to where in shared memory a copy may begin.
    """
    return (
        segments.key_index is None
        and supported(q, k, v)
        and q.shape[1] // k.shape[1] in (16, 32, 64)
        and all(x.data_ptr() % 16 == 0 for x in (do, terms))
    )


def dkv_config(
    do: Tensor, q: Tensor, k: Tensor, v: Tensor, terms: Tensor, segments: Segments
) -> HopperDkvConfig | None:
    """How dK and dV are computed in Gluon, or None where Triton's kernel computes them."""
    if not _gradients_supported(do, q, k, v, terms, segments):
        return None
    config = DKV_CONFIGS.get((q.shape[2], segments.query_slots is not None))
    return config if config is not None and config.block_m >= q.shape[1] // k.shape[1] else None


def dq_config(do: Tensor, q: Tensor, k: Tensor, v: Tensor, terms: Tensor, segments: Segments) -> HopperDqConfig | None:
    """How dQ is computed in Gluon, or None where Triton's kernel computes it."""
    usable = segments.query_slots is not None and _gradients_supported(do, q, k, v, terms, segments)
    return DQ_CONFIGS.get(q.shape[2]) if usable else None


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
    return triton_version() >= _OLDEST_TRITON and torch.cuda.get_device_capability(device) == (9, 0)


@functools.cache
def triton_version() -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", triton.__version__)[:2])
