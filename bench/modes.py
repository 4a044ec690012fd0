"""Other times of a short call on CUDA, beside those from a cold L2 cache: the host's share, warm caches, a graph.

Above 10 ms neither the caches nor launching make a difference of one percent, and nothing is measured. Before each call
one row of what it reads changes sign, so that no result can be a remembered one, while the caches stay as they were.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

from bench import clocks, timing
from bench.records import Modes, Summary

MOST_MS: Final = 10.0
_SECONDS = 0.1
_FEWEST, _MOST = 5, 100
_CAPTURE_WARM_UPS = 3  # calls on the side stream before a capture, as torch recommends
# The replay and the call do the same work, if in another order.
_TOLERANCE = 0.05

TensorCall = Callable[[], dict[str, Tensor]]


def measure_modes(
    build: Callable[[], TensorCall], call: TensorCall, device: torch.device, touch: Callable[[], object]
) -> Modes:
    """Summaries of the modes of a call.

    Args:
        build: makes the call anew, so that what it saves is computed on the stream of the capture.
        call: the call as it was timed.
        touch: changes the operands a little, in place.
    """
    spin_ms = timing.cuda_warm_up(call, device, touch)
    warm = timing.CudaSampler(call, device, touch, spin_ms, cold=False)
    host = _repeat(lambda: _host_ms(call, device, touch))
    warm_summary = _repeat(warm.sample)
    try:
        graph, reason = _graph_times(build, call, device, touch), None
    except Exception as error:  # whatever a call does that a graph cannot hold
        clocks.synchronize_device(device)
        graph, reason = None, f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"
    return Modes(host=host, warm=warm_summary, graph=graph, reason=reason)


def _repeat(sample: Callable[[], float]) -> Summary:
    samples: list[float] = []
    end = clocks.perf_counter() + _SECONDS
    while len(samples) < _FEWEST or (len(samples) < _MOST and clocks.perf_counter() < end):
        samples.append(sample())
    return timing.summarise(samples)


def _host_ms(call: TensorCall, device: torch.device, touch: Callable[[], object]) -> float:
    """Milliseconds until the call returns; the device is idle before and not waited for."""
    touch()
    clocks.synchronize_device(device)
    start = clocks.perf_counter()
    call()
    return (clocks.perf_counter() - start) * 1e3


def _graph_times(
    build: Callable[[], TensorCall], call: TensorCall, device: torch.device, touch: Callable[[], object]
) -> Summary:
    """Replays of the captured call, each from a cold L2 cache.

    Raises:
        RuntimeError: the call cannot be captured, or its replay does not compute what the call does.
    """
    stream = torch.cuda.Stream(device)
    stream.wait_stream(clocks.current_stream(device))
    with torch.cuda.stream(stream):
        captured = build()
        for _ in range(_CAPTURE_WARM_UPS):
            captured()
    clocks.synchronize_device(device)
    graph, result = _capture(captured, stream, device)
    try:
        spin_ms = timing.cuda_warm_up(graph.replay, device, touch)
        summary = _repeat(timing.CudaSampler(graph.replay, device, touch, spin_ms).sample)
        _require_replayed(graph, result, call)
        return summary
    finally:
        clocks.synchronize_device(device)
        graph.reset()


def _capture(
    call: TensorCall, stream: torch.cuda.Stream, device: torch.device
) -> tuple[torch.cuda.CUDAGraph, dict[str, Tensor]]:
    """A graph of the call and where it leaves its result; a failed capture leaves the device as it was."""
    index = torch.cuda.current_device() if device.index is None else device.index
    generator = torch.cuda.default_generators[index]
    # A capture that fails never tells the generator that it has ended, which would refuse all random numbers after it.
    state = generator.clone_state()
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, stream=stream):
            return graph, call()
    except Exception:
        generator.graphsafe_set_state(state)
        raise


def _require_replayed(graph: torch.cuda.CUDAGraph, result: dict[str, Tensor], call: TensorCall) -> None:
    """Whether a replay writes what the call returns, into memory that has been wiped."""
    # A backward pass alone returns the "o" that it has saved, and needs.
    written = {name: x for name, x in result.items() if len(result) == 1 or name != "o"}
    for x in written.values():
        x.fill_(torch.nan)
    graph.replay()
    expected = call()
    for name, x in written.items():
        error = (x.float() - expected[name].float()).norm() / expected[name].float().norm()
        if not float(error) <= _TOLERANCE:
            raise RuntimeError(f"the graph's replay leaves another {name} than the call (relative error {error:.1e})")
