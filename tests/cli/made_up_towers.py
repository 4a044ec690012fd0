"""CLIP towers without weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from eval.encoders.catalogue import EVA02_E, Tower


@dataclass
class Towers:
    """Stand for open_clip's: an image or a text is embedded as noise of its own."""

    tower: Tower = EVA02_E
    weights: str = "made up"

    def embed_images(self, images: Sequence[Image.Image]) -> Tensor:
        return torch.stack([self._noise(image.tobytes()[0]) for image in images])

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        return torch.stack([self._noise(len(text)) for text in texts])

    def _noise(self, seed: int) -> Tensor:
        return torch.randn(self.tower.dim, generator=torch.Generator().manual_seed(seed))
