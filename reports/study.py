"""A study: all records that may be compared with each other, and the questions a report asks of them.

Records belong to one study when environment fingerprint, attention shape (dtype included), workload name, kind of
inputs, batch size and seed agree; within it only the token count varies. Captured inputs of several sizes come from as
many files, and make one study unless two files have the same size: then each file is a study of its own.

Dense and packed attention know nothing of blocks, and native sparse attention has blocks of its own: measured once,
they serve the studies of every block structure, unless these have measurements of their own.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from bench.records import Environment, Pass, Record, Shape, Stage, TensorError
from reports.providers import FLASH_ATTENTION_2, SUBJECTS, family, label, sort_key

DIRECTIONS: tuple[Pass, ...] = ("fwd", "bwd", "fwd_bwd")
DIRECTION_NAMES: dict[Pass, str] = {"fwd": "forward", "bwd": "backward", "fwd_bwd": "forward + backward"}
BRANCHES: tuple[Stage, ...] = ("cmp", "select", "slc", "win")
_OFF_SCALE = 10.0  # times the subject's time
# Versions that times of two installations cannot be compared across.
_INSTALLATION = {"driver": "driver", "torch": "PyTorch", "triton": "Triton", "python": "Python"}


@dataclass(frozen=True)
class Fit:
    """time ~ tokens ** exponent, least squares on the logarithms of the medians."""

    exponent: float
    points: int
    smallest: int  # tokens
    largest: int


@dataclass(frozen=True)
class Comparison:
    """The subject against one other provider at one token count."""

    direction: Pass
    tokens: int
    over: str
    speedup: float

    @property
    def is_loss(self) -> bool:
        return round(self.speedup, 2) < 1.0  # a ratio that prints as 1.00 is not called slower


@dataclass(frozen=True)
class Study:
    """One environment, shape and workload."""

    number: int  # from 1, in order of first appearance
    environment: Environment
    shape: Shape
    workload: str  # its label
    batch_size: int
    seed: int
    records: tuple[Record, ...]  # the newest of each measurement
    superseded: int  # older ones left out
    installation: str = ""  # how it differs from that of a study of the same problem on the same device

    @property
    def name(self) -> str:
        return f"{self.workload}, {self.shape.heads} × {self.shape.head_dim} heads"

    @property
    def particulars(self) -> str:
        """What else tells the study from the others of a report."""
        seed = f", seed {self.seed}" if self.seed else ""
        return f"compression blocks {self.shape.compression_block}³, {self.shape.dtype}{seed}, {self.machine}"

    @property
    def machine(self) -> str:
        """The device, and what else of the environment tells the study from another."""
        return ", ".join(filter(None, [self.environment.device, self.installation]))

    @property
    def slug(self) -> str:
        """Prefix of this study's files."""
        return f"{self.number}-{re.sub(r'[^a-z0-9]+', '-', self.workload.lower()).strip('-')}-{self.shape.dtype}"

    @property
    def anchor(self) -> str:
        """Where it stands in a page."""
        return f"study-{self.number}"

    @property
    def tags(self) -> dict[str, str]:
        """What filters know it by."""
        return problem_tags(self.shape, self.workload) | {"device": self.machine}

    @cached_property
    def _index(self) -> dict[tuple[str, Stage, Pass, int], Record]:
        return {(r.provider, r.stage, r.direction, r.workload.tokens): r for r in self.records}

    @cached_property
    def totals(self) -> list[Record]:
        """Records of whole operators."""
        return [record for record in self.records if record.stage == "total"]

    @cached_property
    def tokens(self) -> list[int]:
        return sorted({record.workload.tokens for record in self.records})

    @cached_property
    def captured(self) -> list[str]:
        """Digests of the files that the inputs were captured in, by token count; none where inputs are random."""
        ordered = sorted(self.records, key=lambda record: record.workload.tokens)
        return list(dict.fromkeys(digest for record in ordered if (digest := record.workload.captured) is not None))

    @cached_property
    def directions(self) -> list[Pass]:
        present = {record.direction for record in self.totals}
        return [direction for direction in DIRECTIONS if direction in present]

    @cached_property
    def providers(self) -> list[str]:
        return sorted({record.provider for record in self.records}, key=sort_key)

    def find(self, provider: str, direction: Pass, tokens: int, stage: Stage = "total") -> Record | None:
        return self._index.get((provider, stage, direction, tokens))

    def time(self, provider: str, direction: Pass, tokens: int, stage: Stage = "total") -> float | None:
        """Median in ms, or None if it was not measured."""
        record = self.find(provider, direction, tokens, stage)
        return record.summary.p50 if record is not None and record.summary is not None else None

    def curve(self, provider: str, direction: Pass) -> list[Record]:
        """The timed whole-operator records of a provider, by token count."""
        found = (self.find(provider, direction, tokens) for tokens in self.tokens)
        return [record for record in found if record is not None and record.summary is not None]

    def is_timed(self, provider: str) -> bool:
        return any(record.provider == provider and record.summary is not None for record in self.totals)

    @cached_property
    def subject(self) -> str | None:
        """The SSA implementation the report is about."""
        return next((provider for provider in SUBJECTS if self.is_timed(provider)), None)

    @cached_property
    def baseline(self) -> str | None:
        """FlashAttention-2 if it has a time, otherwise the dense provider fastest at the most tokens any reached."""
        for provider in FLASH_ATTENTION_2:
            if self.is_timed(provider):
                return provider
        for tokens in reversed(self.tokens):
            for direction in self.directions:
                fastest = self.fastest_dense(direction, tokens)
                if fastest is not None:
                    return fastest
        return None

    @property
    def has_flash_attention_2(self) -> bool:
        return self.baseline in FLASH_ATTENTION_2

    def fastest_dense(self, direction: Pass, tokens: int) -> str | None:
        times = {
            provider: time
            for provider in self.providers
            if family(provider) == "dense" and (time := self.time(provider, direction, tokens)) is not None
        }
        return min(times, key=times.__getitem__) if times else None

    def speedup(self, provider: str, direction: Pass, tokens: int, over: str | None) -> float | None:
        """time(over) / time(provider): above 1 the provider is faster than `over`."""
        ours = self.time(provider, direction, tokens)
        theirs = self.time(over, direction, tokens) if over is not None else None
        return theirs / ours if ours is not None and theirs is not None else None

    def largest_common(self, direction: Pass, over: str | None = None) -> Comparison | None:
        """The subject against `over`, by default the baseline, at the most tokens both were timed at."""
        over = over or self.baseline
        if self.subject is None or over is None:
            return None
        for tokens in reversed(self.tokens):
            speedup = self.speedup(self.subject, direction, tokens, over)
            if speedup is not None:
                return Comparison(direction, tokens, over, speedup)
        return None

    @cached_property
    def off_scale(self) -> list[str]:
        """Other SSA implementations, at least ten times slower than the subject wherever both have a time.

        A chart that held them would leave the providers worth comparing a fraction of its height.
        """
        if self.subject is None:
            return []
        slow = []
        for provider in self.providers:
            speedups = [
                speedup
                for direction in self.directions
                for tokens in self.tokens
                if (speedup := self.speedup(self.subject, direction, tokens, provider)) is not None
            ]
            if family(provider) == "ssa" and speedups and min(speedups) >= _OFF_SCALE:
                slow.append(provider)
        return slow

    @property
    def drawn(self) -> list[str]:
        """The providers of charts of time."""
        return [provider for provider in self.providers if provider not in self.off_scale]

    @cached_property
    def against_fastest_dense(self) -> list[Comparison]:
        """The subject against the fastest dense provider, at every direction and token count where both have a time."""
        comparisons = []
        for direction in self.directions:
            for tokens in self.tokens:
                fastest = self.fastest_dense(direction, tokens)
                if self.subject is None or fastest is None:
                    continue
                speedup = self.speedup(self.subject, direction, tokens, fastest)
                if speedup is not None:
                    comparisons.append(Comparison(direction, tokens, fastest, speedup))
        return comparisons

    def fit(self, provider: str, direction: Pass) -> Fit | None:
        """The exponent of time against tokens; None with fewer than two token counts."""
        curve = self.curve(provider, direction)
        if len(curve) < 2:
            return None
        tokens = [record.workload.tokens for record in curve]
        times = [record.summary.p50 for record in curve if record.summary is not None]
        exponent = float(np.polyfit(np.log(tokens), np.log(times), 1)[0])
        return Fit(exponent, len(curve), tokens[0], tokens[-1])

    @cached_property
    def commits(self) -> list[str]:
        """Commits measured, the oldest first, each with a mark if the checkout had uncommitted changes."""
        return list(dict.fromkeys(commit_name(record.environment) for record in self.records))


