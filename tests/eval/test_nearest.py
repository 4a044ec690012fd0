"""Nearest points and triangles are those of a search through all pairs, on the CPU and in the GPU's kernel."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import surfaces
import torch
from scipy.spatial.distance import cdist
from torch import Tensor

from eval.box_tree import BoxTree
from eval.nearest import Nearest, nearest_on_surface, nearest_point
from eval.surface import Surface
from models.data.distance import triangle_distance

Search = Callable[[Tensor, Tensor], Nearest]


def kernel_point(queries: Tensor, points: Tensor) -> Nearest:
    from eval.tree_kernel import search

    return Nearest(*search(BoxTree.of_points(points, leaf=4), queries))


def kernel_surface(queries: Tensor, surface: Surface) -> Nearest:
    from eval.tree_kernel import search

    return Nearest(*search(BoxTree.of_triangles(surface.corners, leaf=4), queries))


def cloud(count: int, spread: float = 1.0) -> Tensor:
    return spread * torch.randn(count, 3, dtype=torch.float64)


CLOUDS = {
    "one cloud in another": lambda: (cloud(90), cloud(130)),
    "far away": lambda: (cloud(70) + 50, cloud(100)),
    "a single point": lambda: (cloud(10), cloud(1)),
    "a single query": lambda: (cloud(1), cloud(100)),
    "on a line": lambda: (cloud(40), cloud(100) * torch.tensor([1.0, 0, 0])),
    "all the same point": lambda: (cloud(20), cloud(1).repeat(33, 1)),
    "of all scales": lambda: (cloud(50, 1e-3), torch.cat([cloud(40, 10.0**-k) for k in range(4)])),
    "on a lattice": lambda: (cloud(60).mul(2).round(), cloud(200).mul(2).round()),
    "twins": lambda: (lambda x: (x, x.flip(0)))(cloud(65)),
}


@pytest.mark.parametrize("search", [nearest_point, kernel_point])
@pytest.mark.parametrize("case", CLOUDS)
def test_nearest_points_are_those_of_all_pairs(case: str, search: Search) -> None:
    queries, points = CLOUDS[case]()
    found = search(queries, points)
    pairs = torch.from_numpy(cdist(queries, points))
    torch.testing.assert_close(found.distance, pairs.amin(1), rtol=1e-14, atol=1e-15)
    torch.testing.assert_close(pairs.gather(1, found.index[:, None])[:, 0], pairs.amin(1), rtol=1e-14, atol=1e-15)


def all_pairs(queries: Tensor, surface: Surface) -> Tensor:
    query, triangle = torch.cartesian_prod(torch.arange(len(queries)), torch.arange(len(surface.faces))).unbind(1)
    distance = triangle_distance(queries.T.contiguous(), surface.corners, query.contiguous(), triangle.contiguous())
    return distance.view(len(queries), -1)


@pytest.mark.parametrize("search", [nearest_on_surface, kernel_surface])
@pytest.mark.parametrize("make", [surfaces.soup, surfaces.triangle, lambda: surfaces.sphere(subdivisions=1)])
@pytest.mark.parametrize("spread", [0.3, 3.0])
def test_nearest_triangles_are_those_of_all_pairs(
    make: Callable[[], Surface], spread: float, search: Callable[[Tensor, Surface], Nearest]
) -> None:
    surface, queries = make(), cloud(70, spread)
    found = search(queries, surface)
    pairs = all_pairs(queries, surface)
    torch.testing.assert_close(found.distance, pairs.amin(1), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(pairs.gather(1, found.index[:, None])[:, 0], pairs.amin(1), rtol=1e-9, atol=1e-12)


def test_distances_to_a_box_have_a_closed_form() -> None:
    queries = cloud(20_000)  # several shares of the threads
    beyond = queries.abs() - torch.tensor([0.5, 1, 1.5])
    expected = (beyond.clamp(min=0).norm(dim=1) + beyond.amax(1).clamp(max=0)).abs()
    torch.testing.assert_close(nearest_on_surface(queries, surfaces.box(1, 2, 3)).distance, expected)


def test_single_precision_is_taken_as_it_is() -> None:
    queries, points = cloud(20).float(), cloud(30).float()
    found = nearest_point(queries, points)
    assert found.distance.dtype == torch.float64
    torch.testing.assert_close(found.distance, torch.from_numpy(cdist(queries, points)).amin(1), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("queries", "points", "message"),
    [
        (torch.zeros(0, 3), torch.zeros(1, 3), "^queries must have at least one point"),
        (torch.zeros(1, 3), torch.zeros(0, 3), "^points must have at least one point"),
        (torch.zeros(1, 3) / 0, torch.zeros(1, 3), "^queries must be finite"),
        (torch.zeros(1, 3), torch.full((1, 3), torch.nan), "^points must be finite"),
    ],
)
def test_what_cannot_be_searched_is_refused(queries: Tensor, points: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nearest_point(queries, points)


@pytest.mark.gpu
def test_different_devices_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^queries and points must be on one device, got cpu and cuda:0$"):
        nearest_point(cloud(3), cloud(3).cuda())
    with pytest.raises(ValueError, match=r"^queries and triangle must be on one device, got cuda:0 and cpu$"):
        nearest_on_surface(cloud(3).cuda(), surfaces.triangle())


@pytest.mark.gpu
def test_cuda_agrees_with_the_cpu_on_points() -> None:
    queries, points = cloud(200_000), cloud(300_000)
    found = nearest_point(queries.cuda(), points.cuda())
    torch.testing.assert_close(found.distance.cpu(), nearest_point(queries, points).distance, rtol=1e-13, atol=1e-15)


@pytest.mark.gpu
@pytest.mark.parametrize("make", [surfaces.soup, lambda: surfaces.sphere(subdivisions=6)])
def test_cuda_agrees_with_the_cpu_on_surfaces(make: Callable[[], Surface]) -> None:
    surface, queries = make(), cloud(100_000)
    on_gpu = Surface(surface.vertices.cuda(), surface.faces.cuda())
    found = nearest_on_surface(queries.cuda(), on_gpu)
    expected = nearest_on_surface(queries, surface)
    torch.testing.assert_close(found.distance.cpu(), expected.distance, rtol=1e-9, atol=1e-12)
