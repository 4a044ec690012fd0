"""Two sets of records, measurement by measurement: what got slower, needs more memory, or is no longer right.

Only records of one machine are gated: with different environment fingerprints a difference may have any cause. A
regression is a confirmed slowdown (`bench.verdict`), a peak memory beyond its margin, a measurement that BASE has and
HEAD has not, or a check that newly fails. An error that grows within its budget is a remark, and so is a slowdown where
the machine's noise floor is not known: samples of two runs do not tell what differs between runs of equal code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from bench.noise import NoiseFloor, require_margin
from bench.pairing import Measured, environment_differences, flaw, newest
from bench.records import Environment, Record
from bench.statistics import ratio_interval
from bench.verdict import MARGIN, Judgement, Pair, judge

Progress = Callable[[str, int, int], None]

MEMORY_MARGIN: Final = 0.05
# Below this, growth is the allocator's rounding.
_LEAST_GROWTH_BYTES = 2**20
# An error that grows by this factor is worth a remark, unless both are tiny beside the budget.
_ERROR_GROWTH = 2.0
_TINY_ERROR = 0.01  # of the budget


@dataclass(frozen=True)
class Entry:
    """One measurement on both sides."""

    measured: Measured
    base: Record | None
    head: Record | None
    judgement: Judgement | None  # None unless both sides have a time
    interval: tuple[float, float] | None  # of the ratio, 95 %
    regressions: tuple[str, ...]
    remarks: tuple[str, ...]

    @property
    def outcome(self) -> str:
        """The verdict; without one, what there is instead of two times."""
        if self.judgement is not None:
            return self.judgement.verdict
        if self.head is None:
            return "missing"
        return "new" if self.head.status == "ok" else self.head.status.replace("_", " ")


@dataclass(frozen=True)
class Comparison:
    base: Environment
    head: Environment
    margin: float
    noise: NoiseFloor | None  # of the machine, where it was measured
    differences: tuple[str, ...]  # of the environments; none where times are comparable
    entries: tuple[Entry, ...]
    own_floor: float | None = None  # of a job that interleaved its sides and a control: the largest of its measurements

    @property
    def is_gated(self) -> bool:
        """Whether regressions count: not across machines."""
        return not self.differences

    @cached_property
    def regressed(self) -> list[Entry]:
        return [entry for entry in self.entries if entry.regressions]

    @property
    def failed(self) -> bool:
        return self.is_gated and bool(self.regressed)

    def count(self, outcome: str) -> int:
        return sum(entry.outcome == outcome for entry in self.entries)

    @cached_property
    def geometric_mean(self) -> float | None:
        """Of the ratios of all measurements with two times, whatever their verdicts."""
        logs = [math.log(entry.judgement.ratio) for entry in self.entries if entry.judgement is not None]
        return math.exp(math.fsum(logs) / len(logs)) if logs else None


def compare(
    base: Iterable[Record],
    head: Iterable[Record],
    *,
    margin: float = MARGIN,
    memory_margin: float = MEMORY_MARGIN,
    noise: NoiseFloor | None = None,
    across_machines: bool = False,
    progress: Progress | None = None,
) -> Comparison:
    """Compare the newest record of every measurement of each side.

    Args:
        margin: how much slower is too slow, as a share of the time of BASE.
        memory_margin: the same for peak memory.
        noise: the noise floor of the machine, below which no margin is accepted; without it no time is gated.
        across_machines: compare, without gating, what was measured on different machines or software.
        progress: called before each measurement that is judged, and once at the end.

    Raises:
        ValueError: a side of several machines, sides of different ones without `across_machines`, no measurement on
            both sides, or a margin that is not positive or below the noise floor.
    """
    if not memory_margin > 0:
        raise ValueError(f"memory margin must be positive, got {memory_margin:g}")
    olds, news = newest(base), newest(head)
    here, there = (_environment(side, name) for side, name in ((olds, "BASE"), (news, "HEAD")))
    differences = environment_differences(here, there)
    if differences and not across_machines:
        raise ValueError(
            f"BASE and HEAD were measured in different environments ({'; '.join(differences)}); "
            "measure both on one machine, or add --across-machines to compare without a gate"
        )
    if noise is not None:
        require_margin(margin, noise, there.fingerprint)
    if not olds.keys() & news.keys():
        raise ValueError("no measurement is in both BASE and HEAD: provider, pass, workload and shape must agree")
    keys = [
        measured
        for measured in dict.fromkeys([*olds, *news])
        if any(record is not None and _counts(record) for record in (olds.get(measured), news.get(measured)))
    ]
    timed = [key for key in keys if all(key in side and side[key].status == "ok" for side in (olds, news))]
    pairs = [Pair(olds[key].samples_ms, news[key].samples_ms, flaw(olds[key], news[key])) for key in timed]
    judgements = dict(zip(timed, judge(pairs, margin), strict=True))
    entries = []
    for done, key in enumerate(keys):
        if progress is not None:
            progress(f"{key.provider} {key.direction}, {key.workload.tokens} tokens", done, len(keys))
        old, new, judgement = olds.get(key), news.get(key), judgements.get(key)
        interval = None
        if judgement is not None and old is not None and new is not None:
            interval = ratio_interval(old.samples_ms, new.samples_ms)
        entries.append(entry(key, old, new, judgement, interval, memory_margin, gate_time=noise is not None))
    if progress is not None:
        progress("done", len(keys), len(keys))
    return Comparison(here, there, margin, noise, differences, tuple(entries))


def _counts(record: Record) -> bool:
    """What could not run has nothing to compare, unless the other side could."""
    return record.status in ("ok", "failed_check")


def _environment(records: dict[Measured, Record], side: str) -> Environment:
    """That of the newest record."""
    fingerprints = sorted({record.environment.fingerprint for record in records.values()})
    if len(fingerprints) > 1:
        raise ValueError(f"{side} holds records of several machines or installations: {', '.join(fingerprints)}")
    return max(records.values(), key=lambda record: record.created).environment


def entry(
    measured: Measured,
    base: Record | None,
    head: Record | None,
    judgement: Judgement | None,
    interval: tuple[float, float] | None,
    memory_margin: float,
    *,
    gate_time: bool,
) -> Entry:
    """What is a regression, and what worth a remark, of one measurement.

    Args:
        judgement, interval: of head / base; None unless both sides have a time.
        gate_time: whether a confirmed slowdown is a regression, or a remark.
    """
    regressions: list[str] = []
    remarks: list[str] = []
    if judgement is not None and interval is not None and base is not None and head is not None:
        low, high = interval
        if judgement.verdict == "slower":
            (regressions if gate_time else remarks).append(
                f"takes {judgement.ratio:.3f} times as long ({low:.3f} to {high:.3f}, p = {judgement.p_value:.1g})"
            )
        regressions += _memory_growth(base, head, memory_margin)
        remarks += _error_growth(base, head)
        if judgement.reason is not None:
            remarks.append(judgement.reason)
    elif head is None:
        if base is not None and base.status == "ok":
            regressions.append("was not measured in HEAD")
    elif head.status == "failed_check":
        failure = f"fails its check: {head.reason}"
        (remarks if base is not None and base.status == "failed_check" else regressions).append(failure)
    elif head.status != "ok":
        failure = f"{head.status.replace('_', ' ')}: {head.reason}"
        (regressions if base is not None and base.status == "ok" else remarks).append(failure)
    return Entry(measured, base, head, judgement, interval, tuple(regressions), tuple(remarks))


def _memory_growth(base: Record, head: Record, margin: float) -> list[str]:
    before, after = base.peak_memory_bytes, head.peak_memory_bytes
    if before is None or after is None:
        return []
    if after - before < _LEAST_GROWTH_BYTES or after <= (1 + margin) * before:
        return []
    return [f"peak memory grows from {before / 2**20:.1f} to {after / 2**20:.1f} MiB"]


def _error_growth(base: Record, head: Record) -> list[str]:
    tensors = {tensor.name: tensor for tensor in base.correctness.tensors} if base.correctness is not None else {}
    remarks = []
    for tensor in head.correctness.tensors if head.correctness is not None else ():
        before = tensors.get(tensor.name)
        if before is not None and tensor.error > _ERROR_GROWTH * max(before.error, _TINY_ERROR * tensor.budget):
            change = f"from {before.error:.2e} to {tensor.error:.2e}"
            remarks.append(f"error of {tensor.name} grows {change} (budget {tensor.budget:.2e})")
    return remarks
