"""Line labels: near their lines, in order, never on top of each other."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from records_factory import gpu_sweep, timed

from bench.records import Stage, Summary
from reports.figures import _PANEL_INCHES, _draw_branches, _draw_memory, _draw_speedup, _draw_time, spread
from reports.study import BRANCHES, group


@given(st.lists(st.floats(0.0, 1.0), max_size=12).map(sorted))
def test_labels_are_a_line_apart_and_keep_their_order(heights: list[float]) -> None:
    moved = spread(heights, gap=0.05, low=0.0, high=1.0)
    assert len(moved) == len(heights)
    assert all(above - below >= 0.05 - 1e-9 for below, above in pairwise(moved))
    assert all(-1e-9 <= height <= 1.0 + 1e-9 for height in moved)


def test_labels_with_room_stay_at_their_lines() -> None:
    assert spread([0.1, 0.5, 0.9], gap=0.05, low=0.0, high=1.0) == [0.1, 0.5, 0.9]


def test_labels_that_meet_part_evenly() -> None:
    lower, upper = spread([0.5, 0.5], gap=0.1, low=0.0, high=1.0)
    assert (round(lower, 9), round(upper, 9)) == (0.45, 0.55)


def test_lines_that_end_early_and_close_together_have_separate_labels() -> None:
    records = [timed("ssa-triton", n, "fwd", n / 4096) for n in (8192, 16384)]
    records += [timed(name, 8192, "fwd", ms) for name, ms in (("dense-sdpa-flash", 2.1), ("dense-sdpa-cudnn", 2.0))]
    figure = Figure(figsize=(4.3, 3.4))
    axes = figure.add_subplot()
    assert _draw_time(axes, group(records)[0], "fwd")
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) == 3
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_no_text_is_cut_off_at_the_border_of_a_panel(scale: float) -> None:
    larger = [
        record.model_copy(
            update={
                "summary": record.summary
                and Summary(**{k: v * scale for k, v in record.summary if k != "count"}, count=5),
                "peak_memory_bytes": record.peak_memory_bytes and int(record.peak_memory_bytes * scale),
            }
        )
        for record in gpu_sweep()
    ]
    study = group(larger)[0]
    for draw in (_draw_time, _draw_speedup, _draw_branches, _draw_memory):
        figure = Figure(figsize=_PANEL_INCHES)
        assert draw(figure.add_subplot(), study, "fwd")
        figure.draw_without_rendering()
        tight, size = figure.get_tightbbox(), figure.get_size_inches()
        assert tight.x0 >= 0
        assert tight.y0 >= 0
        assert tight.x1 <= size[0]
        assert tight.y1 <= size[1]


@pytest.mark.parametrize("sizes", [(8, 16, 32, 64, 128), (8, 16, 32, 64, 128, 1024), (8, 9, 128), (8,)])
def test_token_counts_under_the_axis_do_not_run_into_each_other(sizes: tuple[int, ...]) -> None:
    study = group([timed("ssa-triton", 1024 * size, "fwd", float(size)) for size in sizes])[0]
    figure = Figure(figsize=_PANEL_INCHES)
    axes = figure.add_subplot()
    assert _draw_time(axes, study, "fwd")
    figure.draw_without_rendering()
    labels = [label for label in axes.get_xticklabels() if label.get_text()]
    boxes = sorted((label.get_window_extent() for label in labels), key=lambda box: box.x0)
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))
    assert labels[0].get_text() == "8K"


@pytest.mark.parametrize("sizes", [(8192,), (8192, 16384, 32768, 65536, 131072)])
@pytest.mark.parametrize("slc", [1.0, 9.0])
def test_branch_names_stand_apart_over_however_many_bars(sizes: tuple[int, ...], slc: float) -> None:
    times: dict[Stage, float] = {"cmp": 0.6, "select": 0.6, "slc": slc, "win": 0.1}
    records = [timed("ssa-triton", n, "fwd", ms, stage=stage) for n in sizes for stage, ms in times.items()]
    study = group([*records, *(timed("ssa-triton", n, "fwd", sum(times.values())) for n in sizes)])[0]
    figure = Figure(figsize=_PANEL_INCHES)
    axes = figure.add_subplot()
    assert _draw_branches(axes, study, "fwd")
    figure.draw_without_rendering()
    names = [text for text in axes.texts if text.get_text() in (*BRANCHES, "sum | whole, ms")]
    boxes = [text.get_window_extent() for text in names]
    assert len(boxes) == 5
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
