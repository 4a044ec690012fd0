"""Make three degraded versions of meshes whose order is known, to see whether an evaluation finds it.

Each goes through a sparse signed distance field at 256, which closes it, and is decimated to 10 % and to 2 % of the
original's triangles; the third version goes through a field at 64:

    pip install '.[decimate]'
    python -m scripts.degrade_meshes MESHES OUT --count 20
    cd OUT; ssabench evaluate decimated-10 decimated-2 voxelised-64 reference --protocol roundtrip --out page

MESHES is a folder; the meshes with the most triangles are taken, fitted into the cube [-1, 1]. Decimating the originals
themselves fails where they are no manifolds: simplifiers leave most triangles of loose pieces alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import trimesh

from eval.matching import find_meshes
from models.data.decimate import decimate
from models.data.isosurface import Surface, isosurface
from models.data.mesh_file import fit_into_cube, read_mesh_file
from models.data.sdf import sparse_sdf

SHARES = {"decimated-10": 0.10, "decimated-2": 0.02}
CLOSED, VOXELISED = 256, 64
LEAST_FACES = 12  # fewer would be no shape


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("meshes", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=20)
    arguments = parser.parse_args()
    meshes = {name: fitted(path) for name, path in find_meshes([arguments.meshes]).items()}
    largest = sorted(meshes, key=lambda name: -len(meshes[name].faces))[: arguments.count]
    for name in sorted(largest):
        versions = degraded(meshes[name])
        for folder, mesh in versions.items():
            path = arguments.out / folder / f"{name}.ply"
            path.parent.mkdir(parents=True, exist_ok=True)
            mesh.export(path)
        print(name, {folder: len(mesh.faces) for folder, mesh in versions.items()}, flush=True)


def fitted(path: Path) -> trimesh.Trimesh:
    mesh = read_mesh_file(path, "mesh")
    vertices, faces, _ = fit_into_cube(np.asarray(mesh.vertices, np.float64), np.asarray(mesh.faces), path.name)
    return trimesh.Trimesh(vertices, faces, process=False)


def degraded(mesh: trimesh.Trimesh) -> dict[str, trimesh.Trimesh]:
    """All versions by name, the mesh itself as the reference."""
    versions = {"reference": mesh, f"voxelised-{VOXELISED}": as_mesh(through_field(mesh, VOXELISED))}
    surface = through_field(mesh, CLOSED)
    for folder, share in SHARES.items():
        surface = decimate(surface.vertices, surface.faces, max(LEAST_FACES, round(share * len(mesh.faces))))
        versions[folder] = as_mesh(surface)
    return versions


def through_field(mesh: trimesh.Trimesh, resolution: int) -> Surface:
    return isosurface(sparse_sdf(np.array(mesh.vertices), np.array(mesh.faces), resolution))


def as_mesh(surface: Surface) -> trimesh.Trimesh:
    return trimesh.Trimesh(surface.vertices.numpy(), surface.faces.numpy(), process=False)


if __name__ == "__main__":
    main()
