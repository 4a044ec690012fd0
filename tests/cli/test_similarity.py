"""`ssabench similarity`: scores with their provenance; what does not belong together is refused before any work."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import trimesh
from made_up_towers import Towers
from PIL import Image
from typer.testing import CliRunner

from cli.app import app
from eval.encoders import clip
from eval.encoders.catalogue import point_encoder_spec


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two shapes, their images and captions, and a random Uni3D in its published file format."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(clip, "load_clip", lambda tower, path, device: Towers())
    for folder in ("shapes", "images"):
        (tmp_path / folder).mkdir()
    for level, name in enumerate(("ball", "box")):
        shape = trimesh.creation.icosphere(1) if name == "ball" else trimesh.creation.box((1, 2, 3))
        shape.export(tmp_path / "shapes" / f"{name}.obj")
        Image.new("RGB", (4, 4), (level, 0, 0)).save(tmp_path / "images" / f"{name}.png")
    (tmp_path / "captions.json").write_text(json.dumps({"ball": "a ball", "box": "a large box"}))
    torch.save({"module": point_encoder_spec("uni3d-ti").build().state_dict()}, tmp_path / "ti.pt")
    return tmp_path


def invoke(*arguments: str, encoder: str = "uni3d-ti") -> tuple[int, str, str]:
    given = ["similarity", *arguments, "--encoder", encoder, "--weights", "ti.pt", "--out", "out.json"]
    result = CliRunner().invoke(app, [*given, "--points", "600", "--device", "cpu"])
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize(("queries", "kind"), [("images", "image-shape"), ("captions.json", "text-shape")])
def test_scores_are_written_with_what_they_depend_on(folder: Path, queries: str, kind: str) -> None:
    code, text, problem = invoke("shapes", "--with", queries, "--outer")
    assert code == 0, problem
    assert "mean of 2" in text
    found = json.loads((folder / "out.json").read_text())
    assert set(found["cosines"]) == {"ball", "box"}
    assert all(-1 <= cosine <= 1 for cosine in found["cosines"].values())
    provenance = found["provenance"]
    assert (provenance["kind"], provenance["encoder"], provenance["tower_weights"]) == (kind, "uni3d-ti", "made up")
    assert provenance["sampling"] == {
        "points": 600,
        "method": "uniform by area",
        "seed": 0,
        "shell": "outer surface",
    }


def test_one_shape_alone_scores_what_it_scores_among_others(folder: Path) -> None:
    assert invoke("shapes", "--with", "images")[0] == 0
    together = json.loads((folder / "out.json").read_text())["cosines"]
    assert invoke("shapes/box.obj", "--with", "images")[0] == 0
    assert json.loads((folder / "out.json").read_text())["cosines"]["box"] == pytest.approx(together["box"], abs=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "images" / "box.png").unlink(), "images has no image of 'box'"),
        (lambda folder: (folder / "images" / "box.png").write_text("x"), "box.png cannot be read"),
        (lambda folder: (folder / "ti.pt").write_text("x"), "ti.pt"),
        (lambda folder: (folder / "shapes" / "box.obj").write_text(""), "box.obj"),
    ],
)
def test_bad_input_is_one_line(folder: Path, change: Callable[[Path], object], message: str) -> None:
    change(folder)
    code, _, problem = invoke("shapes", "--with", "images")
    assert code == 2
    assert message in problem.splitlines()[-1]
    assert not (folder / "out.json").exists()


def test_another_variant_is_named(folder: Path) -> None:
    code, _, problem = invoke("shapes", "--with", "images", encoder="uni3d-s")
    assert code == 2
    assert "uni3d-ti" in problem
    assert "uni3d-s" in problem


@pytest.mark.parametrize("captions", ["[]", "{", '{"ball": "a ball"}'])
def test_captions_must_name_every_shape(folder: Path, captions: str) -> None:
    (folder / "captions.json").write_text(captions)
    code, _, problem = invoke("shapes", "--with", "captions.json")
    assert code == 2
    assert "captions captions.json" in problem


def test_the_stand_in_needs_no_files(folder: Path) -> None:
    given = ["similarity", "shapes", "--encoder", "standin-points", "--out", "out.json", "--device", "cpu", "--with"]
    result = CliRunner().invoke(app, [*given, "images"])
    assert result.exit_code == 0, result.stderr
    provenance = json.loads((folder / "out.json").read_text())["provenance"]
    assert (provenance["encoder"], provenance["colours"]) == ("standin-points", "none")
    assert provenance["tower"].startswith("standin-")
    assert provenance["encoder_sha256"] in provenance["tower_weights"]
    refused = CliRunner().invoke(app, [*given, "captions.json"])
    assert refused.exit_code == 2
    assert "standin-points knows no texts" in refused.stderr


def test_a_published_encoder_needs_its_file(folder: Path) -> None:
    result = CliRunner().invoke(
        app, ["similarity", "shapes", "--with", "images", "--encoder", "uni3d-ti", "--out", "out.json"]
    )
    assert result.exit_code == 2
    assert "uni3d-ti needs the file of its weights" in result.stderr
