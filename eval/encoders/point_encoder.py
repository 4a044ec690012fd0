"""What every point encoder promises: clouds in, one embedding each out, the same in whatever company."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class PointEncoder(nn.Module, ABC):
    """Embeds point clouds; only evaluates.

    In training mode the batch norms would use statistics of the batch, and a score would depend on what else is in it;
    so `train()` is refused, and gradients are never taken.
    """

    least_points: int  # a smaller cloud cannot be grouped

    def train(self, mode: bool = True) -> PointEncoder:
        if mode:
            raise ValueError("a point encoder only evaluates: in training mode scores would depend on their batch")
        super().train(False)
        return self

    @torch.no_grad()
    def forward(self, clouds: Tensor) -> Tensor:
        """Embeddings [B, E] of clouds [B, N, 6]: xyz as `eval.encoders.clouds.prepare` makes them, then colours 0..1.

        Raises:
            ValueError: not clouds, too few points, or numbers that are not finite.
        """
        if clouds.ndim != 3 or clouds.shape[-1] != 6:
            raise ValueError(f"clouds must have shape [B, N, 6], got {list(clouds.shape)}")
        if clouds.shape[1] < self.least_points:
            raise ValueError(f"clouds must have at least {self.least_points} points, got {clouds.shape[1]}")
        if not torch.isfinite(clouds).all():
            raise ValueError("clouds must be finite")
        return self.embed(clouds[..., :3], clouds[..., 3:])

    @abstractmethod
    def embed(self, xyz: Tensor, colours: Tensor) -> Tensor:
        """Embeddings [B, E] of clouds [B, N, 3] and their colours [B, N, 3]."""


def embed_clouds(encoder: PointEncoder, clouds: Sequence[Tensor], *, batch_size: int = 8) -> Tensor:
    """Embeddings [len(clouds), E] on the CPU, of clouds [N, 6] of equal size, on the encoder's device in batches.

    Raises:
        ValueError: no clouds, or an empty batch.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be positive, got {batch_size}")
    if not clouds:
        raise ValueError("clouds must not be empty")
    device = next(encoder.parameters()).device
    batches = (torch.stack(list(clouds[i : i + batch_size])) for i in range(0, len(clouds), batch_size))
    return torch.cat([encoder(batch.to(device)).cpu() for batch in batches])
