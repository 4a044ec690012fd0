"""Time renders: colour, mask, depth and normals of a mesh from the cameras of Direct3D-S2.

    python scripts/time_renders.py > renders.jsonl   # a bumpy sphere of 82 thousand and of 1.3 million faces
    python scripts/time_renders.py chair.obj car.glb --size 1024 --views 45

One JSON object a line: faces, whether there is a texture, milliseconds a view (median, fastest and slowest of the views
after a first one, whose time stands apart: it may compile), peak memory on a GPU, and the machine. Four samples a pixel
for colour and mask, as `ssabench prepare --views` renders.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from time_fields import device_name, meshes

from models.data.cameras import direct3d_s2_views
from models.data.render import render
from models.data.textured import TexturedMesh, load_textured, untextured


def textured_meshes(paths: list[Path]) -> Iterator[TexturedMesh]:
    """Of files, with their materials, or the spheres where there are none."""
    if paths:
        yield from map(load_textured, paths)
        return
    for name, vertices, faces in meshes([]):
        yield untextured(vertices, faces, name)


def measure(mesh: TexturedMesh, size: int, views: int, device: torch.device) -> dict[str, Any]:
    mesh = mesh.to(device)
    gpu = device.type == "cuda"
    if gpu:
        torch.cuda.reset_peak_memory_stats(device)
    times = []
    for camera in direct3d_s2_views(0, views=1 + views, size=size):
        if gpu:
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        render(mesh, camera, background=None)
        if gpu:
            torch.cuda.synchronize(device)
        times.append(1000 * (time.perf_counter() - start))
    first, *times = times
    return {
        "mesh": mesh.name,
        "faces": len(mesh.faces),
        "textured": any(material.texture is not None for material in mesh.materials),
        "size": size,
        "views": views,
        "ms": round(statistics.median(times), 2),
        "ms_fastest": round(min(times), 2),
        "ms_slowest": round(max(times), 2),
        "first_ms": round(first, 2),
        "peak_gib": round(torch.cuda.max_memory_allocated(device) / 2**30, 2) if gpu else None,
        "device": device_name(device),
        "torch": torch.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("meshes", nargs="*", type=Path)
    parser.add_argument("--size", default="512,1024", help="pixels along a side (default: 512,1024)")
    parser.add_argument("--views", type=int, default=9, help="(default: 9; the paper has 45)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    for mesh in textured_meshes(arguments.meshes):
        for size in map(int, arguments.size.split(",")):
            print(json.dumps(measure(mesh, size, arguments.views, torch.device(arguments.device))), flush=True)


if __name__ == "__main__":
    main()
