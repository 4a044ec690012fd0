"""What a manifest says about a dataset, in numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from models.data.dataset.manifest import Entry

QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)


@dataclass(frozen=True)
class Spread:
    """Quantiles of a number over the samples, at `QUANTILES`, and its mean."""

    name: str
    quantiles: tuple[float, ...]
    mean: float


@dataclass(frozen=True)
class Statistics:
    """Counts are of samples, unless said otherwise; the most frequent first."""

    status: dict[str, int]  # of all assets: ok, failed, duplicate
    splits: dict[str, int]  # in the order train, val, test
    categories: dict[str, int]
    licences: dict[str, int]
    creators: dict[str, int]
    reasons: dict[str, int]  # of failures
    warnings: int  # samples with one or more
    spreads: list[Spread]
    voxels: int  # of all samples and resolutions
    size: int  # of all samples, bytes
    seconds: float  # of all workers together

    @property
    def assets(self) -> int:
        return sum(self.status.values())


def statistics(entries: Sequence[Entry]) -> Statistics:
    """Statistics of the entries of a manifest."""
    samples = [entry for entry in entries if entry.status == "ok"]
    status = Counter(entry.status for entry in entries)
    splits = Counter(entry.split.value for entry in samples)
    numbers: dict[str, list[float]] = {
        "faces": [entry.faces or 0 for entry in samples],
        "vertices": [entry.vertices or 0 for entry in samples],
    }
    for resolution in sorted({resolution for entry in samples for resolution in entry.voxels}):
        numbers[f"voxels at {resolution}"] = [entry.voxels[resolution] for entry in samples]
    numbers["size in MiB"] = [(entry.size or 0) / 2**20 for entry in samples]
    numbers["seconds"] = [entry.seconds or 0 for entry in samples]
    return Statistics(
        status={name: status[name] for name in ("ok", "failed", "duplicate")},
        splits={name: splits[name] for name in ("train", "val", "test")},
        categories=_counted(entry.category or "none" for entry in samples),
        licences=_counted(entry.licence or "not known" for entry in samples),
        creators=_counted(entry.creator or "not known" for entry in samples),
        reasons=_counted(entry.reason or "no reason" for entry in entries if entry.status == "failed"),
        warnings=sum(bool(entry.warnings) for entry in samples),
        spreads=[_spread(name, values) for name, values in numbers.items() if values],
        voxels=sum(sum(entry.voxels.values()) for entry in samples),
        size=sum(entry.size or 0 for entry in samples),
        seconds=sum(entry.seconds or 0 for entry in entries),
    )


def _counted(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items(), key=lambda item: (-item[1], item[0])))


def _spread(name: str, values: list[float]) -> Spread:
    quantiles: list[float] = np.quantile(values, QUANTILES).tolist()
    return Spread(name, tuple(quantiles), float(np.mean(values)))
