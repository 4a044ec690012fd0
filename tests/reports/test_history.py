"""Series over commits: what may share one, what one commit is, and a plot that can be read."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from pathlib import Path

import matplotlib
import pytest
from matplotlib.figure import Figure
from records_factory import CPU, GPU, SHAPE, missing, timed, workload

from bench.records import Record, Summary
from reports import formatting
from reports.figures import STYLE
from reports.history import to_series
from reports.timeline import Timeline, draw_timelines, save_timelines

START = datetime(2026, 3, 1, tzinfo=UTC)


def at(commit: str | None, hour: int, ms: float = 2.0, *, dirty: bool = False, **changes: object) -> Record:
    """One run, a record long, at a commit named by one digit."""
    environment = GPU.model_copy(update={"git_commit": commit and commit * 40, "git_dirty": dirty})
    own = {"run_id": f"r{hour}", "created": START + timedelta(hours=hour), "environment": environment}
    return timed("ssa-triton", 8192, "fwd", ms, **(own | changes))


def commits(records: list[Record]) -> list[str]:
    (series,) = to_series(records)
    return [point.commit for point in series.points]


def test_points_are_in_the_order_of_time_whatever_the_order_of_the_records() -> None:
    assert commits([at("c", 3), at("a", 1), at("b", 2)]) == ["a" * 10, "b" * 10, "c" * 10]


@pytest.mark.parametrize(
    "other",
    [
        {"environment": CPU},
        {"shape": SHAPE.model_copy(update={"topk": 16})},
        {"workload": workload(16384)},
        {"workload": workload(8192, seed=1)},
        {"workload": workload(8192, name="sphere")},
        {"workload": workload(8192, inputs="captured:0123456789ab")},
        {"workload": workload(8192, selection_blocks=99)},
        {"provider": "ssa-eager"},
        {"direction": "bwd"},
        {"stage": "cmp"},
    ],
)
def test_what_is_not_comparable_never_shares_a_series(other: dict[str, object]) -> None:
    record = at("a", 1)
    assert len(to_series([record, at("b", 2)])) == 1
    assert len(to_series([record, record.model_copy(update=other)])) == 2


def test_runs_of_one_commit_are_one_point_that_spans_them() -> None:
    ((point, other),) = [
        series.points
        for series in to_series([at("a", h, ms) for h, ms in ((1, 2.0), (2, 8.0), (5, 3.0))] + [at("b", 3)])
    ]
    assert (point.commit, point.runs, point.time) == ("a" * 10, 3, START + timedelta(hours=1))
    assert (point.p20, point.p50, point.p80) == pytest.approx((0.97 * 2.0, 3.0, 1.05 * 8.0))
    assert (other.commit, other.runs) == ("b" * 10, 1)


def test_local_changes_and_unknown_commits_are_marked_points_of_their_own() -> None:
    records = [at("a", 1), at("a", 2, dirty=True), at("a", 3, dirty=True), at(None, 4), at(None, 5), at("a", 6)]
    assert commits(records) == ["a" * 10, "a" * 10 + "+", "a" * 10 + "+", "unknown", "unknown"]
    (series,) = to_series(records)
    assert [point.exact for point in series.points] == [True, False, False, False, False]
    assert series.runs == 6


def test_what_has_no_time_is_no_point() -> None:
    assert to_series([missing("ssa-triton", 8192, "fwd", "error", "boom")]) == []


def test_first_last_and_titles() -> None:
    (series,) = to_series([at("a", 1, 2.0), at("b", 2, 1.0)])
    assert series.ratio == 0.5
    assert series.title == "SSA Triton, forward, gyroid, 8K tokens"
    assert series.setting.startswith("NVIDIA H200, torch 2.9.1, fingerprint a1b2c3d4e5f6; 32 heads of width 32")


@pytest.mark.parametrize(("value", "text"), [(1.05, "1.050×"), (0.9518, "0.952×"), (12.34, "12.3×"), (0.02, "0.020×")])
def test_a_change_is_written_with_three_decimals_where_percents_matter(value: float, text: str) -> None:
    assert formatting.change(value) == text


def timeline(count: int, *changes: int, note: str = "") -> Timeline:
    long = CPU.model_copy(update={"device": "Intel(R) Xeon(R) Platinum 8592+ CPU @ 2.70GHz"})
    records = []
    for i in range(count):
        ms = 1000.0 + 80 * sum(i >= change for change in changes) + i % 3
        environment = long.model_copy(update={"git_commit": f"{i:010x}" + 30 * "0", "git_dirty": i % 7 == 3})
        records.append(
            at("a", i, ms, summary=Summary(p20=ms - 9, p50=ms, p80=ms + 9, count=3), environment=environment)
        )
    (series,) = to_series(records)
    return Timeline(series, dict.fromkeys(changes, 1.0765), note)


@pytest.fixture
def style() -> object:
    with matplotlib.rc_context(STYLE):
        yield


@pytest.mark.usefixtures("style")
@pytest.mark.parametrize(
    "timelines",
    [
        [timeline(1)],
        [timeline(30, 15)],
        [timeline(30, 3, 6, 27)],
        [timeline(30, *range(3, 28, 3)), timeline(12, note="drift 1.300× from 0000000000 to 000000000b")],
        [timeline(100, 40, 97)],
        [timeline(500, 3, 250, 253, 497)],
    ],
)
def test_nothing_overlaps_or_is_cut_off(timelines: list[Timeline]) -> None:
    figure = draw_timelines(timelines)
    figure.draw_without_rendering()
    tight, size = figure.get_tightbbox(), figure.get_size_inches()
    assert min(tight.x0, tight.y0) >= 0
    assert tight.x1 <= size[0]
    assert tight.y1 <= size[1]
    boxes = [text.get_window_extent() for text in [*figure.texts, *(t for axes in figure.axes for t in axes.texts)]]
    boxes += [axes.get_window_extent() for axes in figure.axes]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    for axes in figure.axes:
        labels = [label for label in axes.get_xticklabels() if label.get_text()]
        assert 1 <= len(labels) <= 32
        for label, line in itertools.product(axes.texts, axes.get_lines()):
            if line.get_clip_on() is False:  # the line of a change
                x, top = line.get_transform().transform((line.get_xdata()[1], line.get_ydata()[1]))
                box = label.get_window_extent()
                assert not (box.x0 < x < box.x1 and top > box.y0 + 1)


@pytest.mark.usefixtures("style")
def test_every_change_is_drawn_with_commit_and_ratio() -> None:
    (axes,) = draw_timelines([timeline(30, 10, 20)]).axes
    assert {text.get_text() for text in axes.texts} == {"000000000a+ 1.077×", "0000000014 1.077×"}


@pytest.mark.parametrize(
    ("name", "start"), [("a.png", b"\x89PNG"), ("sub/a.svg", b"<?xml"), ("a.html", b"<!DOCTYPE html>")]
)
def test_plots_are_written_whole_and_replace_older_ones(tmp_path: Path, name: str, start: bytes) -> None:
    path = tmp_path / name
    for _ in range(2):
        save_timelines([timeline(30, 15), timeline(3)], path)
    assert path.read_bytes().startswith(start)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_page_is_self_contained_and_follows_light_and_dark(tmp_path: Path) -> None:
    save_timelines([timeline(30, 15)], tmp_path / "a.html")
    page = (tmp_path / "a.html").read_text()
    assert "var(--ink)" in page
    assert "1.077×" in page
    assert "http" not in page
    assert "<script" not in page


def test_other_files_and_too_many_series_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must end in one of .png, .svg, .html, got .*a.pdf"):
        save_timelines([timeline(3)], tmp_path / "a.pdf")
    with pytest.raises(ValueError, match="1 to 12 series, got 13; narrow them with filters"):
        save_timelines([timeline(3)] * 13, tmp_path / "a.png")
    assert not list(tmp_path.iterdir())
    assert isinstance(draw_timelines([timeline(3)] * 12), Figure)
