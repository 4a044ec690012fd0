"""Decimation leaves fewer triangles, the same topology, and nearly the same surface."""

from __future__ import annotations

import numpy as np
import pytest
import shapes
import torch
import trimesh

from models.data.decimate import decimate, vertex_normals
from models.data.isosurface import Surface, isosurface
from models.data.sdf import SparseSDF, sparse_sdf
from models.data.solids import random_solid


def tensors(mesh: shapes.Mesh) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(np.array(mesh[0])), torch.from_numpy(np.array(mesh[1]))


def as_trimesh(surface: Surface) -> trimesh.Trimesh:
    return trimesh.Trimesh(surface.vertices.numpy(), surface.faces.numpy(), process=False)


def solid(seed: int) -> shapes.Mesh:
    drawn = random_solid(seed)
    # Thin parts grow by a step, for which there is no room in a grid of 64 around the whole cube.
    return 0.9 * drawn.vertices, drawn.faces


@pytest.mark.parametrize("share", [0.3, 0.05])
@pytest.mark.parametrize(
    "mesh",
    [shapes.torus(), shapes.moved(shapes.box(1, 0.7, 0.5), shapes.rotation(1)), solid(6), solid(31)],
    ids=["torus", "box", "pipe with flanges", "cage of rods"],
)
def test_closed_surfaces_stay_closed_with_the_same_topology(mesh: shapes.Mesh, share: float) -> None:
    whole = isosurface(sparse_sdf(*mesh, 64))
    target = int(share * len(whole.faces))
    less = decimate(whole.vertices, whole.faces, target)
    before, after = as_trimesh(whole), as_trimesh(less)
    assert before.is_watertight
    assert after.is_watertight
    assert after.is_winding_consistent
    assert target - 2 <= len(less.faces) <= target
    assert (after.euler_number, after.body_count) == (before.euler_number, before.body_count)
    assert after.volume == pytest.approx(before.volume, rel=0.2)


def test_where_nothing_bends_nothing_is_lost() -> None:
    fine = trimesh.creation.box((1, 0.8, 0.6)).subdivide().subdivide().subdivide()
    less = decimate(*tensors((np.asarray(fine.vertices), np.asarray(fine.faces))), 12)
    assert len(less.faces) == 12
    assert as_trimesh(less).volume == pytest.approx(0.48, rel=1e-6)
    np.testing.assert_allclose(less.vertices.abs().numpy(), np.broadcast_to([0.5, 0.4, 0.3], (8, 3)), atol=1e-6)


