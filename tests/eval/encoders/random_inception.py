"""FID's Inception v3 with random parameters, and files of its layout."""

from __future__ import annotations

import torch
from torch import Tensor

from eval.encoders.inception import Inception


def random_state(seed: int = 1) -> dict[str, Tensor]:
    """Everything random, so that nothing can be forgotten without a difference; features depend on the image."""
    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        layout = Inception().state_dict()
    state = {}
    for key, value in layout.items():
        noise = torch.randn(value.shape, generator=generator)
        if value.ndim > 1:
            state[key] = noise * (2 / value[0].numel()) ** 0.5
        elif key.endswith(("bn.weight", "running_var")):
            state[key] = torch.rand(value.shape, generator=generator) + 0.5
        else:
            state[key] = torch.tensor(7) if value.ndim == 0 else noise * 0.1
    return state


def random_inception() -> Inception:
    with torch.device("meta"):
        model = Inception()
    model.load_state_dict(random_state(), assign=True)
    return model.requires_grad_(False)