def commit_name(environment: Environment) -> str:
    """The commit measured, with a mark if the checkout had uncommitted changes."""
    commit = environment.git_commit[:10] if environment.git_commit else "unknown commit"
    return commit + (" with uncommitted changes" if environment.git_dirty else "")


def problem_tags(shape: Shape, workload: str) -> dict[str, str]:
    """What filters know a problem by."""
    return {
        "shape": f"{shape.heads} × {shape.head_dim}",
        "blocks": f"{shape.compression_block}³",
        "workload": workload,
        "dtype": shape.dtype,
    }


def worst_error_ratio(record: Record) -> float | None:
    """Largest error / budget over the tensors checked; None without a check; inf for NaN or any error over budget 0."""
    if record.correctness is None or not record.correctness.tensors:
        return None
    return max(error_ratio(tensor) for tensor in record.correctness.tensors)


def error_ratio(tensor: TensorError) -> float:
    """Error / budget; inf for NaN or any error over budget 0."""
    if tensor.error == 0.0:
        return 0.0
    if math.isnan(tensor.error) or tensor.budget <= 0.0:
        return math.inf
    return tensor.error / tensor.budget


def oracles(records: Iterable[Record]) -> dict[str, list[str]]:
    """What the records were checked against, and on how many tokens from the fewest to the most.

    A check states both in one sentence, "<oracle>, <tokens checked>"; one without a comma is all oracle.
    """
    found: dict[str, dict[str, None]] = {}
    for record in sorted(records, key=lambda record: record.workload.tokens):
        if record.correctness is not None:
            oracle, _, extent = record.correctness.oracle.partition(", ")
            extents = found.setdefault(oracle, {})
            if extent:
                extents[extent] = None
    return {oracle: list(extents) for oracle, extents in found.items()}


