"""Between resolutions: the mean of the children that are there, and a copy of a voxel for each of its eight."""

from __future__ import annotations

import torch

from models.sparse.tensor import SparseTensor


def mean_pool(x: SparseTensor) -> SparseTensor:
    """Half the resolution: a voxel has the mean of its children that are there, summed in fp32."""
    parents = x.structure.parents
    wide = x.feats.to(torch.promote_types(x.dtype, torch.float32))
    # Children are runs, so that every sum has an order.
    means = torch.segment_reduce(wide, "mean", offsets=parents.offsets, axis=0)
    return SparseTensor(means.to(x.dtype), parents.structure)


def subdivide(x: SparseTensor) -> SparseTensor:
    """Twice the resolution: eight voxels with the features of the one that they fill.

    Raises:
        ValueError: coordinates would exceed their 16 bits.
    """
    return SparseTensor(x.feats[:, None].expand(-1, 8, -1).flatten(0, 1), x.structure.children)
