"""What an SS-VAE is trained on and how it is validated: the task of `models.training.trainer`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from models.data.cameras import orbit
from models.data.dataset import PreparedDataset, open_dataset
from models.data.dataset.manifest import DatasetError
from models.data.isosurface import Surface, isosurface
from models.data.render import normal_colors, render, save_png
from models.data.sdf import SparseSDF
from models.data.textured import untextured
from models.files import write_whole
from models.training.config import Settings, TrainingConfig
from models.training.order import batch_generator, batch_indices
from models.vae.batch import Fields, fields_of, inputs_of, targets_of
from models.vae.config import FACTOR, VAEConfig
from models.vae.files import WeightsError, load_vae
from models.vae.latents import weights_digest
from models.vae.losses import LossWeights, vae_losses
from models.vae.model import SparseVAE

_PICTURE_SIZE = 384  # pixels along a side


class DataConfig(Settings):
    """Datasets of `ssabench prepare`. Each batch is of one resolution, from the folders that have it."""

    folders: tuple[Path, ...] = Field(min_length=1)
    resolutions: tuple[int, ...] = Field(default=(256, 384, 512), min_length=1)  # one named twice comes twice as often
    # Grid points along a side of the box that a batch sees of a larger field, so that all resolutions cost about the
    # same; None shows it whole. Not of the paper.
    crop: int | None = Field(default=None, ge=FACTOR, multiple_of=FACTOR)
    validation_samples: int = Field(default=4, ge=0)  # of the split val of each folder


class VAETrainingConfig(Settings):
    """The file that `ssabench train vae` reads."""

    data: DataConfig
    model: VAEConfig = VAEConfig()
    losses: LossWeights = LossWeights()
    checkpointing: bool = True  # of blocks: less memory, a third more time
    training: TrainingConfig = TrainingConfig()


class VAETask:
    """A model and its data.

    Args:
        init: weights that the model begins with, as of `load_vae`; random ones without.

    Raises:
        DatasetError: a folder that is no dataset or has none of the resolutions, or a resolution that no folder has.
        WeightsError: weights that cannot be read, or of another configuration of the model.
    """

    def __init__(self, config: VAETrainingConfig, init: Path | None = None) -> None:
        self.config = config
        self.initial: str | None = None
        if init is None:
            torch.manual_seed(config.training.seed)
            self.model = SparseVAE(config.model)
        else:
            self.model = _begun(init, config.model)
            self.initial = weights_digest(self.model)
        encoder, decoder = self.model.encoder, self.model.decoder
        self.units: list[nn.Module] = [*encoder.downsample, *encoder.blocks, *decoder.blocks, *decoder.upsample]
        self._train = self._open("train")
        self._validation = self._open("val") if config.data.validation_samples else {}

    def _open(self, split: str) -> dict[int, list[PreparedDataset]]:
        """By resolution, the folders that have it."""
        data = self.config.data
        datasets = [open_dataset(folder, split, mesh=False, views=False) for folder in data.folders]
        for dataset in datasets:
            if not set(dataset.resolutions) & set(data.resolutions):
                there, wanted = _listed(dataset.resolutions), _listed(data.resolutions)
                raise DatasetError(f"{dataset.folder} has fields of {there}, not of {wanted}")
        found = {
            resolution: [dataset for dataset in datasets if resolution in dataset.resolutions]
            for resolution in sorted(set(data.resolutions))
        }
        for resolution, having in found.items():
            if not having:
                raise DatasetError(f"no dataset of {_listed(data.folders)} has fields of {resolution}")
        return found

    def batch(self, number: int) -> Fields:
        training, data = self.config.training, self.config.data
        generator = batch_generator(number, training.seed)
        resolution = data.resolutions[int(generator.integers(len(data.resolutions)))]
        datasets = self._train[resolution]
        fields, sharp = [], []
        for index in batch_indices(number, training.batch_size, sum(map(len, datasets)), training.seed):
            dataset, place = _located(datasets, index)
            if data.crop is None:
                field, mask = dataset.field(place, resolution)
            else:
                field, mask = dataset.crop(place, resolution, data.crop, FACTOR, generator)
            fields.append(field)
            sharp.append(mask)
        return Fields(fields, sharp)

    def losses(self, model: nn.Module, batch: Fields) -> dict[str, Tensor]:
        decoded, posterior = model(inputs_of(batch.fields), checkpointing=self.config.checkpointing)
        return vae_losses(decoded, posterior, targets_of(batch), self.config.losses)

    def validate(self, model: nn.Module, device: torch.device, folder: Path | None) -> dict[str, float]:
        """Errors in grid steps by resolution; a table of them and a picture of each field, given and decoded."""
        # Not through DistributedDataParallel, which knows of forward passes only.
        vae: Any = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
        rows: list[dict[str, Any]] = []
        for resolution, datasets in self._validation.items():
            for dataset in datasets:
                for index in range(min(self.config.data.validation_samples, len(dataset))):
                    field, sharp = dataset.field(index, resolution)
                    given = Fields([field], [sharp]).to(device)
                    row, decoded = _compare(vae, given)
                    rows.append({"key": dataset.entries[index].key, "resolution": resolution, **row})
                    if folder is not None:
                        name = f"{resolution}-{dataset.entries[index].key}.png"
                        _picture(folder / name, given.fields[0], decoded)
        if folder is not None:
            write_whole(folder / "errors.jsonl", (json.dumps(row) + "\n" for row in rows))
        found: dict[str, float] = {}
        for resolution in self._validation:
            chosen = [row for row in rows if row["resolution"] == resolution]
            for name in ("steps", "sharp_steps", "wrong_side", "divergence"):
                if chosen:
                    found[f"validation/{resolution}/{name}"] = sum(float(row[name]) for row in chosen) / len(chosen)
        return found


def _begun(init: Path, config: VAEConfig) -> SparseVAE:
    """With the given weights; block positions that these do not have begin at zero, and change nothing at first."""
    vae = load_vae(init)
    if config.block_positions and not vae.config.block_positions:
        plain, vae = vae, SparseVAE(vae.config.model_copy(update={"block_positions": True}))
        missing = vae.load_state_dict(plain.state_dict(), strict=False).missing_keys
        for name in missing:
            nn.init.zeros_(vae.get_parameter(name))
    for name, wanted in config:
        if (held := getattr(vae.config, name)) != wanted:
            raise WeightsError(f"weights {init} are of another model: {name} is {held} there, {wanted} in [model]")
    return vae.train()


def _located(datasets: list[PreparedDataset], index: int) -> tuple[PreparedDataset, int]:
    """Of samples numbered through: the dataset, and the number in it."""
    for dataset in datasets:
        if index < len(dataset):
            return dataset, index
        index -= len(dataset)
    raise IndexError(index)


def _listed(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))


def _compare(vae: SparseVAE, given: Fields) -> tuple[dict[str, float], SparseSDF]:
    """Mean errors of the decoded mean: on the band and near sharp edges in grid steps, and the share of points of which
    the side is wrong."""
    field, targets = given.fields[0], targets_of(given)
    posterior = vae.encode(inputs_of(given.fields))
    decoded = vae.decode(posterior.mean)
    error = (decoded.feats - targets.values.feats).abs()[:, 0] * (field.tau * field.resolution / 2)
    wrong = (decoded.feats < 0) != (targets.values.feats < 0)
    row = {
        "steps": float(error[targets.band].mean()),
        "sharp_steps": float(error[targets.sharp].mean()) if bool(targets.sharp.any()) else 0.0,
        "wrong_side": float(wrong.float().mean()),
        "divergence": float(posterior.divergence()),
    }
    return row, fields_of(decoded, field.resolution, field.tau)[0]


def _picture(path: Path, given: SparseSDF, decoded: SparseSDF) -> None:
    """Normals of both surfaces side by side."""
    images = [_normals(isosurface(field)) for field in (given, decoded)]
    save_png(path, torch.cat(images, 1))


def _normals(surface: Surface) -> Tensor:
    camera = orbit(20, 30, width=_PICTURE_SIZE, height=_PICTURE_SIZE)
    if not len(surface.faces):
        return torch.ones(_PICTURE_SIZE, _PICTURE_SIZE, 3)
    return normal_colors(render(untextured(surface.vertices, surface.faces, "surface"), camera).normal).cpu()
