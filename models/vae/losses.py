"""What an SS-VAE learns from (Direct3D-S2, section 3.1, equation 3)."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from models.sparse.tensor import SparseTensor
from models.training.config import Settings
from models.vae.batch import Targets
from models.vae.model import Posterior


class LossWeights(Settings):
    """The defaults are the paper's."""

    band: float = Field(default=1.0, ge=0)
    extra: float = Field(default=0.1, ge=0)
    sharp: float = Field(default=1.0, ge=0)
    divergence: float = Field(default=1e-3, ge=0)


def vae_losses(
    decoded: SparseTensor, posterior: Posterior, targets: Targets, weights: LossWeights
) -> dict[str, Tensor]:
    """Mean squared errors of distances over tau, on the points of the band, off it, and near sharp edges; the
    divergence of the posterior; and `loss`, their weighted sum. fp32 scalars.

    Raises:
        ValueError: the decoder answered on other points than the targets are for.
    """
    if decoded.coords.shape != targets.values.coords.shape:
        raise ValueError(
            f"decoded must be on the {len(targets.values.coords)} grid points of the targets, got {len(decoded.coords)}"
        )
    error = (decoded.feats - targets.values.feats).square()[:, 0]
    parts = {
        "band": _mean(error, targets.band),
        "extra": _mean(error, ~targets.band),
        "sharp": _mean(error, targets.sharp),
        "divergence": posterior.divergence(),
    }
    total = sum(getattr(weights, name) * value for name, value in parts.items())
    assert isinstance(total, Tensor)
    return {"loss": total, **parts}


def _mean(error: Tensor, chosen: Tensor) -> Tensor:
    """Over the chosen points; zero where there are none. Without indexing, whose result has a size to wait for."""
    return (error * chosen).sum() / chosen.sum().clamp(min=1)
