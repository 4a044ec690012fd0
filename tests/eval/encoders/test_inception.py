"""FID's Inception v3: the published layout, what it computes, and what its pools and pixels are."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import plain_inception
import pytest
import torch
from PIL import Image
from random_inception import random_inception, random_state
from torch import Tensor

from eval.encoders import inception
from eval.encoders.checkpoint import CheckpointError
from eval.encoders.inception import DIM, KIND, LEAST_SIZE, URL, Inception, InceptionEncoder, load_inception

LAYOUT = json.loads((Path(__file__).parent / "key_layouts.json").read_text())[KIND]


@pytest.fixture(scope="module")
def model() -> Inception:
    return random_inception()


@pytest.fixture(scope="module")
def precise() -> Inception:
    return random_inception().double()


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return random_state()


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    pixels = torch.randint(256, (height, width, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


def pixels(height: int, width: int, count: int = 2) -> Tensor:
    """fp64 [count, 3, height, width], -1..1."""
    return torch.rand(count, 3, height, width, dtype=torch.float64) * 2 - 1


def test_parameters_have_exactly_the_published_names_and_shapes() -> None:
    with torch.device("meta"):
        found = Inception().state_dict()
    assert {key: list(value.shape) for key, value in found.items()} == LAYOUT
    assert sum(key.endswith(".conv.weight") for key in LAYOUT) == 94
    assert len(LAYOUT) == 94 * 6 + 2


# The smallest image, whose last map is one pixel; and maps whose borders and sides differ.
@pytest.mark.parametrize("size", [(LEAST_SIZE, LEAST_SIZE), (139, 107)])
def test_it_computes_what_a_plain_one_does(precise: Inception, size: tuple[int, int]) -> None:
    given = pixels(*size)
    found = precise(given)
    assert found.shape == (2, DIM)
    torch.testing.assert_close(found, plain_inception.inception(given, precise.state_dict()), rtol=1e-9, atol=1e-9)
    assert (found[0] - found[1]).abs().mean() > 0.01 * found.abs().mean()


def test_an_image_of_full_size_in_single_precision(model: Inception, precise: Inception) -> None:
    given = pixels(299, 299, 1)
    expected = plain_inception.inception(given, precise.state_dict())
    torch.testing.assert_close(model(given.float()).double(), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("other", ["count_padding", "last_is_mean"])
def test_pools_are_not_those_of_torchvision(precise: Inception, other: str) -> None:
    given = pixels(107, 107)
    wrong = plain_inception.inception(given, precise.state_dict(), **{other: True})
    assert (precise(given) - wrong).abs().max() > 0.1


def test_it_only_evaluates(model: Inception) -> None:
    assert not any(module.training for module in model.modules())
    with pytest.raises(ValueError, match="only evaluates"):
        model.train()
    given = pixels(75, 75).float().requires_grad_()
    assert not model(given).requires_grad


@pytest.mark.parametrize("shape", [(3, 75, 75), (1, 4, 75, 75), (1, 3, 74, 299)])
def test_what_is_no_image_is_refused(model: Inception, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"pixels must have shape \[B, 3, H, W\] with at least 75 x 75"):
        model(torch.zeros(shape))


@pytest.mark.parametrize("size", [(512, 512), (40, 30), (299, 299)])
def test_pixels_are_resized_between_the_four_nearest_and_scaled(size: tuple[int, int]) -> None:
    image = noise(*size)
    found = inception._pixels(image, "cpu")
    assert found.shape == (3, 299, 299)
    source = torch.from_numpy(np.array(image)).double()
    for row, column in ((0, 0), (298, 298), (17, 230), (150, 149)):
        corners = []
        for position, length in ((row, size[0]), (column, size[1])):
            at = min(max((position + 0.5) * length / 299 - 0.5, 0), length - 1)
            corners.append((int(at), min(int(at) + 1, length - 1), at - int(at)))
        (top, bottom, down), (left, right, along) = corners
        upper = source[top, left] * (1 - along) + source[top, right] * along
        lower = source[bottom, left] * (1 - along) + source[bottom, right] * along
        expected = (upper * (1 - down) + lower * down) / 127.5 - 1
        torch.testing.assert_close(found[:, row, column].double(), expected, rtol=0, atol=1e-4)


def test_features_do_not_depend_on_batch_or_order(model: Inception) -> None:
    images = [noise(60 + seed, 64, seed) for seed in range(5)]
    alone = InceptionEncoder(model, "0" * 64, batch_size=1).embed_images(images)
    assert alone.shape == (5, DIM)
    together = InceptionEncoder(model, "0" * 64, batch_size=3).embed_images(images[::-1]).flip(0)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    assert (alone[0] - alone[1]).abs().max() > 0.1
    assert InceptionEncoder(model, "0" * 64).embed_images([]).shape == (0, DIM)


def test_images_with_alpha_are_refused(model: Inception) -> None:
    with pytest.raises(ValueError, match="images must be RGB, got RGBA"):
        InceptionEncoder(model, "0" * 64).embed_images([noise(80, 80).convert("RGBA")])


@pytest.mark.parametrize("counters", [True, False])
def test_a_file_is_read_bit_for_bit(tmp_path: Path, state: dict[str, Tensor], counters: bool) -> None:
    path = tmp_path / "inception.pth"
    torch.save({key: value for key, value in state.items() if counters or value.ndim}, path)
    loaded = load_inception(path)
    found = loaded.model.state_dict()
    assert found.keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in found.items() if value.ndim)
    assert loaded.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    image = noise(299, 299)
    scaled = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].double() / 127.5 - 1
    expected = plain_inception.inception(scaled, {key: value.double() for key, value in state.items()})
    torch.testing.assert_close(loaded.embed_images([image]).double(), expected, rtol=1e-3, atol=1e-4)


def test_only_the_published_file_goes_by_the_published_name(
    tmp_path: Path, state: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Path(URL).stem.endswith(f"{KIND}-{inception.PUBLISHED_SHA256[:8]}")
    path = tmp_path / "inception.pth"
    torch.save(state, path)
    assert load_inception(path).kind == "unknown weights in the layout of inception-2015-12-05"
    monkeypatch.setattr(inception, "PUBLISHED_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    assert load_inception(path).kind == KIND


def test_another_file_is_refused_in_one_line(tmp_path: Path, state: dict[str, Tensor]) -> None:
    changed = {key: value for key, value in state.items() if not key.startswith("Mixed_7c.branch_pool.")}
    # torchvision's own weights have a second classifier, and one class for each of ImageNet's.
    changed |= {"AuxLogits.fc.bias": torch.zeros(1000), "fc.bias": torch.zeros(1000)}
    path = tmp_path / "inception.pth"
    torch.save(changed, path)
    with pytest.raises(CheckpointError) as caught:
        load_inception(path)
    message = str(caught.value)
    assert f"{str(path)!r} is not inception-2015-12-05: 5 missing (Mixed_7c.branch_pool.conv.weight, " in message
    assert "; 1 unknown (AuxLogits.fc.bias); 1 misshapen (fc.bias has shape [1000], not [1008])" in message
    assert len(message.splitlines()) == 1
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(CheckpointError, match=r"inception\.pth"):
        load_inception(path)
    with pytest.raises(CheckpointError, match="is not a file"):
        load_inception(tmp_path / "nowhere.pth")


@pytest.mark.gpu
def test_a_gpu_computes_the_same_without_rounding_to_tf32(model: Inception) -> None:
    images = [noise(300, 280, seed) for seed in range(3)]
    expected = InceptionEncoder(model, "0" * 64).embed_images(images)
    allowed = torch.backends.cudnn.allow_tf32
    found = InceptionEncoder(random_inception().to("cuda"), "0" * 64, "cuda").embed_images(images)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert torch.backends.cudnn.allow_tf32 == allowed
