"""Time meshes to sparse distance fields and back.

    python scripts/time_fields.py > fields.jsonl   # a bumpy sphere of 82 thousand and of 1.3 million faces
    python scripts/time_fields.py chair.obj car.glb --resolution 512,1024

One JSON object a line: faces, grid points, seconds of field and isosurface (medians of calls after a first one, whose
time stands apart: it compiles), peak memory on a GPU, and the machine.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import trimesh
from torch import Tensor

from models.data.isosurface import isosurface
from models.data.mesh_file import fit_into_cube, read_mesh_file
from models.data.sdf import sparse_sdf

# Subdivisions of an icosahedron: 20 * 4^n faces.
SUBDIVISIONS = (6, 8)
T = TypeVar("T")


def meshes(paths: list[Path]) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Name, vertices in the cube and faces: of files, or of the spheres where there are none."""
    for path in paths:
        mesh = read_mesh_file(path, "mesh")
        vertices, faces, _ = fit_into_cube(np.asarray(mesh.vertices), np.asarray(mesh.faces), path.name)
        yield path.name, torch.tensor(vertices), torch.tensor(faces)
    for subdivisions in () if paths else SUBDIVISIONS:
        sphere = trimesh.creation.icosphere(subdivisions)
        x, y, z = np.asarray(sphere.vertices).T
        radius = 0.75 + 0.1 * np.sin(7 * x) * np.sin(6 * y + 1) * np.sin(5 * z + 2)
        yield "bumpy sphere", torch.tensor(sphere.vertices * radius[:, None]), torch.tensor(sphere.faces)


def timed(run: Callable[[], T], device: torch.device, repeats: int) -> tuple[T, float, float]:
    """The last result, the seconds of the first call, and the median of the others."""
    seconds = []
    for _ in range(1 + repeats):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        found = run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return found, seconds[0], statistics.median(seconds[1:])


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()}, {torch.get_num_threads()} threads"


def measure(
    name: str, vertices: Tensor, faces: Tensor, resolution: int, device: torch.device, repeats: int
) -> dict[str, Any]:
    vertices, faces = vertices.to(device), faces.to(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    field, field_first, field_s = timed(lambda: sparse_sdf(vertices, faces, resolution, device=device), device, repeats)
    surface, _, surface_s = timed(lambda: isosurface(field), device, repeats)
    gpu = device.type == "cuda"
    return {
        "mesh": name,
        "faces": len(faces),
        "resolution": resolution,
        "grid_points": len(field.coords),
        "field_s": round(field_s, 4),
        "field_first_s": round(field_first, 4),
        "isosurface_s": round(surface_s, 4),
        "isosurface_faces": len(surface.faces),
        "peak_gib": round(torch.cuda.max_memory_allocated(device) / 2**30, 2) if gpu else None,
        "device": device_name(device),
        "torch": torch.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("meshes", nargs="*", type=Path)
    parser.add_argument("--resolution", default="1024")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    for name, vertices, faces in meshes(arguments.meshes):
        for resolution in map(int, arguments.resolution.split(",")):
            row = measure(name, vertices, faces, resolution, torch.device(arguments.device), arguments.repeats)
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
