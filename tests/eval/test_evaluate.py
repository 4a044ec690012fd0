"""Many assets: what is wrong with one costs its row, and a run that stopped goes on."""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from meshes import write_box, write_empty, write_not_finite

from eval import evaluate as module
from eval.evaluate import evaluate
from eval.job import Job, RoundTrip, fitted, read_surface, run_job
from eval.protocols.protocol import Protocol, load_protocol, protocol_names
from eval.rows import Row, read_rows, to_lines
from kernels import api
from models.data.sdf import sparse_sdf
from models.vae.batch import inputs_of
from models.vae.config import VAEConfig
from models.vae.files import save_vae
from models.vae.model import SparseVAE
from models.vae.reconstruction import reconstruct

PROTOCOL = load_protocol("direct3d-s2").model_copy(update={"points": 500})


def crash(job: Job, protocol: Protocol, pictures: Path, device: str, threads: int) -> Row:
    """What a worker does with a job, but some end their process, never end or raise."""
    if job.asset == "crash":
        os._exit(7)
    if job.asset == "hang":
        time.sleep(600)
    if job.asset == "raise":
        raise KeyError("lost")
    return run_job(job, protocol, pictures, device)


@pytest.fixture
def ref(tmp_path: Path) -> Path:
    return write_box(tmp_path / "ref.ply")


def run(job: Job, tmp_path: Path, protocol: Protocol = PROTOCOL) -> Row:
    return run_job(job, protocol, tmp_path / "pictures", "cpu")


def test_a_row_has_scores_facts_provenance_and_pictures(ref: Path, tmp_path: Path) -> None:
    pred = write_box(tmp_path / "pred.obj", 1.01)
    row = run(Job("box", "ours", pred, ref), tmp_path)
    # Each face of the prediction is 0.005 outside, and the frame doubles that; corners are a little farther.
    assert row.scores["cd"] == pytest.approx(100, rel=0.02)
    assert row.facts is not None
    assert (row.facts.faces, row.facts.watertight, row.facts.components) == (12, True, 1)
    assert row.scale == 2
    assert (row.protocol_digest, row.points, row.seed) == (PROTOCOL.digest, 500, 0)
    assert len(row.ref_sha256) == 64
    assert row.pred_sha256 != row.ref_sha256
    assert "torch" in row.software
    pictures = {path.relative_to(tmp_path / "pictures").as_posix() for path in (tmp_path / "pictures").rglob("*.jpg")}
    assert pictures == {"reference/box.jpg", "prediction/ours/box.jpg", "error/ours/box.jpg"}


def test_the_same_job_gives_the_same_scores(ref: Path, tmp_path: Path) -> None:
    job = Job("box", "ours", write_box(tmp_path / "pred.obj", 1.01), ref)
    assert run(job, tmp_path).scores == run(job, tmp_path).scores


@pytest.mark.parametrize(
    ("write", "reason"), [(write_empty, "no triangles"), (write_not_finite, "finite"), (None, "no prediction")]
)
def test_a_prediction_without_a_surface_has_failed(ref: Path, tmp_path: Path, write: object, reason: str) -> None:
    pred = write(tmp_path / ("pred.off" if write is write_empty else "pred.obj")) if callable(write) else None
    row = run(Job("box", "ours", pred, ref), tmp_path)
    assert row.status == "failed"
    assert reason in (row.reason or "")


def test_a_prediction_in_another_unit_has_failed(ref: Path, tmp_path: Path) -> None:
    row = run(Job("box", "ours", write_box(tmp_path / "pred.obj", 1000), ref), tmp_path)
    assert row.status == "failed"
    assert "one unit of length" in (row.reason or "")


def test_a_reference_without_a_surface_is_no_fault_of_the_method(tmp_path: Path) -> None:
    pred = write_box(tmp_path / "pred.obj")
    row = run(Job("box", "ours", pred, write_empty(tmp_path / "ref.off")), tmp_path)
    assert row.status == "no_reference"


def test_a_round_trip_is_near_the_fitted_original(ref: Path, tmp_path: Path) -> None:
    protocol = load_protocol("roundtrip").model_copy(update={"points": 2000})
    row = run(Job("box", "64", RoundTrip(64), ref), tmp_path, protocol)
    step = 2 / 64
    assert 0 < row.scores["cd"] / 1e4 < 0.2 * step
    assert row.scores["nc"] > 0.9
    assert row.pred == "round trip at 64"
    assert row.facts is not None
    assert row.facts.watertight


def save_other(path: Path, vae: SparseVAE) -> Path:
    torch.nn.init.zeros_(vae.decoder.out_layer.bias)
    save_vae(path, vae)
    return path


