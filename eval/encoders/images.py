"""Images as encoders of images get them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from PIL import Image

# What becomes of transparent pixels: the colour that lies hidden under them shows, as in published evaluation code
# that converts to RGB; or a background does.
ImagePolicy = Literal["drop alpha", "over white", "over black"]


def opaque(image: Image.Image, policy: ImagePolicy) -> Image.Image:
    """The image in RGB.

    Raises:
        ValueError: an unknown policy.
    """
    if policy not in get_args(ImagePolicy):
        raise ValueError(f"unknown image policy {policy!r}; expected one of {', '.join(get_args(ImagePolicy))}")
    if policy == "drop alpha" or not image.has_transparency_data:
        return image.convert("RGB")
    background = Image.new("RGBA", image.size, "white" if policy == "over white" else "black")
    return Image.alpha_composite(background, image.convert("RGBA")).convert("RGB")


def require_rgb(images: Sequence[Image.Image]) -> None:
    """Refuse images of other modes.

    Raises:
        ValueError: an image that is not RGB.
    """
    if any(image.mode != "RGB" for image in images):
        raise ValueError(f"images must be RGB, got {', '.join(sorted({image.mode for image in images}))}")
