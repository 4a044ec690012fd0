"""Reading: samples in any order are what was prepared, and the shards are plain tar archives."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import pytest
import torch
from mesh_folder import GOOD, SETTINGS
from torch.utils.data import DataLoader

from models.data.dataset import open_dataset
from models.data.dataset.manifest import DatasetError, read_header, read_manifest
from models.data.dataset.shards import file_sha256
from models.data.render import render
from models.data.sdf import sparse_sdf
from models.data.textured import load_textured


def test_a_sample_is_what_its_mesh_gives(dataset: Path, meshes: Path) -> None:
    samples = open_dataset(dataset)
    assert len(samples) == len(GOOD)
    (ball,) = (sample for sample in map(samples.__getitem__, range(len(samples))) if sample.key == "ball")
    mesh = load_textured(meshes / "ball.ply")
    assert ball.vertices is not None
    assert ball.faces is not None
    torch.testing.assert_close(ball.vertices.double(), mesh.vertices, atol=1e-7, rtol=0)
    assert torch.equal(ball.faces.long(), mesh.faces)
    for resolution in SETTINGS.resolutions:
        field = sparse_sdf(mesh.vertices, mesh.faces, resolution)
        assert torch.equal(ball.fields[resolution].coords, field.coords)
        assert torch.equal(ball.fields[resolution].values, field.values)
        assert len(ball.sharp[resolution]) == len(field.coords)
    assert [view.camera for view in ball.views] == SETTINGS.cameras("ball")
    expected = render(mesh, ball.views[1].camera, background=None)
    torch.testing.assert_close(ball.views[1].render.rgb, expected.rgb, atol=0.003, rtol=0)


def test_only_what_is_asked_for_is_read(dataset: Path) -> None:
    sample = open_dataset(dataset, resolutions=(32,), mesh=False, views=False)[0]
    assert (list(sample.fields), sample.vertices, sample.faces, sample.views) == ([32], None, None, [])


def test_splits_share_nothing_and_leave_nothing_out(dataset: Path) -> None:
    keys = [{entry.key for entry in open_dataset(dataset, split).entries} for split in ("train", "val")]
    assert keys[0] & keys[1] == set()
    assert len(keys[0] | keys[1]) == len(GOOD)
    with pytest.raises(DatasetError, match="has no samples in test"):
        open_dataset(dataset, "test")


def test_loaders_of_several_processes_give_every_sample_once(dataset: Path) -> None:
    samples = open_dataset(dataset, resolutions=(16,))
    loader = DataLoader(samples, batch_size=2, num_workers=2, collate_fn=list, shuffle=True)
    assert sorted(sample.key for batch in loader for sample in batch) == sorted(e.key for e in samples.entries)


def test_shards_are_archives_as_webdataset_wants_them(dataset: Path) -> None:
    entries = {entry.key: entry for entry in read_manifest(dataset)}
    for shard in read_header(dataset).shards:
        assert file_sha256(dataset / shard.name) == shard.sha256
        with tarfile.open(dataset / shard.name) as archive:
            members = archive.getmembers()
            keys = [member.name.partition(".")[0] for member in members]
            # The members of a sample follow each other.
            assert list(dict.fromkeys(keys)) == [e.key for e in entries.values() if e.shard == shard.name]
            assert keys == sorted(keys, key=list(dict.fromkeys(keys)).index)
            for member, key in zip(members, keys, strict=True):
                place = entries[key].members[member.name.removeprefix(f"{key}.")]
                assert member.offset_data == (entries[key].offset or 0) + place.offset
                assert (member.size, member.mtime, member.uid, member.uname) == (place.size, 0, 0, "")
            for key in dict.fromkeys(keys):
                about = json.load(archive.extractfile(f"{key}.json"))  # type: ignore[arg-type]  # it is a file
                assert about["faces"] == entries[key].faces
                assert len(about["views"]) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"split": "training"}, "split must be train, val or test, got 'training'"),
        ({"resolutions": (64,)}, "has fields of 16, 32, not of 64"),
    ],
)
def test_what_is_not_there_is_named(arguments: dict[str, object], words: str, dataset: Path) -> None:
    with pytest.raises(ValueError, match=words):
        open_dataset(dataset, **arguments)  # type: ignore[arg-type]


def test_what_is_no_finished_dataset_is_refused(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="is not a prepared dataset"):
        open_dataset(tmp_path)
    out = shutil.copytree(dataset, tmp_path / "out")
    header = out / "dataset.json"
    header.write_text(header.read_text().replace('"complete": true', '"complete": false'))
    with pytest.raises(DatasetError, match="is not finished"):
        open_dataset(out)
    header.write_text('{"format_version": 2}')
    with pytest.raises(DatasetError, match="is not of format 1"):
        open_dataset(out)


def test_a_shortened_shard_or_manifest_is_told(dataset: Path, tmp_path: Path) -> None:
    out = shutil.copytree(dataset, tmp_path / "out")
    samples = open_dataset(out)
    for shard in out.glob("*.tar"):
        shard.write_bytes(shard.read_bytes()[:2000])
    with pytest.raises(DatasetError, match="ends before its"):
        samples[0]
    with (out / "manifest.jsonl").open("a") as file:
        file.write('{"key": ')
    with pytest.raises(DatasetError, match=r"manifest.jsonl:14: not an entry"):
        open_dataset(out)
