"""Mesh files for tests of evaluations."""

from __future__ import annotations

from pathlib import Path

import trimesh


def write_box(path: Path, side: float = 1.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    trimesh.creation.box([side] * 3).export(path)
    return path


def write_empty(path: Path) -> Path:
    """A mesh of vertices without triangles."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("OFF\n3 0 0\n0 0 0\n1 0 0\n0 1 0\n")
    return path


def write_not_finite(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("v 0 0 0\nv 1 0 nan\nv 0 1 0\nf 1 2 3\n")
    return path
