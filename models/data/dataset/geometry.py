"""Where the triangles of an asset come from: a file, a file in an archive, or a generator."""

from __future__ import annotations

import errno
import hashlib
import json
import re
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np
import torch

from models.data.mesh_file import fit_into_cube
from models.data.textured import TexturedMesh, load_textured, untextured

Rotation = tuple[float, ...]  # nine numbers, row by row


class Geometry(Protocol):
    """A mesh that is not loaded yet; cheap to send to another process."""

    def digest(self) -> str:
        """SHA-256 of everything the mesh is made of, not of names; OSError where that cannot be read."""

    def load(self) -> TexturedMesh:
        """The mesh in [-0.95, 0.95]^3; MeshError where there is none."""


@dataclass(frozen=True)
class FileMesh:
    """A mesh file."""

    path: Path

    def digest(self) -> str:
        return content_digest(self.path.name, lambda name: (self.path.parent / name).read_bytes())

    def load(self) -> TexturedMesh:
        return load_textured(self.path)


@dataclass(frozen=True)
class ArchiveMesh:
    """A mesh file in a zip archive, beside its materials and textures."""

    archive: Path
    member: str
    rotation: Rotation | None = None  # of the file's axes into the object's

    def digest(self) -> str:
        folder = PurePosixPath(self.member).parent
        with zipfile.ZipFile(self.archive) as archive:

            def read(name: str) -> bytes:
                try:
                    return archive.read(str(folder / name))
                except KeyError as error:
                    raise FileNotFoundError(errno.ENOENT, "not in its archive", str(folder / name)) from error
                except (zipfile.BadZipFile, zlib.error) as error:
                    raise OSError(errno.EIO, "damaged in its archive", str(folder / name)) from error

            digest = content_digest(PurePosixPath(self.member).name, read)
        return digest if self.rotation is None else _sha256(f"{digest} {self.rotation}".encode())

    def load(self) -> TexturedMesh:
        folder = PurePosixPath(self.member).parent
        with zipfile.ZipFile(self.archive) as archive, tempfile.TemporaryDirectory() as scratch:
            archive.extractall(scratch, [name for name in archive.namelist() if PurePosixPath(name).parent == folder])
            mesh = load_textured(Path(scratch) / self.member)
        return mesh if self.rotation is None else _rotated(mesh, self.rotation)


@dataclass(frozen=True)
class GeneratedSolid:
    """A random solid; its description becomes the mesh's name."""

    seed: int

    def digest(self) -> str:
        return _sha256(f"random_solid({self.seed})".encode())

    def load(self) -> TexturedMesh:
        from models.data.solids import random_solid

        solid = random_solid(self.seed)
        vertices, faces, _ = fit_into_cube(solid.vertices, solid.faces, f"solid {self.seed}")
        return untextured(torch.from_numpy(vertices), torch.from_numpy(faces), solid.description)


def content_digest(name: str, read: Callable[[str], bytes]) -> str:
    """SHA-256 of a mesh file and of the files it names: materials and textures of an obj, buffers of a gltf.

    Args:
        name: of the mesh file. read: content by name relative to the mesh file; OSError where there is none.
    """
    data = read(name)
    digest = hashlib.sha256(data)
    for reference in _references(name, data, read):
        content = _read_if_there(reference, read)
        if content is not None:
            digest.update(reference.encode() + b"\0" + content)
    return digest.hexdigest()


def _references(name: str, data: bytes, read: Callable[[str], bytes]) -> Iterator[str]:
    suffix = PurePosixPath(name).suffix.lower()
    if suffix == ".obj":
        for library in _named(rb"^mtllib[ \t]+(.+)$", data):
            yield library
            yield from _named(
                rb"^[ \t]*(?:map_\w+|bump|disp|decal|norm|refl)[ \t]+(?:.*[ \t])?(\S+)[ \t\r]*$",
                _read_if_there(library, read) or b"",
            )
    elif suffix == ".gltf":
        try:
            document = json.loads(data)
            listed = [*document.get("buffers", []), *document.get("images", [])]
            yield from (item["uri"] for item in listed if "uri" in item and not item["uri"].startswith("data:"))
        except (ValueError, AttributeError, TypeError):  # the loader says what is wrong with it
            return


def _named(pattern: bytes, data: bytes) -> Iterator[str]:
    names = (match.decode("utf-8", "replace").strip() for match in re.findall(pattern, data, re.MULTILINE))
    yield from dict.fromkeys(names)


def _read_if_there(name: str, read: Callable[[str], bytes]) -> bytes | None:
    try:
        return read(name)
    except (OSError, ValueError):  # ValueError: a name that no file can have
        return None


def _rotated(mesh: TexturedMesh, rotation: Rotation) -> TexturedMesh:
    matrix = torch.from_numpy(np.array(rotation, dtype=np.float64).reshape(3, 3))
    vertices, faces, _ = fit_into_cube((mesh.vertices @ matrix.T).numpy(), mesh.faces.numpy(), mesh.name)
    return replace(
        mesh,
        vertices=torch.from_numpy(vertices),
        faces=torch.from_numpy(faces),
        normals=mesh.normals @ torch.linalg.pinv(matrix),
    )


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
