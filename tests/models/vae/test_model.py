"""An SS-VAE answers on the blocks of its latents, sample by sample, whole or in boxes, and learns."""

from __future__ import annotations

import numpy as np
import pytest
import shapes
import torch
from pydantic import ValidationError
from small import CONFIG, MESHES, fields, random_vae

from models.data.isosurface import isosurface
from models.data.sdf import SparseSDF
from models.sparse.tensor import SparseTensor
from models.vae.batch import fields_of, inputs_of, targets_of
from models.vae.blocks import position_embedding
from models.vae.config import VAEConfig
from models.vae.decoding import decode
from models.vae.losses import LossWeights, vae_losses
from models.vae.model import Posterior, SparseVAE


def test_the_decoder_answers_where_the_targets_are() -> None:
    batch = fields()
    vae = random_vae()
    decoded, posterior = vae(inputs_of(batch.fields))
    assert torch.equal(decoded.coords, targets_of(batch).values.coords)
    assert posterior.mean.feats.shape == (decoded.num_voxels // 512, CONFIG.latent_channels)
    assert posterior.mean.feats.dtype == decoded.feats.dtype == torch.float32
    assert float(decoded.feats.detach().abs().max()) <= 1


def test_samples_of_a_batch_do_not_see_each_other() -> None:
    batch = fields()
    vae = random_vae()
    with torch.no_grad():
        together = vae.encode(inputs_of(batch.fields)).mean
        decoded = vae.decode(together)
        for index, field in enumerate(batch.fields):
            alone = vae.encode(inputs_of([field])).mean
            torch.testing.assert_close(alone.feats, together.split()[index].feats, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(vae.decode(alone).feats, decoded.split()[index].feats, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("most", [1, 30, 100])
def test_decoding_in_boxes_is_decoding_in_one_piece(most: int) -> None:
    vae = random_vae()
    torch.manual_seed(3)
    coords = torch.cat([torch.randint(2, (200, 1)), torch.randint(16, (200, 3))], 1).unique(dim=0)
    latents = SparseTensor.from_coords(coords, torch.randn(len(coords), CONFIG.latent_channels))
    with torch.no_grad():
        whole = vae.decode(latents)
    boxes = decode(vae, latents, max_latents=most)
    assert torch.equal(boxes.coords, whole.coords)
    torch.testing.assert_close(boxes.feats, whole.feats, atol=1e-5, rtol=1e-5)


def test_checkpointing_changes_nothing() -> None:
    x, targets = inputs_of(fields().fields), targets_of(fields())
    gradients = []
    for checkpointing in (False, True):
        vae = random_vae().train()
        torch.manual_seed(5)
        decoded, posterior = vae(x, checkpointing=checkpointing)
        vae_losses(decoded, posterior, targets, LossWeights())["loss"].backward()
        gradients.append({name: weight.grad for name, weight in vae.named_parameters()})
    for name, gradient in gradients[0].items():
        assert gradient is not None, name
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


def test_a_new_model_passes_signals_on() -> None:
    torch.manual_seed(0)
    vae = SparseVAE(CONFIG)
    with torch.no_grad():
        posterior = vae.encode(inputs_of(fields().fields))
        decoded = vae.decode(posterior.mean)
    assert 0.3 < float(posterior.mean.feats.std()) < 5
    assert float(posterior.log_variance.exp().mean()) < 0.1  # noise does not drown them
    assert 0.03 < float(decoded.feats.std()) < 0.9  # neither vanished nor saturated


@pytest.mark.parametrize("told", [False, True])
def test_planes_half_a_block_apart_need_positions_to_be_told_apart(told: bool) -> None:
    # Why `block_positions` is there: without them two fields have the very same latents.
    vae = random_vae(CONFIG.model_copy(update={"block_positions": told}))
    side, tau = torch.arange(32), 4 / 32
    means = []
    for low in (8, 12):  # the lower and the upper half of one layer of blocks
        coords = torch.cartesian_prod(side, torch.arange(low, low + 4), side).int()
        values = (coords[:, 1] - (low + 1.5)) * (2 / 32)
        means.append(vae.encode(inputs_of([SparseSDF(coords, values, 32, tau)])).mean)
    assert torch.equal(means[0].coords, means[1].coords)
    difference = float((means[0].feats - means[1].feats).detach().abs().max())
    assert difference > 0.01 if told else difference < 1e-5


@pytest.mark.slow
def test_it_learns_a_field_by_heart() -> None:
    batch = fields(meshes=MESHES[1:])
    x, targets = inputs_of(batch.fields), targets_of(batch)
    torch.manual_seed(0)
    vae = SparseVAE(CONFIG)
    steps, warm, rate = 400, 20, 1e-2
    optimizer = torch.optim.AdamW(vae.parameters(), rate, betas=(0.9, 0.99), weight_decay=0.0)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * min(1, (step + 1) / warm) * (1 - step / steps)
        losses = vae_losses(*vae(x), targets, LossWeights())
        optimizer.zero_grad()
        losses["loss"].backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
    with torch.no_grad():
        decoded = vae.decode(vae.encode(x).mean)
    error = (decoded.feats - targets.values.feats).abs()[targets.band]
    assert float(error.mean()) < 0.1  # of tau, which is two grid steps here; 0.5 for an answer of zero
    assert float(((decoded.feats < 0) != (targets.values.feats < 0)).float().mean()) < 0.02
    # Surfaces: the field's own is the ceiling.
    field = batch.fields[0]
    ceiling, found = map(_off_the_box, (field, fields_of(decoded, field.resolution, field.tau)[0]))
    assert found < ceiling + 0.15 * (2 / field.resolution)


def _off_the_box(field: SparseSDF) -> float:
    """Mean distance of an isosurface's vertices from the second of MESHES."""
    vertices = isosurface(field).vertices.numpy()
    return float(np.abs(shapes.box_distance(vertices @ shapes.rotation(1), 0.9, 0.7, 0.5)).mean())


def test_losses_are_means_over_their_points() -> None:
    batch = fields()
    targets = targets_of(batch)
    decoded = targets.values.replace(torch.where(targets.sharp, 0.1, torch.where(targets.band, 0.2, 0.3))[:, None])
    decoded = decoded.replace(decoded.feats + targets.values.feats)
    latents = SparseTensor.from_coords(torch.zeros(1, 3, dtype=torch.int32), torch.full((1, 2), 2.0))
    posterior = Posterior(latents, torch.zeros(1, 2))
    losses = vae_losses(decoded, posterior, targets, LossWeights(band=1, extra=10, sharp=100, divergence=1000))
    smooth, sharp = int((targets.band & ~targets.sharp).sum()), int(targets.sharp.sum())
    band = (0.04 * smooth + 0.01 * sharp) / (smooth + sharp)
    assert float(losses["band"]) == pytest.approx(band, rel=1e-4)
    assert float(losses["extra"]) == pytest.approx(0.09, rel=1e-4)
    assert float(losses["sharp"]) == pytest.approx(0.01, rel=1e-4)
    assert float(losses["divergence"]) == pytest.approx(2.0)  # mean^2 / 2
    assert float(losses["loss"]) == pytest.approx(band + 0.9 + 1 + 2000, rel=1e-4)


def test_answers_on_other_points_are_refused() -> None:
    batch = fields()
    decoded, posterior = random_vae()(inputs_of(batch.fields[:1]))
    with pytest.raises(ValueError, match="grid points of the targets"):
        vae_losses(decoded, posterior, targets_of(batch), LossWeights())


def test_the_divergence_is_that_of_normal_distributions() -> None:
    mean, log_variance = torch.randn(5, 3), torch.randn(5, 3)
    latents = SparseTensor.from_coords(torch.arange(15).view(5, 3), mean)
    normal = torch.distributions.Normal(latents.feats, (log_variance / 2).exp())
    expected = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).mean()
    torch.testing.assert_close(Posterior(latents, log_variance).divergence(), expected)


def test_positions_differ_and_fill_the_channels() -> None:
    coords = torch.cartesian_prod(*[torch.arange(6)] * 3)
    embedded = position_embedding(coords, 32)
    assert embedded.shape == (216, 32)
    assert float(torch.cdist(embedded, embedded).fill_diagonal_(1).min()) > 0.1
    assert float(embedded.abs().max()) <= 1
    assert not bool(embedded[:, 30:].any())  # 32 = 6 * 5 + 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"channels": 40}, "multiple of 16"), ({"channels": 48, "head_channels": 32}, "multiple of head_channels=32")],
)
def test_sizes_that_do_not_fit_are_refused(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        VAEConfig(**settings)
