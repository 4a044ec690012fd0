"""LPIPS is that of a plain computation, on weights of the published layouts; wrong files are named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from eval.encoders.checkpoint import CheckpointError
from eval.encoders.lpips import LPIPS, backbone_layout, linear_layout, load_lpips

# torchvision's VGG16 without its last pool: channels of convolutions, None for a pool.
VGG16 = (64, 64, None, 128, 128, None, 256, 256, 256, None, 512, 512, 512, None, 512, 512, 512)
# Behind these layers features are taken: relu1_2, relu2_2, relu3_3, relu4_3 and relu5_3.
TAKEN = (3, 8, 15, 22, 29)


def plain_backbone() -> nn.Sequential:
    layers: list[nn.Module] = []
    inputs = 3
    for channels in VGG16:
        if channels is None:
            layers.append(nn.MaxPool2d(2, 2))
        else:
            layers += [nn.Conv2d(inputs, channels, 3, padding=1), nn.ReLU()]
            inputs = channels
    return nn.Sequential(*layers)


def random_files(folder: Path) -> tuple[Path, Path]:
    """Both files, the first with a classifier that nothing uses; filters scaled so that features do not vanish."""
    state = {f"features.{name}": 3 * value for name, value in plain_backbone().state_dict().items()}
    state["classifier.0.weight"] = torch.zeros(4, 4)
    linear = {f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1) for i, c in enumerate((64, 128, 256, 512, 512))}
    paths = folder / "vgg16.pth", folder / "linear.pth"
    torch.save(state, paths[0])
    torch.save(linear, paths[1])
    return paths


def plain_lpips(paths: tuple[Path, Path], a: Tensor, b: Tensor) -> Tensor:
    state, linear = (torch.load(path, weights_only=True) for path in paths)
    network = plain_backbone()
    network.load_state_dict({k.removeprefix("features."): v for k, v in state.items() if k.startswith("features.")})
    network.double().eval()
    shift = torch.tensor([-0.030, -0.088, -0.188], dtype=torch.float64).view(1, 3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450], dtype=torch.float64).view(1, 3, 1, 1)
    x, y = ((2 * image.double() - 1 - shift) / scale for image in (a, b))
    total = torch.zeros(len(a), dtype=torch.float64)
    stage = 0
    for number, layer in enumerate(network):
        x, y = layer(x), layer(y)
        if number in TAKEN:
            difference = (nn.functional.normalize(x) - nn.functional.normalize(y)).square()
            total += nn.functional.conv2d(difference, linear[f"lin{stage}.model.1.weight"].double()).mean((1, 2, 3))
            stage += 1
    assert stage == 5
    return total.detach()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    torch.manual_seed(1)
    return random_files(tmp_path_factory.mktemp("lpips"))


@pytest.fixture(scope="module")
def lpips(files: tuple[Path, Path]) -> LPIPS:
    return load_lpips(*files)


def in_fp64(lpips: LPIPS) -> LPIPS:
    double = [{key: value.double() for key, value in group.items()} for group in (lpips.backbone, lpips.linear)]
    return LPIPS(double[0], double[1], lpips.backbone_sha256, lpips.linear_sha256)


def test_the_layouts_are_the_published_ones() -> None:
    network = {f"features.{name}": tuple(value.shape) for name, value in plain_backbone().state_dict().items()}
    assert backbone_layout() == network
    assert len(network) == 26
    # As in lpips/weights/v0.1/vgg.pth of lpips 0.1.4.
    assert linear_layout() == {
        "lin0.model.1.weight": (1, 64, 1, 1),
        "lin1.model.1.weight": (1, 128, 1, 1),
        "lin2.model.1.weight": (1, 256, 1, 1),
        "lin3.model.1.weight": (1, 512, 1, 1),
        "lin4.model.1.weight": (1, 512, 1, 1),
    }


@pytest.mark.parametrize("size", [(16, 16), (33, 47)])
def test_the_distance_is_that_of_a_plain_computation(
    files: tuple[Path, Path], lpips: LPIPS, size: tuple[int, int]
) -> None:
    a, b = torch.rand(2, 3, 3, *size, dtype=torch.float64)
    expected = plain_lpips(files, a, b)
    assert float(expected.min()) > 1e-3
    assert torch.allclose(in_fp64(lpips).distance(a, b), expected, rtol=1e-9)
    assert torch.allclose(lpips.distance(a, b).double(), expected, rtol=1e-4)


def test_equal_images_have_no_distance_and_others_have_one_both_ways(lpips: LPIPS) -> None:
    a, b = torch.rand(2, 2, 3, 24, 24)
    assert torch.equal(lpips.distance(a, a), torch.zeros(2))
    assert torch.equal(lpips.distance(a, b), lpips.distance(b, a))
    assert bool((lpips.distance(a, b) > 0).all())
    assert bool((lpips.distance(a, b) <= lpips.bound).all())


def test_other_images_of_a_batch_change_nothing(lpips: LPIPS) -> None:
    a, b = torch.rand(2, 4, 3, 24, 24)
    alone = torch.cat([lpips.distance(a[i : i + 1], b[i : i + 1]) for i in range(4)])
    assert torch.allclose(lpips.distance(a.flip(0), b.flip(0)).flip(0), alone, rtol=1e-5)


def test_only_published_files_go_by_the_name(lpips: LPIPS) -> None:
    from eval.encoders.lpips import PUBLISHED_BACKBONE, PUBLISHED_LINEAR

    assert not lpips.is_published
    assert LPIPS(lpips.backbone, lpips.linear, PUBLISHED_BACKBONE + "00", PUBLISHED_LINEAR).is_published


def test_wrong_files_are_named(files: tuple[Path, Path], tmp_path: Path) -> None:
    state = torch.load(files[0], weights_only=True)
    del state["features.28.bias"]
    state["features.5.weight"] = torch.zeros(2, 2)
    torch.save(state, tmp_path / "vgg.pth")
    with pytest.raises(CheckpointError, match=r"is not torchvision's VGG16: 1 missing \(features.28.bias\); 1 misshap"):
        load_lpips(tmp_path / "vgg.pth", files[1])
    with pytest.raises(CheckpointError, match=r"is not LPIPS 0.1 for VGG16: 5 missing"):
        load_lpips(files[0], files[0])
    with pytest.raises(CheckpointError, match="is not a file"):
        load_lpips(files[0], tmp_path / "none.pth")


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_weights_of_channels_are_positive(files: tuple[Path, Path], tmp_path: Path, value: float) -> None:
    linear = {name: torch.full(shape, value) for name, shape in linear_layout().items()}
    torch.save(linear, tmp_path / "linear.pth")
    with pytest.raises(CheckpointError, match="weights must be positive"):
        load_lpips(files[0], tmp_path / "linear.pth")


@pytest.mark.parametrize("shape", [(2, 3, 15, 16), (2, 1, 16, 16), (3, 16, 16)])
def test_what_is_no_image_is_refused(lpips: LPIPS, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"a and b must have one shape \[B, 3, H, W\] of at least 16 x 16"):
        lpips.distance(torch.zeros(shape), torch.zeros(shape))
