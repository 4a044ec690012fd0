"""What the machine can do at most, probed where the measurement runs: memory, matrix units, exponentials.

A roofline against rates from a data sheet says how far the machine is from its data sheet; against rates that simple
programs reach on the same machine in the same run, it says how far a kernel is from the machine.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bench import timing
from bench.records import Ceilings

# Sizes that keep the device busy for about a millisecond: bytes copied, and the side of the matrices.
_COPY_BYTES = {"cuda": 2**30, "cpu": 2**26}
_MATRIX_SIDE = {"cuda": 8192, "cpu": 1024}
_EXPONENTIALS_A_NUMBER = 64
_SAMPLES = 5


def probe(device: torch.device | str, dtype: torch.dtype) -> Ceilings:
    """Rates of a copy, a square matrix product of `dtype` and exponentials of fp32 numbers on a device.

    Random numbers, because hardware is faster on zeros. Takes about a second.
    """
    device = torch.device(device)
    source = torch.rand(_COPY_BYTES[device.type] // 4, device=device)
    target = torch.empty_like(source)
    copy_ms = _fastest(lambda: target.copy_(source), device)

    side = _MATRIX_SIDE[device.type]
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    matrix_ms = _fastest(lambda: a @ b, device)

    return Ceilings(
        copy_bytes_per_s=2 * source.numel() * 4 / copy_ms * 1e3,
        matrix_flops_per_s=2 * side**3 / matrix_ms * 1e3,
        exp2_per_s=_exp2_rate(source, device),
    )


def _exp2_rate(numbers: Tensor, device: torch.device) -> float:
    if device.type == "cuda":
        from bench.exp2_kernel import repeat_exp2

        numbers = numbers[: 2**24]
        milliseconds = _fastest(lambda: repeat_exp2(numbers, _EXPONENTIALS_A_NUMBER), device)
        return numbers.numel() * _EXPONENTIALS_A_NUMBER / milliseconds * 1e3
    numbers = numbers[: 2**16]  # stays in a core's cache
    result = torch.empty_like(numbers)
    milliseconds = _fastest(lambda: torch.exp2(numbers, out=result), device)
    return numbers.numel() / milliseconds * 1e3


def _fastest(call: Callable[[], object], device: torch.device) -> float:
    return min(timing.measure(call, device, min_samples=_SAMPLES, max_seconds=0.3).samples_ms)
