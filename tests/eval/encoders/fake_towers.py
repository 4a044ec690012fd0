"""Towers and encoders whose embeddings are known."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from eval.encoders.catalogue import EVA02_E, POINT_ENCODERS, Tower
from eval.encoders.checkpoint import LoadedPointEncoder
from eval.encoders.clip import ClipTowers
from eval.encoders.point_encoder import PointEncoder


class MeanColour(PointEncoder):
    """Embeds a cloud as its mean colour."""

    least_points = 1

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))
        self.eval()

    def embed(self, xyz: Tensor, colours: Tensor) -> Tensor:
        return colours.mean(1)


def mean_colour_encoder(name: str = "uni3d-b") -> LoadedPointEncoder:
    return LoadedPointEncoder(POINT_ENCODERS[name], MeanColour(), "e" * 64)


class MeanColourModel(nn.Module):
    """Embeds an image as its mean colour, and a text by the colours that it names."""

    def encode_image(self, pixels: Tensor) -> Tensor:
        return pixels.mean((2, 3))

    def encode_text(self, tokens: Tensor) -> Tensor:
        return tokens.float()


def tokenise(texts: Sequence[str]) -> Tensor:
    return torch.tensor([[name in text for name in ("red", "green", "blue")] for text in texts])


def mean_colour_towers(tower: Tower = EVA02_E, weights: str = "laion2b_s9b_b144k") -> ClipTowers:
    def preprocess(image: object) -> Tensor:
        return torch.tensor(image.getpixel((0, 0)))[:, None, None] / 255  # type: ignore[attr-defined]

    return ClipTowers(tower, MeanColourModel(), preprocess, tokenise, weights, batch_size=2)
