"""FID's Inception v3: TensorFlow's network of 2015-12-05, with the weights that pytorch-fid publishes for PyTorch.

It is torchvision's Inception3 (Szegedy et al., arXiv 1512.00567) but for what follows the TensorFlow graph:
mean pools do not count the padding, the last block pools by maximum, and there are 1008 classes. Names of parameters,
resizing and scaling are as github.com/mseitzer/pytorch-fid has them (src/pytorch_fid/inception.py); clean-fid and the
original FID resize otherwise, so their values differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from eval.encoders.checkpoint import CheckpointError, differences, file_sha256, read_parameters
from eval.encoders.images import require_rgb

KIND: Final = "inception-2015-12-05"
URL: Final = (
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth"
)
PUBLISHED_SHA256: Final = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
DIM: Final = 2048
LEAST_SIZE: Final = 75  # pixels: of fewer nothing is left before the last pool
_SIZE = 299
_CLASSES = 1008

_Pool = Literal["mean", "max", "max, stride 2"]
_POOLS = {
    "mean": partial(F.avg_pool2d, kernel_size=3, stride=1, padding=1, count_include_pad=False),
    "max": partial(F.max_pool2d, kernel_size=3, stride=1, padding=1),
    "max, stride 2": partial(F.max_pool2d, kernel_size=3, stride=2),
}


class _Conv(NamedTuple):
    """A convolution with its batch norm and ReLU, by the published name."""

    name: str
    outputs: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padded: bool = True  # with half the kernel; False: not at all


class _Branch(NamedTuple):
    """A pool, convolutions in a row, and convolutions that all take what the last one gives; each may be missing."""

    row: tuple[_Conv, ...] = ()
    pool: _Pool | None = None
    ends: tuple[_Conv, ...] = ()

    def outputs(self, inputs: int) -> int:
        return sum(conv.outputs for conv in self.ends or self.row[-1:]) or inputs


def _square(name: str, outputs: int, side: int) -> _Conv:
    return _Conv(name, outputs, (side, side))


def _wide(name: str, outputs: int, width: int) -> _Conv:
    return _Conv(name, outputs, (1, width))


def _high(name: str, outputs: int, height: int) -> _Conv:
    return _Conv(name, outputs, (height, 1))


def _bare(name: str, outputs: int, stride: int) -> _Conv:
    """3 x 3 without padding."""
    return _Conv(name, outputs, (3, 3), stride, padded=False)


def _a(pooled: int) -> tuple[_Branch, ...]:
    return (
        _Branch((_Conv("branch1x1", 64),)),
        _Branch((_Conv("branch5x5_1", 48), _square("branch5x5_2", 64, 5))),
        _Branch((_Conv("branch3x3dbl_1", 64), _square("branch3x3dbl_2", 96, 3), _square("branch3x3dbl_3", 96, 3))),
        _Branch((_Conv("branch_pool", pooled),), "mean"),
    )


_B = (
    _Branch((_bare("branch3x3", 384, 2),)),
    _Branch((_Conv("branch3x3dbl_1", 64), _square("branch3x3dbl_2", 96, 3), _bare("branch3x3dbl_3", 96, 2))),
    _Branch(pool="max, stride 2"),
)


def _c(width: int) -> tuple[_Branch, ...]:
    double = (
        _Conv("branch7x7dbl_1", width),
        _high("branch7x7dbl_2", width, 7),
        _wide("branch7x7dbl_3", width, 7),
        _high("branch7x7dbl_4", width, 7),
        _wide("branch7x7dbl_5", 192, 7),
    )
    return (
        _Branch((_Conv("branch1x1", 192),)),
        _Branch((_Conv("branch7x7_1", width), _wide("branch7x7_2", width, 7), _high("branch7x7_3", 192, 7))),
        _Branch(double),
        _Branch((_Conv("branch_pool", 192),), "mean"),
    )


_D = (
    _Branch((_Conv("branch3x3_1", 192), _bare("branch3x3_2", 320, 2))),
    _Branch(
        (
            _Conv("branch7x7x3_1", 192),
            _wide("branch7x7x3_2", 192, 7),
            _high("branch7x7x3_3", 192, 7),
            _bare("branch7x7x3_4", 192, 2),
        )
    ),
    _Branch(pool="max, stride 2"),
)


def _e(pool: _Pool) -> tuple[_Branch, ...]:
    return (
        _Branch((_Conv("branch1x1", 320),)),
        _Branch((_Conv("branch3x3_1", 384),), ends=(_wide("branch3x3_2a", 384, 3), _high("branch3x3_2b", 384, 3))),
        _Branch(
            (_Conv("branch3x3dbl_1", 448), _square("branch3x3dbl_2", 384, 3)),
            ends=(_wide("branch3x3dbl_3a", 384, 3), _high("branch3x3dbl_3b", 384, 3)),
        ),
        _Branch((_Conv("branch_pool", 192),), pool),
    )


_STEM = (
    _Branch((_bare("Conv2d_1a_3x3", 32, 2), _bare("Conv2d_2a_3x3", 32, 1), _square("Conv2d_2b_3x3", 64, 3))),
    _Branch((_Conv("Conv2d_3b_1x1", 80), _bare("Conv2d_4a_3x3", 192, 1)), "max, stride 2"),
    _Branch(pool="max, stride 2"),
)
_MIXED = {
    "Mixed_5b": _a(32),
    "Mixed_5c": _a(64),
    "Mixed_5d": _a(64),
    "Mixed_6a": _B,
    "Mixed_6b": _c(128),
    "Mixed_6c": _c(160),
    "Mixed_6d": _c(160),
    "Mixed_6e": _c(192),
    "Mixed_7a": _D,
    "Mixed_7b": _e("mean"),
    "Mixed_7c": _e("max"),
}


class _Unit(nn.Module):
    def __init__(self, inputs: int, conv: _Conv) -> None:
        super().__init__()
        padding = (conv.kernel[0] // 2, conv.kernel[1] // 2) if conv.padded else 0
        self.conv = nn.Conv2d(inputs, conv.outputs, conv.kernel, conv.stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(conv.outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class _Branches(nn.Module):
    """Holds the units of branches by name."""

    def add(self, inputs: int, branch: _Branch) -> int:
        """Make a branch's units for so many channels; how many come out."""
        channels = inputs
        for conv in branch.row:
            self.add_module(conv.name, _Unit(channels, conv))
            channels = conv.outputs
        for conv in branch.ends:
            self.add_module(conv.name, _Unit(channels, conv))
        return branch.outputs(inputs)

    def run(self, branch: _Branch, x: Tensor) -> Tensor:
        """[B, inputs, H, W] to [B, outputs, H', W']."""
        if branch.pool is not None:
            x = _POOLS[branch.pool](x)
        for conv in branch.row:
            x = self.get_submodule(conv.name)(x)
        return torch.cat([self.get_submodule(conv.name)(x) for conv in branch.ends], 1) if branch.ends else x


