"""Exponential moving average of a model's weights."""

from __future__ import annotations

import torch
from torch import nn


class EMA:
    """A copy of the parameters that follows them slowly; at first as fast as its age allows."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._live = dict(model.named_parameters())
        self.shadow = {name: parameter.detach().clone() for name, parameter in self._live.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """
        Args:
            step: updates of the parameters so far, at least 1.
        """
        decay = min(self.decay, step / (step + 10))
        torch._foreach_lerp_(
            list(self.shadow.values()), [parameter.detach() for parameter in self._live.values()], 1 - decay
        )

    @torch.no_grad()
    def swap(self) -> None:
        """Exchanges the parameters and their averages; a second call undoes the first."""
        for name, parameter in self._live.items():
            held = parameter.detach().clone()
            parameter.copy_(self.shadow[name])
            self.shadow[name].copy_(held)

    @torch.no_grad()
    def take(self) -> None:
        """Begins anew with the parameters as they are."""
        for name, parameter in self._live.items():
            self.shadow[name].copy_(parameter)
