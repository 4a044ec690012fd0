"""Search in a `BoxTree` on a GPU: the nearest point or triangle of each query.

A program walks the tree for a packet of queries that lie next to each other on the Morton curve, one query a lane. It
begins with the leaf at their own place on the curve, so that it knows a close distance before the walk, and enters a
box as long as any query of the packet is nearer to it than to what that query found. So it is exact; where pruning
fails, as for queries in the centre of a sphere, it is a brute-force search at the rate of the arithmetic units.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from eval.box_tree import BoxTree
from models.data.triton_distance import squared_distance

# Queries of a program: two a lane of its one warp, so that loads of boxes and items serve twice.
_PACKET = 64


@triton.jit
def _visit_leaf(x, y, z, best, index, items, first, num_items, LEAF: tl.constexpr, CORNERS: tl.constexpr):
    """`best` and `index` [BLOCK] after all items of a leaf."""
    last = tl.minimum(first + LEAF, num_items)
    for position in range(first, last):
        item = items + position * (3 * CORNERS)
        if CORNERS == 3:
            d = squared_distance(x, y, z, item)
        else:
            dx, dy, dz = x - tl.load(item), y - tl.load(item + 1), z - tl.load(item + 2)
            d = dx * dx + dy * dy + dz * dz
        index = tl.where(d < best, position, index)
        best = tl.minimum(d, best)
    return best, index


@triton.jit(do_not_specialize=["num_queries", "num_items", "leaves"])
def _nearest_kernel(
    queries,  # fp64 [Q, 3], along the curve
    items,  # fp64 [N, CORNERS, 3]
    low,  # fp64 [2 leaves, 3]
    high,  # fp64 [2 leaves, 3]
    starts,  # int64 [packets]: an item near each packet
    squared,  # fp64 [Q], out
    found,  # int64 [Q], out: position of the item
    num_queries,
    num_items,
    leaves,
    CORNERS: tl.constexpr,
    LEAF: tl.constexpr,
    BLOCK: tl.constexpr,
):
    packet = tl.program_id(0).to(tl.int64)
    row = packet * BLOCK + tl.arange(0, BLOCK)
    valid = row < num_queries
    x = tl.load(queries + row * 3, mask=valid, other=0.0)
    y = tl.load(queries + row * 3 + 1, mask=valid, other=0.0)
    z = tl.load(queries + row * 3 + 2, mask=valid, other=0.0)
    # Rows beyond the end are nearer to something than to any box, so they open none.
    best = tl.where(valid, float("inf"), -1.0).to(tl.float64)
    index = tl.zeros([BLOCK], dtype=tl.int64)
    start = tl.load(starts + packet) // LEAF
    best, index = _visit_leaf(x, y, z, best, index, items, start * LEAF, num_items, LEAF, CORNERS)
    node = tl.full([], 1, dtype=tl.int64)
    while node > 0:
        dx = tl.maximum(tl.maximum(tl.load(low + node * 3) - x, x - tl.load(high + node * 3)), 0.0)
        dy = tl.maximum(tl.maximum(tl.load(low + node * 3 + 1) - y, y - tl.load(high + node * 3 + 1)), 0.0)
        dz = tl.maximum(tl.maximum(tl.load(low + node * 3 + 2) - z, z - tl.load(high + node * 3 + 2)), 0.0)
        wanted = tl.max((dx * dx + dy * dy + dz * dz < best).to(tl.int32), 0) > 0
        if wanted & (node < leaves):
            node = node * 2
        else:
            if wanted & (node - leaves != start):
                best, index = _visit_leaf(x, y, z, best, index, items, (node - leaves) * LEAF, num_items, LEAF, CORNERS)
            # On to the sibling of this node, or of its nearest ancestor that is a left child; past the root, 1.
            node = node + 1
            node = node // (node & -node)
            node = tl.where(node == 1, 0, node)
    tl.store(squared + row, best, mask=valid)
    tl.store(found + row, index, mask=valid)


def search(tree: BoxTree, queries: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest item of each query.

    Args:
        queries: finite fp64 [Q, 3] on the device of the tree, Q > 0.

    Returns:
        Distances fp64 [Q] and numbers of the items, int64 [Q]; of equally near ones any.
    """
    codes, order = tree.along_curve(queries).sort()
    along = queries[order].contiguous()
    packets = triton.cdiv(len(queries), _PACKET)
    middle = (torch.arange(packets, device=queries.device) * _PACKET + _PACKET // 2).clamp_(max=len(queries) - 1)
    starts = torch.searchsorted(tree.codes, codes[middle]).clamp_(max=len(tree.codes) - 1)
    squared, found = along.new_empty(len(along)), torch.empty_like(order)
    with torch.cuda.device_of(queries):
        _nearest_kernel[(packets,)](
            along,
            tree.items,
            tree.low,
            tree.high,
            starts,
            squared,
            found,
            len(queries),
            len(tree.items),
            len(tree.low) // 2,
            CORNERS=tree.items.shape[1],
            LEAF=tree.leaf,
            BLOCK=_PACKET,
            num_warps=1,
        )
    distance, index = torch.empty_like(squared), torch.empty_like(found)
    distance[order], index[order] = squared.sqrt_(), tree.order[found]
    return distance, index