class _Mixed(_Branches):
    """Branches side by side, their channels joined in order."""

    def __init__(self, inputs: int, branches: tuple[_Branch, ...]) -> None:
        super().__init__()
        self.branches = branches
        self.outputs = sum(self.add(inputs, branch) for branch in branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.run(branch, x) for branch in self.branches], 1)


class Inception(_Branches):
    """Images to features; only evaluates.

    In training mode the batch norms would use statistics of the batch, and a feature would depend on what else is in
    it; so `train()` is refused, and gradients are never taken.
    """

    def __init__(self) -> None:
        super().__init__()
        channels = 3
        for branch in _STEM:
            channels = self.add(channels, branch)
        for name, branches in _MIXED.items():
            mixed = _Mixed(channels, branches)
            self.add_module(name, mixed)
            channels = mixed.outputs
        self.fc = nn.Linear(channels, _CLASSES)  # in the file; no feature needs it
        self.eval()

    def train(self, mode: bool = True) -> Inception:
        if mode:
            raise ValueError("Inception only evaluates: in training mode features would depend on their batch")
        super().train(False)
        return self

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> Tensor:
        """Features [B, 2048] of images [B, 3, H, W] in -1..1, which FID resizes to 299 x 299.

        Raises:
            ValueError: not images, or smaller than 75 x 75.
        """
        if pixels.ndim != 4 or pixels.shape[1] != 3 or min(pixels.shape[2:]) < LEAST_SIZE:
            raise ValueError(
                f"pixels must have shape [B, 3, H, W] with at least {LEAST_SIZE} x {LEAST_SIZE}, "
                f"got {list(pixels.shape)}"
            )
        x = pixels
        for branch in _STEM:
            x = self.run(branch, x)
        for name in _MIXED:
            x = self.get_submodule(name)(x)
        return x.mean((2, 3))


@dataclass(frozen=True)
class InceptionEncoder:
    """Embeds images."""

    model: Inception
    sha256: str  # of the file
    device: str = "cpu"
    batch_size: int = 16

    @property
    def kind(self) -> str:
        """Only the published file goes by its name: any weights can have the layout."""
        return KIND if self.sha256 == PUBLISHED_SHA256 else f"unknown weights in the layout of {KIND}"

    def embed_images(self, images: Sequence[Image.Image]) -> Tensor:
        """Features fp32 [len(images), 2048] on the CPU, of square or other RGB images, squashed.

        Raises:
            ValueError: an image that is not RGB.
        """
        require_rgb(images)
        batches = (images[i : i + self.batch_size] for i in range(0, len(images), self.batch_size))
        # cuDNN's convolutions round fp32 to TF32 unless told otherwise.
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            return torch.cat([torch.empty(0, DIM), *(self._embed(batch) for batch in batches)])

    def _embed(self, images: Sequence[Image.Image]) -> Tensor:
        return self.model(torch.stack([_pixels(image, self.device) for image in images])).cpu()


def load_inception(path: Path, device: str = "cpu") -> InceptionEncoder:
    """The encoder from its file (`URL`), in fp32.

    Raises:
        CheckpointError: an unreadable file, or one with missing, unknown or misshapen parameters.
    """
    state = read_parameters(path)
    with torch.device("meta"):
        model = Inception()
    layout = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    # Counters of training steps, which evaluation does not use and old files lack.
    counters = {key: torch.tensor(0) for key in layout if key.endswith(".num_batches_tracked")}
    if wrong := differences(counters | state, layout):
        raise CheckpointError(f"checkpoint {str(path)!r} is not {KIND}: {wrong}")
    parameters = {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
    model.load_state_dict(counters | parameters, assign=True)
    return InceptionEncoder(model.requires_grad_(False).to(device), file_sha256(path), device)


def _pixels(image: Image.Image, device: str) -> Tensor:
    """fp32 [3, 299, 299], -1..1, between the four nearest pixels however much larger the image is."""
    rgb = torch.from_numpy(np.array(image)).to(device).permute(2, 0, 1)[None].float() / 255
    return 2 * F.interpolate(rgb, (_SIZE, _SIZE), mode="bilinear", align_corners=False, antialias=False)[0] - 1
