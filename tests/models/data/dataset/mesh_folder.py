"""Meshes for datasets, good and bad, and settings that prepare them in a second."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import trimesh
from PIL import Image

from models.data.dataset.settings import Settings

SETTINGS = Settings(resolutions=(16, 32), views="2", image_size=24, shard_size=2, split=(0.5, 0.5, 0.0))
GOOD = {"ball", "box", "chairs-seat", "chairs-stool", "painted"}
# By key, how the reason begins.
BAD = {
    "cut-off": "cannot be read",
    "drawing": "cannot be read",
    "empty": "",
    "flat": "has no surface area",
    "model": "has an unsupported format .fbx",
    "not-a-number": "has coordinates that are not finite",
    "points": "has no faces",
}
TRIANGLE = "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"


def write_meshes(folder: Path) -> Path:
    (folder / "chairs").mkdir()
    trimesh.creation.box((1, 2, 3)).export(folder / "box.obj")
    trimesh.creation.box((1, 2, 3)).export(folder / "chairs" / "twin.obj")
    trimesh.creation.icosphere(1).export(folder / "ball.ply")
    trimesh.creation.box((1, 1, 0.2)).export(folder / "chairs" / "seat.glb")
    trimesh.creation.cylinder(0.3, 1, sections=8).export(folder / "chairs" / "stool.stl")
    (folder / "painted.obj").write_text("mtllib painted.mtl\nusemtl red\n" + TRIANGLE)
    (folder / "painted.mtl").write_text("newmtl red\nKd 1 0 0\n")
    (folder / "empty.obj").write_bytes(b"")
    (folder / "flat.obj").write_text("v 0 0 0\nv 1 1 1\nv 2 2 2\nf 1 2 3\n")
    (folder / "not-a-number.obj").write_text(TRIANGLE.replace("v 0 1 0", "v nan 1 0"))
    trimesh.PointCloud(np.eye(3)).export(folder / "points.ply")
    (folder / "cut-off.glb").write_bytes((folder / "chairs" / "seat.glb").read_bytes()[:100])
    Image.new("RGB", (4, 4)).save(folder / "drawing.glb", "png")
    (folder / "model.fbx").write_bytes(b"Kaydara FBX Binary")
    (folder / "readme.txt").write_text("no mesh")
    return folder
