"""Weights come back from our own files, from runs and from the published layout; others are refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import shapes
import torch
from safetensors.torch import save_file
from small import CONFIG, random_vae

from models.data.sdf import sparse_sdf
from models.vae.config import VAEConfig
from models.vae.files import SHIPPED, WeightsError, load_vae, save_vae
from models.vae.model import SparseVAE
from models.vae.reconstruction import reconstruct

LAYOUT = json.loads((Path(__file__).parent / "published_layout.json").read_text())


def test_names_and_shapes_are_those_of_the_published_checkpoint() -> None:
    with torch.device("meta"):
        vae = SparseVAE(VAEConfig())
    assert {name: list(x.shape) for name, x in vae.state_dict().items()} == LAYOUT


def test_own_files_come_back(tmp_path: Path) -> None:
    vae = random_vae()
    save_vae(tmp_path / "vae.safetensors", vae)
    loaded = load_vae(tmp_path / "vae.safetensors")
    assert loaded.config == CONFIG
    assert not loaded.training
    for name, tensor in vae.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)


def test_half_precision_halves_the_file(tmp_path: Path) -> None:
    vae = random_vae()
    for name, dtype in (("full", torch.float32), ("half", torch.float16)):
        save_vae(tmp_path / f"{name}.safetensors", vae, dtype)
    full, half = ((tmp_path / f"{name}.safetensors").stat().st_size for name in ("full", "half"))
    assert half < 0.6 * full
    torch.testing.assert_close(
        load_vae(tmp_path / "half.safetensors").state_dict(), vae.state_dict(), atol=1e-3, rtol=1e-3
    )


@pytest.mark.parametrize("name", SHIPPED)
def test_models_of_the_package_are_found_by_name(name: str) -> None:
    assert SHIPPED[name].stat().st_size < 20e6
    vae = load_vae(Path(name))
    assert sum(x.numel() for x in vae.parameters()) == 9_485_681


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_models_of_the_package_reconstruct_what_they_have_not_seen(name: str) -> None:
    turn, extents, resolution = shapes.rotation(1), (1.0, 0.8, 0.6), 128
    field = sparse_sdf(*shapes.moved(shapes.box(*extents), turn), resolution)
    surface, _ = reconstruct(load_vae(Path(name)), field)
    edges = surface.faces[:, [[0, 1], [1, 2], [2, 0]]].flatten(0, 1).sort(dim=1).values
    assert bool((edges.unique(dim=0, return_counts=True)[1] == 2).all())  # watertight
    distance = np.abs(shapes.box_distance(surface.vertices.numpy() @ turn, *extents))
    assert distance.mean() < 0.2 * (2 / resolution)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["vae.safetensors", "vae.ckpt"])
def test_published_weights_are_found_wherever_they_are_nested(tmp_path: Path, form: str) -> None:
    tensors = {name: torch.randn(shape) * 0.01 for name, shape in LAYOUT.items()}
    path = tmp_path / form
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save({"epoch": 3, "vae": {"weights": {f"module.{name}": x for name, x in tensors.items()}}}, path)
    loaded = load_vae(path)
    assert loaded.config == VAEConfig()
    for name, tensor in tensors.items():
        assert torch.equal(loaded.state_dict()[name], tensor)


def test_another_variant_is_named(tmp_path: Path) -> None:
    vae = random_vae(CONFIG.model_copy(update={"latent_channels": 6}))
    tensors = vae.state_dict()
    save_file(tensors, tmp_path / "vae.safetensors", {"vae": CONFIG.model_dump_json()})
    with pytest.raises(WeightsError, match=r"decoder.input_layer.weight should be \[32, 4\], is \[32, 6\]"):
        load_vae(tmp_path / "vae.safetensors")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.safetensors", b"", "cannot be read"),
        ("a.ckpt", b"junk", "cannot be read"),
        ("b.ckpt", None, "hold no SS-VAE"),
        ("missing.ckpt", ..., "are no file"),
    ],
)
def test_what_is_no_ss_vae_is_refused(tmp_path: Path, name: str, content: object, message: str) -> None:
    path = tmp_path / name
    if content is None:
        torch.save({"weights": torch.zeros(3)}, path)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(WeightsError, match=message):
        load_vae(path)
