"""Files of SS-VAE weights: our own, with their configuration, and the published ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from models.files import write_whole
from models.training.checkpoint import CheckpointError, read_checkpoint
from models.vae.config import VAEConfig
from models.vae.model import SparseVAE

# Models that come with the package, by name; models/vae/weights/README.md says how they were trained.
SHIPPED = {"small": Path(__file__).with_name("weights") / "small.safetensors"}

_KEY = "encoder.input_layer1.weight"


class WeightsError(ValueError):
    """A file of weights that cannot be used; the message names it and says why."""


def save_vae(path: Path, vae: SparseVAE, dtype: torch.dtype = torch.float32) -> None:
    """One safetensors file, written whole."""
    tensors = {name: tensor.to("cpu", dtype).contiguous() for name, tensor in vae.state_dict().items()}
    write_whole(path, [save(tensors, {"vae": vae.config.model_dump_json()})])


def load_vae(path: Path) -> SparseVAE:
    """In fp32 on the CPU, in eval mode: a model of the package by its name (`SHIPPED`), a file of `save_vae`, a
    checkpoint of a training run (its averaged weights), or the published state dict (.ckpt, .pt, .pth or .safetensors,
    however nested).

    Raises:
        WeightsError: another file, or weights that do not fit the configuration they came with.
    """
    path = SHIPPED.get(str(path), path)
    if not path.is_file():
        names = ", ".join(SHIPPED)
        raise WeightsError(f"weights {path} are no file, nor the name of a model that comes with the package: {names}")
    config, tensors = _safetensors(path) if path.suffix == ".safetensors" else (None, _pickled(path))
    vae = SparseVAE(VAEConfig() if config is None else config)
    _require_fit(path, tensors, vae.state_dict())
    vae.load_state_dict(tensors)
    return vae.eval()


def _safetensors(path: Path) -> tuple[VAEConfig | None, dict[str, Tensor]]:
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
        if "training" in about:
            checkpoint = read_checkpoint(path)
            return VAEConfig.model_validate(checkpoint.config["model"]), checkpoint.groups["ema"]
        config = VAEConfig.model_validate(json.loads(about["vae"])) if "vae" in about else None
        return config, _weights(path, load_file(path))
    except (SafetensorError, CheckpointError, ValidationError, KeyError, OSError) as error:
        raise WeightsError(f"weights {path} cannot be read: {str(error).splitlines()[0]}") from error


def _pickled(path: Path) -> dict[str, Tensor]:
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle may raise anything
        raise WeightsError(f"weights {path} cannot be read: {(str(error) or 'no message').splitlines()[0]}") from error
    return _weights(path, found)


def _weights(path: Path, found: Any) -> dict[str, Tensor]:
    """The dictionary of weights, wherever it is among nested ones and whatever prefix its names have."""
    waiting = [found]
    while waiting:
        current = waiting.pop()
        if not isinstance(current, dict):
            continue
        for name in current:
            if isinstance(name, str) and name.endswith(_KEY):
                prefix = name.removesuffix(_KEY)
                return {key.removeprefix(prefix): x for key, x in current.items() if key.startswith(prefix)}
        waiting += current.values()
    raise WeightsError(f"weights {path} hold no SS-VAE: no {_KEY}")


def _require_fit(path: Path, found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    for name in sorted({*found, *wanted}):
        ours, theirs = (tuple(group[name].shape) if name in group else None for group in (wanted, found))
        if ours != theirs:
            raise WeightsError(f"weights {path}: {name} should be {_shape(ours)}, is {_shape(theirs)}")


def _shape(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else str(list(shape))
