"""Every box holds what is beneath it, and every item is in one leaf."""

from __future__ import annotations

import pytest
import surfaces
import torch

from eval.box_tree import BoxTree


@pytest.mark.parametrize("leaf", [1, 4, 32])
@pytest.mark.parametrize("count", [1, 2, 5, 64, 300])
def test_boxes_hold_their_items(count: int, leaf: int) -> None:
    points = torch.randn(count, 3, dtype=torch.float64)
    tree = BoxTree.of_points(points, leaf)
    leaves = len(tree.low) // 2
    assert leaves & (leaves - 1) == 0
    assert leaves / 2 < max(1, count / leaf) <= leaves
    assert torch.equal(tree.order.sort().values, torch.arange(count))
    torch.testing.assert_close(tree.items[:, 0], points[tree.order])
    node = leaves + torch.arange(count) // leaf
    while int(node[0]) >= 1:
        assert bool((tree.low[node] <= tree.items[:, 0]).all())
        assert bool((tree.items[:, 0] <= tree.high[node]).all())
        node = node // 2


def test_the_root_is_no_larger_than_its_items() -> None:
    soup = surfaces.soup()
    tree = BoxTree.of_triangles(soup.corners)
    torch.testing.assert_close(torch.stack([tree.low[1], tree.high[1]]), torch.stack(soup.bounds))


def test_a_query_is_placed_beside_items_at_the_same_place() -> None:
    """Also where nearly all items are small, whose codes come after those of large ones."""
    centres = torch.rand(500, 3, dtype=torch.float64)
    corners = centres[:, None] + 1e-3 * torch.randn(500, 3, 3, dtype=torch.float64)
    corners[0] = torch.eye(3)
    tree = BoxTree.of_triangles(corners)
    found = torch.searchsorted(tree.codes, tree.along_curve(corners[1:].mean(1))).clamp(max=499)
    assert float((tree.items.mean(1)[found] - corners[1:].mean(1)).norm(dim=1).median()) < 0.1


def test_nodes_without_items_are_empty() -> None:
    tree = BoxTree.of_points(torch.rand(5, 3, dtype=torch.float64), leaf=1)
    assert tree.low[-1].tolist() == [torch.inf] * 3
    assert tree.high[-1].tolist() == [-torch.inf] * 3


def test_neighbours_on_the_curve_are_neighbours_in_space() -> None:
    points = torch.rand(4096, 3, dtype=torch.float64)
    sorted_points = BoxTree.of_points(points).items[:, 0]
    along, anyhow = ((x[1:] - x[:-1]).norm(dim=1).mean() for x in (sorted_points, points))
    assert float(along) < 0.2 * float(anyhow)
