"""Random solids are closed, varied, say what they are, and are the same for a seed everywhere."""

from __future__ import annotations

import hashlib
import math
import os
import re
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
import trimesh
from manifold3d import Error, Manifold, Mesh64

from models.data.solids import Solid, parts, random_solid
from models.data.solids.draw import Draw
from models.data.solids.generator import FACES, KINDS, Kind

SEEDS = range(60)
SIDE = 1.9


@cache
def drawn(seed: int) -> Solid:
    return random_solid(seed)


@cache
def mesh_of(seed: int) -> trimesh.Trimesh:
    return trimesh.Trimesh(drawn(seed).vertices, drawn(seed).faces, process=False)


def digest(solid: Solid) -> str:
    content = hashlib.sha256(solid.vertices.tobytes() + solid.faces.tobytes() + solid.description.encode())
    return content.hexdigest()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_solid_is_closed_and_fills_the_cube(seed: int) -> None:
    solid, mesh = drawn(seed), mesh_of(seed)
    assert solid.vertices.dtype == np.float64
    assert solid.faces.dtype == np.int64
    assert FACES[0] <= len(solid.faces) <= FACES[1]
    assert mesh.is_watertight
    assert mesh.is_winding_consistent
    assert len(np.unique(solid.faces)) == len(solid.vertices)
    low, high = solid.vertices.min(0), solid.vertices.max(0)
    np.testing.assert_allclose(low + high, 0, atol=1e-9)
    assert (high - low).max() == pytest.approx(SIDE)


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_is_degenerate(seed: int) -> None:
    mesh = mesh_of(seed)
    assert mesh.volume > 1e-3 * np.prod(mesh.extents)
    assert mesh.extents.min() > SIDE / 256
    # Set operations leave needles; they must be rare and without weight.
    assert (mesh.area_faces > 0).mean() > 0.99
    assert np.linalg.norm(mesh.triangles[:, 0] - mesh.triangles[:, 1], axis=1).min() > 0


@pytest.mark.parametrize("seed", SEEDS)
def test_it_is_connected_or_says_so_and_has_no_cavities(seed: int) -> None:
    pieces = mesh_of(seed).split(only_watertight=False)
    said = re.search(r", in (\d+) pieces$", drawn(seed).description)
    assert len(pieces) == (int(said[1]) if said else 1)
    assert all(piece.volume > 0 for piece in pieces)


def test_solids_of_different_seeds_differ() -> None:
    assert len({digest(drawn(seed)) for seed in SEEDS}) == len(SEEDS)
    assert len({drawn(seed).description for seed in SEEDS}) > 0.9 * len(SEEDS)


def test_a_seed_gives_the_same_solid_in_another_process_with_one_core() -> None:
    seeds = [0, 1, 8, 18, 31, 44]
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "import hashlib\n"
        "from models.data.solids import random_solid\n"
        f"for solid in map(random_solid, {seeds}):\n"
        "    content = solid.vertices.tobytes() + solid.faces.tobytes() + solid.description.encode()\n"
        "    print(hashlib.sha256(content).hexdigest())\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert ran.stdout.split() == [digest(drawn(seed)) for seed in seeds]


def test_a_solid_does_not_depend_on_those_before() -> None:
    assert digest(random_solid(7)) == digest(drawn(7))


@pytest.mark.parametrize(
    "feature",
    [
        "box",
        "cylinder",
        "cone",
        "sphere",
        "torus",
        "prism",
        "extruded polygon",
        "revolved profile",
        "tube",
        "plus|with",
        "minus",
        "intersected",
        "bevel",
        "rounded|round corners",
        "row",
        "ring",
        "mirrored",
        "thin",
        "rod",
        "fin|blade|slat",
        "shell",
        "plate",
        "twisted",
        "stretched",
        "tilted",
        "pieces",
    ],
)
def test_every_feature_occurs(feature: str) -> None:
    assert sum(bool(re.search(feature, drawn(seed).description)) for seed in SEEDS) >= 2


def test_shapes_vary_in_every_statistic() -> None:
    meshes = [mesh_of(seed) for seed in SEEDS]
    fill = np.array([mesh.volume / np.prod(mesh.extents) for mesh in meshes])
    flat = np.array([mesh.extents.min() / SIDE for mesh in meshes])
    genus = np.array([mesh.body_count - mesh.euler_number / 2 for mesh in meshes])
    assert fill.min() < 0.05
    assert fill.max() > 0.5
    assert flat.min() < 0.2
    assert flat.max() > 0.8
    assert np.mean(genus == 0) > 0.1
    assert np.mean(genus > 3) > 0.1


def least_thickness(solid: Solid) -> float:
    """Along the normals of its largest triangles, from side to side."""
    shape = Manifold(Mesh64(solid.vertices, solid.faces.astype(np.uint64)))
    mesh = trimesh.Trimesh(solid.vertices, solid.faces, process=False)
    least = math.inf
    for face in np.argsort(mesh.area_faces)[-200:]:
        inward = -mesh.face_normals[face]
        start = mesh.triangles_center[face] + 1e-6 * inward
        hits = shape.ray_cast(start, start + 4 * inward)
        least = min(least, *(float(np.linalg.norm(np.array(hit.position) - start)) for hit in hits), math.inf)
    return least


