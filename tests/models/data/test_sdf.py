"""A field holds exactly the grid points near the surface, each with its distance and side, whatever the triangles."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import shapes
import torch
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from models.data.isosurface import isosurface
from models.data.sdf import PAPER_TAU, SparseSDF, sparse_sdf, truncation
from models.data.solids import random_solid

R = 32
STEP = 2 / R
SCALE_ERROR = 1e-6


def field_of(mesh: shapes.Mesh, resolution: int = R, **options: float) -> SparseSDF:
    return sparse_sdf(*mesh, resolution, **options)


def assert_equal(field: SparseSDF, expected: np.ndarray) -> None:
    """Against signed distances on the whole grid: the same points, the same values."""
    near = np.abs(expected) < field.tau - 1e-9
    may_be = np.abs(expected) < field.tau + 1e-9  # of points at tau to rounding either is right
    values = shapes.values_at(field)
    held = ~np.isnan(values)
    assert not (near & ~held).any()
    assert not (held & ~may_be).any()
    np.testing.assert_allclose(values[held], expected[held], atol=SCALE_ERROR)


def assert_same(a: SparseSDF, b: SparseSDF) -> None:
    assert torch.equal(a.coords, b.coords)
    torch.testing.assert_close(a.values, b.values, atol=SCALE_ERROR, rtol=0)


@pytest.mark.parametrize("mesh", [shapes.sphere(), shapes.torus()], ids=["sphere", "torus"])
def test_values_are_distances_to_the_triangles_with_the_side_of_the_point(mesh: shapes.Mesh) -> None:
    points = shapes.grid_points(R)
    signed = shapes.distance(points, mesh)
    near = np.isfinite(signed)
    signed[near] *= np.where(shapes.winding_number(points[near], mesh) > 0.5, -1, 1)
    assert_equal(field_of(mesh), signed)


@pytest.mark.parametrize("resolution", [16, 33, 64])
@pytest.mark.parametrize("seed", range(3))
def test_values_of_a_rotated_box_have_a_closed_form(seed: int, resolution: int) -> None:
    turn, extents = shapes.rotation(seed), (1.0, 0.6, 0.8)
    mesh = shapes.moved(shapes.box(*extents), turn, (0.03, -0.02, 0.05))
    points = (shapes.grid_points(resolution) - (0.03, -0.02, 0.05)) @ turn
    assert_equal(field_of(mesh, resolution), shapes.box_distance(points, *extents))


@pytest.mark.parametrize("seed", range(2))
def test_triangles_much_smaller_than_a_step_change_nothing(seed: int) -> None:
    turn, extents = shapes.rotation(seed), (0.9, 0.7, 0.6)
    mesh = trimesh.creation.box(extents).subdivide().subdivide().subdivide().subdivide()
    fine = shapes.moved((np.asarray(mesh.vertices), np.asarray(mesh.faces)), turn)
    assert_equal(field_of(fine, 20), shapes.box_distance(shapes.grid_points(20) @ turn, *extents))


@pytest.mark.parametrize(
    "mesh",
    [shapes.box(1, 1, 1), shapes.box(1, 0.5, 0.25), shapes.box(1, 1, 1, at=(STEP, 2 * STEP, -STEP))],
    ids=["cube", "slab", "moved"],
)
def test_a_box_with_faces_edges_and_corners_on_grid_points(mesh: shapes.Mesh) -> None:
    low, high = mesh[0].min(0), mesh[0].max(0)
    points = shapes.grid_points(R) - (low + high) / 2
    assert_equal(field_of(mesh), shapes.box_distance(points, *(high - low)))


def test_an_octahedron_with_corners_on_grid_points_and_slanted_faces_through_them() -> None:
    corners = 0.5 * np.concatenate([np.eye(3), -np.eye(3)])
    faces = np.array([[x, y, z] for x in (0, 3) for y in (1, 4) for z in (2, 5)])  # orientation is mixed
    points = shapes.grid_points(R)
    distance = shapes.distance(points, (corners, faces))
    assert_equal(field_of((corners, faces)), np.where(np.abs(points).sum(1) <= 0.5, -distance, distance))


def test_points_are_sorted_and_held_once() -> None:
    coords = field_of(shapes.torus()).coords.long()
    keys = (coords[:, 0] * R + coords[:, 1]) * R + coords[:, 2]
    assert bool((keys.diff() > 0).all())
    assert 0 <= int(coords.min()) <= int(coords.max()) < R


def test_dtypes_and_positions() -> None:
    field = field_of(shapes.sphere())
    assert field.coords.dtype == torch.int32
    assert field.values.dtype == field.positions.dtype == torch.float32
    torch.testing.assert_close(field.positions.norm(dim=1) - 0.7, field.values, atol=0.03, rtol=0)


@pytest.mark.parametrize("resolution", [64, 256, 1024])
def test_tau_is_the_papers_or_two_steps(resolution: int) -> None:
    assert truncation(resolution) == max(PAPER_TAU, 4 / resolution)


@pytest.mark.parametrize("steps", [1.0, 3.5, 16.0])
def test_a_wider_band_continues_the_narrow_one(steps: float) -> None:
    mesh = shapes.moved(shapes.box(1, 0.6, 0.8), shapes.rotation(7))
    points = shapes.grid_points(R) @ shapes.rotation(7)
    assert_equal(field_of(mesh, tau=steps * STEP), shapes.box_distance(points, 1, 0.6, 0.8))


@pytest.mark.parametrize("mesh", [shapes.sphere(), shapes.box(1, 1, 1)], ids=["sphere", "box"])
def test_orientation_and_repetition_and_triangles_without_area_do_not_matter(mesh: shapes.Mesh) -> None:
    vertices, faces = mesh
    plain = field_of(mesh)
    flip = np.random.default_rng(0).random(len(faces)) < 0.5
    mixed = np.where(flip[:, None], faces[:, ::-1], faces)
    twice = np.concatenate([faces, faces[::3, ::-1], faces[::2]])
    flat = np.concatenate([faces, faces[:, [0, 0, 1]], faces[:, [2, 2, 2]]])
    for variant in (faces[:, ::-1], mixed, twice, flat, np.random.default_rng(1).permutation(faces)):
        assert_same(field_of((vertices, np.ascontiguousarray(variant))), plain)


TURNS = pytest.mark.parametrize("turn", [None, shapes.rotation(3)], ids=["on grid points", "rotated"])


@TURNS
def test_walls_and_cavities_inside_vanish(turn: np.ndarray | None) -> None:
    hull, wall, cavity = shapes.box(1, 1, 1), shapes.square(0.5, cells=4), shapes.sphere(0.2, 1)
    plain = field_of(shapes.moved(hull, turn))
    assert_same(field_of(shapes.moved(shapes.joined(hull, wall, cavity), turn)), plain)


def test_a_wall_that_meets_the_hull_on_grid_points_vanishes() -> None:
    hull, wall = shapes.box(1, 1, 1), shapes.square(1.0, cells=4)
    assert_same(field_of(shapes.joined(hull, wall)), field_of(hull))


@pytest.mark.parametrize("seed", range(3))
def test_a_wall_that_meets_the_hull_is_no_part_of_the_surface(seed: int) -> None:
    turn = shapes.rotation(seed)
    hull, wall = shapes.box(1, 1, 1), shapes.square(1.0, cells=4)
    plain, walled = (field_of(shapes.moved(mesh, turn)) for mesh in (hull, shapes.joined(hull, wall)))
    a, b = shapes.values_at(plain), shapes.values_at(walled)
    held = ~np.isnan(a)
    assert not np.isnan(b[held]).any()
    assert np.array_equal(a[held] > 0, b[held] > 0)
    np.testing.assert_allclose(b[a > 0], a[a > 0], atol=SCALE_ERROR)
    # Pieces of its rim may count for points inside that are nearer to them than to the hull.
    rim = np.abs((shapes.grid_points(R) @ turn)[:, 2]) < 2 * STEP
    np.testing.assert_allclose(b[held & ~rim], a[held & ~rim], atol=SCALE_ERROR)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("fin", [shapes.square(0.6), shapes.box(0.6, 0.6, 1.2 * STEP)], ids=["sheet", "plate"])
def test_a_fin_grows_out_of_a_solid_without_a_gap(fin: shapes.Mesh, seed: int) -> None:
    solid = shapes.box(0.4, 0.4, 0.4, at=(-0.3, 0, 0))
    mesh = shapes.moved(shapes.joined(solid, shapes.moved(fin, None, (0.2, 0, 0.01))), shapes.rotation(seed))
    surface = isosurface(field_of(mesh, 64))
    closed = trimesh.Trimesh(surface.vertices.numpy(), surface.faces.numpy(), process=False)
    assert closed.is_watertight
    assert (closed.body_count, closed.euler_number) == (1, 2)


@TURNS
def test_overlapping_boxes_are_one_solid(turn: np.ndarray | None) -> None:
    side, shift = 0.75, np.array([0.25, 0.25, 0.25])
    pair = shapes.joined(shapes.box(side, side, side), shapes.box(side, side, side, at=(0.25, 0.25, 0.25)))
    mesh = shapes.moved(shapes.moved(pair, None, (-0.125, -0.125, -0.125)), turn)
    points = 0.125 + shapes.grid_points(R) @ (np.eye(3) if turn is None else turn)
    union = np.minimum(*(shapes.box_distance(points - at, side, side, side) for at in (0 * shift, shift)))
    values = shapes.values_at(field_of(mesh))
    held = ~np.isnan(values)
    off = held & (np.abs(union) > 1e-6)
    assert np.array_equal(values[off] > 0, union[off] > 0)
    outside = (union > 1e-6) & (union < truncation(R) - 1e-9)
    np.testing.assert_allclose(values[outside], union[outside], atol=SCALE_ERROR)
    # Pieces of the walls remain where they come out, nothing of them far in.
    deep = union < -5 * STEP
    assert deep.any()
    assert not (held & deep).any()


@pytest.mark.parametrize(
    "mesh",
    [
        shapes.square(),
        shapes.square(at=(0.01, 0.013, 0.011)),
        shapes.square(at=(0, 0, STEP / 2)),
        shapes.square(cells=16),
        shapes.moved(shapes.square(), shapes.rotation(5)),
        shapes.moved(shapes.square(), np.eye(3)[[2, 0, 1]]),
        shapes.moved(shapes.square(), np.eye(3)[[1, 2, 0]]),
    ],
    ids=["in a grid plane", "parallel to one", "between two", "finely cut", "rotated", "normal to x", "normal to y"],
)
def test_an_open_sheet_becomes_a_shell_two_steps_thick(mesh: shapes.Mesh) -> None:
    assert_equal(field_of(mesh), shapes.distance(shapes.grid_points(R), mesh) - STEP)


def without(mesh: shapes.Mesh, centre: tuple[float, float], radius: float) -> shapes.Mesh:
    """Without the triangles over a disc of the xy plane, on the side where z is positive."""
    middle = mesh[0][mesh[1]].mean(1)
    gone = (np.linalg.norm(middle[:, :2] - centre, axis=1) < radius) & (middle[:, 2] > 0)
    return mesh[0], mesh[1][~gone]


def test_a_hole_smaller_than_a_step_lets_nothing_in() -> None:
    fine = shapes.sphere(0.7, 5)
    # The pole lies between grid lines, and so does the hole.
    fine = shapes.moved(fine, None, (STEP / 2, STEP / 2, 0))
    punctured = without(fine, (STEP / 2, STEP / 2), 0.4 * STEP)
    assert len(punctured[1]) < len(fine[1])
    whole, open_ = shapes.values_at(field_of(fine)), shapes.values_at(field_of(punctured))
    assert np.array_equal(whole < 0, open_ < 0)


def test_through_a_larger_hole_the_outside_comes_in() -> None:
    bowl = without(shapes.sphere(0.7, 3), (0, 0), 4 * STEP)
    points = shapes.grid_points(R)
    values = shapes.values_at(field_of(bowl))
    held = ~np.isnan(values)
    # What is left is a shell with an inside and an outside, two steps thick.
    np.testing.assert_allclose(values[held], shapes.distance(points[held], bowl) - STEP, atol=SCALE_ERROR)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("thickness", [0.2, 0.6, 1.0, 1.5, 1.9])
def test_a_thin_plate_stays_in_one_piece_without_holes(thickness: float, seed: int) -> None:
    plate = shapes.moved(shapes.box(1, 1, thickness * STEP), shapes.rotation(seed), (0.01, 0.02, 0.03))
    surface = isosurface(field_of(plate))
    mesh = trimesh.Trimesh(surface.vertices.numpy(), surface.faces.numpy(), process=False)
    assert mesh.is_watertight
    assert (mesh.body_count, mesh.euler_number) == (1, 2)


@pytest.mark.parametrize("height", [0.0, 0.5])
def test_a_thin_plate_along_the_grid_is_as_thick_as_a_sheet(height: float) -> None:
    plate = shapes.box(1, 1, 0.2 * STEP, at=(0, 0, height * STEP))
    points = shapes.grid_points(R) - (0, 0, height * STEP)
    shell = np.abs(shapes.box_distance(points, 1, 1, 0.2 * STEP) - STEP)
    values = shapes.values_at(field_of(plate))
    apart = ~np.isnan(values) & (values > -0.5 * STEP)
    np.testing.assert_allclose(np.abs(values[apart]), shell[apart], atol=SCALE_ERROR)
    assert (values < 0).sum() > 16 * 16


def test_without_signs_all_triangles_count() -> None:
    mesh = shapes.joined(shapes.box(1, 1, 1), shapes.square(0.8, at=(0.01, 0.02, 0.03)))
    assert_equal(field_of(mesh, signed=False), shapes.distance(shapes.grid_points(R), mesh))


@settings(max_examples=8, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), shift=st.tuples(*[st.floats(-0.2, 0.2)] * 3), size=st.floats(0.25, 0.9))
def test_any_rigid_motion_of_a_box(seed: int, shift: tuple[float, float, float], size: float) -> None:
    turn, extents = shapes.rotation(seed), (size, 0.7 * size + 0.1, 0.3)
    mesh = shapes.moved(shapes.box(*extents), turn, shift)
    assert_equal(field_of(mesh), shapes.box_distance((shapes.grid_points(R) - shift) @ turn, *extents))


@settings(max_examples=8, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_box_of_whole_steps(data: st.DataObject) -> None:
    low = np.array([data.draw(st.integers(3, 14)) for _ in range(3)])
    size = np.array([data.draw(st.integers(2, 14)) for _ in range(3)])
    extents, centre = size * STEP, (low + size / 2) * STEP - 1
    mesh = shapes.box(*extents, at=tuple(centre))
    assert_equal(field_of(mesh), shapes.box_distance(shapes.grid_points(R) - centre, *extents))


def solid(seed: int) -> shapes.Mesh:
    drawn = random_solid(seed)
    return drawn.vertices, drawn.faces


def at_common_points(coarse: SparseSDF, fine: SparseSDF) -> tuple[np.ndarray, np.ndarray]:
    """Both fields where the finer one, of twice the resolution, has a value at a point of the coarser one."""
    even = (fine.coords % 2 == 0).all(1)
    points = fine.coords[even] // 2
    dense = torch.from_numpy(shapes.values_at(coarse)).view(*[coarse.resolution] * 3)
    return dense[points.long().unbind(1)].numpy(), fine.values[even].double().numpy()


def wedge() -> shapes.Mesh:
    """A prism with an edge of 28 degrees."""
    outline = np.array([[-0.5, 0], [0.3, -0.2], [0.3, 0.2]])
    corners = np.concatenate([np.c_[outline, np.full(3, z)] for z in (-0.3, 0.3)])
    return corners, np.array([[0, 2, 1], [3, 4, 5], [0, 1, 4], [0, 4, 3], [1, 2, 5], [1, 5, 4], [2, 0, 3], [2, 3, 5]])


@pytest.mark.parametrize(
    "mesh",
    [shapes.moved(shapes.box(1, 0.7, 0.5), shapes.rotation(1)), shapes.sphere(), shapes.torus(), solid(13), solid(26)],
    ids=["box", "sphere", "torus", "plate with twisted bumps", "bolt"],
)
def test_where_nothing_is_thin_resolutions_agree(mesh: shapes.Mesh) -> None:
    fields = [field_of(mesh, resolution) for resolution in (64, 128, 256)]
    for pair in itertools.pairwise(fields):
        coarse, fine = at_common_points(*pair)
        assert len(fine) > 1000
        # NaN, a point that only the finer grid has, would fail too: the coarser band is the wider one.
        np.testing.assert_allclose(coarse, fine, atol=SCALE_ERROR)


@pytest.mark.parametrize("mesh", [wedge(), shapes.box(1, 1, 0.02)], ids=["acute edge", "thin plate"])
def test_thin_parts_and_acute_edges_grow_by_a_step_of_the_coarser_grid_at_most(mesh: shapes.Mesh) -> None:
    moved = shapes.moved(mesh, shapes.rotation(0), (0.01, 0.02, 0.03))
    fields = [field_of(moved, resolution) for resolution in (64, 128, 256)]
    for pair in itertools.pairwise(fields):
        coarse, fine = at_common_points(*pair)
        step = 2 / pair[0].resolution
        # Each lies above the truth by nothing, and below it by one of its own steps.
        outside = fine >= 0
        assert (fine - coarse).max() <= step + SCALE_ERROR
        assert (coarse - fine)[outside].max() <= step / 2 + SCALE_ERROR
        assert (coarse < fine - 0.1 * step)[outside].any()


TRIANGLE = np.array([[-0.5, -0.5, 0.0], [0.5, -0.5, 0.0], [0.0, 0.5, 0.1]])
FACE = np.array([[0, 1, 2]])


@pytest.mark.parametrize(
    ("vertices", "faces", "options", "message"),
    [
        (TRIANGLE, FACE, {"resolution": 8}, "resolution must be from 16 to 2048, got 8"),
        (TRIANGLE, FACE, {"resolution": 4096}, "resolution must be from 16 to 2048, got 4096"),
        (TRIANGLE, FACE, {"tau": 0.5 * STEP}, "tau must be from 1 to 16 grid steps"),
        (TRIANGLE, FACE, {"tau": 17 * STEP}, "tau must be from 1 to 16 grid steps"),
        (TRIANGLE, FACE, {"tau": math.nan}, "tau must be from 1 to 16 grid steps"),
        (TRIANGLE, FACE[:0], {}, "faces must not be empty"),
        (TRIANGLE, FACE + 1, {}, "faces must name vertices from 0 to 2, got 1 to 3"),
        (TRIANGLE, FACE - 1, {}, "faces must name vertices from 0 to 2, got -1 to 1"),
        (TRIANGLE[:, :2], FACE, {}, r"vertices must have shape \[V, 3\], got \[3, 2\]"),
        (TRIANGLE, FACE[:, :2], {}, r"faces must have shape \[F, 3\], got \[1, 2\]"),
        (TRIANGLE * np.nan, FACE, {}, "vertices must be finite"),
        (TRIANGLE * 3, FACE, {}, r"vertices must lie in \[-1, 1\], got 1.5"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(
    vertices: np.ndarray, faces: np.ndarray, options: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{message}") as refused:
        sparse_sdf(vertices, faces, **{"resolution": R, **options})
    assert "\n" not in str(refused.value)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "mesh",
    [
        shapes.torus(),
        shapes.moved(shapes.square(), shapes.rotation(5)),
        shapes.joined(shapes.box(0.75, 0.75, 0.75), shapes.box(0.75, 0.75, 0.75, at=(0.25, 0.25, 0.25))),
        shapes.joined(shapes.box(1, 1, 1), shapes.square(1.0, cells=4), shapes.sphere(0.25, 1)),
    ],
    ids=["torus", "sheet", "boxes", "furnished"],
)
@pytest.mark.parametrize("resolution", [64, 256])
def test_cuda_agrees_with_the_cpu(mesh: shapes.Mesh, resolution: int) -> None:
    on_cpu, on_gpu = (sparse_sdf(*mesh, resolution, device=device) for device in ("cpu", "cuda"))
    assert torch.equal(on_gpu.coords.cpu(), on_cpu.coords)
    torch.testing.assert_close(on_gpu.values.cpu(), on_cpu.values, atol=SCALE_ERROR, rtol=0)
