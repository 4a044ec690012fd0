"""Similarity beside geometry: a metric like the others, whose worst score is the opposite of the image."""

from __future__ import annotations

from pathlib import Path

import pytest
import trimesh
from PIL import Image

from eval.aggregate import aggregate
from eval.encoders.checkpoint import load_point_encoder
from eval.encoders.standin import rendered_views
from eval.encoders.towers import load_towers
from eval.job import Job, run_job
from eval.protocols.protocol import load_protocol
from eval.rows import Row
from eval.similarity_columns import Judge, with_similarity
from models.data.dataset.geometry import GeneratedSolid

PROTOCOL = load_protocol("direct3d-s2").model_copy(update={"points": 100})
NAMES = ("a", "b", "c", "d")
MESHES = {name: GeneratedSolid(6_000_000 + number).load() for number, name in enumerate(NAMES)}  # not trained on


@pytest.fixture(scope="module")
def judge() -> Judge:
    encoder = load_point_encoder("standin-points")
    return Judge(encoder, load_towers(encoder.spec.tower))


@pytest.fixture(scope="module")
def images() -> dict[str, Image.Image]:
    return {name: rendered_views(mesh, 1)[0] for name, mesh in MESHES.items()}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    """The shapes themselves, each another one, and a method that has the first alone."""
    folder = tmp_path_factory.mktemp("meshes")
    for name, mesh in MESHES.items():
        trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), process=False).export(folder / f"{name}.ply")
    preds = {
        "right": dict(zip(NAMES, NAMES, strict=True)),
        "swapped": dict(zip(NAMES, NAMES[1:] + NAMES[:1], strict=True)),
        "half": {"a": "a"},
    }
    jobs = [
        Job(asset, method, folder / f"{pred[asset]}.ply" if asset in pred else None, folder / f"{asset}.ply")
        for method, pred in preds.items()
        for asset in NAMES
    ]
    return [run_job(job, PROTOCOL, folder / "pictures", "cpu") for job in jobs]


def test_the_right_shapes_score_higher_and_failures_worst(
    rows: list[Row], judge: Judge, images: dict[str, Image.Image]
) -> None:
    found = with_similarity(rows, PROTOCOL, [judge], images)
    of = aggregate(found.rows, found.protocol)
    right, swapped, half = (of.summaries[method, "standin_points"].mean for method in ("right", "swapped", "half"))
    assert right > swapped > half
    assert list(of.scores["half", "standin_points"]) == [
        found.scores["standin-points", "half"].cosines["a"],
        *[-1] * 3,
    ]
    assert of.scores["half", "standin_points"][0] == pytest.approx(of.scores["right", "standin_points"][0], abs=1e-4)
    assert any(one.metric.key == "standin_points" for one in of.comparisons)
    assert found.scores["standin-points", "right"].provenance.encoder == "standin-points"


def test_geometry_stays_and_other_images_make_another_protocol(
    rows: list[Row], judge: Judge, images: dict[str, Image.Image]
) -> None:
    found = with_similarity(rows, PROTOCOL, [judge], images)
    assert [row.scores.get("cd") for row in found.rows] == [row.scores.get("cd") for row in rows]
    assert [metric.key for metric in found.protocol.metrics][:-1] == [metric.key for metric in PROTOCOL.metrics]
    other = with_similarity(rows, PROTOCOL, [judge], {**images, "b": images["a"]})
    digests = {protocol.digest for protocol in (PROTOCOL, found.protocol, other.protocol)}
    assert len(digests) == 3
    assert with_similarity(rows, PROTOCOL, [judge], images).protocol.digest == found.protocol.digest


def test_a_published_encoder_takes_the_place_of_its_family(
    rows: list[Row], judge: Judge, images: dict[str, Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Judge, "name", property(lambda self: "uni3d-g"))
    found = with_similarity(rows, PROTOCOL, [judge], images).protocol
    assert [metric.key for metric in found.metrics if metric.not_run is None] == [
        "cd",
        "f1_0.005",
        "f1_0.001",
        "uni3d_g",
    ]
    assert [metric.key for metric in found.metrics if metric.not_run] == ["ulip2", "openshape", "normal_fid"]


def test_when_everything_failed_all_count_with_the_worst(
    judge: Judge, rows: list[Row], images: dict[str, Image.Image]
) -> None:
    failed = [row for row in rows if row.status == "failed"]
    found = with_similarity(failed, PROTOCOL, [judge], images)
    assert aggregate(found.rows, found.protocol).summaries["half", "standin_points"].mean == -1


def test_an_asset_without_image_and_an_encoder_twice_are_refused(
    rows: list[Row], judge: Judge, images: dict[str, Image.Image]
) -> None:
    with pytest.raises(ValueError, match="there is none of 'b'"):
        with_similarity(rows, PROTOCOL, [judge], {"a": images["a"]})
    with pytest.raises(ValueError, match="every encoder once"):
        with_similarity(rows, PROTOCOL, [judge, judge], images)


def test_protocols_do_not_name_encoders_themselves(tmp_path: Path) -> None:
    metric = '[[metrics]]\nkind = "measured_similarity"\nkey = "a"\nlabel = "a"\nencoder = "a"\nprovenance = "a"\n'
    head = 'name = "p"\ntitle = "p"\nsource = "p"\nnormalisation = "unit-cube"\npoints = 5\n'
    (tmp_path / "p.toml").write_text(head + metric)
    with pytest.raises(ValueError, match="must not have measured_similarity"):
        load_protocol(str(tmp_path / "p.toml"))
