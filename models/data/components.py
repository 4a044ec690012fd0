"""Connected components of a graph."""

from __future__ import annotations

import torch
from torch import Tensor


def connected_components(edges: Tensor, nodes: int) -> Tensor:
    """Label of each node; equal where a path of edges leads from one to the other.

    Args:
        edges: int64 [2, E].
    """
    if edges.device.type == "cpu":
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components as components

        a, b = edges.numpy()
        graph = coo_array((torch.ones(len(a), dtype=torch.bool).numpy(), (a, b)), shape=(nodes, nodes))
        return torch.from_numpy(components(graph, directed=False)[1])
    return propagate_labels(edges, nodes)


def propagate_labels(edges: Tensor, nodes: int) -> Tensor:
    """Connected components in parallel: every node takes the least label at hand, labels follow their labels.

    As in Zhang, Azad, Hu, "FastSV" (2020): the number of rounds grows with the logarithm of the longest path.
    """
    label = torch.arange(nodes, device=edges.device)
    a, b = edges
    while True:
        least = torch.minimum(label[a], label[b])
        following = label.clone()
        for end in (a, b):
            following.scatter_reduce_(0, label[end], least, "amin")  # the whole tree hears of it
            following.scatter_reduce_(0, end, least, "amin")
        following = following[following]
        if torch.equal(following, label):
            return label
        label = following
