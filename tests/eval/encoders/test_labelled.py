"""Labelled clouds in the layouts that authors publish, read without running what their files say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from eval.encoders.labelled import read_modelnet40, read_objaverse_lvis
from eval.encoders.restricted_npy import read_npy

XYZ = np.arange(12, dtype=np.float32).reshape(4, 3)


def save(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.array(content, dtype=object), allow_pickle=True)


def modelnet40(folder: Path, categories: list[str]) -> None:
    clouds = np.empty(len(categories), dtype=object)
    for i in range(len(categories)):
        clouds[i] = {"xyz": XYZ + i, "rgb": np.full((4, 3), 102, dtype=np.uint8)}
    np.save(folder / "test_pc.npy", clouds, allow_pickle=True)
    split = [{"name": f"{name}_{i}", "category": name} for i, name in enumerate(categories)]
    (folder / "test_split.json").write_text(json.dumps(split))


def test_modelnet40_with_uni3ds_list_of_classes(tmp_path: Path) -> None:
    modelnet40(tmp_path, ["chair", "bed"])
    (tmp_path / "modelnet40_shape_names.txt").write_text("bed\ndoor\nchair\n")
    clouds = read_modelnet40(tmp_path)
    assert (clouds.dataset, clouds.classes, clouds.labels) == ("modelnet40", ["bed", "door", "chair"], [2, 0])
    points, colours = clouds.read(1)
    assert torch.equal(points, torch.from_numpy(XYZ + 1))
    torch.testing.assert_close(colours, torch.full((4, 3), 0.4))


def test_modelnet40_as_openshape_publishes_it(tmp_path: Path) -> None:
    modelnet40(tmp_path, ["chair", "bed", "chair"])
    clouds = read_modelnet40(tmp_path)
    assert (clouds.classes, clouds.labels) == (["bed", "chair"], [1, 0, 1])


def test_objaverse_lvis_as_uni3d_publishes_it(tmp_path: Path) -> None:
    save(tmp_path / "clouds" / "a.npy", {"xyz": XYZ, "rgb": np.full((4, 3), 0.25), "text": ["a mug"]})
    save(tmp_path / "clouds" / "b.npy", {"xyz": XYZ * 2, "rgb": np.ones((4, 3))})
    (tmp_path / "lvis_testset.txt").write_text(
        "7,mug,u1,/clouds/a.npy\n3,apple,u2,/clouds/b.npy\n7,mug,u3,/clouds/b.npy\n"
    )
    clouds = read_objaverse_lvis(tmp_path)
    assert (clouds.classes, clouds.labels) == (["apple", "mug"], [1, 0, 1])
    points, colours = clouds.read(0)
    assert torch.equal(points, torch.from_numpy(XYZ))
    assert torch.equal(colours, torch.full((4, 3), 0.25))
    assert torch.equal(clouds.read(1)[0], torch.from_numpy(XYZ * 2))


def test_objaverse_lvis_as_openshape_publishes_it(tmp_path: Path) -> None:
    save(tmp_path / "objaverse" / "a.npy", {"xyz": XYZ, "rgb": np.ones((4, 3))})
    split = [{"uid": "u1", "category": "mug", "group": "000", "data_path": "objaverse/a.npy"}]
    (tmp_path / "meta_data" / "split").mkdir(parents=True)
    (tmp_path / "meta_data" / "split" / "lvis.json").write_text(json.dumps(split))
    clouds = read_objaverse_lvis(tmp_path / "meta_data")
    assert (clouds.classes, clouds.labels) == (["mug"], [0])
    assert torch.equal(clouds.read(0)[0], torch.from_numpy(XYZ))


def test_folders_of_another_layout_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"test_split.json' cannot be read"):
        read_modelnet40(tmp_path)
    with pytest.raises(ValueError, match=r"must hold lvis_testset.txt \(Uni3D\) or split/lvis.json \(OpenShape\)"):
        read_objaverse_lvis(tmp_path)
    modelnet40(tmp_path, ["chair"])
    (tmp_path / "modelnet40_shape_names.txt").write_text("bed\n")
    with pytest.raises(ValueError, match="does not list the class 'chair'"):
        read_modelnet40(tmp_path)
    (tmp_path / "test_split.json").write_text('[{"category": "a"}, {"category": "b"}]')
    with pytest.raises(ValueError, match="has 1 clouds but 2 labels"):
        read_modelnet40(tmp_path)
    (tmp_path / "test_split.json").write_text('[{"name": "a"}]')
    with pytest.raises(ValueError, match="must be a list of objects with 'category'"):
        read_modelnet40(tmp_path)
    (tmp_path / "lvis_testset.txt").write_text("mug\n")
    with pytest.raises(ValueError, match="must have lines of class number"):
        read_objaverse_lvis(tmp_path)
    save(tmp_path / "b.npy", {"points": XYZ})
    (tmp_path / "lvis_testset.txt").write_text("0,mug,u,b.npy\n")
    with pytest.raises(ValueError, match="must hold clouds with 'xyz' and 'rgb'"):
        read_objaverse_lvis(tmp_path).read(0)


class Dangerous:
    """Would run a command when unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('ran')",))


def test_pickles_that_name_anything_else_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "d.npy", {"xyz": Dangerous()})
    with pytest.raises(ValueError, match=r"d.npy' cannot be read: it names builtins.exec"):
        read_npy(tmp_path / "d.npy")


def test_arrays_of_any_kind_are_read(tmp_path: Path) -> None:
    np.save(tmp_path / "plain.npy", XYZ)
    assert np.array_equal(read_npy(tmp_path / "plain.npy"), XYZ)
    content = {"a": [np.float32(2.5), "text", None], "b": {"c": XYZ.T, "d": np.array(["x", "yy"])}}
    save(tmp_path / "object.npy", content)
    found = read_npy(tmp_path / "object.npy")
    assert found["a"] == content["a"]
    assert np.array_equal(found["b"]["c"], XYZ.T)
    assert found["b"]["d"].tolist() == ["x", "yy"]


@pytest.mark.parametrize("content", [b"", b"not numpy"])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.npy").write_bytes(content)
    with pytest.raises(ValueError, match=r"m.npy' cannot be read"):
        read_npy(tmp_path / "m.npy")
