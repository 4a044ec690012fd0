"""Shipped meshes are complete and in normal form; a user's file is read whole or refused with one clear line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import trimesh

from bench.meshes import asset_names, load_mesh
from models.data.mesh_file import MeshError

TRIANGLE = "v 0 0 0\nv 2 0 0\nv 0 1 0\n"


def write(folder: Path, text: str, name: str = "shape.obj") -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", ["bear", "biplane", "chair", "deer", "fan", "plant"])
def test_shipped_mesh_is_whole_and_normalised(name: str) -> None:
    mesh = load_mesh(name)
    assert name in asset_names()
    assert mesh.name == name
    assert mesh.vertices.dtype == np.float64
    assert mesh.faces.dtype == np.int64
    assert len(mesh.faces) > 5000
    assert np.array_equal(np.unique(mesh.faces), np.arange(len(mesh.vertices)))
    low, high = mesh.vertices.min(axis=0), mesh.vertices.max(axis=0)
    np.testing.assert_allclose(low, -high, atol=1e-12)
    assert high.max() == pytest.approx(0.95, abs=1e-12)


def test_every_shipped_mesh_is_credited() -> None:
    import bench

    rows = (Path(bench.__file__).parent / "assets" / "ATTRIBUTION.md").read_text().splitlines()
    credited = [row.split("|")[1].strip() for row in rows if "| CC0 1.0 |" in row]
    assert credited == list(asset_names())


def test_file_is_centred_scaled_and_keeps_its_axes(tmp_path: Path) -> None:
    mesh = load_mesh(write(tmp_path, TRIANGLE + "f 1 2 3\n", "wedge.obj"))
    assert mesh.name == "wedge"
    np.testing.assert_allclose(mesh.vertices[mesh.faces[0]], [[-0.95, -0.475, 0], [0.95, -0.475, 0], [-0.95, 0.475, 0]])


@pytest.mark.parametrize("suffix", ["glb", "obj", "off", "ply", "stl"])
def test_common_formats_give_the_same_surface(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"box.{suffix}"
    trimesh.creation.box(extents=(4.0, 2.0, 1.0)).export(path)
    mesh = load_mesh(path)
    assert len(mesh.faces) == 12
    np.testing.assert_allclose(np.ptp(mesh.vertices, axis=0), [1.9, 0.95, 0.475], rtol=1e-6)


def test_scene_is_concatenated_in_world_coordinates(tmp_path: Path) -> None:
    box = trimesh.creation.box()
    scene = trimesh.Scene([box])
    scene.add_geometry(box, transform=trimesh.transformations.translation_matrix([9.0, 0.0, 0.0]))
    path = tmp_path / "pair.glb"
    scene.export(path)
    mesh = load_mesh(path)
    assert len(mesh.faces) == 24
    np.testing.assert_allclose(np.ptp(mesh.vertices, axis=0), [1.9, 0.19, 0.19], rtol=1e-6)


def test_stray_vertices_do_not_move_the_shape(tmp_path: Path) -> None:
    mesh = load_mesh(write(tmp_path, TRIANGLE + "v 100 100 100\nf 1 2 3\n"))
    assert len(mesh.vertices) == 3
    assert np.abs(mesh.vertices).max() == pytest.approx(0.95)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "cannot be read|no faces"),
        (TRIANGLE, "no faces|cannot be read"),
        (TRIANGLE + "f 1 2 9\n", "cannot be read|do not exist"),
        ("v 0 0 0\nv nan 0 0\nv 0 1 0\nf 1 2 3\n", "not finite"),
        ("v 0 0 0\nv inf 0 0\nv 0 1 0\nf 1 2 3\n", "not finite"),
        ("v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\n", "no surface area"),
        ("v 1 1 1\nv 1 1 1\nv 1 1 1\nf 1 2 3\n", "no surface area"),
    ],
    ids=["empty", "no faces", "missing vertex", "nan", "infinite", "collinear", "one point"],
)
def test_unusable_file_is_refused_in_one_line_that_names_it(tmp_path: Path, text: str, reason: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(MeshError, match=reason) as caught:
        load_mesh(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_point_cloud_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cloud.ply"
    trimesh.PointCloud(np.eye(3)).export(path)
    with pytest.raises(MeshError, match="no faces"):
        load_mesh(path)


def test_missing_file_lists_the_shipped_meshes() -> None:
    with pytest.raises(MeshError, match="neither a file nor one of bear, biplane, chair, deer, fan, plant"):
        load_mesh("dragon")


def test_folder_and_unknown_format_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MeshError, match="is not a file"):
        load_mesh(tmp_path)
    with pytest.raises(MeshError, match="unsupported format"):
        load_mesh(write(tmp_path, "hello", "notes.txt"))


def test_broken_binary_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "broken.glb"
    path.write_bytes(b"glTF" + bytes(40))
    with pytest.raises(MeshError, match="cannot be read"):
        load_mesh(path)
