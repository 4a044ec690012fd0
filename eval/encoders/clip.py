"""Image and text towers, through open_clip (extra `encoders`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor

from eval.encoders.catalogue import SLIP_B, Tower
from eval.encoders.checkpoint import file_sha256
from eval.encoders.slip import load_slip


class ClipError(ValueError):
    """Towers that cannot be loaded; the message says what to install or download."""


class TextTower(Protocol):
    """What embeds texts."""

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Embeddings fp32 [len(texts), E] on the CPU, not normalised."""
        ...


class Towers(TextTower, Protocol):
    """What embeds the images and texts of one space."""

    @property
    def tower(self) -> Tower:
        """The space."""
        ...

    @property
    def weights(self) -> str:
        """What identifies the weights."""
        ...

    def embed_images(self, images: Sequence[Image.Image]) -> Tensor:
        """Embeddings fp32 [len(images), E] on the CPU, not normalised, of RGB images."""
        ...


@dataclass(frozen=True)
class ClipTowers:
    """Both towers of one space, with weights, in evaluation mode."""

    tower: Tower
    model: Any  # of open_clip, which has no types
    preprocess: Callable[[Image.Image], Tensor]
    tokenise: Callable[[list[str]], Tensor]
    weights: str  # sha256 of their file, or the tag by which open_clip fetched them
    device: str = "cpu"
    batch_size: int = 32

    @torch.no_grad()
    def embed_images(self, images: Sequence[Image.Image]) -> Tensor:
        """Embeddings fp32 [len(images), E] on the CPU, not normalised, of RGB images.

        Raises:
            ValueError: an image that is not RGB; `eval.encoders.images.opaque` decides what becomes of others.
        """
        if any(image.mode != "RGB" for image in images):
            raise ValueError(f"images must be RGB, got {', '.join(sorted({image.mode for image in images}))}")
        return self._embed(self.model.encode_image, [self.preprocess(image) for image in images])

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Embeddings fp32 [len(texts), E] on the CPU, not normalised."""
        return self._embed(self.model.encode_text, list(self.tokenise(list(texts))))

    def _embed(self, encode: Callable[[Tensor], Tensor], inputs: list[Tensor]) -> Tensor:
        if not inputs:
            return torch.empty(0, self.tower.dim)
        batches = (torch.stack(inputs[i : i + self.batch_size]) for i in range(0, len(inputs), self.batch_size))
        return torch.cat([encode(batch.to(self.device)).float().cpu() for batch in batches])


def load_clip(tower: Tower, path: Path | None = None, device: str = "cpu") -> ClipTowers:
    """Towers in fp32.

    Args:
        path: a file with the tower's weights; None lets open_clip fetch them, or find them in its cache.

    Raises:
        ClipError: open_clip is not installed, or the weights cannot be had, read, or are of another architecture.
    """
    try:
        import open_clip
    except ImportError as error:
        raise ClipError("CLIP towers need open_clip: pip install 'ssabench[encoders]'") from error
    source = f"of {str(path)!r}" if path else f"tagged {tower.pretrained!r}" if tower.pretrained else "without a path"
    try:
        if tower == SLIP_B:
            model, preprocess, tokenise = load_slip(path)
        else:
            model, preprocess, tokenise = _load(open_clip, tower, path)
    except Exception as error:  # open_clip, the hub's client and torch raise their own kinds
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ClipError(
            f"weights of {tower.architecture} {source} cannot be loaded ({reason[0]}); "
            f"download them from {tower.url} and give the file's path"
        ) from error
    return ClipTowers(
        tower,
        model.eval().requires_grad_(False).to(device),
        preprocess,
        tokenise,
        file_sha256(path) if path else str(tower.pretrained),
        device,
    )


def _load(open_clip: Any, tower: Tower, path: Path | None) -> tuple[Any, Any, Any]:
    if path is not None and not path.is_file():
        raise ValueError("it is not a file")
    model, _, preprocess = open_clip.create_model_and_transforms(
        tower.architecture, pretrained=str(path or tower.pretrained)
    )
    return model, preprocess, open_clip.get_tokenizer(tower.architecture)
