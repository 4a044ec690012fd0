"""Reading mesh files, and fitting their triangles into the cube as Direct3D-S2 does."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

# Direct3D-S2 fits a mesh's longest side into [-0.95, 0.95] of the cube [-1, 1]^3 before it builds the sparse SDF.
HALF_SIDE = 0.95


class MeshError(ValueError):
    """A mesh that cannot be used; the message names it and says what is wrong."""


def read_mesh_file(path: Path, force: Literal["mesh", "scene"]) -> Any:
    """What trimesh makes of a file, its geometry taken as it is.

    Args:
        path: in a format that trimesh reads: glb, gltf, obj, off, ply, stl.
        force: one mesh, all geometry of a scene in it in world coordinates; or a scene.

    Raises:
        MeshError: not a file, or an unreadable or unsupported one.
    """
    import trimesh  # takes half a second to import, and shipped meshes do not need it

    if not path.is_file():
        raise MeshError(f"mesh {str(path)!r} is not a file")
    if path.suffix.lower().lstrip(".") not in trimesh.available_formats():
        raise MeshError(f"mesh {str(path)!r} has an unsupported format; expected glb, gltf, obj, off, ply or stl")
    try:
        # Merging and repairing would depend on the version of trimesh, and move attributes from seams.
        return trimesh.load(path, force=force, process=False)
    except Exception as error:  # each format's parser raises its own kinds
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise MeshError(f"mesh {str(path)!r} cannot be read: {reason[0]}") from error


def fit_into_cube(
    vertices: NDArray[np.float64], faces: NDArray[np.int64], label: str
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Vertices that faces use, their bounding box centred at the origin and its longest side 1.9 long.

    Args:
        vertices: [V, 3]. faces: [F, 3]. label: what messages call the mesh.

    Returns:
        Vertices [U, 3], faces [F, 3] of them, and which vertices they were, int64 [U].

    Raises:
        MeshError: no faces, faces of missing vertices, coordinates that are not finite, or no surface area.
    """
    if not len(faces):
        raise MeshError(f"mesh {label!r} has no faces")
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise MeshError(f"mesh {label!r} has faces of vertices that do not exist")
    # Stray vertices would move the bounding box.
    used, compact = np.unique(faces, return_inverse=True)
    vertices, faces = vertices[used], compact.reshape(faces.shape)
    if not np.isfinite(vertices).all():
        raise MeshError(f"mesh {label!r} has coordinates that are not finite")
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    longest = (high - low).max()
    if longest == 0:
        raise MeshError(f"mesh {label!r} has no surface area")
    vertices = (vertices - (low + high) / 2) * (2 * HALF_SIDE / longest)
    a, b, c = vertices[faces].transpose(1, 0, 2)
    if not np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() > 0:
        raise MeshError(f"mesh {label!r} has no surface area")
    return vertices, faces, used
