"""The published architectures: the names of their parameters, what they compute, and that they only evaluate."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import plain_encoders
import pytest
import torch
from tiny_encoders import TINY, random_cloud

from eval.encoders import inception
from eval.encoders.catalogue import POINT_ENCODERS
from eval.encoders.point_encoder import embed_clouds

KEY_LAYOUTS = json.loads((Path(__file__).parent / "key_layouts.json").read_text())

PLAIN = {
    "uni3d": partial(plain_encoders.uni3d, depth=2, heads=3, groups=9, size=6),
    "ulip-colours": partial(plain_encoders.ulip, depth=2, heads=3, groups=9, size=6, colours=True),
    "ulip-xyz": partial(plain_encoders.ulip, depth=2, heads=3, groups=9, size=6, colours=False),
    "openshape": partial(plain_encoders.openshape, depth=2, heads=3, groups=7, radius=0.5, size=12),
}


def test_every_published_layout_has_an_encoder() -> None:
    assert KEY_LAYOUTS.keys() == {*POINT_ENCODERS, inception.KIND}


@pytest.mark.parametrize("name", POINT_ENCODERS)
def test_parameters_have_exactly_the_published_names_and_shapes(name: str) -> None:
    with torch.device("meta"):
        encoder = POINT_ENCODERS[name].build()
    assert all(parameter.is_meta for parameter in encoder.parameters())
    assert {key: list(value.shape) for key, value in encoder.state_dict().items()} == KEY_LAYOUTS[name]


@pytest.mark.parametrize("name", ["uni3d-ti", "ulip2-8k-xyz", "openshape-pointbert-vitb32-rgb"])
def test_an_embedding_has_the_stated_size(name: str) -> None:
    spec = POINT_ENCODERS[name]
    assert spec.build()(random_cloud(0, 600)[None]).shape == (1, spec.dim)


@pytest.mark.parametrize("name", TINY)
def test_an_encoder_computes_what_a_plain_one_does(name: str) -> None:
    encoder = TINY[name]()
    state = {key: value.double().numpy() for key, value in encoder.state_dict().items()}
    plain = next(function for start, function in PLAIN.items() if name.startswith(start))
    for seed in range(3):
        cloud = random_cloud(seed)
        expected = plain(cloud.double().numpy(), state)
        found = encoder.double()(cloud.double()[None])[0].numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", TINY)
def test_embeddings_do_not_depend_on_batch_size_or_order(name: str) -> None:
    encoder = TINY[name]()
    clouds = [random_cloud(seed) for seed in range(7)]
    expected = embed_clouds(encoder, clouds, batch_size=1)
    torch.testing.assert_close(embed_clouds(encoder, clouds, batch_size=3), expected)
    torch.testing.assert_close(embed_clouds(encoder, clouds[::-1], batch_size=7).flip(0), expected)
    torch.testing.assert_close(embed_clouds(encoder, clouds, batch_size=1), expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", [name for name in TINY if not name.startswith("openshape")])
def test_the_order_of_points_after_the_first_does_not_matter(name: str) -> None:
    encoder, cloud = TINY[name](), random_cloud(3)
    shuffled = cloud[torch.cat([torch.zeros(1, dtype=torch.int64), torch.randperm(39) + 1])]
    torch.testing.assert_close(encoder(shuffled[None]), encoder(cloud[None]), rtol=1e-4, atol=1e-5)


def test_openshapes_balls_depend_on_the_order_of_points() -> None:
    encoder, cloud = TINY["openshape-plain"](), random_cloud(3, points=400)
    shuffled = torch.cat([cloud[:1], cloud[1:].flip(0)])
    assert not torch.allclose(encoder(shuffled[None]), encoder(cloud[None]), rtol=1e-2)


def test_colours_count_where_the_encoder_sees_them() -> None:
    cloud = random_cloud(1)
    grey = torch.cat([cloud[:, :3], torch.full((40, 3), 0.4)], 1)
    seen, blind = TINY["ulip-colours"](), TINY["ulip-xyz"]()
    assert not torch.allclose(seen(cloud[None]), seen(grey[None]))
    assert torch.equal(blind(cloud[None]), blind(grey[None]))


@pytest.mark.parametrize("name", TINY)
def test_encoders_only_evaluate(name: str) -> None:
    encoder = TINY[name]()
    assert not any(module.training for module in encoder.modules())
    with pytest.raises(ValueError, match="only evaluates"):
        encoder.train()
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    assert not encoder.requires_grad_(True)(random_cloud(0)[None]).requires_grad
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())


@pytest.mark.parametrize(
    ("clouds", "complaint"),
    [
        (torch.rand(2, 40, 3), r"\[B, N, 6\], got \[2, 40, 3\]"),
        (torch.rand(40, 6), r"\[B, N, 6\]"),
        (torch.rand(1, 8, 6), "at least 9 points, got 8"),
        (torch.full((1, 40, 6), torch.nan), "finite"),
    ],
)
def test_what_is_no_cloud_is_refused(clouds: torch.Tensor, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        TINY["uni3d-eva"]()(clouds)


def test_no_clouds_and_empty_batches_are_refused() -> None:
    with pytest.raises(ValueError, match="clouds must not be empty"):
        embed_clouds(TINY["ulip-xyz"](), [])
    with pytest.raises(ValueError, match="batch_size must be positive, got 0"):
        embed_clouds(TINY["ulip-xyz"](), [random_cloud(0)], batch_size=0)


@pytest.mark.gpu
@pytest.mark.parametrize("name", TINY)
def test_a_gpu_computes_the_same(name: str) -> None:
    encoder = TINY[name]()
    clouds = [random_cloud(seed) for seed in range(4)]
    expected = embed_clouds(encoder, clouds)
    torch.testing.assert_close(embed_clouds(encoder.to("cuda"), clouds), expected, rtol=1e-3, atol=1e-4)
