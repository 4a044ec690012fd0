"""The stand-in for point encoders: its packaged weights load strictly, and rank shapes it never saw above chance."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from eval.encoders.catalogue import POINT_ENCODERS, STANDIN_IMAGES, STANDIN_POINTS, point_encoder_spec
from eval.encoders.checkpoint import CheckpointError, LoadedPointEncoder, load_point_encoder, packaged_weights
from eval.encoders.clouds import prepare
from eval.encoders.point_encoder import embed_clouds
from eval.encoders.similarity import Cloud, Sampling, cosine_matrix, image_shape_similarity, text_shape_similarity
from eval.encoders.standin import rendered_views
from eval.encoders.standin_tower import StandInTower, load_standin_tower
from eval.encoders.towers import load_towers
from eval.sampling import sample_surface
from eval.surface import Surface
from models.data.dataset.geometry import GeneratedSolid

NAME = STANDIN_POINTS.name
POINTS = STANDIN_POINTS.clouds.points
UNSEEN = range(5_000_000, 5_000_016)  # seeds of solids; training has only small ones


@pytest.fixture(scope="module")
def encoder() -> LoadedPointEncoder:
    return load_point_encoder(NAME)


@pytest.fixture(scope="module")
def tower() -> StandInTower:
    return load_standin_tower()


@pytest.fixture(scope="module")
def solids() -> tuple[list[Tensor], list[Image.Image]]:
    """Clouds and one image each, of solids that were never trained on."""
    meshes = [GeneratedSolid(seed).load() for seed in UNSEEN]
    surfaces = [Surface(mesh.vertices, mesh.faces, mesh.name) for mesh in meshes]
    clouds = [sample_surface(surface, POINTS, seed=0).points for surface in surfaces]
    return clouds, [rendered_views(mesh, 1)[0] for mesh in meshes]


def embed(encoder: LoadedPointEncoder, clouds: Sequence[Tensor], batch_size: int = 8) -> Tensor:
    prepared = [prepare(cloud, None, STANDIN_POINTS.clouds) for cloud in clouds]
    return embed_clouds(encoder.encoder, prepared, batch_size=batch_size)


def test_it_never_goes_by_a_published_name() -> None:
    assert NAME.startswith("standin-")
    assert NAME not in POINT_ENCODERS
    assert point_encoder_spec(NAME) is STANDIN_POINTS
    assert STANDIN_IMAGES.architecture.startswith("standin-")


def test_the_packaged_file_is_small_and_says_where_it_comes_from() -> None:
    path = packaged_weights(STANDIN_POINTS)
    assert path.stat().st_size < 3_000_000
    with safe_open(path, "pt") as file:
        provenance = json.loads(file.metadata()["provenance"])
        assert {file.get_tensor(key).dtype for key in file.keys()} == {torch.float16}  # noqa: SIM118, not a mapping
    assert provenance.keys() >= {"commit", "data", "seed", "steps"}
    assert provenance["name"] == NAME


@pytest.mark.parametrize("damage", ["missing", "unknown", "misshapen"])
def test_a_file_that_does_not_fit_is_refused(damage: str, tmp_path: Path) -> None:
    state = load_file(packaged_weights(STANDIN_POINTS))
    if damage == "missing":
        del state["norm.weight"]
    elif damage == "unknown":
        state["more"] = torch.zeros(1)
    else:
        state["norm.weight"] = torch.zeros(3)
    save_file(state, tmp_path / "weights.safetensors")
    with pytest.raises(CheckpointError, match=f"is not {NAME}: 1 {damage}"):
        load_point_encoder(NAME, tmp_path / "weights.safetensors")


def test_published_encoders_come_without_weights() -> None:
    with pytest.raises(ValueError, match=r"uni3d-g needs the file of its weights, published at https://"):
        load_point_encoder("uni3d-g")


def test_it_only_evaluates(encoder: LoadedPointEncoder) -> None:
    assert not any(module.training for module in encoder.encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.encoder.parameters())
    with pytest.raises(ValueError, match="only evaluates"):
        encoder.encoder.train()


def test_embeddings_depend_neither_on_the_batch_nor_on_its_order(
    encoder: LoadedPointEncoder, solids: tuple[list[Tensor], list[Image.Image]]
) -> None:
    clouds = solids[0][:5]
    expected = embed(encoder, clouds, batch_size=5)
    assert expected.shape == (5, STANDIN_POINTS.dim)
    for turns in (1, 3):
        rolled = embed(encoder, clouds[turns:] + clouds[:turns], batch_size=2)
        torch.testing.assert_close(rolled.roll(turns, 0), expected, rtol=1e-4, atol=1e-4)


def test_embeddings_do_not_depend_on_the_order_of_points(
    encoder: LoadedPointEncoder, solids: tuple[list[Tensor], list[Image.Image]]
) -> None:
    clouds = solids[0][:4]
    generator = torch.Generator().manual_seed(0)
    shuffled = [cloud[torch.randperm(len(cloud), generator=generator)] for cloud in clouds]
    torch.testing.assert_close(embed(encoder, shuffled), embed(encoder, clouds), rtol=1e-3, atol=1e-3)


def test_solids_never_trained_on_find_their_images_above_chance(
    encoder: LoadedPointEncoder, tower: StandInTower, solids: tuple[list[Tensor], list[Image.Image]]
) -> None:
    clouds, images = solids
    likeness = cosine_matrix(embed(encoder, clouds), tower.embed_images(images))
    own = likeness.diagonal()[:, None]
    among_four = float(((likeness >= own).sum(1) <= 4).float().mean())
    assert among_four >= 0.6  # by chance 0.25; 10 of 16 or more have a probability of 0.2 %
    assert own.mean() > likeness.mean() + 0.1


def test_scores_say_what_they_were_made_with(
    encoder: LoadedPointEncoder, tower: StandInTower, solids: tuple[list[Tensor], list[Image.Image]]
) -> None:
    clouds = {str(number): Cloud(cloud) for number, cloud in enumerate(solids[0][:2])}
    images = dict(zip(clouds, solids[1], strict=False))
    how = Sampling(points=POINTS, method="uniform by area", seed=0, shell="all surfaces")
    found = image_shape_similarity(encoder, tower, clouds, images, how)
    assert found.provenance.encoder == NAME
    assert found.provenance.encoder_sha256 in found.provenance.tower_weights
    assert found.provenance.tower == STANDIN_IMAGES.architecture
    assert found.provenance.colours == "none"
    with pytest.raises(ValueError, match="standin-points knows no texts"):
        text_shape_similarity(encoder, tower, clouds, dict.fromkeys(clouds, "a chair"), how)


def test_its_towers_come_in_packages(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="come in packages"):
        load_towers(STANDIN_IMAGES, tmp_path / "file.pt")
