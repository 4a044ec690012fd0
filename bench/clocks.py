"""The clocks of the harness, held from import on, so that a measured call cannot exchange them.

A call may still replace what others use: that is found after the call, undone, and costs it its time. This guards
against tricks in a provider, not against code that rewrites the harness itself, which no process can guard against.
"""

from __future__ import annotations

import time
from typing import Any, Final

import torch

perf_counter = time.perf_counter
synchronize_device = torch.cuda.synchronize
current_stream = torch.cuda.current_stream
Event = torch.cuda.Event
record_event = torch.cuda.Event.record
synchronize_event = torch.cuda.Event.synchronize
elapsed_time = torch.cuda.Event.elapsed_time

_GUARDED: Final[tuple[tuple[str, Any, str, Any], ...]] = tuple(
    (f"{path}.{name}", owner, name, getattr(owner, name))
    for path, owner, names in (
        ("time", time, ("perf_counter", "perf_counter_ns", "monotonic", "time")),
        ("torch.cuda", torch.cuda, ("synchronize", "Event", "Stream", "current_stream", "CUDAGraph")),
        ("torch.cuda.Event", torch.cuda.Event, ("record", "synchronize", "elapsed_time")),
    )
    for name in names
)


def restore() -> list[str]:
    """Put back every timing function that was replaced since import; their names."""
    replaced = [guarded for guarded in _GUARDED if getattr(guarded[1], guarded[2]) is not guarded[3]]
    for _, owner, name, original in replaced:
        setattr(owner, name, original)
    return [path for path, *_ in replaced]
