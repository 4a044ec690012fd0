"""Towers of open_clip: a tiny one with random weights, and clear words where there are none."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from PIL import Image

from eval.encoders.catalogue import EVA02_E, POINT_ENCODERS, SLIP_B, Tower
from eval.encoders.clip import ClipError, load_clip

TINY = Tower("tiny-clip", "nowhere", 16, "https://example.org/tiny-clip")
CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1},
}


@pytest.fixture
def open_clip(tmp_path: Path) -> Iterator[ModuleType]:
    """open_clip with a tiny architecture."""
    module = pytest.importorskip("open_clip")
    (tmp_path / "tiny-clip.json").write_text(json.dumps(CONFIG))
    module.add_model_config(tmp_path / "tiny-clip.json")
    yield module
    module.factory._MODEL_CONFIGS.pop("tiny-clip", None)


def test_weights_of_a_file_are_loaded(open_clip: ModuleType, tmp_path: Path) -> None:
    model = open_clip.create_model("tiny-clip").eval()
    path = tmp_path / "tiny.pt"
    torch.save(model.state_dict(), path)
    towers = load_clip(TINY, path)
    assert towers.weights == hashlib.sha256(path.read_bytes()).hexdigest()
    assert not towers.model.training
    assert not any(parameter.requires_grad for parameter in towers.model.parameters())
    images = [Image.effect_noise((40, 50), 90 + i).convert("RGB") for i in range(5)]
    embedded = towers.embed_images(images)
    with torch.no_grad():
        expected = model.encode_image(torch.stack([towers.preprocess(image) for image in images]))
        text = model.encode_text(open_clip.get_tokenizer("tiny-clip")(["a chair"]))
    torch.testing.assert_close(embedded, expected)
    torch.testing.assert_close(towers.embed_texts(["a chair"]), text)
    assert towers.embed_texts([]).shape == (0, 16)
    with pytest.raises(ValueError, match="images must be RGB, got RGBA"):
        towers.embed_images([images[0].convert("RGBA")])


def test_weights_of_another_architecture_are_refused(open_clip: ModuleType, tmp_path: Path) -> None:
    torch.save({"visual.conv1.weight": torch.zeros(3)}, tmp_path / "m.pt")
    with pytest.raises(
        ClipError, match=r"weights of tiny-clip of .* cannot be loaded .*; download them from https://ex"
    ):
        load_clip(TINY, tmp_path / "m.pt")


def test_weights_that_cannot_be_fetched_name_where_they_are(open_clip: ModuleType) -> None:
    with pytest.raises(ClipError) as caught:
        load_clip(TINY)
    assert len(str(caught.value).splitlines()) == 1
    assert "tagged 'nowhere'" in str(caught.value)
    assert "download them from https://example.org/tiny-clip and give the file's path" in str(caught.value)


def test_an_absent_file_names_where_the_weights_are(open_clip: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ClipError, match=r"it is not a file\); download them from https://huggingface\.co/timm/eva02_e"):
        load_clip(EVA02_E, tmp_path / "absent.pt")


def test_every_tower_is_one_of_open_clip(open_clip: ModuleType) -> None:
    for spec in POINT_ENCODERS.values():
        if spec.tower != SLIP_B:
            assert (spec.tower.architecture, spec.tower.pretrained) in open_clip.list_pretrained()
            assert open_clip.get_model_config(spec.tower.architecture)["embed_dim"] == spec.tower.dim == spec.dim


def test_a_missing_open_clip_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(ClipError, match=r"pip install 'ssabench\[encoders\]'"):
        load_clip(EVA02_E)
