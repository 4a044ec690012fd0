"""What Spatial Sparse Attention is measured against; same tensors and calling style as `kernels`."""