def test_thin_parts_are_thin_down_to_about_a_256th_of_the_size() -> None:
    thin = [
        least_thickness(drawn(seed))
        for seed in SEEDS
        if re.search("thin (fins|ribs|back|slats|boards)", drawn(seed).description)
    ]
    assert len(thin) >= 3
    # Thickness was drawn before the solid was fitted and stretched.
    assert max(thin) < SIDE / 20
    assert min(thin) < SIDE / 80


@pytest.mark.parametrize("kind", [kind for _, kinds in KINDS for kind in kinds], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("seed", [1, 2])
def test_every_kind_makes_a_solid(kind: Kind, seed: int) -> None:
    part = kind(Draw(seed))
    assert part.shape.status() == Error.NoError
    assert part.shape.volume() > 1e-3
    low, high = np.split(np.array(part.shape.bounding_box()), 2)
    assert 0.5 < (high - low).max() < 5
    assert part.text == part.text.strip()
    assert "  " not in part.text


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^seed must not be negative, got -1$"):
        random_solid(-1)


class TestParts:
    def test_a_bevelled_box_lacks_a_prism_at_each_edge(self) -> None:
        bevel = 0.1
        shape = parts.bevelled_box((1, 1, 1), bevel)
        # Prisms between the corners; at each corner all of a small cube but a pyramid.
        assert shape.volume() == pytest.approx(1 - 12 * bevel**2 / 2 * (1 - 2 * bevel) - 8 * bevel**3 * 5 / 6, rel=1e-9)

    def test_a_rounded_box_nearly_has_the_volume_of_its_formula(self) -> None:
        r, inner = 0.2, 0.6
        expected = inner**3 + 6 * inner**2 * r + 3 * math.pi * inner * r**2 + 4 / 3 * math.pi * r**3
        assert parts.rounded_box((1, 1, 1), r, 64).volume() == pytest.approx(expected, rel=0.01)

    def test_a_torus_has_a_handle_and_pappus_volume(self) -> None:
        shape = parts.torus(0.6, 0.2, 128)
        assert shape.genus() == 1
        assert shape.volume() == pytest.approx(2 * math.pi**2 * 0.6 * 0.2**2, rel=0.01)

    def test_a_shell_holds_its_wall_and_floor(self) -> None:
        shell = parts.turned_shell([0.5, 0.5], 1, 0.1, 0.1, 96)
        assert shell.volume() == pytest.approx(math.pi * (0.25 * 1 - 0.16 * 0.9), rel=0.05)
        assert shell.genus() == 0

    def test_a_tube_follows_its_path(self) -> None:
        path = parts.helix(0.5, 1, 2)
        shape = parts.tube(path, 0.05, 16)
        np.testing.assert_allclose(shape.bounding_box(), [-0.55, -0.55, -0.05, 0.55, 0.55, 1.05], atol=0.01)
        assert shape.genus() == 0

    @pytest.mark.parametrize(("count", "copies"), [(1, 1), (4, 4)])
    def test_arrays_have_as_many_copies_as_asked(self, count: int, copies: int) -> None:
        one = parts.box((0.1, 0.1, 0.1)).translate((1, 0, 0))
        assert len(parts.ring(one, count).decompose()) == copies
        assert len(parts.row(one, count, (0, 0, 0.5)).decompose()) == copies
        assert len(parts.grid(one, (count, 2), (0.3, 0.3)).decompose()) == 2 * copies
        assert len(parts.mirrored(one, (1, 0, 0)).decompose()) == 2

    @pytest.mark.parametrize("seed", range(12))
    def test_slabs_have_exactly_the_size_asked_for(self, seed: int) -> None:
        size = np.array([1.2, 0.8, 0.3])
        part = parts.slab(Draw(seed), tuple(size))
        np.testing.assert_allclose(part.shape.bounding_box(), [*-size / 2, *size / 2], atol=1e-6)

    @pytest.mark.parametrize("seed", range(12))
    def test_posts_stand_on_the_ground_within_their_radius(self, seed: int) -> None:
        low_x, low_y, low_z, high_x, high_y, high_z = parts.post(Draw(seed), 0.2, 1.0).shape.bounding_box()
        assert (low_z, high_z) == pytest.approx((0, 1))
        assert max(-low_x, -low_y, high_x, high_y) <= 0.2 * 1.1

    @pytest.mark.parametrize(
        ("text", "count", "expected"),
        [
            ("box with a bevel", 4, "4 boxes with a bevel"),
            ("turned rod", 3, "3 turned rods"),
            ("torus", 1, "a torus"),
            ("octahedron", 1, "an octahedron"),
        ],
    )
    def test_captions_count_in_english(self, text: str, count: int, expected: str) -> None:
        assert parts.plural(text, count) == expected
