"""Preparing: everything is accounted for, and the bytes depend on source and settings alone."""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from crew_calls import prepare_for_ever
from mesh_folder import BAD, GOOD, SETTINGS

from models.data.dataset import open_dataset
from models.data.dataset.manifest import DatasetError, Entry, read_header, read_manifest
from models.data.dataset.prepare import prepare


def contents(folder: Path) -> dict[str, bytes]:
    """Everything but the times in the manifest."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "manifest.jsonl"}


def by_key(folder: Path) -> dict[str, Entry]:
    return {entry.key: entry for entry in read_manifest(folder)}


def without_times(folder: Path) -> list[Entry]:
    return [entry.model_copy(update={"seconds": None}) for entry in read_manifest(folder)]


class Interrupted(Exception):
    pass


def interrupt_after(assets: int, meshes: Path, out: Path) -> None:
    """A run that ends when so many assets are through."""

    def progress(message: str, done: int, total: int) -> None:
        if message.split()[0] in ("ok", "failed") and done == assets:
            raise Interrupted

    with pytest.raises(Interrupted):
        prepare(str(meshes), out, SETTINGS, workers=0, progress=progress)


def test_every_file_is_accounted_for(dataset: Path) -> None:
    entries = by_key(dataset)
    good = {key for key, entry in entries.items() if entry.status == "ok"}
    assert {key for key, entry in entries.items() if entry.status == "failed"} == set(BAD)
    (twin,) = (entry for entry in entries.values() if entry.status == "duplicate")
    # Which of the two is prepared is decided by the order.
    assert {twin.key, twin.duplicate_of} == {"box", "chairs-twin"}
    assert good == GOOD - {"box"} | {str(twin.duplicate_of)}


@pytest.mark.parametrize("key", BAD)
def test_a_failure_says_why(key: str, dataset: Path) -> None:
    entry = by_key(dataset)[key]
    assert entry.reason
    assert entry.reason.startswith(BAD[key])
    assert "/" not in entry.reason.split(":")[0], "a reason is the same for all assets with that trouble"


def test_an_entry_tells_what_a_sample_holds(dataset: Path) -> None:
    ball = by_key(dataset)["ball"]
    assert (ball.caption, ball.faces, ball.views) == ("ball", 80, 2)
    assert ball.source_sha256 is not None
    assert set(ball.voxels) == {16, 32}
    assert ball.voxels[32] > ball.voxels[16] > 100


def test_shards_hold_as_many_samples_as_asked_for_of_one_split(dataset: Path) -> None:
    entries = read_manifest(dataset)
    shards = read_header(dataset).shards
    assert {shard.split for shard in shards} == {"train", "val"}
    for shard in shards:
        held = [entry for entry in entries if entry.shard == shard.name]
        assert shard.samples == len(held) <= SETTINGS.shard_size
        assert {entry.split for entry in held} <= {shard.split}
    assert sum(shard.samples for shard in shards) == len(GOOD)


@pytest.mark.slow
@pytest.mark.parametrize("ray", [False, True], ids=["processes", "ray"])
def test_workers_do_not_change_a_byte(ray: bool, meshes: Path, dataset: Path, tmp_path: Path) -> None:
    prepare(str(meshes), tmp_path / "out", SETTINGS, workers=2, ray=ray)
    assert contents(tmp_path / "out") == contents(dataset)
    assert without_times(tmp_path / "out") == without_times(dataset)


def test_interruptions_do_not_change_a_byte(meshes: Path, dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for assets in (2, 5, 9):
        interrupt_after(assets, meshes, out)
    done = prepare(str(meshes), out, SETTINGS, workers=0)
    assert 0 < done.now < len(done.entries) - 8
    assert contents(out) == contents(dataset)
    assert without_times(out) == without_times(dataset)


@pytest.mark.slow
def test_nor_does_a_kill(meshes: Path, dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = multiprocessing.get_context("spawn").Process(target=prepare_for_ever, args=(str(meshes), out))
    process.start()
    while not (tmp_path / "reached").exists():
        assert process.is_alive()
        time.sleep(0.05)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    prepare(str(meshes), out, SETTINGS, workers=0)
    assert contents(out) == contents(dataset)


def test_what_a_killed_run_left_half_written_is_done_again(meshes: Path, dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    interrupt_after(8, meshes, out)
    journal = out / ".staging" / "journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-30])
    for sample in (out / ".staging" / "samples").iterdir():
        sample.write_bytes(sample.read_bytes()[:-512])
    (out / "train-00000.tarxyz.tmp").write_bytes(b"half")
    (out / "dataset.jsonxyz.tmp").write_bytes(b"{")
    prepare(str(meshes), out, SETTINGS, workers=0)
    assert contents(out) == contents(dataset)


def test_a_finished_dataset_is_left_as_it_is(meshes: Path, dataset: Path) -> None:
    before = contents(dataset)
    done = prepare(str(meshes), dataset, SETTINGS, workers=0)
    assert (done.now, done.entries) == (0, read_manifest(dataset))
    assert contents(dataset) == before
    assert not (dataset / ".staging").exists()


def test_other_settings_are_refused_in_one_line(meshes: Path, dataset: Path) -> None:
    with pytest.raises(DatasetError, match=r"prepared with views 2 instead of none; use --restart"):
        prepare(str(meshes), dataset, replace(SETTINGS, views="none"), workers=0)


def test_another_source_is_refused(meshes: Path, dataset: Path, tmp_path: Path) -> None:
    shutil.copytree(meshes, tmp_path / "more")
    (tmp_path / "more" / "painted.mtl").write_text("newmtl red\nKd 0 1 0\n")
    with pytest.raises(DatasetError, match=r"other assets \(13\) than SOURCE has now \(13\)"):
        prepare(str(tmp_path / "more"), dataset, SETTINGS, workers=0)


def test_other_versions_are_refused(meshes: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = read_header(dataset).versions
    monkeypatch.setattr("models.data.dataset.prepare.versions", lambda: there | {"torch": "99"})
    with pytest.raises(DatasetError, match="instead of 99; use --restart"):
        prepare(str(meshes), dataset, SETTINGS, workers=0)


def test_a_restart_begins_anew(meshes: Path, dataset: Path, tmp_path: Path) -> None:
    out = shutil.copytree(dataset, tmp_path / "out")
    small = replace(SETTINGS, resolutions=(16,), views="none", shard_size=64)
    done = prepare(str(meshes), out, small, workers=0, restart=True)
    assert done.now == len(done.entries) - 2  # one is a duplicate, one of an unreadable format
    assert sorted(path.name for path in out.glob("*.tar")) == ["train-00000.tar", "val-00000.tar"]


def test_a_restart_without_a_source_removes_nothing(dataset: Path, tmp_path: Path) -> None:
    before = contents(dataset)
    with pytest.raises(ValueError, match="SOURCE must be"):
        prepare(str(tmp_path / "typo"), dataset, SETTINGS, workers=0, restart=True)
    assert contents(dataset) == before


def test_a_source_of_nothing_but_failures_is_a_dataset_too(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "model.fbx").touch()
    done = prepare(str(tmp_path / "in"), tmp_path / "out", SETTINGS, workers=0)
    assert [entry.reason for entry in done.entries] == ["has an unsupported format .fbx"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["dataset.json", "manifest.jsonl"]


def test_a_folder_with_other_things_is_not_touched(meshes: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(DatasetError, match="not empty and not a prepared dataset"):
        prepare(str(meshes), tmp_path, SETTINGS, workers=0, restart=True)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_two_runs_do_not_share_a_folder(meshes: Path, tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(DatasetError, match="another run is at work"):
        prepare(str(meshes), tmp_path, SETTINGS, workers=0)
    os.close(descriptor)


def test_a_full_disk_stops_the_run_and_fails_no_asset(
    meshes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, pieces: object) -> None:
        raise OSError(28, "No space left on device")

    out = tmp_path / "out"
    interrupt_after(1, meshes, out)
    with monkeypatch.context() as patch:
        patch.setattr("models.data.dataset.prepare.write_whole", full)
        with pytest.raises(OSError, match="No space left"):
            prepare(str(meshes), out, SETTINGS, workers=0)
    done = prepare(str(meshes), out, SETTINGS, workers=0)
    assert {entry.key for entry in done.entries if entry.status == "failed"} == set(BAD)


def test_a_limit_takes_the_same_assets_each_time(meshes: Path, dataset: Path, tmp_path: Path) -> None:
    some = replace(SETTINGS, views="none", resolutions=(16,))
    done = prepare(str(meshes), tmp_path / "out", some, workers=0, limit=4)
    assert [entry.key for entry in done.entries] == [entry.key for entry in read_manifest(dataset)][:4]


@pytest.mark.parametrize("change", [{"workers": -1}, {"workers": 0, "ray": True}, {"time_limit": 0}, {"limit": 0}])
def test_arguments_out_of_range_are_named(change: dict[str, float], meshes: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(change))} must be"):
        prepare(str(meshes), tmp_path / "out", SETTINGS, **change)  # type: ignore[arg-type]


def test_the_header_says_what_made_the_dataset(dataset: Path) -> None:
    header = json.loads((dataset / "dataset.json").read_text())
    assert header["complete"]
    assert header["settings"]["resolutions"] == [16, 32]
    assert {"torch", "numpy", "trimesh", "pillow"} <= set(header["versions"])


@pytest.mark.gpu
@pytest.mark.parametrize("workers", [0, 2])
def test_a_gpu_prepares_the_same_samples(workers: int, meshes: Path, dataset: Path, tmp_path: Path) -> None:
    prepare(str(meshes), tmp_path / "out", replace(SETTINGS, device="cuda"), workers=workers)
    on_cpu, on_gpu = open_dataset(dataset), open_dataset(tmp_path / "out")
    assert [entry.key for entry in on_cpu.entries] == [entry.key for entry in on_gpu.entries]
    for index in range(len(on_cpu)):
        expected, found = on_cpu[index], on_gpu[index]
        for resolution in SETTINGS.resolutions:
            assert torch.equal(found.fields[resolution].coords, expected.fields[resolution].coords)
            torch.testing.assert_close(found.fields[resolution].values, expected.fields[resolution].values)
        for left, right in zip(found.views, expected.views, strict=True):
            assert float((left.render.rgb - right.render.rgb).abs().mean()) < 0.01


@pytest.mark.gpu
@pytest.mark.slow
def test_runs_on_a_gpu_repeat_to_the_byte(meshes: Path, tmp_path: Path) -> None:
    for name, workers in (("a", 0), ("b", 2)):
        prepare(str(meshes), tmp_path / name, replace(SETTINGS, device="cuda"), workers=workers)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
