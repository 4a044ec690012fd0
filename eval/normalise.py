"""Bringing a prediction and its reference into the frame that a protocol measures in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch

from eval.surface import Surface

# none: as it is. unit-cube: longest side of the bounding box 1, its centre at the origin. max-extent: longest side 2,
# so within [-1, 1]^3. mesh-rcnn: longest side 10. unit-sphere: centre of the box at the origin, farthest vertex at 1.
# centroid-sphere: mean of the vertices at the origin, farthest vertex at 1 (what point encoders do with points).
Policy = Literal["none", "unit-cube", "max-extent", "mesh-rcnn", "unit-sphere", "centroid-sphere"]
POLICIES: tuple[Policy, ...] = get_args(Policy)
# reference: both by the reference's transform, so that errors of scale and place count. own: each by its own, which
# hides them, for generators without a frame in common with the reference; scores are then "self-normalised".
Frame = Literal["reference", "own"]
FRAMES: tuple[Frame, ...] = get_args(Frame)
_LONGEST = {"unit-cube": 1.0, "max-extent": 2.0, "mesh-rcnn": 10.0}
# A prediction so many times as large or small as its reference is in another unit.
SCALE_LIMIT = 10.0


@dataclass(frozen=True)
class Transform:
    """x to (x - centre) scale."""

    centre: tuple[float, float, float]
    scale: float

    def __call__(self, surface: Surface) -> Surface:
        centre = torch.tensor(self.centre, dtype=torch.float64, device=surface.vertices.device)
        return Surface((surface.vertices - centre) * self.scale, surface.faces, surface.name)


def transform_of(surface: Surface, policy: Policy) -> Transform:
    """What the policy does to a surface; only vertices that triangles use count.

    Raises:
        ValueError: an unknown policy, or a surface without an extent.
    """
    if policy not in POLICIES:
        raise ValueError(f"policy must be one of {', '.join(POLICIES)}, got {policy!r}")
    if policy == "none":
        return Transform((0.0, 0.0, 0.0), 1.0)
    low, high = surface.bounds
    if not bool((high > low).any()):
        raise ValueError(f"{surface.name} must have an extent, all its vertices are one point")
    used = surface.vertices[surface.faces.unique()]
    centre = used.mean(0) if policy == "centroid-sphere" else (low + high) / 2
    if policy in _LONGEST:
        scale = _LONGEST[policy] / float((high - low).max())
    else:
        scale = 1 / float((used - centre).norm(dim=1).max())
    x, y, z = centre.tolist()
    return Transform((x, y, z), scale)


def normalise(
    pred: Surface, ref: Surface, policy: Policy, frame: Frame = "reference"
) -> tuple[Surface, Surface, Transform, Transform]:
    """Both surfaces in the protocol's frame, and the transforms of the prediction and the reference.

    Raises:
        ValueError: an unknown policy or frame, a surface without an extent, or, unless each has its own frame, a
            prediction `SCALE_LIMIT` times as large or small as its reference.
    """
    if frame not in FRAMES:
        raise ValueError(f"frame must be one of {', '.join(FRAMES)}, got {frame!r}")
    ref_transform = transform_of(ref, policy)
    pred_transform = ref_transform if frame == "reference" else transform_of(pred, policy)
    if frame == "reference":
        require_one_unit(pred, ref)
    return pred_transform(pred), ref_transform(ref), pred_transform, ref_transform


def require_one_unit(pred: Surface, ref: Surface) -> None:
    """Stops where scores would say nothing but that the surfaces are in different units.

    Raises:
        ValueError: the longest sides of the bounding boxes differ by more than `SCALE_LIMIT`, or one has none.
    """
    extents = [float((high - low).max()) for low, high in (pred.bounds, ref.bounds)]
    if not max(extents) <= SCALE_LIMIT * min(extents):
        raise ValueError(
            f"{pred.name} spans {extents[0]:.3g} and {ref.name} {extents[1]:.3g}: they must be in one unit of length, "
            "or each in its own frame"
        )
