"""Triton implementation of every stage, forward and backward. `kernels.triton.ops` registers them with torch.

The tile of every kernel packs (token, head of the group) pairs into its rows: query heads that share a kv head also
share its keys, so a group of G heads turns T tokens into T * G rows for the matrix units.
"""
