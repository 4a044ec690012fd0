"""What a trace of torch's profiler (Kineto's Chrome JSON) says about the device work of marked calls.

A kernel belongs to a call if the host launched it while the call ran: the profiler gives a launch and its kernel the
same correlation id. So neither set-up nor what happens between the calls is counted.
"""

from __future__ import annotations

import bisect
import json
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any, Final

CALL: Final = "ssabench call"  # the record_function around every call

_DEVICE_WORK = ("kernel", "gpu_memcpy", "gpu_memset")
_HOST_CALLS = ("cuda_runtime", "cuda_driver")


@dataclass(frozen=True)
class DeviceWork:
    """Launches of one kernel with the same resources, or copies or fills of one kind, which have none."""

    name: str
    launches: int
    milliseconds: float  # of all launches
    programs: int | None = None  # thread blocks of the largest launch
    threads: int | None = None  # of a program
    registers: int | None = None  # of a thread
    shared_bytes: int | None = None  # of a program, static and dynamic


@dataclass(frozen=True)
class CallTrace:
    calls: int
    work: tuple[DeviceWork, ...]  # of all calls, the longest first
    synchronizations: dict[str, int]  # host calls that wait for the device, of all calls
    without_launch: int  # pieces of device work whose launch the trace lacks; in none of the numbers above


def read_trace(text: str | bytes) -> CallTrace:
    """Device work and host synchronizations of the calls marked `CALL`.

    Raises:
        ValueError: not such a trace, or no marked call in it.
    """
    try:
        events = json.loads(text)["traceEvents"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"not a Chrome trace of torch's profiler: {error!r}") from error
    complete = [event for event in events if event.get("ph") == "X"]
    spans = sorted(
        (event["ts"], event["ts"] + event["dur"])
        for event in complete
        if event.get("cat") == "user_annotation" and event["name"] == CALL
    )
    if not spans:
        raise ValueError(f"the trace holds no call marked {CALL!r}")
    starts = [start for start, _ in spans]

    def inside(event: dict[str, Any]) -> bool:
        index = bisect.bisect_right(starts, event["ts"]) - 1
        return index >= 0 and event["ts"] <= spans[index][1]

    host = [event for event in complete if event.get("cat") in _HOST_CALLS]
    launches = {event["args"]["correlation"]: inside(event) for event in host if "correlation" in event.get("args", {})}
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    without_launch = 0
    for event in complete:
        if event.get("cat") in _DEVICE_WORK:
            launched = launches.get(event["args"].get("correlation"))
            without_launch += launched is None
            if launched:
                groups[_kind(event)].append(event)
    work = (_device_work(members) for members in groups.values())
    return CallTrace(
        calls=len(spans),
        work=tuple(sorted(work, key=lambda one: -one.milliseconds)),
        synchronizations=dict(
            Counter(event["name"] for event in host if "Synchronize" in event["name"] and inside(event))
        ),
        without_launch=without_launch,
    )


def base_name(name: str) -> str:
    """A kernel's name without return type, namespaces, template arguments and parameters, as Nsight Compute filters it.

    ``void at::native::(anonymous namespace)::fill<int>(int*)`` -> ``fill``
    """
    depth, kept = 0, []
    for character in name:
        depth -= character in ">)"
        if depth <= 0:
            kept.append(character)
        depth += character in "<("
    plain = "".join(kept).replace("<>", "").replace("()", "")
    words = plain.split()
    return words[-1].rsplit("::", 1)[-1] if words else name


def _kind(event: dict[str, Any]) -> tuple[Any, ...]:
    args = event["args"]
    return (
        *(event["cat"], event["name"]),
        *(args.get("registers per thread"), args.get("shared memory"), tuple(args.get("block", ()))),
    )


def _device_work(events: list[dict[str, Any]]) -> DeviceWork:
    first = events[0]["args"]
    return DeviceWork(
        name=events[0]["name"],
        launches=len(events),
        milliseconds=sum(event["dur"] for event in events) / 1e3,
        programs=max(_volume(event["args"]["grid"]) for event in events) if "grid" in first else None,
        threads=_volume(first["block"]) if "block" in first else None,
        registers=first.get("registers per thread"),
        shared_bytes=first.get("shared memory"),
    )


def _volume(sides: list[int]) -> int:
    x, y, z = sides
    return x * y * z
