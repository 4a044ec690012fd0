"""`ssabench selftest` compares accuracies with the published ones, and its exit code tells."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from made_up_towers import Towers
from typer.testing import CliRunner

from cli.app import app
from eval.encoders import checkpoint, clip
from eval.encoders.catalogue import point_encoder_spec
from eval.encoders.checkpoint import LoadedPointEncoder
from eval.encoders.selftest import SelfTest


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four clouds of two classes as ModelNet40 is published, and a random Uni3D."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(clip, "load_clip", lambda tower, path, device: Towers())
    data = tmp_path / "modelnet40"
    data.mkdir()
    (data / "test_split.json").write_text(json.dumps([{"category": name} for name in ("bed", "sofa", "bed", "sofa")]))
    rng = np.random.default_rng(0)
    clouds = [{"xyz": rng.random((600, 3)), "rgb": np.full((600, 3), 102)} for _ in range(4)]
    np.save(data / "test_pc.npy", np.array(clouds, dtype=object), allow_pickle=True)
    (tmp_path / "templates.json").write_text(json.dumps({"modelnet40_64": ["a {}"]}))
    # The smallest model stands for one of which an accuracy is published.
    small = LoadedPointEncoder(point_encoder_spec("uni3d-b"), point_encoder_spec("uni3d-ti").build().eval(), "0" * 64)
    monkeypatch.setattr(checkpoint, "load_point_encoder", lambda name, path, device: small)
    (tmp_path / "b.pt").touch()
    return tmp_path


def invoke(*changes: str) -> tuple[int, str, str]:
    given = ["selftest", "uni3d-b", "--weights", "b.pt", "--data", "modelnet40", "--templates", "templates.json"]
    result = CliRunner().invoke(app, [*given, "--device", "cpu", *changes])
    return result.exit_code, result.stdout, result.stderr


def test_random_weights_are_not_as_published(folder: Path) -> None:
    code, text, problem = invoke()
    assert code == 1, problem
    assert "modelnet40, 4 clouds" in text
    assert "not as published" in text


def test_what_is_as_published_ends_well(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SelfTest, "passed", True)
    code, text, problem = invoke()
    assert code == 0, problem
    assert text.rstrip().endswith("as published")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("--training", "nothing"), "no published accuracy of uni3d-b trained 'nothing' on modelnet40"),
        (("--data", "b.pt"), "--data must be a folder"),
        (("--templates", "b.pt"), "has no templates"),
    ],
)
def test_bad_input_is_one_line(folder: Path, changes: tuple[str, ...], message: str) -> None:
    code, _, problem = invoke(*changes)
    assert code == 2
    assert message in problem.splitlines()[-1]
