"""Why a provider has no time: the status and reason of its record."""

from __future__ import annotations

import gc
from typing import Any

import torch

from bench.records import Correctness


def failed(error: Exception, device: torch.device) -> dict[str, Any]:
    """Status and reason of a record for a failed call; its memory is freed."""
    error.__traceback__ = None  # its frames hold tensors
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # raises where the error has made the device unusable
        torch.cuda.empty_cache()
    message = (str(error).strip() or type(error).__name__).splitlines()[0]
    out_of_memory = isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in message
    return {
        "status": "out_of_memory" if out_of_memory else "error",
        "reason": message if out_of_memory else f"{type(error).__name__}: {message}",
    }


def worst_error(correctness: Correctness) -> str:
    """Why the check failed, in one sentence."""
    failed = [tensor for tensor in correctness.tensors if not tensor.passed]
    if failed:
        worst = max(failed, key=lambda tensor: tensor.error / tensor.budget if tensor.budget else float("inf"))
        return f"error of {worst.name} {worst.error:.2e} exceeds its budget {worst.budget:.2e}"
    return f"{correctness.selection_errors} rows break the selection rule"
