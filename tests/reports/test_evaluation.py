"""The report of an evaluation: every number in every format, failures first, nothing estimated."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
from PIL import Image
from rows_factory import PROTOCOL, failed, ok, unusable

from eval.aggregate import aggregate
from eval.encoders.inception import KIND
from eval.evaluate import PICTURES
from eval.job import picture_paths
from eval.normal_frechet import NormalFrechet, normal_views
from eval.pictures import VIEW, save
from eval.protocols.protocol import load_protocol
from eval.rows import Row
from reports.evaluation import (
    comparison_table,
    failure_table,
    normals_table,
    not_run_table,
    protocol_table,
    render_evaluation,
    summary_table,
)
from reports.markup import Table

ROWS = [
    ok("chair", "ours", cd=1.0),
    ok("lamp", "ours", cd=3.0),
    ok("chair", "theirs", cd=2.0),
    failed("lamp", "theirs", "took longer than 600 s"),
    unusable("broken", "ours"),
    unusable("broken", "theirs"),
]


def draw(out: Path, rows: list[Row]) -> None:
    for row in rows:
        if row.status == "ok":
            for path in picture_paths(out / PICTURES, row.asset, row.method):
                save(Image.new("RGB", (VIEW.size, VIEW.size), "grey"), path)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    draw(tmp_path, ROWS)
    render_evaluation(ROWS, PROTOCOL, tmp_path)
    return tmp_path


def texts(table: Table, column: int) -> list[str]:
    return [row[column].text for row in table.rows]


def test_methods_are_ranked_with_intervals_and_failures() -> None:
    table = summary_table(aggregate(ROWS, PROTOCOL))
    assert texts(table, 0) == ["ours", "theirs"]
    assert table.header[1] == "CD ×1e4 ↓"
    assert table.rows[0][1].text == "2.000"
    assert table.rows[0][1].note == "1.000 to 3.000"
    assert table.rows[0][1].best
    assert texts(table, len(table.header) - 1) == ["0", "1"]


def test_the_ceiling_stands_below_scores_between_points() -> None:
    rows = [row.model_copy(update={"ceilings": {"f_0.01": 72.9}}) for row in ROWS[:1]]
    table = summary_table(aggregate(rows, PROTOCOL))
    assert texts(table, 0) == ["ours", "sampling ceiling"]
    assert [cell.text for cell in table.rows[1]] == ["sampling ceiling", "–", "72.90", "–", "–", "–", "–"]
    assert "sampling ceiling" in table.caption
    assert "ceiling" not in summary_table(aggregate(ROWS, PROTOCOL)).caption


def test_the_better_method_of_a_pair_is_named_first() -> None:
    rows = [ok(f"a{i}", method, cd=cd + i) for i in range(8) for method, cd in (("x", 2.0), ("y", 1.0))]
    distances, shares, *_ = comparison_table(aggregate(rows, PROTOCOL)).rows
    assert [cell.text for cell in distances][1:4] == ["y", "1.000", "8 : 0"]
    assert [distances[1].note, distances[2].note] == ["than x", "1.000 to 1.000"]
    assert (shares[1].text, shares[1].note, shares[-1].text) == ("equal", "y and x", "1")


def test_the_interval_of_a_difference_turns_with_it() -> None:
    # y is better by 1 on average, on two of three assets.
    rows = [
        ok(f"a{i}", m, cd=cd)
        for i, pair in enumerate([(1, 0), (3, 0), (0, 1)])
        for m, cd in zip("xy", pair, strict=True)
    ]
    row = comparison_table(aggregate(rows, PROTOCOL)).rows[0]
    assert [cell.text for cell in row][1:4] == ["y", "1.000", "2 : 1"]
    assert row[2].note == "-1.000 to 3.000"


def test_what_failed_is_listed_with_its_reason_and_what_was_left_out_too() -> None:
    table = failure_table(aggregate(ROWS, PROTOCOL))
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["lamp", "theirs", "took longer than 600 s"],
        ["broken", "left out for all methods", "no triangles"],
    ]


def test_metrics_that_cannot_run_are_listed() -> None:
    assert texts(not_run_table(load_protocol("trellis2")), 0) == ["LPIPS"]
    assert not_run_table(load_protocol("dora")).rows == []


def normals(features: str) -> list[NormalFrechet]:
    protocol = load_protocol("direct3d-s2")
    found = {"images": 4, "failed": 0, "features": features, "features_sha256": "0" * 64}
    found |= {"views": normal_views(protocol), "protocol_digest": protocol.digest}
    return [NormalFrechet(method=method, distance=distance, **found) for method, distance in (("b", 2.0), ("a", 1.0))]


def test_only_features_of_fid_are_called_normal_fid() -> None:
    protocol = load_protocol("direct3d-s2")
    fid, other = normals(KIND), normals("standin-efficientnet-lite2")
    assert normals_table(fid).header[1] == "Normal-FID ↓"
    assert normals_table(other).header[1] == "Fréchet distance, standin-efficientnet-lite2 ↓"
    assert "not the published" in normals_table(other).caption
    assert "not the published" not in normals_table(fid).caption
    assert texts(normals_table(fid), 0) == ["a", "b"]
    listed = texts(not_run_table(protocol, other), 0)
    assert listed == ["ULIP-2", "Uni3D", "OpenShape", "Normal-FID"]
    assert texts(not_run_table(protocol, fid), 0) == listed[:-1]
    assert normals_table([]).rows == []


def test_the_choices_of_a_protocol_stand_beside_its_scores() -> None:
    protocol = load_protocol("direct3d-s2")
    table = protocol_table(protocol)
    assert protocol.digest in table.rows[0][1].text
    assert set(protocol.notes) <= set(texts(table, 1))


def test_files(out: Path) -> None:
    rows = list(csv.DictReader((out / "results.csv").open()))
    assert [(row["asset"], row["method"], row["cd"]) for row in rows][:2] == [
        ("chair", "ours", "1.0"),
        ("lamp", "ours", "3.0"),
    ]
    assert rows[3]["reason"] == "took longer than 600 s"
    summaries = list(csv.DictReader((out / "summary.csv").open()))
    assert {(row["method"], row["metric"]) for row in summaries} >= {("ours", "cd"), ("theirs", "nc")}
    assert len(list(csv.DictReader((out / "comparisons.csv").open()))) == len(PROTOCOL.scored)
    assert {path.stem for path in (out / "tables").iterdir()} == {
        "summary",
        "comparisons",
        "failures",
        "assets",
        "protocol",
    }
    assert r"$\downarrow$" in (out / "tables" / "summary.tex").read_text()


def test_markdown_shows_pictures_that_exist(out: Path) -> None:
    text = (out / "report.md").read_text()
    pictures = re.findall(r"\]\(<(.*?)>\)", text)
    assert sorted(pictures) == ["pictures/overview/chair.jpg", "pictures/overview/lamp.jpg"]
    assert all((out / picture).exists() for picture in pictures)
    assert "| ours | **2.000** (1.000 to 3.000) |" in text


def test_an_overview_has_a_column_for_each_method(out: Path) -> None:
    with Image.open(out / "pictures/overview/chair.jpg") as image:
        assert image.width == 3 * VIEW.size


def test_only_the_hardest_assets_have_pictures_on_the_page(tmp_path: Path) -> None:
    draw(tmp_path, ROWS)
    page = render_evaluation(ROWS, PROTOCOL, tmp_path, gallery=1).read_text()
    assert "1 more have no pictures here" in page
    assert 'alt="lamp, reference"' in page
    assert 'alt="chair, reference"' not in page


def test_a_picture_of_an_earlier_run_does_not_stand_for_a_failure(tmp_path: Path) -> None:
    draw(tmp_path, [ok("lamp", "theirs")])
    page = render_evaluation(ROWS, PROTOCOL, tmp_path).read_text()
    assert 'alt="lamp, theirs"' not in page
    assert "failed: took longer than 600 s" in page
