"""The noise floor of a machine: how far apart two measurements of the same code come out.

The samples of one run say nothing of what differs between runs: memory addresses, clocks, temperature. Only runs of the
same commit, compared with each other, show it; a gate with a margin below what they show would accuse innocent commits.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bench.disturbance import disturbance
from bench.pairing import Measured, environment_differences, flaw, newest
from bench.records import Record, write_whole
from bench.statistics import ratio
from bench.verdict import MARGIN

_QUANTILE = 0.99
FEWEST_PAIRS: Final = 20


class NoiseFloor(BaseModel):
    """What `ssabench calibrate` writes and `ssabench compare --noise` reads."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    margin: float = Field(gt=0)  # 99 of 100 ratios of equal code lie within 1 / (1 + margin) and 1 + margin
    fingerprint: str  # of the environment it holds for
    pairs: int  # compared
    left_out: int  # pairs that a comparison would not judge either
    between_runs: bool  # else from the halves of one run, which hides what differs between runs


def calibrate(runs: Sequence[Sequence[Record]]) -> NoiseFloor:
    """The noise floor from several runs of one commit, or from the first against the second halves of one run.

    Raises:
        ValueError: runs of different environments or commits, or too few pairs.
    """
    sides = [newest(run) for run in runs]
    everything = [record for side in sides for record in side.values()]
    first = everything[0]
    for record in everything:
        differences = environment_differences(first.environment, record.environment)
        if differences:
            raise ValueError(f"the runs are of different environments: {'; '.join(differences)}")
        if record.environment.git_commit != first.environment.git_commit:
            commits = f"{first.environment.git_commit} and {record.environment.git_commit}"
            raise ValueError(f"the runs are of different commits: {commits}")
    samples = _pairs(sides) if len(sides) > 1 else _halves(sides[0])
    judged = [math.log(ratio(a, b)) for a, b in samples if not any(disturbance(side, MARGIN) for side in (a, b))]
    if len(judged) < FEWEST_PAIRS:
        raise ValueError(
            f"{len(judged)} undisturbed pairs are too few for a noise floor; needs {FEWEST_PAIRS}: give more files or "
            "larger sweeps"
        )
    floor = float(np.expm1(np.quantile(np.abs(judged), _QUANTILE, method="higher")))
    return NoiseFloor(
        margin=max(floor, np.finfo(float).eps),  # identical files have no noise
        fingerprint=first.environment.fingerprint,
        pairs=len(judged),
        left_out=len(samples) - len(judged),
        between_runs=len(sides) > 1,
    )


def _pairs(sides: Sequence[dict[Measured, Record]]) -> list[tuple[list[float], list[float]]]:
    return [
        (a[key].samples_ms, b[key].samples_ms)
        for a, b in itertools.combinations(sides, 2)
        for key in a
        if key in b and a[key].status == b[key].status == "ok" and flaw(a[key], b[key]) is None
    ]


def _halves(side: dict[Measured, Record]) -> list[tuple[list[float], list[float]]]:
    found = []
    for record in side.values():
        half = len(record.samples_ms) // 2
        if half and flaw(record, record) is None:
            found.append((record.samples_ms[:half], record.samples_ms[half:]))
    return found


def require_margin(margin: float, noise: NoiseFloor, fingerprint: str) -> None:
    """
    Raises:
        ValueError: the floor is of another environment, or above the margin.
    """
    if noise.fingerprint != fingerprint:
        raise ValueError(
            f"the noise floor is of environment {noise.fingerprint}, the records are of {fingerprint}; "
            "calibrate on this machine"
        )
    if margin < noise.margin:
        percent = math.ceil(1000 * noise.margin) / 10
        raise ValueError(
            f"a margin of {margin:.2%} is below the noise floor of this machine, {noise.margin:.2%}; "
            f"use --margin {percent:g} or more, or make the machine quieter and calibrate again"
        )


def read_noise(path: Path) -> NoiseFloor:
    """
    Raises:
        ValueError: not a file that `write_noise` made.
    """
    try:
        return NoiseFloor.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        raise ValueError(f"{path} is no noise floor: make one with ssabench calibrate") from error


def write_noise(path: Path, noise: NoiseFloor) -> None:
    write_whole(path, [noise.model_dump_json(indent=2) + "\n"])
