"""`ssabench evaluate` and `ssabench roundtrip` from the command line."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
import trimesh
from made_up_towers import Towers
from PIL import Image
from typer.testing import CliRunner, Result

from cli.app import app
from eval.encoders import clip, inception
from eval.encoders.catalogue import point_encoder_spec
from eval.encoders.checkpoint import file_sha256
from eval.encoders.inception import Inception
from eval.encoders.lpips import backbone_layout, linear_layout
from eval.encoders.similarity import SimilarityScores
from eval.protocols.protocol import protocol_names
from eval.rows import read_rows
from models.vae.config import VAEConfig
from models.vae.files import save_vae
from models.vae.model import SparseVAE

SMALL = """
name = "small"
title = "Small"
source = "a test"
normalisation = "unit-cube"
points = 500

[[metrics]]
key = "cd"
label = "CD"
kind = "chamfer"
convention = "mean_l1"
target = "surface"

[[metrics]]
key = "uni3d"
label = "Uni3D"
kind = "similarity"
encoder = "uni3d"
query = "image"
"""

NORMALS = """
[[metrics]]
key = "normal_fid"
label = "Normal-FID"
kind = "normal_fid"
views = { elevation = 10, azimuths = [0], fov = 40, size = 64 }
"""
PERCEPTUAL = """
[[metrics]]
key = "normal_lpips"
label = "LPIPS"
kind = "normal_lpips"
views = { elevation = 30, azimuths = [30, 120], fov = 6, size = 48 }
"""

DORA = ["evaluate", "near", "ref", "--protocol", "dora", "--out", "out"]
TRELLIS = ["evaluate", "near", "ref", "--protocol", "trellis2", "--out", "out"]
DIRECT3D = ["evaluate", "near", "ref", "--protocol", "direct3d-s2", "--out", "out"]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def box(path: Path, side: float = 1.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    trimesh.creation.box([side] * 3).export(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        box(tmp_path / "ref" / f"{name}.ply")
        box(tmp_path / "near" / f"{name}.stl", 1.01)
        box(tmp_path / "far" / f"{name}.obj", 1.1)
    box(tmp_path / "near" / "c.stl")
    (tmp_path / "far" / "b.obj").unlink()
    (tmp_path / "small.toml").write_text(SMALL)
    return tmp_path


@pytest.mark.slow
def test_methods_are_compared_and_failures_listed(folder: Path) -> None:
    out = folder / "out"
    arguments = [
        "evaluate",
        folder / "far",
        f"close={folder / 'near'}",
        folder / "ref",
        "--protocol",
        folder / "small.toml",
    ]
    arguments += ["--out", out, "--workers", 1, "--device", "cpu"]
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    assert result.output.index("│ close") < result.output.index("│ far")  # the best first
    assert "b: far: no prediction" in result.output
    assert "Uni3D: not run: needs published weights" in result.output
    assert "left out" in result.output
    assert "c.stl" in result.output
    assert (out / "index.html").exists()
    rows = {(row.asset, row.method): row for row in read_rows(out / "rows.jsonl")}
    assert rows["a", "close"].scores["cd"] == pytest.approx(0.005, rel=0.02)
    assert rows["b", "far"].status == "failed"

    again = run(*arguments)
    assert again.exit_code == 2
    assert "exists: resume it" in again.output
    resumed = run(*arguments, "--resume")
    assert resumed.exit_code == 0
    assert {(row.asset, row.method): row for row in read_rows(out / "rows.jsonl")}["a", "far"] == rows["a", "far"]


@pytest.mark.slow
def test_similarity_and_normal_maps_stand_beside_the_geometry(folder: Path) -> None:
    out = folder / "out"
    (folder / "small.toml").write_text(SMALL + NORMALS)
    for name in ("a", "b"):
        Image.new("RGB", (64, 64), "white").save(folder / "ref" / f"{name}.png")
    arguments: list[object] = ["evaluate", folder / "far", f"close={folder / 'near'}", folder / "ref", "--out", out]
    arguments += ["--protocol", folder / "small.toml", "--workers", 1, "--device", "cpu"]
    arguments += ["--normal-frechet", "standin"]
    arguments += ["--similarity", "standin-points", "--images", folder / "ref"]
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    page, table = (out / "index.html").read_text(), (out / "summary.csv").read_text()
    assert "standin_points" in table
    assert "standin-efficientnet-lite2" in page
    assert "not the published" in page
    scores = SimilarityScores.model_validate_json((out / "similarity" / "standin-points-far.json").read_text())
    assert list(scores.cosines) == ["a"]
    normals = [json.loads(line) for line in (out / "normals.jsonl").read_text().splitlines()]
    assert {one["method"]: one["failed"] for one in normals} == {"far": 1, "close": 0}
    assert run(*arguments, "--resume").exit_code == 0
    assert (out / "summary.csv").read_text() == table


@pytest.mark.slow
@pytest.mark.parametrize("published", [False, True])
def test_normal_fid_is_what_the_published_weights_give(
    folder: Path, monkeypatch: pytest.MonkeyPatch, published: bool
) -> None:
    out, weights = folder / "out", folder / "inception.pth"
    (folder / "small.toml").write_text(SMALL + NORMALS)
    # Scaled so that features do not vanish on the way.
    state = {key: value * 6**0.5 if value.ndim == 4 else value for key, value in Inception().state_dict().items()}
    torch.save(state, weights)
    if published:
        monkeypatch.setattr(inception, "PUBLISHED_SHA256", file_sha256(weights))
    arguments: list[object] = ["evaluate", folder / "near", folder / "ref", "--protocol", folder / "small.toml"]
    arguments += ["--out", out, "--workers", 1, "--device", "cpu", "--normal-frechet", f"inception={weights}"]
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    (found,) = (json.loads(line) for line in (out / "normals.jsonl").read_text().splitlines())
    assert found["features_sha256"] == file_sha256(weights)
    assert found["distance"] > 0
    report = (out / "report.md").read_text()
    assert ("Normal-FID ↓" in report) == published
    assert ("unknown weights in the layout of inception-2015-12-05" in report) != published
    assert ("Normal-FID: not run" in result.output) != published


def test_lpips_takes_its_place_when_weights_are_given(folder: Path) -> None:
    out, vgg, linear = folder / "out", folder / "vgg16.pth", folder / "linear.pth"
    (folder / "small.toml").write_text(SMALL + PERCEPTUAL)
    torch.save({name: torch.randn(shape) / 10 for name, shape in backbone_layout().items()}, vgg)
    torch.save({name: torch.rand(shape) for name, shape in linear_layout().items()}, linear)
    arguments: list[object] = ["evaluate", folder / "far", folder / "near", folder / "ref", "--out", out]
    arguments += ["--protocol", folder / "small.toml", "--workers", 1, "--device", "cpu"]
    assert "LPIPS: not run" in run(*arguments).output
    result = run(*arguments, "--lpips", f"{vgg},{linear}", "--resume")
    assert result.exit_code == 0, result.output
    assert "LPIPS: not run" not in result.output
    report = (out / "report.md").read_text()
    assert "LPIPS, unknown weights ↓" in report
    files = {"backbone_sha256": file_sha256(vgg), "linear_sha256": file_sha256(linear)}
    assert json.loads((out / "lpips.json").read_text()) == {"published": False, **files}
    means = {
        row["method"]: float(row["mean"])
        for row in csv.DictReader((out / "summary.csv").open())
        if row["metric"] == "normal_lpips"
    }
    # far has no b: half of its mean is the bound that the weights allow, which no distance reaches.
    bound = 2 * sum(float(weight.max()) for weight in torch.load(linear, weights_only=True).values())
    assert means["far"] > bound / 2 > means["near"] > 0


@pytest.mark.slow
def test_a_published_point_encoder_takes_the_place_of_its_family(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip, "load_clip", lambda tower, path, device: Towers())
    out, weights = folder / "out", folder / "ti.pt"
    torch.save({"module": point_encoder_spec("uni3d-ti").build().state_dict()}, weights)
    for name in ("a", "b"):
        Image.new("RGB", (8, 8), "white").save(folder / "ref" / f"{name}.png")
    arguments: list[object] = ["evaluate", folder / "near", folder / "ref", "--protocol", folder / "small.toml"]
    arguments += ["--out", out, "--workers", 1, "--device", "cpu", "--images", folder / "ref"]
    result = run(*arguments, "--similarity", f"uni3d-ti={weights}")
    assert result.exit_code == 0, result.output
    assert "not run" not in result.output
    scores = SimilarityScores.model_validate_json((out / "similarity" / "uni3d-ti-near.json").read_text())
    assert list(scores.cosines) == ["a", "b"]
    assert (scores.provenance.encoder, scores.provenance.encoder_sha256) == ("uni3d-ti", file_sha256(weights))
    rows = (out / "results.csv").read_text().splitlines()
    assert "uni3d_ti" in rows[0].split(",")


@pytest.mark.slow
def test_a_round_trip_of_two_resolutions(tmp_path: Path) -> None:
    out = tmp_path / "out"
    mesh = tmp_path / "bar.obj"
    trimesh.creation.box([1, 0.2, 0.1]).export(mesh)
    result = run("roundtrip", mesh, "--resolution", "64, 128", "--out", out, "--workers", 1, "--device", "cpu")
    assert result.exit_code == 0, result.output
    errors = {row.method: row.scores["cd"] for row in read_rows(out / "rows.jsonl")}
    assert 0 < errors["128"] < errors["64"]
    assert (out / "pictures" / "overview" / "bar.jpg").exists()


def silent_vae() -> SparseVAE:
    vae = SparseVAE(VAEConfig(channels=16, latent_channels=2, blocks=0, head_channels=16))
    torch.nn.init.zeros_(vae.decoder.out_layer.weight)
    return vae


@pytest.mark.slow
def test_a_round_trip_through_an_ss_vae_stands_beside_the_field_and_the_paper(tmp_path: Path) -> None:
    out, mesh, weights = tmp_path / "out", tmp_path / "bar.obj", tmp_path / "vae.safetensors"
    trimesh.creation.box([1, 0.2, 0.1]).export(mesh)
    save_vae(weights, silent_vae())
    arguments = ["roundtrip", mesh, "--vae", weights, "--resolution", 64, "--out", out, "--workers", 2]
    result = run(*arguments, "--device", "cpu")
    assert result.exit_code == 0, result.output
    rows = {row.method: row for row in read_rows(out / "rows.jsonl")}
    assert rows["field 64"].status == "ok"
    # It answers zero everywhere, which is no surface.
    assert rows["VAE 64"].reason == "VAE round trip at 64 must have at least one triangle, got none"
    for report in ("report.md", "index.html"):
        text = (out / report).read_text()
        assert "As published, by another protocol" in text
        assert "Direct3D-S2 (1024)" in text

    before = {"field 64": rows["field 64"].scores, "weights": rows["VAE 64"].pred_sha256}
    torch.manual_seed(1)
    save_vae(weights, silent_vae())
    assert run(*arguments, "--device", "cpu", "--resume").exit_code == 0
    rows = {row.method: row for row in read_rows(out / "rows.jsonl")}
    assert rows["field 64"].scores == before["field 64"]
    assert rows["VAE 64"].pred_sha256 != before["weights"]


def test_the_help_names_every_protocol() -> None:
    text = run("evaluate", "--help").output
    assert [name for name in protocol_names() if name not in text] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "near", "ref", "--protocol", "dorra", "--out", "out"], "protocol must be one of"),
        (["evaluate", "nowhere", "ref", "--protocol", "dora", "--out", "out"], "does not exist"),
        (["evaluate", "near/a.stl", "ref", "--protocol", "dora", "--out", "out"], "all files or all folders"),
        (["evaluate", "near", "near", "ref", "--protocol", "dora", "--out", "out"], "two predictions are called"),
        ([*DORA, "--similarity", "standin-points"], "--similarity and --images belong together"),
        ([*DORA, "--images", "ref"], "--similarity and --images belong together"),
        ([*DORA, "--images", "ref", "--similarity", "uni3d"], "unknown point encoder 'uni3d'"),
        ([*DORA, "--images", "ref", "--similarity", "standin-points"], "has no image of 'a'"),
        ([*DORA, "--normal-frechet", "standin"], "protocol dora has no normal maps of sets"),
        ([*DIRECT3D, "--normal-frechet", "inception"], "--normal-frechet takes standin, or inception=FILE with the"),
        ([*DIRECT3D, "--normal-frechet", "standin=near/a.stl"], "got 'standin=near/a.stl'"),
        ([*DIRECT3D, "--normal-frechet", "inception=nowhere.pth"], "checkpoint 'nowhere.pth' is not a file"),
        ([*DIRECT3D, "--normal-frechet", "inception=near/a.stl"], "checkpoint 'near/a.stl' "),
        ([*DORA, "--lpips", "vgg.pth,lin.pth"], "protocol dora has no LPIPS of normal maps"),
        ([*TRELLIS, "--lpips", "vgg.pth"], "--lpips takes two files with a comma between"),
        ([*TRELLIS, "--lpips", "vgg.pth,lin.pth"], "checkpoint 'vgg.pth' is not a file"),
        (["roundtrip", "ref", "--resolution", "32", "--out", "out"], "--resolution takes different numbers from 64"),
        (["roundtrip", "ref", "--resolution", "64,64", "--out", "out"], "different numbers"),
        (["roundtrip", "nowhere", "--out", "out"], "does not exist"),
        (["roundtrip", "ref", "--vae", "w.safetensors", "--resolution", "100", "--out", "out"], "multiples of 8"),
        (["roundtrip", "ref", "--vae", "w.safetensors", "--out", "out"], "weights w.safetensors are no file"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(
    folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(folder)
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.output
    assert not (folder / "out").exists()