def test_a_round_trip_through_an_ss_vae_is_what_it_decodes(
    ref: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not torch.cuda.is_available():
        monkeypatch.setattr(api, "_triton_unavailable", lambda q: "tests of models run the eager implementation")
    vae = SparseVAE(VAEConfig(channels=16, latent_channels=2, blocks=1, head_channels=16, window=4))
    torch.nn.init.normal_(vae.decoder.out_layer.weight)
    surface = fitted(read_surface(ref, "box", "cpu"))
    field = sparse_sdf(surface.vertices, surface.faces, 32)
    with torch.no_grad():  # random weights, but answers on both sides of the surface
        vae.decoder.out_layer.bias -= vae.decode(vae.encode(inputs_of([field])).mean).feats.atanh().median()
    weights = tmp_path / "vae.safetensors"
    save_vae(weights, vae)
    protocol = load_protocol("roundtrip").model_copy(update={"points": 2000})
    job = Job("box", "VAE 32", RoundTrip(32, weights), ref)
    row = run(job, tmp_path, protocol)
    assert row.status == "ok", row.reason
    assert row.pred == "VAE round trip at 32"
    assert row.pred_sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()
    found, _ = reconstruct(vae, field)
    assert row.facts is not None
    assert (row.facts.vertices, row.facts.faces) == (len(found.vertices), len(found.faces))

    # A run that goes on keeps the row as long as the weights are the same.
    out = tmp_path / "out"
    ran: list[str] = []
    out.mkdir()
    monkeypatch.setattr(module, "_run", lambda jobs, *_: (ran.append(job.asset) or row for job in jobs))
    for again in (weights, save_other(tmp_path / "other.safetensors", vae)):
        (out / "rows.jsonl").write_text(to_lines([row]))
        evaluate([replace(job, pred=RoundTrip(32, again))], protocol, out, workers=1, resume=True)
        assert ran == ([] if again == weights else ["box"])


@pytest.mark.gpu
@pytest.mark.parametrize("name", protocol_names())
def test_a_gpu_gives_the_scores_of_a_cpu(ref: Path, tmp_path: Path, name: str) -> None:
    protocol = load_protocol(name).model_copy(update={"points": 2000})
    job = Job("box", "64", RoundTrip(64), ref) if name == "roundtrip" else Job("box", "ours", ref, ref)
    rows = [run_job(job, protocol, tmp_path / device, device) for device in ("cpu", "cuda")]
    assert rows[1].status == "ok", rows[1].reason
    for metric in protocol.scored:
        assert rows[1].scores[metric.key] == pytest.approx(rows[0].scores[metric.key], rel=0.02, abs=0.02)
    assert len(list((tmp_path / "cuda").rglob("*.jpg"))) == 3


@pytest.mark.slow
def test_crashes_and_delays_cost_one_row_each(ref: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_attempt", crash)
    jobs = [Job(asset, "ours", ref, ref) for asset in ("crash", "hang", "raise", "box")]
    seen: list[int] = []
    rows = evaluate(
        jobs, PROTOCOL, tmp_path / "out", workers=2, time_limit=20, progress=lambda _, done, total: seen.append(done)
    )
    assert [row.asset for row in rows] == ["crash", "hang", "raise", "box"]
    assert [row.status for row in rows] == ["failed", "failed", "failed", "ok"]
    assert [row.reason for row in rows][:3] == [
        "the worker ended with exit code 7",
        "took longer than the limit of 20 s",
        "KeyError: 'lost'",
    ]
    assert seen == [1, 2, 3, 4]
    assert read_rows(tmp_path / "out" / "rows.jsonl") == rows


def test_a_stopped_run_goes_on_from_its_rows(ref: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pred = write_box(tmp_path / "pred.obj", 1.01)
    done, stale, open_job = Job("a", "ours", pred, ref), Job("b", "ours", pred, ref), Job("c", "ours", pred, ref)
    rows = [run(done, tmp_path), run(stale, tmp_path).model_copy(update={"pred_sha256": "0" * 64})]
    out = tmp_path / "out"
    out.mkdir()
    (out / "rows.jsonl").write_text(to_lines(rows) + '{"asset": "c", "meth')  # stopped while writing
    with pytest.raises(ValueError, match="resume"):
        evaluate([done], PROTOCOL, out, workers=1)

    ran: list[str] = []

    def record(jobs: list[Job], protocol: Protocol, pictures: Path, *rest: object) -> list[Row]:
        ran.extend(job.asset for job in jobs)
        return [run_job(job, protocol, pictures, "cpu") for job in jobs]

    monkeypatch.setattr(module, "_run", record)
    found = evaluate([done, stale, open_job], PROTOCOL, out, workers=1, resume=True)
    assert ran == ["b", "c"]
    assert found[0] == rows[0]
    assert read_rows(out / "rows.jsonl") == found

    changed = PROTOCOL.model_copy(update={"points": 501})
    ran.clear()
    evaluate([done], changed, out, workers=1, resume=True)
    assert ran == ["a"]


@pytest.mark.parametrize("change", [{"workers": 0}, {"workers": 1, "time_limit": 0}])
def test_wrong_arguments_are_refused(ref: Path, tmp_path: Path, change: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(reversed(change))):
        evaluate([Job("a", "ours", ref, ref)], PROTOCOL, tmp_path / "out", **change)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="jobs must not be empty"):
        evaluate([], PROTOCOL, tmp_path / "out", workers=1)


def test_a_line_that_is_no_row_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"asset": "a"}\n')
    with pytest.raises(ValueError, match=r"rows\.jsonl:1: not a row: method"):
        read_rows(path)
