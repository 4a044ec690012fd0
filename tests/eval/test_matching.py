"""Predictions and references belong together by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from meshes import write_box

from eval.matching import find_meshes, match


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    for name in ("ref/chair.obj", "ref/far/lamp.ply", "ours/chair.stl", "ours/far/lamp.off", "ours/extra.ply"):
        write_box(tmp_path / name)
    return tmp_path


def test_names_match_whatever_the_format_and_the_folder_below(folders: Path) -> None:
    found = match([str(folders / "ours")], folders / "ref")
    assert [one.asset for one in found.matches] == ["chair", "far/lamp"]
    assert found.matches[1].preds == {"ours": folders / "ours/far/lamp.off"}
    assert found.unmatched == [folders / "ours/extra.ply"]


def test_what_a_method_lacks_is_none(folders: Path) -> None:
    write_box(folders / "other/chair.ply")
    found = match([str(folders / "ours"), f"mine={folders / 'other'}"], folders / "ref")
    assert found.matches[1].preds == {"ours": folders / "ours/far/lamp.off", "mine": None}


def test_a_path_that_exists_is_no_name(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_box(folders / "run=7/chair.ply")
    monkeypatch.chdir(folders)
    assert list(match(["run=7", "late=run=7"], folders / "ref").matches[0].preds) == ["run=7", "late"]


def test_two_files_match_whatever_their_names(folders: Path) -> None:
    found = match([str(folders / "ours/extra.ply")], folders / "ref/chair.obj")
    assert found.matches[0].asset == "chair"
    assert found.matches[0].preds == {"extra": folders / "ours/extra.ply"}


def test_folders_without_a_common_name_are_refused(folders: Path) -> None:
    write_box(folders / "none/stool.ply")
    with pytest.raises(ValueError, match=r"no mesh in .* has the name of one in .*'stool' and 'chair'"):
        match([str(folders / "none")], folders / "ref")


def test_wrong_input_is_refused(folders: Path) -> None:
    (folders / "empty").mkdir()
    (folders / "note.txt").write_text("")
    write_box(folders / "twice/chair.ply")
    write_box(folders / "twice/chair.obj")
    for pred, ref, message in [
        ("absent", "ref", "does not exist"),
        ("ours/extra.ply", "ref", "all files or all folders"),
        ("empty", "ref", "holds no meshes"),
        ("note.txt", "ref/chair.obj", "must be a mesh"),
        ("twice", "ref", "have the same name"),
        ("nowhere/x=ours", "ref", "must not contain a slash"),
    ]:
        with pytest.raises(ValueError, match=message):
            match([str(folders / pred)], folders / ref)
    with pytest.raises(ValueError, match="two predictions are called 'ours'"):
        match([str(folders / "ours"), str(folders / "ours")], folders / "ref")


def test_files_and_folders_are_found_by_name(folders: Path) -> None:
    assert list(find_meshes([folders / "ours/extra.ply", folders / "ref"])) == ["extra", "chair", "far/lamp"]
    with pytest.raises(ValueError, match="have the same name"):
        find_meshes([folders / "ref", folders / "ours"])
