"""Warm, graph and host times on a GPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bench import timing
from bench.modes import measure_modes

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
DEVICE = torch.device("cuda")


def nothing() -> None:
    pass


def test_many_small_kernels_cost_the_host_more_than_a_graph_of_them_costs_the_device() -> None:
    x = torch.zeros(1000, device=DEVICE)

    def call() -> dict[str, Tensor]:
        y = x
        for _ in range(50):
            y = y + 1
        return {"o": y}

    modes = measure_modes(lambda: call, call, DEVICE, nothing)
    assert modes.reason is None
    assert modes.graph is not None
    assert modes.warm is not None
    assert min(modes.host.p50, modes.warm.p50, modes.graph.p50) > 0
    assert modes.graph.count >= 5


def test_a_backward_pass_of_a_saved_forward_is_captured() -> None:
    given, upstream = torch.randn(64, 64, device=DEVICE), torch.randn(64, 64, device=DEVICE)

    def build() -> timing.Call:
        x = given.detach().requires_grad_()
        o = (x @ x).sin()

        def call() -> dict[str, Tensor]:
            (grad,) = torch.autograd.grad(o, [x], upstream, retain_graph=True)
            return {"o": o.detach(), "dq": grad}

        return call

    modes = measure_modes(build, build(), DEVICE, lambda: upstream[3].neg_())
    assert modes.reason is None
    assert modes.graph is not None


def test_a_call_that_cannot_be_captured_says_why_and_leaves_the_device_usable() -> None:
    x = torch.ones(10, device=DEVICE)

    def call() -> dict[str, Tensor]:
        return {"o": x * x.sum().item()}

    modes = measure_modes(lambda: call, call, DEVICE, nothing)
    assert modes.graph is None
    assert modes.warm is not None
    assert modes.reason
    assert torch.randn(4, device=DEVICE).isfinite().all()
    assert float(call()["o"][0]) == 10.0


def test_a_capture_that_misses_work_is_found_out() -> None:
    x, side = torch.ones(10, device=DEVICE), torch.cuda.Stream()
    calls: list[None] = []

    def call() -> dict[str, Tensor]:
        calls.append(None)
        with torch.cuda.stream(side):
            y = x * 2
        if torch.cuda.is_current_stream_capturing():
            return {"o": torch.empty_like(x)}
        torch.cuda.current_stream().wait_stream(side)
        return {"o": y}

    modes = measure_modes(lambda: call, call, DEVICE, nothing)
    assert modes.graph is None
    assert modes.reason
