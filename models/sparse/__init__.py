"""Sparse tensors of voxels, and the layers that work on them: convolution, pooling, norms, window attention."""
