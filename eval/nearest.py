"""Nearest neighbours between points, and from points to surfaces: exact, in double precision, on CPU and GPU.

On a CPU points are searched by scipy's k-d tree and triangles by a tree of boxes compiled with numba, both on all
cores; on a GPU both by the Triton kernel of `eval.tree_kernel`. Of equally near ones any may be found.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from eval.box_tree import BoxTree, curve_order
from eval.surface import Surface, checked_points

# Queries of a thread's share: small, so that threads end together.
_SHARE = 2048
_threads = len(os.sched_getaffinity(0))


def use_threads(count: int) -> None:
    """How many threads searches on the CPU take in this process; else all cores that it may use."""
    global _threads
    _threads = count


@dataclass(frozen=True, eq=False)
class Nearest:
    """What each query is nearest to."""

    distance: Tensor  # fp64 [Q], Euclidean, in the unit of the coordinates
    index: Tensor  # int64 [Q]: of the point, or of the triangle


def nearest_point(queries: Tensor, points: Tensor) -> Nearest:
    """The nearest of the points for each query.

    Args:
        queries: floating [Q, 3]. points: floating [N, 3], on the same device.

    Raises:
        ValueError: no points, another shape or dtype, coordinates that are not finite, or different devices.
    """
    queries, points = checked_points("queries", queries), checked_points("points", points)
    _require_one_device(queries, points, "points")
    if queries.device.type == "cuda":
        from eval.tree_kernel import search  # triton is not needed on a CPU

        return Nearest(*search(BoxTree.of_points(points), queries))
    from scipy.spatial import cKDTree

    order = curve_order(queries)  # neighbours visit the same nodes, while these are in the cache
    found = cKDTree(points.numpy(), balanced_tree=False).query(queries[order].numpy(), workers=_threads)
    return _in_place(order, *(torch.from_numpy(values) for values in found))


def nearest_on_surface(queries: Tensor, surface: Surface) -> Nearest:
    """The nearest triangle of a surface for each query, and the exact distance to it.

    Args:
        queries: floating [Q, 3], on the surface's device.

    Raises:
        ValueError: no queries, another shape or dtype, coordinates that are not finite, or different devices.
    """
    queries = checked_points("queries", queries)
    _require_one_device(queries, surface.vertices, surface.name)
    tree = surface.tree
    if queries.device.type == "cuda":
        from eval.tree_kernel import search

        return Nearest(*search(tree, queries))
    from eval.compiled_search import nearest_triangle  # numba is not needed on a GPU, and slow to import

    order = curve_order(queries)
    along = queries[order].numpy()
    distance, position = torch.empty(len(queries), dtype=torch.float64), torch.empty(len(queries), dtype=torch.int64)
    triangles, low, high = tree.items.numpy(), tree.low.numpy(), tree.high.numpy()

    def share(part: slice) -> None:
        nearest_triangle(along[part], triangles, low, high, tree.leaf, distance.numpy()[part], position.numpy()[part])

    in_threads(share, len(queries))
    return _in_place(order, distance, tree.order[position])


def _in_place(order: Tensor, distance: Tensor, index: Tensor) -> Nearest:
    """What was found for queries in another order."""
    found = Nearest(torch.empty_like(distance), torch.empty_like(index))
    found.distance[order], found.index[order] = distance, index
    return found


def in_threads(work: Callable[[slice], None], count: int) -> None:
    """Does `work` on slices that together are 0 .. count, on all cores that this process may use."""
    parts = [slice(start, min(start + _SHARE, count)) for start in range(0, count, _SHARE)]
    with ThreadPoolExecutor(_threads) as pool:
        for _ in pool.map(work, parts):
            pass


def _require_one_device(queries: Tensor, others: Tensor, name: str) -> None:
    if queries.device != others.device:
        raise ValueError(f"queries and {name} must be on one device, got {queries.device} and {others.device}")
