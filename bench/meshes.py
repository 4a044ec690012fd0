"""Triangle meshes: the ones shipped with the package, and a user's own files."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.data.mesh_file import MeshError, fit_into_cube, read_mesh_file


@dataclass(frozen=True, eq=False)
class Mesh:
    """A triangle mesh inside [-0.95, 0.95]^3, its bounding box centred, its longest side 1.9 long."""

    vertices: NDArray[np.float64]  # [V, 3], each used by a face
    faces: NDArray[np.int64]  # [F, 3], vertex indices
    name: str  # shipped name, or stem of the file


@cache
def asset_names() -> tuple[str, ...]:
    """Names of the shipped meshes, sorted. Their creators and licences are in bench/assets/ATTRIBUTION.md."""
    assets = resources.files("bench").joinpath("assets")
    return tuple(sorted(item.name.removesuffix(".npz") for item in assets.iterdir() if item.name.endswith(".npz")))


def load_mesh(name_or_path: str | Path) -> Mesh:
    """Load a mesh and normalise it as Direct3D-S2 does.

    Args:
        name_or_path: one of `asset_names`, else a file in a format that trimesh reads (glb, gltf, obj, off, ply, stl).
            All geometry of a scene is concatenated in world coordinates. Axes are kept as they are in the file.

    Raises:
        MeshError: no such mesh, an unreadable or unsupported file, no faces, faces of missing vertices, coordinates
            that are not finite, or no surface area.
    """
    name = str(name_or_path)
    if name in asset_names():
        vertices, faces = _read_asset(name)
        return _normalise(vertices, faces, name)
    path = Path(name_or_path)
    vertices, faces = _read_file(path)
    return _normalise(vertices, faces, path.stem, label=str(path))


def _read_asset(name: str) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    with resources.files("bench").joinpath("assets", f"{name}.npz").open("rb") as file, np.load(file) as arrays:
        return arrays["vertices"].astype(np.float64), arrays["faces"].astype(np.int64)


def _read_file(path: Path) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    if not path.exists():
        raise MeshError(f"no mesh {str(path)!r}: neither a file nor one of {', '.join(asset_names())}")
    loaded = read_mesh_file(path, "mesh")
    if not hasattr(loaded, "faces"):  # a cloud of points, or curves
        raise MeshError(f"mesh {str(path)!r} has no faces")
    return np.asarray(loaded.vertices, dtype=np.float64), np.asarray(loaded.faces, dtype=np.int64)


def _normalise(vertices: NDArray[np.float64], faces: NDArray[np.int64], name: str, label: str | None = None) -> Mesh:
    vertices, faces, _ = fit_into_cube(vertices, faces, label or name)
    return Mesh(vertices, faces, name)
