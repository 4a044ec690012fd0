"""The image tower of the stand-in for point encoders: features of the ImageNet stand-in, projected into its space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from eval.encoders.catalogue import STANDIN_IMAGES, STANDIN_POINTS, Tower
from eval.encoders.checkpoint import CheckpointError, differences, file_sha256, packaged_weights, read_parameters
from eval.encoders.standin import DIM, StandInEncoder, load_standin

_PREFIX = "image_projection."


@dataclass(frozen=True)
class StandInTower:
    """Embeds images; knows no texts."""

    images: StandInEncoder
    weight: Tensor  # fp32 [E, 1280], of features at length 1
    bias: Tensor  # fp32 [E]
    weights: str  # sha256 of the packaged classifier, and of the projection's file
    tower: Tower = STANDIN_IMAGES

    def embed_images(self, images: Sequence[Image.Image]) -> Tensor:
        """Embeddings fp32 [len(images), E] on the CPU, not normalised, of RGB images.

        Raises:
            ValueError: an image that is not RGB.
        """
        return F.linear(F.normalize(self.images.embed_images(images), dim=1), self.weight, self.bias)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """None.

        Raises:
            ValueError: always.
        """
        raise ValueError(f"{STANDIN_POINTS.name} knows no texts: compare with images")


def load_standin_tower(device: str = "cpu") -> StandInTower:
    """The tower that belongs to the packaged weights.

    Raises:
        ValueError: the classifier's packages are not installed.
        CheckpointError: the file does not hold the projection.
    """
    path = packaged_weights(STANDIN_POINTS)
    found = {
        key.removeprefix(_PREFIX): value.float()
        for key, value in read_parameters(path).items()
        if key.startswith(_PREFIX)
    }
    if wrong := differences(found, {"weight": (STANDIN_IMAGES.dim, DIM), "bias": (STANDIN_IMAGES.dim,)}):
        raise CheckpointError(f"checkpoint {str(path)!r} does not hold the projection of images: {wrong}")
    images = load_standin(device)
    return StandInTower(images, found["weight"], found["bias"], f"{images.sha256}, projected by {file_sha256(path)}")