def test_the_surface_moves_little() -> None:
    whole = isosurface(sparse_sdf(*shapes.sphere(0.7, 5), 64))
    less = decimate(whole.vertices, whole.faces, len(whole.faces) // 10)
    middle = less.vertices[less.faces].mean(1)
    np.testing.assert_allclose(torch.cat([less.vertices, middle]).norm(dim=1), 0.7, atol=0.01)


def test_an_open_surface_keeps_its_border() -> None:
    less = decimate(*tensors(shapes.square(1.0, cells=16)), 20)
    assert 2 <= len(less.faces) <= 20
    mesh = as_trimesh(less)
    assert mesh.euler_number == 1
    assert mesh.area == pytest.approx(1, rel=1e-6)


def test_the_last_faces_stay_where_topology_needs_them() -> None:
    less = decimate(*tensors(shapes.torus()), 4)
    mesh = as_trimesh(less)
    assert len(less.faces) > 4
    assert mesh.is_watertight
    assert mesh.euler_number == 0


def test_noise_which_has_every_kind_of_cell_stays_closed() -> None:
    values = torch.ones(9, 9, 9)
    values[1:-1, 1:-1, 1:-1] = torch.randn(7, 7, 7, generator=torch.Generator().manual_seed(0))
    coords = torch.cartesian_prod(*[torch.arange(9)] * 3).int()
    whole = isosurface(SparseSDF(coords, values.reshape(-1), 16, 1.0))
    less = decimate(whole.vertices, whole.faces, len(whole.faces) // 2)
    assert as_trimesh(less).is_watertight
    assert as_trimesh(less).euler_number == as_trimesh(whole).euler_number


def test_a_surface_that_is_small_enough_comes_back_as_it_is() -> None:
    vertices, faces = tensors(shapes.torus())
    same = decimate(vertices, faces, len(faces))
    assert torch.equal(same.vertices, vertices.float())
    assert torch.equal(same.faces, faces)


def test_nothing_comes_from_nothing() -> None:
    surface = decimate(torch.empty(0, 3), torch.empty(0, 3, dtype=torch.int64), 100)
    assert surface.vertices.shape == surface.faces.shape == surface.normals.shape == (0, 3)


def test_dtypes_and_normals() -> None:
    whole = isosurface(sparse_sdf(*shapes.sphere(0.7, 4), 64))
    less = decimate(whole.vertices, whole.faces, 1000)
    assert less.vertices.dtype == less.normals.dtype == torch.float32
    assert less.faces.dtype == torch.int64
    torch.testing.assert_close(less.normals.norm(dim=1), torch.ones(len(less.normals)))
    outward = torch.nn.functional.normalize(less.vertices, dim=1)
    assert float((less.normals * outward).sum(1).min()) > 0.98


def test_normals_are_weighted_by_area() -> None:
    corners = torch.tensor([[0.0, 0, 0], [2, 0, 0], [0, 2, 0], [0, 0, 1]])
    normals = vertex_normals(corners, torch.tensor([[0, 1, 2], [0, 2, 3]]))
    expected = torch.tensor([1.0, 0, 2]) / 5**0.5  # areas of 1 towards x and 2 towards z
    torch.testing.assert_close(normals[0], expected)
    torch.testing.assert_close(normals[1], torch.tensor([0.0, 0, 1]))


BOX = tensors(shapes.box(1, 1, 1))
NOT_FINITE = (BOX[0] * float("nan"), BOX[1])
TWICE = (BOX[0], torch.cat([BOX[1], BOX[1][:1]]))
FLIPPED = (BOX[0], torch.cat([BOX[1][1:], BOX[1][:1].flip(1)]))
# Two tetrahedra that share a corner.
BOW_TIE = (
    torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [-1, 0, 0], [0, -1, 0], [0, 0, -1]]),
    torch.tensor([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3], [0, 4, 5], [0, 6, 4], [0, 5, 6], [4, 6, 5]]),
)


@pytest.mark.parametrize(
    ("mesh", "target", "message"),
    [
        (BOX, 3, "target_faces must be at least 4, got 3"),
        ((BOX[0][:, :2], BOX[1]), 8, r"vertices must have shape \[V, 3\], got \[8, 2\]"),
        ((BOX[0], BOX[1][:, :2]), 8, r"faces must have shape \[F, 3\], got \[12, 2\]"),
        ((BOX[0], BOX[1] + 1), 8, "faces must name vertices from 0 to 7, got 1 to 8"),
        (NOT_FINITE, 8, "vertices must be finite"),
        (TWICE, 8, "faces must be an oriented manifold"),
        (FLIPPED, 8, "faces must be an oriented manifold"),
        ((BOX[0], BOX[1][:, [0, 0, 1]]), 8, "faces must be an oriented manifold"),
        (BOW_TIE, 6, "faces must be a manifold: around some vertex"),
    ],
)
def test_what_is_no_manifold_is_refused(mesh: tuple[torch.Tensor, torch.Tensor], target: int, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        decimate(*mesh, target)


def test_without_the_library_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "igl", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'ssabench\[decimate\]'"):
        decimate(*BOX, 8)


@pytest.mark.gpu
def test_a_surface_on_the_gpu_stays_there() -> None:
    whole = isosurface(sparse_sdf(*shapes.torus(), 64, device="cuda"))
    less = decimate(whole.vertices, whole.faces, 1000)
    on_cpu = decimate(whole.vertices.cpu(), whole.faces.cpu(), 1000)
    assert less.vertices.is_cuda
    assert less.faces.is_cuda
    assert torch.equal(less.faces.cpu(), on_cpu.faces)
    torch.testing.assert_close(less.normals.cpu(), on_cpu.normals)
