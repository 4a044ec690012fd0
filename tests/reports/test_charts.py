"""The charts of the page: every timed record is a point that says what it is."""

from __future__ import annotations

from typing import Any

import pytest
from records_factory import BRANCH_SHARE, GPU, LAWS, SWEEP, gpu_sweep, law, timed

from bench.records import Record
from reports import figures
from reports.charts import MAX_FOREST, chart, forest
from reports.panels import study_figures
from reports.regressions import Outcome, Regressions
from reports.study import Study, group


@pytest.fixture(scope="module")
def study() -> Study:
    return group(gpu_sweep())[0]


def lines(found: dict[str, Any] | None) -> dict[str, Any]:
    """The traces with a name."""
    assert found is not None
    return {trace["name"]: trace for trace in found["data"] if "name" in trace}


def test_every_provider_with_a_time_is_a_line_with_a_band(study: Study) -> None:
    found = chart(study, "time", "fwd")
    line = lines(found)["FlashAttention-2"]
    assert line["x"] == list(SWEEP)
    assert line["y"] == pytest.approx([law("dense-sdpa-flash", n, "fwd") for n in SWEEP], rel=1e-5)
    assert len(lines(found)) == len(LAWS)
    assert found is not None
    (band,) = (trace for trace in found["data"] if trace.get("fill") and trace["legendgroup"] == "dense-sdpa-flash")
    assert band["x"] == [*SWEEP, *SWEEP[::-1]]
    assert band["y"][0] == pytest.approx(1.05 * line["y"][0], rel=1e-4)
    assert band["y"][-1] == pytest.approx(0.97 * line["y"][0], rel=1e-4)


def test_a_point_says_its_numbers_what_ran_and_how_the_check_came_out(study: Study) -> None:
    hover = lines(chart(study, "time", "fwd"))["FlashAttention-2"]["hovertext"][-1]
    assert hover == (
        "<b>FlashAttention-2</b><br>131,072 tokens<br>103.1 ms (p20 99.99, p80 108.2; 3 samples)"
        "<br>ran: sdpa-flash<br>check passed, error 0.40 of its budget"
    )


def test_the_papers_points_stand_in_the_chart_of_speedups(study: Study) -> None:
    found = lines(chart(study, "speedup", "bwd"))
    assert "FlashAttention-2" not in found  # everything is relative to it
    assert found["paper"]["y"][-1] == 9.6
    assert "color" not in found["paper"]["line"]  # drawn in the page's ink
    speedup = law("dense-sdpa-flash", 131072, "bwd") / law("ssa-triton", 131072, "bwd")
    assert found["SSA Triton"]["y"][-1] == pytest.approx(speedup, rel=1e-5)


def test_the_shares_of_the_branches_add_up(study: Study) -> None:
    found = lines(chart(study, "branches", "fwd"))
    assert list(found) == list(BRANCH_SHARE)
    for position in range(len(SWEEP)):
        assert sum(bar["x"][position] for bar in found.values()) == pytest.approx(100, abs=1e-3)


def test_the_roofline_names_achieved_and_measured_rates(study: Study) -> None:
    found = lines(chart(study, "roofline", "fwd"))["memory"]
    milliseconds = law("ssa-triton", 131072, "fwd")
    achieved = 1e4 * 131072 / (milliseconds / 1e3)
    assert found["x"][0] == pytest.approx(100 * achieved / 4e12, rel=1e-4)
    assert f"whole: {achieved / 1e9:.3g} of 4,000 GB/s" in found["hovertext"][0]


def test_filters_can_tell_passes_and_families(study: Study) -> None:
    for panel in (panel for group_ in study_figures(study) for panel in group_.panels):
        assert panel.tags == {"pass": panel.direction}
        families = {trace["meta"]["family"] for trace in panel.chart["data"] if "meta" in trace}
        assert families == ({"ssa"} if panel.kind in ("branches", "roofline") else {"ssa", "nsa", "packed", "dense"})


def test_the_axis_reaches_the_papers_token_counts() -> None:
    records = [timed(name, 8192, "fwd", 1.0) for name in ("ssa-triton", "dense-sdpa-flash")]
    found = chart(group(records)[0], "speedup", "fwd")
    assert found is not None
    assert found["layout"]["xaxis"]["ticktext"] == ["8K", "16K", "32K", "64K", "128K"]


def test_charts_and_images_are_of_the_same_data() -> None:
    records = [timed("ssa-triton", 8192, "fwd", 1.0, peak_memory_bytes=None, ceilings=None)]
    (bare,) = group(records)
    assert [figure.id for figure in study_figures(bare)] == ["time"]
    (full,) = group(gpu_sweep(tokens=(8192,)))
    drawn = [figure.id for figure in study_figures(full)]
    assert drawn == list(figures.KINDS)


def outcome(ratio: float | None, verdict: str = "equivalent", name: str = "a", regression: bool = False) -> Outcome:
    interval = (ratio - 0.01, ratio + 0.01) if ratio is not None else None
    return Outcome(name, verdict, ratio, interval, 1.0, ratio, regression, "", {"pass": "fwd"})


def regressions(outcomes: list[Outcome]) -> Regressions:
    return Regressions("as fast", [], GPU, GPU, 0.02, outcomes)


def test_the_forest_has_a_row_for_each_ratio_the_worst_first() -> None:
    outcomes = [outcome(0.9, "faster"), outcome(1.2, "slower"), outcome(1.1, "slower", "bad", True), outcome(None)]
    found = forest(regressions(outcomes))
    assert found is not None
    assert [(trace["x"], trace["y"]) for trace in found["data"]] == [([1.1], [0]), ([1.2], [1]), ([0.9], [2])]
    assert [trace["marker"]["symbol"] for trace in found["data"]] == ["square", "circle", "circle"]
    assert found["data"][0]["error_x"]["array"] == pytest.approx([0.01])
    assert found["layout"]["annotations"][0]["text"] == "bad"


def test_a_forest_of_many_keeps_what_is_furthest_from_1() -> None:
    outcomes = [outcome(1 + i / 1000) for i in range(1, 2 * MAX_FOREST)]
    found = forest(regressions([*outcomes, outcome(0.5, "faster")]))
    assert found is not None
    ratios = [trace["x"][0] for trace in found["data"]]
    assert len(ratios) == MAX_FOREST
    assert ratios == sorted(ratios, reverse=True)
    assert ratios[-1] == 0.5


def test_without_ratios_there_is_no_forest() -> None:
    assert forest(regressions([outcome(None, "missing")])) is None


def test_lines_without_data_make_no_chart() -> None:
    records: list[Record] = [timed("ssa-triton", 8192, "fwd", 1.0)]
    (alone,) = group(records)
    assert chart(alone, "speedup", "fwd") is None
    assert chart(alone, "branches", "fwd") is None
    assert chart(alone, "time", "bwd") is None
