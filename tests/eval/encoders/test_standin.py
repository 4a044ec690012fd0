"""The ImageNet stand-in: deterministic, never under a published name, and better than pixels."""

from __future__ import annotations

import sys

import pytest
import torch
from PIL import Image, ImageDraw

from eval.encoders.catalogue import POINT_ENCODERS
from eval.encoders.standin import (
    DIM,
    KIND,
    StandInEncoder,
    load_standin,
    same_object_accuracy,
    view_similarity,
)


@pytest.fixture(scope="module")
def encoder() -> StandInEncoder:
    return load_standin()


def drawing(shape: str, shift: int) -> Image.Image:
    image = Image.new("RGB", (200, 200), "white")
    box = (40 + shift, 40, 140 + shift, 140)
    getattr(ImageDraw.Draw(image), shape)(box, fill="black")
    return image


def test_it_never_goes_by_a_published_name() -> None:
    assert KIND not in POINT_ENCODERS
    assert KIND.startswith("standin-")


def test_the_packaged_weights_are_the_known_ones(encoder: StandInEncoder) -> None:
    assert encoder.sha256 == "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"
    assert not any(module.training for module in encoder.model.modules())


def test_embeddings_do_not_depend_on_the_batch(encoder: StandInEncoder) -> None:
    images = [drawing("ellipse", 5 * i) for i in range(3)]
    together = encoder.embed_images(images)
    assert together.shape == (3, DIM)
    alone = torch.cat([encoder.embed_images([image]) for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    assert encoder.embed_images([]).shape == (0, DIM)


def test_a_moved_disc_stays_more_alike_than_a_square(encoder: StandInEncoder) -> None:
    disc = drawing("ellipse", 0)
    alike = view_similarity(encoder, [drawing("ellipse", 20)], disc)
    other = view_similarity(encoder, [drawing("rectangle", 0)], disc)
    assert other < alike < 1


def test_the_best_view_counts(encoder: StandInEncoder) -> None:
    disc, square = drawing("ellipse", 0), drawing("rectangle", 0)
    assert view_similarity(encoder, [square, disc], disc) == pytest.approx(1, abs=1e-4)
    with pytest.raises(ValueError, match="views must not be empty"):
        view_similarity(encoder, [], disc)


def test_images_with_alpha_are_refused(encoder: StandInEncoder) -> None:
    with pytest.raises(ValueError, match="images must be RGB, got RGBA"):
        encoder.embed_images([drawing("ellipse", 0).convert("RGBA")])


def test_same_object_accuracy_counts_nearest_images() -> None:
    embeddings = torch.tensor([[1.0, 0], [0.9, 0.1], [0, 1], [0.1, 0.9], [0.2, 0.8]])
    assert same_object_accuracy(embeddings, [0, 0, 1, 1, 1]) == 1
    assert same_object_accuracy(embeddings, [0, 1, 0, 1, 1]) == pytest.approx(
        1 / 5
    )  # only the last image has its object next to it
    with pytest.raises(ValueError, match="two images or more"):
        same_object_accuracy(embeddings[:1], [0])


def test_missing_packages_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(ValueError, match=r"pip install 'ssabench\[standin\]'"):
        load_standin()
