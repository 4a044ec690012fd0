"""`ssabench prepare` and `ssabench dataset stats`: what they write, print and refuse."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image
from typer.testing import CliRunner

from cli.app import app
from models.data.dataset import open_dataset

SMALL = ["--resolution", "32,16", "--views", "1", "--image-size", "24", "--workers", "0", "--device", "cpu"]


def run(*arguments: str | Path, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture(scope="module")
def meshes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("meshes")
    for number in range(3):
        trimesh.creation.box((1, 2, number + 1)).export(folder / f"box{number}.obj")
    (folder / "empty<b>.stl").touch()
    return folder


@pytest.fixture(scope="module")
def prepared(meshes: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A dataset and what the command printed."""
    out = tmp_path_factory.mktemp("out") / "boxes"
    return out, run("prepare", meshes, out, *SMALL)


def test_prepare_says_what_it_did(prepared: tuple[Path, str]) -> None:
    out, printed = prepared
    for row in (
        r"samples\W+3\b",
        r"failed\W+1\b",
        r"(cannot be read|has no).*\W1\b",
        r"assets a minute, this run\W+[\d.]+",
    ):
        assert re.search(row, printed), row
    assert f"dataset: {out}" in printed
    assert "[4/4]" in printed
    assert open_dataset(out).resolutions == (16, 32)


def test_prepare_again_has_nothing_to_do(prepared: tuple[Path, str], meshes: Path) -> None:
    assert "nothing was left to do" in run("prepare", meshes, prepared[0], *SMALL)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--resolution", "64"], "prepared with resolutions [16, 32] instead of [64]; use --restart"),
        (["--resolution", "big"], "--resolution takes whole numbers"),
        (["--resolution", "4"], "resolutions must be from 16 to 2048, got 4"),
        (["--split", "90,5"], "--split takes three percentages that sum to 100"),
        (["--views", "some"], "views must be none, paper, trellis2 or a number"),
        (["--workers", "-1"], "workers must be at least 0"),
        (["--limit", "0"], "limit must be positive"),
    ],
)
def test_bad_input_is_one_line(options: list[str], words: str, prepared: tuple[Path, str], meshes: Path) -> None:
    printed = run("prepare", meshes, prepared[0], *SMALL, *options, code=2)
    assert [line for line in printed.splitlines() if line.startswith("error: ")] == [printed.splitlines()[-1]]
    assert words in printed


def test_a_source_that_is_none_is_told_what_there_is(tmp_path: Path) -> None:
    printed = run("prepare", tmp_path / "none", tmp_path / "out", code=2)
    assert "error: SOURCE must be a folder of meshes, sweethome3d-furniture:PATH" in printed


def test_stats_prints_tables(prepared: tuple[Path, str]) -> None:
    printed = run("dataset", "stats", prepared[0])
    for words in ("Assets", "Splits", "voxels at 16", "voxels at 32", "Failures by reason", "empty<b>.stl"):
        assert words in printed
    assert re.search(r"ok\W+3\W+75\.0%", printed)


def test_stats_writes_a_page_and_a_sheet(prepared: tuple[Path, str], tmp_path: Path) -> None:
    page = tmp_path / "boxes.html"
    printed = run("dataset", "stats", prepared[0], "--out", page)
    assert f"page: {page}" in printed
    assert f"contact sheet: {tmp_path / 'boxes.png'}" in printed
    html = page.read_text()
    assert "<h1>boxes</h1>" in html
    assert "empty&lt;b&gt;.stl" in html
    assert 'src="data:image/png;base64,' in html
    assert not re.search(r"""(src|href)=["'](https?:)?//""", html), "a page loads nothing"
    assert json.loads((prepared[0] / "dataset.json").read_text())["sha256"][:12] in html
    assert float((np.asarray(Image.open(tmp_path / "boxes.png")) < 200).mean()) > 0.01


def test_stats_refuses_what_is_no_dataset_and_no_page(prepared: tuple[Path, str], tmp_path: Path) -> None:
    assert "is not a prepared dataset" in run("dataset", "stats", tmp_path, code=2)
    assert "--out must be an .html file" in run("dataset", "stats", prepared[0], "--out", tmp_path / "x.pdf", code=2)
