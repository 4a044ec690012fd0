"""One measurement: a job of a checked provider, timed in blocks and judged by what it returned; and its memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

from bench import clocks, timing
from bench.failures import worst_error
from bench.jobs import Job
from bench.judging import Witness, judge, sampled_rows
from bench.modes import MOST_MS, measure_modes
from bench.providers import Provider
from bench.records import Conditions, Correctness, Sampling
from bench.renewal import BLOCKS, Renewal


class Deceived(Exception):
    """A timed call did not do its work, or replaced a clock; the message says what was found."""

    def __init__(self, reason: str, timed_correctness: Correctness | None = None) -> None:
        super().__init__(reason)
        self.timed_correctness = timed_correctness


def take(
    provider: Provider, job: Job, renewal: Renewal, checked: Correctness, *, min_samples: int, max_seconds: float
) -> dict[str, Any]:
    """The fields of a record that come from timing: samples, how they were taken, memory, modes, judgement.

    Args:
        renewal: the problem's values, as the provider sees the problem.
        checked: the provider's check on the problem.

    Raises:
        Deceived: see there. Whatever the job raises.
    """
    witness: Witness | None = None
    call: Callable[[], dict[str, Tensor]] | None = None
    baseline: int | None = None
    device = renewal.upstream.device

    def calls() -> Iterator[Callable[[], dict[str, Tensor]]]:
        nonlocal witness, call, baseline
        for block in range(BLOCKS):
            call = witness = None  # what they hold must be free before the next call is made
            values = renewal.load(block)
            forward = job.prepare(values)
            witness = Witness(job, values, renewal.upstream, sampled_rows(provider, values))
            baseline = timing.allocated_bytes(device)
            call = job.call(forward, values.inputs, renewal.upstream)
            yield call

    def inspect(result: object) -> None:
        if witness is not None:
            witness(result)

    series = timing.measure_blocks(
        calls(),
        BLOCKS,
        device,
        min_samples=min_samples,
        max_seconds=max_seconds,
        before=lambda: renewal.flip(job.flipped),
        inspect=inspect,
    )
    if call is None or witness is None:
        raise RuntimeError("sampling ended without a call")
    last = call  # what is named here stays alive until the modes are measured
    summary = timing.summarise(series.samples_ms)
    peak = timing.peak_memory(last, device, baseline=baseline)
    judged = judge(provider, witness, checked)
    if not judged.passed:
        raise Deceived(f"what the timed call returned is wrong: {worst_error(judged)}", judged)
    modes = None
    if device.type == "cuda" and job.stage == "total" and summary.p50 < MOST_MS:
        values = witness.values
        modes = measure_modes(
            lambda: job.call(job.prepare(values), values.inputs, renewal.upstream),
            last,
            device,
            lambda: renewal.touch(job.flipped),
        )
    if replaced := clocks.restore():
        raise Deceived(f"a call replaced {', '.join(replaced)}", judged)
    return {
        "samples_ms": series.samples_ms,
        "summary": summary,
        "sampling": sampling_of(series),
        "modes": modes,
        "timed_correctness": judged,
        "peak_memory_bytes": peak,
    }


def sampling_of(series: timing.Series) -> Sampling:
    """How the samples came about, as a record has it."""
    columns: dict[str, list[Any]] = {
        name: [getattr(condition, name) for condition in series.conditions] for name in Conditions.model_fields
    }
    known = {name: column for name, column in columns.items() if any(value is not None for value in column)}
    return Sampling(
        blocks=series.blocks,
        conditions=Conditions(**known),
        discarded=dict(series.discarded),
        disturbed=series.disturbed,
    )
