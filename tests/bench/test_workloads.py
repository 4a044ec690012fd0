"""Workloads: exact token counts, the same voxels everywhere, and meshes voxelised as their definition says."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.meshes import Mesh, load_mesh
from bench.workloads import Tokens, gyroid, make_tokens, mesh, sphere, surface_voxels
from kernels.layout import BlockLayout
from models.data.mesh_file import HALF_SIDE, MeshError

CUBE = """
v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nv 0 0 1\nv 1 0 1\nv 1 1 1\nv 0 1 1
f 1 2 3 4\nf 5 6 7 8\nf 1 2 6 5\nf 2 3 7 6\nf 3 4 8 7\nf 4 1 5 8
"""


@pytest.fixture
def cube(tmp_path: Path) -> Path:
    path = tmp_path / "cube.obj"
    path.write_text(CUBE)
    return path


def linear(tokens: Tokens) -> np.ndarray:
    x, y, z = tokens.coords.long().numpy().T
    return (x * tokens.resolution + y) * tokens.resolution + z


def digest(tokens: Tokens) -> str:
    return hashlib.sha256(tokens.coords.numpy().astype("<i4").tobytes()).hexdigest()[:16]


def centres(tokens: Tokens) -> np.ndarray:
    return (2 * tokens.coords.double().numpy() + 1) / tokens.resolution - 1


@pytest.mark.parametrize("spec", ["gyroid", "sphere", "mesh:deer"])
@pytest.mark.parametrize("count", [1, 1000, 2048])
def test_every_workload_has_exactly_the_tokens_asked_for(spec: str, count: int) -> None:
    tokens = make_tokens(spec, count)
    assert tokens.name == spec
    assert tokens.coords.dtype == torch.int32
    assert tokens.coords.shape == (count, 3)
    assert int(tokens.coords.min()) >= 0
    assert int(tokens.coords.max()) < tokens.resolution
    assert (np.diff(linear(tokens)) > 0).all()  # sorted, and no voxel twice


@pytest.mark.parametrize(
    ("spec", "resolution", "sha256"),
    [
        ("gyroid", 24, "d1b6aac8ad2bb314"),
        ("sphere", 33, "1bed1ba6233fd4a7"),
        ("mesh:bear", 32, "9ac90ec3bd6eb25a"),
        ("mesh:biplane", 41, "05b03e1f5181a6fb"),
        ("mesh:chair", 56, "80a72e84054e931d"),
        ("mesh:deer", 55, "5e45b98aee43a070"),
        ("mesh:fan", 34, "ca532d281e109d87"),
        ("mesh:plant", 36, "fc2b2ae937c95a22"),
    ],
)
def test_the_same_tokens_come_out_on_every_machine(spec: str, resolution: int, sha256: str) -> None:
    tokens = make_tokens(spec, 4096)
    assert (tokens.resolution, digest(tokens)) == (resolution, sha256)


def test_gyroid_of_131072_tokens_fills_the_known_blocks() -> None:
    tokens = gyroid(131_072)
    layout = BlockLayout.from_coords(tokens.coords, resolution=tokens.resolution)
    assert tokens.resolution == 128
    assert len(layout.selection_coords) == 1434
    assert len(layout.compression_coords) == 5946


@pytest.mark.parametrize(
    ("count", "resolution"), [(8192, 32), (16_384, 48), (32_768, 64), (65_536, 88), (262_144, 184)]
)
def test_gyroid_resolution_keeps_the_thickness_of_the_sheet(count: int, resolution: int) -> None:
    assert gyroid(count).resolution == resolution


def test_gyroid_takes_the_voxels_nearest_to_the_sheet() -> None:
    tokens = gyroid(3000, resolution=32)
    axis = (2 * np.arange(32) + 1) / 32 - 1
    p = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1)
    a, b, c = np.moveaxis(2.2 * np.pi * p, -1, 0)
    height = np.abs(np.sin(a) * np.cos(b) + np.sin(b) * np.cos(c) + np.sin(c) * np.cos(a))
    height[np.linalg.norm(p, axis=-1) >= 0.95] = np.inf
    taken = np.zeros(32**3, dtype=bool)
    taken[linear(tokens)] = True
    assert height.ravel()[taken].max() <= height.ravel()[~taken].min() + 1e-9


@pytest.mark.parametrize("count", [1024, 8192, 131_072])
def test_sphere_is_a_shell_one_to_two_voxels_thick(count: int) -> None:
    tokens = sphere(count)
    offset = np.linalg.norm(centres(tokens), axis=1) - 0.9
    thickness = (offset.max() - offset.min()) * tokens.resolution / 2
    assert 1 < thickness < 2


@pytest.mark.parametrize("resolution", [1, 2, 8, 13, 20, 32])
def test_cube_voxels_are_those_whose_box_is_within_a_quarter_voxel(cube: Path, resolution: int) -> None:
    tokens = mesh(cube, resolution=resolution)
    low, high = (1 - HALF_SIDE) / 2 * resolution, (1 + HALF_SIDE) / 2 * resolution
    corner = np.stack(np.meshgrid(*[np.arange(resolution)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    distance = np.full(len(corner), np.inf)
    for axis in range(3):
        for side in (low, high):
            face_low, face_high = np.full(3, low), np.full(3, high)
            face_low[axis] = face_high[axis] = side
            gap = np.maximum(0, np.maximum(face_low - (corner + 1), corner - face_high))
            distance = np.minimum(distance, np.linalg.norm(gap, axis=1))
    distance = np.round(distance, 9)
    assert tokens.name == "mesh:cube"
    assert np.array_equal(tokens.coords.numpy(), corner[distance <= 0.25])
    np.testing.assert_allclose(surface_voxels(load_mesh(cube), resolution)[1], distance[distance <= 0.25], atol=1e-9)


vectors = st.tuples(*[st.floats(-1, 1, width=32)] * 3)


@settings(max_examples=25, deadline=None)
@given(corners=st.tuples(vectors, vectors, vectors), resolution=st.integers(1, 40), seed=st.integers(0, 99))
def test_voxels_cover_a_triangle_and_stay_near_it(corners: tuple, resolution: int, seed: int) -> None:
    triangle = HALF_SIDE * np.array(corners, dtype=np.float64)
    keys, _ = surface_voxels(Mesh(triangle, np.array([[0, 1, 2]]), "triangle"), resolution)
    weights = np.random.default_rng(seed).dirichlet(np.ones(3), size=200)
    points = (weights @ triangle + 1) * resolution / 2
    x, y, z = np.floor(points).astype(int).T
    assert np.isin((x * resolution + y) * resolution + z, keys).all()

    middle = np.stack(np.unravel_index(keys, (resolution,) * 3), axis=1) + 0.5
    corners_in_voxels = np.repeat((triangle[None] + 1) * resolution / 2, len(middle), axis=0)
    nearest = trimesh.triangles.closest_point(corners_in_voxels, middle)
    assert np.linalg.norm(nearest - middle, axis=1).max() <= 0.25 + math.sqrt(3) / 2 + 1e-6


def test_mesh_of_given_tokens_uses_a_resolution_where_they_first_suffice() -> None:
    tokens = mesh("chair", tokens=3000)
    natural = mesh("chair", resolution=tokens.resolution)
    assert len(mesh("chair", resolution=tokens.resolution - 1).coords) < 3000 <= len(natural.coords)
    keys, distances = surface_voxels(load_mesh("chair"), tokens.resolution)
    taken = np.isin(keys, linear(tokens))
    assert distances[taken].max() <= distances[~taken].min()


def test_voxels_do_not_depend_on_the_order_of_faces() -> None:
    deer = load_mesh("deer")
    shuffled = Mesh(deer.vertices, np.random.default_rng(0).permutation(deer.faces), "deer")
    for one, other in zip(surface_voxels(deer, 40), surface_voxels(shuffled, 40), strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("torus", 10, None), "workload must be gyroid, sphere, mesh:bear.*got 'torus'"),
        (("mesh:", 10, None), "workload must be gyroid"),
        (("gyroid", None, 32), "workload gyroid needs tokens"),
        (("sphere", None, None), "workload sphere needs tokens"),
        (("sphere", 0, None), "tokens must be between 1 and"),
        (("gyroid", 10, 0), "resolution must be between 1 and 2048, got 0"),
        (("sphere", 10, 2049), "resolution must be between 1 and 2048, got 2049"),
        (("mesh:bear", None, 2049), "resolution must be between 1 and 2048, got 2049"),
        (("mesh:bear", 0, None), "tokens must be between 1 and"),
        (("mesh:bear", None, None), "exactly one of tokens and resolution"),
        (("mesh:bear", 10, 10), "exactly one of tokens and resolution"),
        (("gyroid", 4096, 16), "tokens must be at most .* at resolution 16, got 4096"),
        (("sphere", 9, 2), "tokens must be at most 8 at resolution 2, got 9"),
    ],
)
def test_impossible_workloads_are_refused(arguments: tuple[str, int | None, int | None], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_tokens(*arguments)


def test_mesh_without_enough_voxels_is_refused(cube: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.workloads.MAX_RESOLUTION", 16)
    with pytest.raises(ValueError, match=r"tokens must be at most \d+ for mesh cube, got 4000"):
        mesh(cube, tokens=4000)


def test_unusable_mesh_is_a_mesh_error() -> None:
    with pytest.raises(MeshError, match="neither a file nor one of"):
        make_tokens("mesh:dragon", 100)
