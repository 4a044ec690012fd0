"""Content hashes, and meshes from files and generators."""

from __future__ import annotations

import json
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
from mesh_folder import TRIANGLE

from models.data.dataset.geometry import ArchiveMesh, FileMesh, GeneratedSolid

PAINTED = "mtllib paint.mtl\n" + TRIANGLE


def painted(folder: Path, mtl: str = "newmtl a\nmap_Kd -s 1 1 1 wood.png\n", texture: bytes = b"brown") -> FileMesh:
    folder.mkdir()
    (folder / "mesh.obj").write_text(PAINTED)
    (folder / "paint.mtl").write_text(mtl)
    (folder / "wood.png").write_bytes(texture)
    return FileMesh(folder / "mesh.obj")


def test_the_hash_knows_content_not_names(tmp_path: Path) -> None:
    mesh = painted(tmp_path / "a")
    copy = FileMesh(mesh.path.rename(tmp_path / "a" / "other.obj"))
    assert copy.digest() == painted(tmp_path / "b").digest()


@pytest.mark.parametrize("change", [{"mtl": "newmtl b\nmap_Kd wood.png\n"}, {"texture": b"oak"}])
def test_the_hash_knows_materials_and_textures(change: dict[str, str | bytes], tmp_path: Path) -> None:
    assert painted(tmp_path / "a").digest() != painted(tmp_path / "b", **change).digest()  # type: ignore[arg-type]


def test_the_hash_knows_the_buffers_of_a_gltf(tmp_path: Path) -> None:
    path = tmp_path / "mesh.gltf"
    path.write_text(json.dumps({"buffers": [{"uri": "mesh.bin"}, {"uri": "data:,"}], "images": [{"bufferView": 1}]}))
    digests = []
    for content in (b"1", b"2"):
        (tmp_path / "mesh.bin").write_bytes(content)
        digests.append(FileMesh(path).digest())
    assert digests[0] != digests[1]


@pytest.mark.parametrize("text", ["{", "[]", '{"buffers": [3]}'])
def test_a_broken_gltf_has_a_hash_too(text: str, tmp_path: Path) -> None:
    (tmp_path / "mesh.gltf").write_text(text)
    assert len(FileMesh(tmp_path / "mesh.gltf").digest()) == 64


def test_a_mesh_in_an_archive_has_the_hash_of_its_file(tmp_path: Path) -> None:
    mesh = painted(tmp_path / "a")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for path in mesh.path.parent.iterdir():
            archive.write(path, f"x/{path.name}")
    packed = ArchiveMesh(tmp_path / "a.zip", "x/mesh.obj")
    assert packed.digest() == mesh.digest()
    assert ArchiveMesh(packed.archive, packed.member, (1, 0, 0, 0, 0, 1, 0, -1, 0)).digest() != mesh.digest()
    with pytest.raises(OSError, match=r"not in its archive: .x/none\.obj"):
        ArchiveMesh(tmp_path / "a.zip", "x/none.obj").digest()


def test_a_damaged_archive_is_an_error_of_reading(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("mesh.obj", TRIANGLE)
    path.write_bytes(path.read_bytes().replace(b"f 1 2 3", b"f 3 2 1"))
    with pytest.raises(OSError, match="damaged in its archive"):
        ArchiveMesh(path, "mesh.obj").digest()


def test_a_solid_is_made_from_its_seed_and_fitted_into_the_cube(monkeypatch: pytest.MonkeyPatch) -> None:
    def random_solid(seed: int) -> types.SimpleNamespace:
        vertices = np.array([[0, 0, 0], [seed, 0, 0], [0, seed, 0], [0, 0, seed]], dtype=np.float64)
        faces = np.array([[0, 1, 2], [0, 1, 3], [0, 2, 3], [1, 2, 3]])
        return types.SimpleNamespace(vertices=vertices, faces=faces, description=f"a tetrahedron of {seed}")

    monkeypatch.setitem(sys.modules, "models.data.solids", types.SimpleNamespace(random_solid=random_solid))
    mesh = GeneratedSolid(7).load()
    assert mesh.name == "a tetrahedron of 7"
    assert mesh.vertices.abs().max() == pytest.approx(0.95)
    assert len(mesh.faces) == 4
