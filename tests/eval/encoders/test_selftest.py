"""Zero-shot classification, on clouds whose classes are known, beside what is published."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fake_towers import mean_colour_encoder, mean_colour_towers
from torch import Tensor

from eval.encoders.catalogue import POINT_ENCODERS
from eval.encoders.labelled import LabelledClouds
from eval.encoders.selftest import (
    SelfTest,
    embed_classes,
    published_accuracies,
    published_accuracy,
    read_templates,
    selftest,
)

CLASSES = ["red", "green", "blue"]
TEMPLATES = ["a {} thing", "the {}"]


def coloured_clouds(wrong: int, total: int) -> LabelledClouds:
    """Clouds of the colour that their class names, but for some."""

    def read(i: int) -> tuple[Tensor, Tensor]:
        colour = torch.full((5, 3), 0.1)
        colour[:, (i + (i < wrong)) % 3] = 0.9
        return torch.rand(5, 3), colour

    return LabelledClouds("modelnet40", CLASSES, [i % 3 for i in range(total)], read)


def run(wrong: int, total: int = 100, **options: object) -> SelfTest:
    return selftest(mean_colour_encoder(), mean_colour_towers(), coloured_clouds(wrong, total), TEMPLATES, **options)


def test_accuracies_are_counted_and_compared_with_the_published_ones() -> None:
    result = run(wrong=14)
    assert (result.clouds, result.top1, result.top5) == (100, pytest.approx(86), pytest.approx(100))
    assert result.encoder_sha256 == "e" * 64
    assert (result.published.top1, result.published.top5) == (86.3, 97.9)
    assert "Uni3D" in result.published.source
    assert not result.passed  # three classes have every class among five
    assert run(wrong=14, tolerance=2.2).passed


@pytest.mark.parametrize(("top1", "top5", "passed"), [(86.3, 97.9, True), (87.2, 97.0, True), (84.9, 97.9, False)])
def test_the_tolerance_is_one_point_either_way(top1: float, top5: float, passed: bool) -> None:
    published = published_accuracy("uni3d-b", "modelnet40")
    result = SelfTest(encoder_sha256="", clouds=1, top1=top1, top5=top5, published=published, tolerance=1.0)
    assert result.passed == passed


def test_batches_do_not_matter_and_progress_is_told() -> None:
    told: list[int] = []
    result = run(wrong=20, total=50, batch_size=16, progress=told.append)
    assert told == [16, 32, 48, 50]
    assert run(wrong=20, total=50, batch_size=1) == result


def test_the_checkpoints_training_chooses_the_published_row() -> None:
    assert run(wrong=14, training="without LVIS").published.top1 == 86.1
    with pytest.raises(ValueError, match="no published accuracy of uni3d-b trained 'x' on modelnet40; there are 'ens"):
        run(wrong=14, training="x")
    with pytest.raises(ValueError, match="no published accuracy of ulip2-8k-xyz"):
        published_accuracy("ulip2-8k-xyz", "modelnet40")


def test_no_clouds_classes_or_templates_are_refused() -> None:
    with pytest.raises(ValueError, match="clouds must not be empty"):
        run(wrong=0, total=0)
    with pytest.raises(ValueError, match="classes and templates must not be empty"):
        selftest(mean_colour_encoder(), mean_colour_towers(), coloured_clouds(0, 3), [])
    with pytest.raises(ValueError, match="classes and templates must not be empty"):
        selftest(mean_colour_encoder(), mean_colour_towers(), replace(coloured_clouds(0, 3), classes=[]), TEMPLATES)


def test_a_class_is_the_unit_mean_over_templates() -> None:
    found = embed_classes(mean_colour_towers(), ["red"], ["{}", "green {}"])
    half = 0.5**0.5
    expected = torch.tensor([[1 + half, half, 0]])
    torch.testing.assert_close(found, expected / expected.norm())


def test_published_accuracies_are_of_known_encoders_and_plausible() -> None:
    rows = published_accuracies()
    keys = {(row.encoder, row.training, row.dataset) for row in rows}
    assert len(keys) == len(rows)
    for row in rows:
        assert row.encoder in POINT_ENCODERS
        assert 0 < row.top1 < row.top5 < 100
        assert "README of" in row.source


def test_templates_of_the_authors_file_are_read(tmp_path: Path) -> None:
    path = tmp_path / "templates.json"
    path.write_text(json.dumps({"modelnet40_64": ["a {}.", "the {}."], "odd": ["none"]}))
    assert read_templates(path) == ["a {}.", "the {}."]
    with pytest.raises(ValueError, match="has no templates 'shapenet_64'"):
        read_templates(path, "shapenet_64")
    with pytest.raises(ValueError, match=r"must be texts that hold \{\}"):
        read_templates(path, "odd")
    with pytest.raises(ValueError, match="has no templates"):
        read_templates(tmp_path / "absent.json")
