"""Connected components are those of the graph."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from models.data.components import propagate_labels


@pytest.mark.parametrize(("nodes", "edges"), [(50, 10), (200, 150), (300, 900), (5, 0)])
def test_labels_are_those_of_scipy(nodes: int, edges: int) -> None:
    ends = torch.randint(nodes, (2, edges))
    labels = propagate_labels(ends, nodes).numpy()
    graph = coo_array((np.ones(edges), ends.numpy()), shape=(nodes, nodes))
    count, expected = connected_components(graph, directed=False)
    assert len({*zip(labels.tolist(), expected.tolist(), strict=True)}) == count == len(set(labels.tolist()))


def test_a_long_path_is_one_component() -> None:
    order = torch.randperm(5000)
    assert bool((propagate_labels(torch.stack([order[:-1], order[1:]]), 5000) == 0).all())


@pytest.mark.gpu
def test_labels_on_cuda_are_those_on_the_cpu() -> None:
    edges = torch.randint(100_000, (2, 90_000))
    assert torch.equal(propagate_labels(edges.cuda(), 100_000).cpu(), propagate_labels(edges, 100_000))
