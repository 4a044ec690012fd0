"""What a record refuses, and what survives its file."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from pydantic import ValidationError
from records_factory import correctness, missing, timed

from bench.conditions import Condition
from bench.measurement import sampling_of
from bench.records import Correctness, TensorError, read_records, write_records
from bench.timing import Series


def test_records_of_the_first_schema_stay_readable(tmp_path: Path) -> None:
    values = json.loads(timed("ssa-triton", 8192, "fwd", 1.0).model_dump_json())
    for name in ("timed_correctness", "sampling", "modes"):
        del values[name]
    values["schema_version"] = 1
    (tmp_path / "old.jsonl").write_text(json.dumps(values))
    (record,) = read_records(tmp_path / "old.jsonl")
    assert record.schema_version == 1
    assert record.sampling is None


def test_a_time_whose_call_returned_something_wrong_is_refused() -> None:
    with pytest.raises(ValidationError, match="what the timed call returned is right"):
        timed("ssa-triton", 8192, "fwd", 1.0, timed_correctness=correctness(1.0))


def test_an_error_that_is_not_a_number_survives_its_file(tmp_path: Path) -> None:
    nan = TensorError(name="o", error=math.nan, budget=0.1)
    wrong = Correctness(passed=False, oracle="exact", tensors=[nan])
    write_records(tmp_path / "a.jsonl", [missing("ssa-triton", 64, "fwd", "failed_check", "NaN", correctness=wrong)])
    (record,) = read_records(tmp_path / "a.jsonl")
    assert record.correctness is not None
    assert math.isnan(record.correctness.tensors[0].error)
    assert not record.correctness.tensors[0].passed


def test_conditions_lie_beside_the_samples_and_what_no_sample_has_is_left_out() -> None:
    readings = [Condition(clock_mhz=1980, throttle_reasons=()), Condition(clock_mhz=1965)]
    series = Series([1.0, 2.0], readings, [1, 1])
    series.discarded["sw_power_cap"] += 1
    sampling = sampling_of(series)
    assert sampling.conditions.clock_mhz == [1980, 1965]
    assert sampling.conditions.throttle_reasons == [[], None]
    assert sampling.conditions.power_w is None
    assert sampling.discarded == {"sw_power_cap": 1}
