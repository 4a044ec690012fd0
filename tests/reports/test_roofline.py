"""Measurements against the ceilings of their machine."""

from __future__ import annotations

from typing import Any

import pytest
from records_factory import gpu_sweep, missing, timed

from bench.records import Ceilings, Record
from reports.panels import study_figures
from reports.roofline import roofline
from reports.study import group
from reports.tables import roofline_table

CEILINGS = Ceilings(copy_bytes_per_s=4e12, matrix_flops_per_s=8e14, exp2_per_s=4e12)


def measured(ms: float, **changes: Any) -> Record:
    work: dict[str, Any] = {"flops": 4e12, "bytes": 4e9, "exponentials": 1e10, "ceilings": CEILINGS}
    return timed("ssa-triton", 131072, "fwd", ms, **(work | changes))


def limit(record: Record) -> str | None:
    line = roofline(record)
    return line.limit if line is not None else None


def test_each_ceiling_alone_would_need_its_work_over_its_rate() -> None:
    line = roofline(measured(10.0))
    assert line is not None
    assert line.needed == pytest.approx({"matrix units": 5.0, "exponentials": 2.5, "memory": 1.0})
    assert line.share("matrix units") == pytest.approx(0.5)
    assert (line.limit, line.floor) == ("matrix units", pytest.approx(5.0))


def test_the_nearest_ceiling_is_the_one_that_needs_most() -> None:
    assert limit(measured(10.0, exponentials=4e10)) == "exponentials"
    assert limit(measured(10.0, bytes=4e10)) == "memory"


@pytest.mark.parametrize("field", ["ceilings", "flops", "bytes", "exponentials"])
def test_a_record_without_ceilings_or_counts_has_none(field: str) -> None:
    assert roofline(measured(10.0, **{field: None})) is None
    assert roofline(missing("ssa-triton", 131072, "fwd", "error", "it broke")) is None


def test_the_table_holds_every_timed_piece_of_work_at_the_most_tokens() -> None:
    (study,) = group(gpu_sweep())
    table = roofline_table(study)
    works = [row[0].text for row in table.rows]
    assert sum("cmp" in work for work in works) >= 2  # forward and backward
    assert len(works) == len({(row[0].text, row[0].note) for row in table.rows})


def test_the_figure_appears_with_ceilings_and_not_without() -> None:
    records = gpu_sweep()
    (study,) = group(records)
    assert "roofline" in [figure.id for figure in study_figures(study)]
    (bare,) = group([record.model_copy(update={"ceilings": None}) for record in records])
    assert "roofline" not in [figure.id for figure in study_figures(bare)]
    assert roofline_table(bare).rows == []
