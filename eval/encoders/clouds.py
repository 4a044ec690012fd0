"""Point clouds as encoders want them: their axes, scale and colours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from eval.encoders.grouping import normalise

ColourPolicy = Literal["own", "constant"]


@dataclass(frozen=True)
class CloudPolicy:
    """How the authors of an encoder prepare clouds whose y axis points up."""

    points: int  # of the clouds that it was trained and evaluated with
    colour: float | None  # 0..1, of all channels where a cloud has no colours; None: the encoder sees no colours
    axes: tuple[int, int, int] = (0, 1, 2)  # which of a cloud's axes the encoder takes for its x, y and z

    @property
    def axes_text(self) -> str:
        return "as stored, y up" if self.axes == (0, 1, 2) else "".join("xyz"[axis] for axis in self.axes) + " of y up"

    def colour_text(self, colours: ColourPolicy) -> str:
        """What a record says of the colours."""
        if self.colour is None:
            return "none"
        return colours if colours == "own" else f"constant {self.colour:g}"


NORMALISATION = "mean at the origin, farthest point at distance 1"


def prepare(points: Tensor, colours: Tensor | None, policy: CloudPolicy) -> Tensor:
    """A cloud fp32 [N, 6] for a point encoder.

    Swapped axes mirror the cloud; that is how the authors train, evaluate and publish.

    Args:
        points: [N, 3], y up, any scale, with as many points as are to be seen.
        colours: floating [N, 3], sRGB 0..1, or None: the policy's constant, grey.

    Raises:
        ValueError: other shapes, numbers that are not finite, or colours outside 0..1.
    """
    if points.ndim != 2 or points.shape[-1] != 3 or not len(points):
        raise ValueError(f"points must have shape [N, 3], got {list(points.shape)}")
    if not torch.isfinite(points).all():
        raise ValueError("points must be finite")
    xyz = normalise(points.double()[:, list(policy.axes)]).float()
    if colours is None or policy.colour is None:
        return torch.cat([xyz, torch.full_like(xyz, policy.colour or 0.0)], -1)
    if colours.shape != points.shape:
        raise ValueError(f"colours must have shape {list(points.shape)}, got {list(colours.shape)}")
    if not ((colours >= 0) & (colours <= 1)).all():
        raise ValueError("colours must be between 0 and 1")
    return torch.cat([xyz, colours.to(xyz)], -1)