# What of a shape the records of a family do not depend on.
_IRRELEVANT = {
    "nsa": ("compression_block", "selection_block", "window", "window_shift"),
    "dense": ("compression_block", "selection_block", "window", "window_shift", "topk"),
    "packed": ("compression_block", "selection_block", "window", "window_shift", "topk"),
}


def group(records: Iterable[Record]) -> list[Study]:
    """Split records into studies, in order of first appearance. Of repeated measurements the newest counts."""
    groups: dict[tuple[object, ...], list[Record]] = defaultdict(list)
    for record in records:
        groups[_key(record, record.shape)].append(record)
    owned = [study for members in groups.values() for study in _apart(members)]
    studies = []
    for number, (name, members) in enumerate(_without_mere_lenders(owned), start=1):
        current = _newest(members)
        own = {_measured(record) for record in current}
        lent = [record for _, others in owned if others is not members for record in _lent(others, members[0])]
        last = max(current, key=lambda record: record.created)
        studies.append(
            Study(
                number=number,
                environment=last.environment,
                shape=last.shape,
                workload=name,
                batch_size=last.workload.batch_size,
                seed=last.workload.seed,
                records=tuple(current + [record for record in _newest(lent) if _measured(record) not in own]),
                superseded=len(members) - len(current),
            )
        )
    return _told_apart(studies)


def _told_apart(studies: Sequence[Study]) -> list[Study]:
    """Studies that would be called alike, each with what differs between their installations."""
    alike: dict[tuple[str, str], list[Environment]] = defaultdict(list)
    for study in studies:
        alike[study.name, study.particulars].append(study.environment)

    def installation(study: Study) -> str:
        environments = alike[study.name, study.particulars]
        differing = [field for field in _INSTALLATION if len({getattr(one, field) for one in environments}) > 1]
        values = {_INSTALLATION[field]: getattr(study.environment, field) for field in differing}
        return ", ".join(f"{name} {value}" if value else f"no {name}" for name, value in values.items())

    return [replace(study, installation=installation(study)) for study in studies]


def _key(record: Record, shape: Shape) -> tuple[object, ...]:
    workload = record.workload
    return (
        record.environment.fingerprint,
        *shape.model_dump().values(),
        workload.label,
        workload.batch_size,
        workload.seed,
    )


def _measured(record: Record) -> tuple[str, Stage, Pass, int]:
    """What a record measures, within a study."""
    return record.provider, record.stage, record.direction, record.workload.tokens


def _newest(records: Iterable[Record]) -> list[Record]:
    newest = {_measured(record): record for record in sorted(records, key=lambda record: record.created)}
    return sorted(newest.values(), key=lambda record: record.created)


def _lent(records: Iterable[Record], borrower: Record) -> list[Record]:
    """Those of another study's records that hold for the borrower's shape and inputs too."""
    found = []
    for record in records:
        same = {name: getattr(borrower.shape, name) for name in _IRRELEVANT.get(family(record.provider), ())}
        holds = same and _key(record, record.shape.model_copy(update=same)) == _key(borrower, borrower.shape)
        if holds and record.workload.captured == borrower.workload.captured:
            found.append(record)
    return found


def _without_mere_lenders(owned: Sequence[tuple[str, list[Record]]]) -> list[tuple[str, list[Record]]]:
    """Leave out the groups whose records all serve another group, which has records that only it can have."""
    return [
        (name, members)
        for name, members in owned
        if any(family(record.provider) not in _IRRELEVANT for record in members)
        or not any(
            len(_lent(members, others[0])) == len(members)
            for _, others in owned
            if others is not members and any(family(record.provider) not in _IRRELEVANT for record in others)
        )
    ]


def _apart(members: list[Record]) -> list[tuple[str, list[Record]]]:
    """The label and records of each study of a group: one, or one a file where two files have one size."""
    name = members[0].workload.label
    files = {(record.workload.tokens, record.workload.captured) for record in members}
    if len(files) == len({tokens for tokens, _ in files}):
        return [(name, members)]
    return [
        (f"{name} {digest}", [record for record in members if record.workload.captured == digest])
        for digest in dict.fromkeys(record.workload.captured for record in members)
    ]


def baseline_label(study: Study) -> str:
    return label(study.baseline) if study.baseline is not None else "no dense provider"
