"""Providers that pass their check and then do not do the work: none of them gets a time."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from small_shape import small_shape
from torch import Tensor

from bench import speed, timing
from bench.plan import Plan
from bench.providers import Problem, get_provider
from bench.records import Ceilings, Record
from bench.speed import run_speed
from kernels.testing import Inputs

SHAPE = small_shape(heads=2, kv_heads=1)
HONEST = get_provider("dense-sdpa-cpu")
# Forward calls before any is timed: the first one of the pass, and the check's.
UNTIMED = 2
Forward = Callable[[Problem, Inputs], Tensor]
Measure = Callable[..., Record]


@pytest.fixture
def measure(monkeypatch: pytest.MonkeyPatch) -> Measure:
    """The record of one pass of a provider that computes exact dense attention, as far as its check can tell."""

    def run(forward: Forward, direction: str = "fwd", device: str = "cpu", tokens: int = 96) -> Record:
        liar = dataclasses.replace(HONEST, name="dense-liar", forward=forward, unavailable=lambda problem: None)
        known = Ceilings(copy_bytes_per_s=1e10, matrix_flops_per_s=1e11, exp2_per_s=1e9)
        monkeypatch.setattr(speed, "probe", lambda device, dtype: known)
        monkeypatch.setattr(speed, "get_provider", lambda name: liar)
        plan = Plan(["gyroid"], [tokens], [liar.name], SHAPE, directions=[direction], max_seconds=0.0)
        (record,) = run_speed(plan, device=device)
        return record

    return run


def honest(problem: Problem, x: Inputs) -> Tensor:
    return HONEST.forward(problem, x)


def assert_refused(record: Record, *found: str) -> None:
    assert record.status == "failed_check"
    assert not record.samples_ms
    assert record.summary is None
    assert record.correctness is not None
    assert record.correctness.passed  # by the check alone it would have had a time
    assert record.reason is not None
    for words in found:
        assert words in record.reason


@pytest.mark.parametrize("direction", ["fwd", "bwd", "fwd_bwd"])
def test_an_honest_provider_has_a_time_and_a_judgement(measure: Measure, direction: str) -> None:
    record = measure(honest, direction)
    assert record.status == "ok", record.reason
    assert record.timed_correctness is not None
    assert record.timed_correctness.passed
    names = [tensor.name for tensor in record.timed_correctness.tensors]
    assert names == (["o"] if direction == "fwd" else ["o", "dq", "dk", "dv"])


class TestRemembering:
    def test_the_first_output_for_ever(self, measure: Measure) -> None:
        outputs: list[Tensor] = []

        def forward(problem: Problem, x: Inputs) -> Tensor:
            if x.q.requires_grad:  # the check's
                return honest(problem, x)
            if not outputs:
                outputs.append(honest(problem, x))
            return outputs[0]

        assert_refused(measure(forward), "what the timed call returned is wrong: error of o")

    def test_by_address(self, measure: Measure) -> None:
        outputs: dict[int, Tensor] = {}

        def forward(problem: Problem, x: Inputs) -> Tensor:
            if x.q.requires_grad:
                return honest(problem, x)
            key = x.v.data_ptr()
            if key not in outputs:
                outputs[key] = honest(problem, x)
            return outputs[key]

        assert_refused(measure(forward), "error of o")

    def test_by_part_of_the_content(self, measure: Measure) -> None:
        outputs: dict[tuple[float, float], Tensor] = {}

        def forward(problem: Problem, x: Inputs) -> Tensor:
            if x.q.requires_grad:
                return honest(problem, x)
            key = (float(x.q.sum()), float(x.k.sum()))
            if key not in outputs:
                outputs[key] = honest(problem, x)
            return outputs[key]

        assert_refused(measure(forward), "error of o")

    def test_the_probabilities_of_the_first_queries_and_keys(self, measure: Measure) -> None:
        kept: list[Tensor] = []

        def forward(problem: Problem, x: Inputs) -> Tensor:
            if x.q.requires_grad:
                return honest(problem, x)
            if not kept:
                kept.append((torch.einsum("nhd,mgd->hnm", x.q, x.k) / x.q.shape[2] ** 0.5).softmax(-1))
            return torch.einsum("hnm,mgd->nhd", kept[0], x.v)

        assert_refused(measure(forward), "error of o")

    def test_by_all_of_the_content_is_of_no_use(self, measure: Measure) -> None:
        seen: list[Inputs] = []
        hits: list[int] = []

        def forward(problem: Problem, x: Inputs) -> Tensor:
            tensors = x.tensors()
            if any(all(torch.equal(a, b) for a, b in zip(tensors, old.tensors(), strict=True)) for old in seen):
                hits.append(len(seen))
            seen.append(Inputs(*(tensor.detach().clone() for tensor in tensors)))
            return honest(problem, x)

        assert measure(forward).status == "ok"
        assert len(seen) > UNTIMED + 5
        assert set(hits) <= {1}  # only the check sees again what the first call saw

    def test_gradients_of_the_first_backward(self, measure: Measure) -> None:
        def remember(kept: list[Tensor], gradient: Tensor, timed: bool) -> Tensor:
            if timed:
                kept.append(gradient)
            return kept[0] if timed else gradient

        assert_refused(measure(MeddledBackward(remember), "bwd"), "error of d")


class MeddledBackward:
    """Exact attention whose gradients of q, k and v pass through `meddle`, once the check is over."""

    def __init__(self, meddle: Callable[[list[Tensor], Tensor, bool], Tensor], only: str = "q k v") -> None:
        self._meddle, self._only, self._calls = meddle, only.split(), 0

    def __call__(self, problem: Problem, x: Inputs) -> Tensor:
        self._calls += 1
        timed = self._calls > UNTIMED

        def wrapped(name: str) -> Tensor:
            tensor, kept = getattr(x, name), []

            class Meddled(torch.autograd.Function):
                @staticmethod
                def forward(ctx: Any, y: Tensor) -> Tensor:
                    return y.view_as(y)

                @staticmethod
                def backward(ctx: Any, *grads: Tensor) -> Tensor:
                    return self._meddle(kept, grads[0], timed)

            return Meddled.apply(tensor)

        return honest(problem, dataclasses.replace(x, **{name: wrapped(name) for name in self._only}))


class TestDoingLess:
    def test_nothing_after_the_check(self, measure: Measure) -> None:
        calls: list[None] = []

        def forward(problem: Problem, x: Inputs) -> Tensor:
            calls.append(None)
            return honest(problem, x) if len(calls) <= UNTIMED else torch.zeros_like(x.q)

        assert_refused(measure(forward), "error of o")

    def test_nothing_from_some_timed_call_on(self, measure: Measure) -> None:
        calls: list[None] = []

        def forward(problem: Problem, x: Inputs) -> Tensor:
            calls.append(None)
            return honest(problem, x) if len(calls) <= UNTIMED + 4 else torch.zeros_like(x.q)

        assert_refused(measure(forward), "error of o")

    def test_half_of_the_output(self, measure: Measure) -> None:
        calls: list[None] = []
        buffer: list[Tensor] = []

        def forward(problem: Problem, x: Inputs) -> Tensor:
            calls.append(None)
            o = honest(problem, x)
            if len(calls) <= UNTIMED:
                return o
            if not buffer:
                buffer.append(o.clone())
            half = len(o) // 2
            buffer[0][:half] = o[:half]  # the other half is what an earlier call left there
            return buffer[0]

        assert_refused(measure(forward), "error of o")

    @pytest.mark.parametrize("name", ["q", "k", "v"])
    def test_half_of_a_gradient(self, measure: Measure, name: str) -> None:
        def halve(kept: list[Tensor], gradient: Tensor, timed: bool) -> Tensor:
            if timed:
                gradient = gradient.clone()
                gradient[::2] = 0
            return gradient

        assert_refused(measure(MeddledBackward(halve, name), "bwd"), f"error of {'d' + name}")

    @pytest.mark.parametrize("row", [0, 401])
    def test_a_single_row_that_is_not_a_number(self, measure: Measure, row: int) -> None:
        calls: list[None] = []

        def forward(problem: Problem, x: Inputs) -> Tensor:
            calls.append(None)
            o = honest(problem, x)
            if len(calls) > UNTIMED:
                o[row, 0, 0] = torch.nan
            return o

        assert_refused(measure(forward, tokens=600), "error of o")

    def test_less_precision(self, measure: Measure) -> None:
        calls: list[None] = []

        def forward(problem: Problem, x: Inputs) -> Tensor:
            calls.append(None)
            if len(calls) <= UNTIMED:
                return honest(problem, x)
            low = [tensor.to(torch.bfloat16) for tensor in x.tensors()]
            return honest(problem, Inputs(*low)).to(x.q.dtype)

        assert_refused(measure(forward, tokens=600), "error of o")

    def test_a_thread_that_fills_the_output_after_the_return(self, measure: Measure) -> None:
        calls: list[None] = []
        threads: list[threading.Thread] = []

        def forward(problem: Problem, x: Inputs) -> Tensor:
            calls.append(None)
            expected = honest(problem, x)
            if len(calls) <= UNTIMED:
                return expected
            o = torch.zeros_like(expected)

            def work() -> None:
                time.sleep(0.02)
                o.copy_(expected)

            threads.append(threading.Thread(target=work))
            threads[-1].start()
            return o

        record = measure(forward)
        for thread in threads:
            thread.join()
        assert_refused(record, "error of o")


class TestClocks:
    @pytest.fixture(autouse=True)
    def originals(self) -> Iterator[None]:
        before = time.perf_counter, torch.cuda.synchronize, torch.cuda.Event.elapsed_time
        yield
        assert (time.perf_counter, torch.cuda.synchronize, torch.cuda.Event.elapsed_time) == before

    @pytest.mark.parametrize(
        ("owner", "name", "path"),
        [
            (time, "perf_counter", "time.perf_counter"),
            (torch.cuda, "synchronize", "torch.cuda.synchronize"),
            (torch.cuda.Event, "elapsed_time", "torch.cuda.Event.elapsed_time"),
        ],
    )
    def test_a_call_that_replaces_a_clock(
        self, measure: Measure, monkeypatch: pytest.MonkeyPatch, owner: object, name: str, path: str
    ) -> None:
        monkeypatch.setattr(owner, name, getattr(owner, name))  # undoes the test's own damage, should it stay

        def forward(problem: Problem, x: Inputs) -> Tensor:
            setattr(owner, name, lambda *_: 0.0)
            return honest(problem, x)

        assert_refused(measure(forward), f"a call replaced {path}")

    def test_a_replaced_clock_does_not_change_the_samples(
        self, measure: Measure, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(time, "perf_counter", time.perf_counter)
        durations: list[float] = []
        summarise = timing.summarise

        def keep(samples: list[float]) -> object:
            durations.extend(samples)
            return summarise(samples)

        monkeypatch.setattr(timing, "summarise", keep)

        def forward(problem: Problem, x: Inputs) -> Tensor:
            time.perf_counter = lambda: 0.0
            time.sleep(0.005)
            return honest(problem, x)

        assert_refused(measure(forward), "time.perf_counter")
        assert min(durations) >= 5.0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_work_on_another_stream_that_nobody_waits_for(measure: Measure) -> None:
    calls: list[None] = []

    def forward(problem: Problem, x: Inputs) -> Tensor:
        calls.append(None)
        if len(calls) <= UNTIMED:
            return on_cuda(problem, x)
        o = torch.zeros_like(x.q)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            torch.cuda._sleep(50_000_000)
            o.copy_(on_cuda(problem, x))
        return o

    def on_cuda(problem: Problem, x: Inputs) -> Tensor:
        return get_provider("dense-sdpa-math").forward(problem, x)

    assert_refused(measure(forward, device="cuda"), "error of o")
