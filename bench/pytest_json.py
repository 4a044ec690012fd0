"""Records in the JSON of pytest-benchmark, as `pytest bench --benchmark-only --benchmark-json FILE` writes it.

pytest-benchmark keeps the times, and in `extra_info` what makes them a measurement. Its clock is the wall clock, around
a call on a warm cache that waits for the device, and a fast call's time is a mean of several.
"""

from __future__ import annotations

import json
from typing import Any, Final

import numpy as np
from pydantic import ValidationError

from bench.records import Record, Summary

FIELD: Final = "ssabench"  # of extra_info: a record's fields but for status and times
_TIMES = {"status", "samples_ms", "summary"}


def to_extra_info(**fields: Any) -> dict[str, Any]:
    """What a benchmark adds to its `extra_info`: the fields of a `Record` that are known before it is timed."""
    known = Record(**fields, status="error", reason="not timed yet")
    return {FIELD: known.model_dump(mode="json", exclude={*_TIMES, "reason"})}


def parse_benchmarks(text: str) -> list[dict[str, Any]] | None:
    """The benchmarks of a file of pytest-benchmark; None if the text is not one."""
    if '"benchmarks"' not in text:
        return None
    try:
        content = json.loads(text)
    except ValueError:
        return None
    benchmarks = content.get("benchmarks") if isinstance(content, dict) else None
    return benchmarks if isinstance(benchmarks, list) else None


def to_record(benchmark: dict[str, Any]) -> Record:
    """The record of one benchmark.

    Raises:
        ValueError: no benchmark of ours, or one without its single times; the message tells the option to add.
    """
    name = benchmark.get("name", "benchmark")
    known = benchmark.get("extra_info", {}).get(FIELD)
    if known is None:
        raise ValueError(f"{name} is not a benchmark of `pytest bench`: its extra_info has no {FIELD!r}")
    data = benchmark.get("stats", {}).get("data")
    if not data:
        raise ValueError(
            f"{name} has no single times: write the file with --benchmark-json, or add --benchmark-save-data"
        )
    samples = [seconds * 1e3 for seconds in data]
    p20, p50, p80 = np.percentile(samples, [20, 50, 80]).tolist()
    summary = Summary(p20=p20, p50=p50, p80=p80, count=len(samples))
    try:
        # Through JSON, whose rules for a record are those that its fields were written by.
        return Record.model_validate_json(
            json.dumps(known | {"status": "ok", "samples_ms": samples, "summary": summary.model_dump()})
        )
    except ValidationError as error:
        detail = error.errors()[0]
        where = ".".join(str(part) for part in detail["loc"])
        raise ValueError(f"{name} is not a record: {where} {detail['msg']}") from error
