"""Image and text towers, through open_clip (extra `encoders`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor

from eval.encoders.catalogue import Tower
from eval.encoders.checkpoint import file_sha256


class ClipError(ValueError):
    """Towers that cannot be loaded; the message says what to install or download."""


class TextTower(Protocol):
    """What embeds texts."""

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Embeddings fp32 [len(texts), E] on the CPU, not normalised."""
        ...


@dataclass(frozen=True)
class ClipTowers:
    """Both towers of one space, with weights, in evaluation mode."""

    tower: Tower
    model: Any  # of open_clip, which has no types
    preprocess: Callable[[Image.Image], Tensor]
    tokenise: Callable[[list[str]], Tensor]
    sha256: str | None  # of the file of weights; None: open_clip fetched those of the tower's tag
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
    if path is not None and not path.is_file():
        raise ClipError(f"weights of {tower.architecture} {str(path)!r} are not a file; they are at {tower.url}")
    try:
        model, _, preprocess = open_clip.create_model_and_transforms(
            tower.architecture, pretrained=str(path or tower.pretrained), device=device
        )
    except Exception as error:  # open_clip, the hub's client and torch raise their own kinds
        source = f"of {str(path)!r}" if path else f"tagged {tower.pretrained!r}"
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ClipError(
            f"weights of {tower.architecture} {source} cannot be loaded ({reason[0]}); "
            f"download them from {tower.url} and give the file's path"
        ) from error
    return ClipTowers(
        tower,
        model.eval().requires_grad_(False),
        preprocess,
        open_clip.get_tokenizer(tower.architecture),
        file_sha256(path) if path else None,
        device,
    )
