"""Keys about the middle of their range, in fp32: scores are rounded in proportion to their size, and softmax does not
notice what all keys of a kv head have in common.
"""

from __future__ import annotations

import torch
from torch import Tensor


def centred(k: Tensor) -> Tensor:
    """Keys [K, Hkv, D] less the middle between the largest and the least of each dimension; 16-bit keys as they are.

    In 16 bits the rounding of scores is little beside that of probabilities, and keys would get another one. A
    dimension with a key that is not finite stays as it is: such a key concerns its own sample alone.
    """
    if k.dtype != torch.float32 or k.shape[0] == 0:
        return k
    middle = (k.amax(0) + k.amin(0)) / 2
    return k - torch.where(middle.isfinite(), middle, 0.0)
