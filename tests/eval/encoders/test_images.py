"""What becomes of transparency."""

from __future__ import annotations

import pytest
from PIL import Image

from eval.encoders.images import opaque


@pytest.mark.parametrize(
    ("policy", "colour"),
    [("drop alpha", (200, 10, 10)), ("over white", (255, 255, 255)), ("over black", (0, 0, 0))],
)
def test_a_transparent_pixel(policy: str, colour: tuple[int, int, int]) -> None:
    image = opaque(Image.new("RGBA", (2, 2), (200, 10, 10, 0)), policy)
    assert image.mode == "RGB"
    assert image.getpixel((0, 0)) == colour


@pytest.mark.parametrize("policy", ["drop alpha", "over white", "over black"])
def test_opaque_images_stay_as_they_are(policy: str) -> None:
    assert opaque(Image.new("RGB", (1, 1), (1, 2, 3)), policy).getpixel((0, 0)) == (1, 2, 3)
    assert opaque(Image.new("RGBA", (1, 1), (1, 2, 3, 255)), policy).getpixel((0, 0)) == (1, 2, 3)


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown image policy 'green'; expected one of drop alpha"):
        opaque(Image.new("RGB", (1, 1)), "green")
