"""Similarities are plain cosines, and tell where they come from."""

from __future__ import annotations

import math

import pytest
import torch
from fake_towers import mean_colour_encoder, mean_colour_towers
from PIL import Image
from pydantic import ValidationError

from eval.encoders.catalogue import BIG_G
from eval.encoders.similarity import (
    Cloud,
    Sampling,
    SimilarityScores,
    cosine_matrix,
    image_shape_similarity,
    paired_cosines,
    text_shape_similarity,
)

SAMPLING = Sampling(points=4, method="uniform by area", seed=3, shell="outer surface")


def coloured(*colour: float) -> Cloud:
    return Cloud(torch.rand(4, 3), torch.tensor(colour).expand(4, 3))


RED, WHITE = coloured(1, 0, 0), coloured(1, 1, 1)


def test_cosines_are_those_of_the_angle() -> None:
    a, b = torch.tensor([[1.0, 0], [0, 2]]), torch.tensor([[3.0, 3], [0, -1]])
    half = math.sqrt(0.5)
    torch.testing.assert_close(paired_cosines(a, b), torch.tensor([half, -1]))
    torch.testing.assert_close(cosine_matrix(a, b), torch.tensor([[half, 0], [half, -1]]))


@pytest.mark.parametrize("bad", [torch.zeros(1, 3), torch.full((1, 3), torch.nan), torch.full((1, 3), torch.inf)])
def test_embeddings_without_a_direction_are_refused(bad: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="finite and not zero"):
        cosine_matrix(torch.ones(2, 3), bad)


def test_embeddings_of_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"got \[2, 3\] and \[1, 3\]"):
        paired_cosines(torch.ones(2, 3), torch.ones(1, 3))
    with pytest.raises(ValueError, match=r"got \[2, 3\] and \[2, 4\]"):
        cosine_matrix(torch.ones(2, 3), torch.ones(2, 4))


def test_images_are_compared_with_the_shapes_of_their_names() -> None:
    images = {"white": Image.new("RGB", (8, 8), "white"), "red": Image.new("RGB", (8, 8), "blue")}
    scores = image_shape_similarity(
        mean_colour_encoder(), mean_colour_towers(), {"red": RED, "white": WHITE}, images, SAMPLING, colours="own"
    )
    assert scores.cosines == pytest.approx({"red": 0, "white": 1}, abs=1e-6)
    assert scores.mean == pytest.approx(0.5, abs=1e-6)


def test_texts_are_compared_inside_their_template() -> None:
    clouds, texts = {"a": RED, "b": RED}, {"a": "red", "b": "green"}
    arguments = (mean_colour_encoder(), mean_colour_towers(), clouds, texts, SAMPLING)
    plain = text_shape_similarity(*arguments, colours="own")
    assert plain.cosines == pytest.approx({"a": 1, "b": 0})
    framed = text_shape_similarity(*arguments, colours="own", template="a red {}")
    assert framed.cosines == pytest.approx({"a": 1, "b": math.sqrt(0.5)})
    assert framed.provenance.query == "a red {}"
    with pytest.raises(ValueError, match=r"template must hold \{\}"):
        text_shape_similarity(*arguments, template="a shape")


def test_scores_carry_all_that_must_be_equal_to_compare_them() -> None:
    clouds, images = {"a": RED}, {"a": Image.new("RGBA", (8, 8), (255, 0, 0, 0))}
    scores = image_shape_similarity(
        mean_colour_encoder(), mean_colour_towers(weights="t" * 64), clouds, images, SAMPLING, transparency="over white"
    )
    assert scores.provenance.model_dump() == {
        "kind": "image-shape",
        "encoder": "uni3d-b",
        "encoder_sha256": "e" * 64,
        "tower": "EVA02-E-14-plus",
        "tower_weights": "t" * 64,
        "sampling": {"points": 4, "method": "uniform by area", "seed": 3, "shell": "outer surface"},
        "colours": "constant 0.4",
        "axes": "as stored, y up",
        "normalisation": "mean at the origin, farthest point at distance 1",
        "query": "over white",
    }
    assert scores.cosines["a"] == pytest.approx(1)  # grey against the white behind what is transparent
    assert SimilarityScores.model_validate_json(scores.model_dump_json()) == scores
    fetched = image_shape_similarity(mean_colour_encoder(), mean_colour_towers(), clouds, images, SAMPLING)
    assert fetched.provenance.tower_weights == "laion2b_s9b_b144k"
    with pytest.raises(ValidationError):
        SimilarityScores.model_validate({"cosines": {"a": 1.0}, "mean": 1.0})


def test_order_and_batch_of_assets_do_not_matter() -> None:
    clouds = {str(i): coloured(i / 9, 0.5, 1 - i / 9) for i in range(9)}
    texts = dict.fromkeys(clouds, "red and blue")
    arguments = (mean_colour_encoder(), mean_colour_towers())
    expected = text_shape_similarity(*arguments, clouds, texts, SAMPLING, colours="own", batch_size=1)
    turned = dict(reversed(clouds.items()))
    found = text_shape_similarity(*arguments, turned, texts, SAMPLING, colours="own", batch_size=4)
    assert found.cosines == pytest.approx(expected.cosines)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"towers": mean_colour_towers(BIG_G)}, "uni3d-b is aligned with EVA02-E-14-plus, got ViT-bigG-14"),
        ({"encoder": mean_colour_encoder("ulip2-8k-xyz")}, "aligned with SLIP-ViT-B-16, got EVA02"),
        ({"texts": {"b": "red"}}, "equal names; alone: a, b"),
        ({"clouds": {}, "texts": {}}, "equal names"),
        ({"clouds": {"a": Cloud(torch.rand(5, 3))}}, "cloud 'a' has 5 points, not the 4 of the sampling"),
        ({"clouds": {"a": Cloud(torch.rand(4, 3))}}, "cloud 'a' has no colours of its own"),
    ],
)
def test_what_does_not_belong_together_is_refused(change: dict[str, object], complaint: str) -> None:
    arguments: dict[str, object] = {
        "encoder": mean_colour_encoder(),
        "towers": mean_colour_towers(),
        "clouds": {"a": RED},
        "texts": {"a": "red"},
        "sampling": SAMPLING,
        "colours": "own",
    }
    with pytest.raises(ValueError, match=complaint):
        text_shape_similarity(**{**arguments, **change})
