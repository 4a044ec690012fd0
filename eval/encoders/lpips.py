"""LPIPS 0.1 by VGG16: how differently two images look (Zhang et al., arXiv 1801.03924).

Features of both images after five stages of VGG16, each place's scaled to length one, are compared channel by channel;
weights of the channels were fitted to what people see. Weights come in two files, neither of which is part of ssabench:
torchvision's VGG16, and the channels' weights that lie in the package `lpips` (lpips/weights/v0.1/vgg.pth). Scaling and
names of parameters are as github.com/richzhang/PerceptualSimilarity has them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from eval.encoders.checkpoint import CheckpointError, differences, file_sha256, read_parameters

BACKBONE: Final = "vgg16-397923af.pth"
PUBLISHED_BACKBONE: Final = "397923af"  # the beginning of the SHA-256, which the file's name has
PUBLISHED_LINEAR: Final = "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868"
LEAST_SIZE: Final = 16  # pixels: the last stage sees a sixteenth
# Of torchvision's VGG16: numbers of a stage's convolutions in `features`, and their channels. Stages end before a pool.
_STAGES: Final = (((0, 2), 64), ((5, 7), 128), ((10, 12, 14), 256), ((17, 19, 21), 512), ((24, 26, 28), 512))
# Of images in -1..1, by channel.
_SHIFT: Final = (-0.030, -0.088, -0.188)
_SCALE: Final = (0.458, 0.448, 0.450)
_EPSILON: Final = 1e-10


def backbone_layout() -> dict[str, tuple[int, ...]]:
    """Shapes of VGG16's convolutions by name; of its classifier nothing is used."""
    found: dict[str, tuple[int, ...]] = {}
    inputs = 3
    for numbers, channels in _STAGES:
        for number in numbers:
            found[f"features.{number}.weight"] = (channels, inputs, 3, 3)
            found[f"features.{number}.bias"] = (channels,)
            inputs = channels
    return found


def linear_layout() -> dict[str, tuple[int, ...]]:
    """Shapes of the channels' weights by name."""
    return {f"lin{stage}.model.1.weight": (1, channels, 1, 1) for stage, (_, channels) in enumerate(_STAGES)}


@dataclass(frozen=True, eq=False)
class LPIPS:
    """The distance, by the weights of two files."""

    backbone: dict[str, Tensor]
    linear: dict[str, Tensor]
    backbone_sha256: str
    linear_sha256: str

    @property
    def is_published(self) -> bool:
        """Whether these are the published files: any weights can have the layout."""
        return self.backbone_sha256.startswith(PUBLISHED_BACKBONE) and self.linear_sha256 == PUBLISHED_LINEAR

    @property
    def provenance(self) -> dict[str, str | bool]:
        """What distances depend on besides the images."""
        return {
            "published": self.is_published,
            "backbone_sha256": self.backbone_sha256,
            "linear_sha256": self.linear_sha256,
        }

    @property
    def bound(self) -> float:
        """No distance is larger: at a place features are not negative and have length one at most, so that squares of
        their differences sum up to two."""
        return sum(2 * max(0.0, float(weight.max())) for weight in self.linear.values())

    @torch.no_grad()
    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """[B], of images [B, 3, H, W] in 0..1, in the dtype of the weights.

        Raises:
            ValueError: no images of one shape, or smaller than 16 x 16.
        """
        if a.ndim != 4 or a.shape[1] != 3 or a.shape != b.shape or min(a.shape[2:]) < LEAST_SIZE:
            raise ValueError(
                f"a and b must have one shape [B, 3, H, W] of at least {LEAST_SIZE} x {LEAST_SIZE}, "
                f"got {list(a.shape)} and {list(b.shape)}"
            )
        total = torch.zeros(len(a), dtype=next(iter(self.linear.values())).dtype, device=a.device)
        # cuDNN's convolutions round fp32 to TF32 unless told otherwise.
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            stages = zip(self._features(a), self._features(b), self.linear.values(), strict=True)
            for of_a, of_b, weight in stages:
                total += ((of_a - of_b).square() * weight).sum(1).mean((1, 2))
        return total

    def _features(self, images: Tensor) -> Iterator[Tensor]:
        """[B, C, h, w] of each stage, of length one at every place."""
        weights = iter(self.backbone.values())
        shift, scale = (
            torch.tensor(x, dtype=self.backbone["features.0.bias"].dtype, device=images.device)[:, None, None]
            for x in (_SHIFT, _SCALE)
        )
        x = (2 * images.to(shift.dtype) - 1 - shift) / scale
        for stage, (numbers, _) in enumerate(_STAGES):
            if stage:
                x = F.max_pool2d(x, 2)
            for _ in numbers:
                x = F.relu(F.conv2d(x, next(weights), next(weights), padding=1))
            yield x / (x.square().sum(1, keepdim=True).sqrt() + _EPSILON)


def load_lpips(backbone: Path, linear: Path, device: str = "cpu") -> LPIPS:
    """The distance from its two files, in fp32.

    Raises:
        CheckpointError: an unreadable file, one with missing, unknown or misshapen parameters, or weights of channels
            that are no weights: negative, not finite or all zero.
    """
    network = _parameters(backbone, backbone_layout(), "torchvision's VGG16", device, ignored="classifier.")
    weights = _parameters(linear, linear_layout(), "LPIPS 0.1 for VGG16", device)
    flat = torch.cat([weight.flatten() for weight in weights.values()])
    if not bool(flat.isfinite().all() & (flat >= 0).all() & (flat > 0).any()):
        raise CheckpointError(f"checkpoint {str(linear)!r} is not LPIPS 0.1 for VGG16: weights must be positive")
    return LPIPS(network, weights, file_sha256(backbone), file_sha256(linear))


def _parameters(
    path: Path, layout: dict[str, tuple[int, ...]], what: str, device: str, ignored: str | None = None
) -> dict[str, Tensor]:
    """In the layout's order."""
    state = read_parameters(path)
    if ignored is not None:
        state = {key: value for key, value in state.items() if not key.startswith(ignored)}
    if wrong := differences(state, layout):
        raise CheckpointError(f"checkpoint {str(path)!r} is not {what}: {wrong}")
    return {key: state[key].float().to(device) for key in layout}
