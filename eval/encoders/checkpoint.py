"""Reading the published files of point encoders: strictly, and naming what a file holds where it is another."""

from __future__ import annotations

import argparse
import hashlib
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from eval.encoders.catalogue import POINT_ENCODERS, STANDIN_POINTS, PointEncoderSpec, point_encoder_spec
from eval.encoders.point_encoder import PointEncoder

# Under which names the training frameworks of the authors keep the parameters (DeepSpeed: module).
_NESTS = ("module", "state_dict")
_LISTED = 3


class CheckpointError(ValueError):
    """A file that is not the checkpoint it should be; the message names it and says what is wrong."""


@dataclass(frozen=True)
class LoadedPointEncoder:
    """An encoder with its weights."""

    spec: PointEncoderSpec
    encoder: PointEncoder
    sha256: str  # of the file


def load_point_encoder(name: str, path: Path | None = None, device: str = "cpu") -> LoadedPointEncoder:
    """An encoder from its file, in fp32, in evaluation mode and without gradients.

    Reads what PyTorch saved (only tensors and plain values; the parameters may lie in ``module`` or ``state_dict``, and
    be prefixed by ``module.`` or ``pc_encoder.``), and safetensors.

    Args:
        path: None: the file that comes with ssabench, which only the stand-in has.

    Raises:
        ValueError: an unknown name, or no path of a published encoder.
        CheckpointError: an unreadable file, another encoder's, or one with missing, unknown or misshapen parameters.
    """
    spec = point_encoder_spec(name)
    if path is None:
        path = packaged_weights(spec)
    state = read_parameters(path)
    with torch.device("meta"):
        encoder = spec.build()
    parameters = _own(spec, state)
    if _shapes(parameters) != _layout(spec):
        raise CheckpointError(_complaint(spec, state, path))
    encoder.load_state_dict(
        {key: value.float() if value.is_floating_point() else value for key, value in parameters.items()}, assign=True
    )
    return LoadedPointEncoder(spec, encoder.requires_grad_(False).to(device), file_sha256(path))


def packaged_weights(spec: PointEncoderSpec) -> Path:
    """The file of an encoder whose weights come with ssabench.

    Raises:
        ValueError: they do not.
    """
    if spec.packaged is None:
        raise ValueError(f"{spec.name} needs the file of its weights, published at {spec.url}")
    return Path(__file__).parent / "weights" / spec.packaged


def file_sha256(path: Path) -> str:
    """Of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_parameters(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name, without the wrappings of frameworks.

    Raises:
        CheckpointError: an unreadable file, or one without tensors by name.
    """
    content: object
    if not path.is_file():
        raise CheckpointError(f"checkpoint {str(path)!r} is not a file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content = load_file(path)
        else:
            # ULIP's files also hold the arguments of their training script.
            with torch.serialization.safe_globals([argparse.Namespace]):
                content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"checkpoint {str(path)!r} holds more than tensors and plain values, or PyTorch did not save it"
        ) from error
    except Exception as error:  # zip, pickle and safetensors raise their own kinds
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise CheckpointError(f"checkpoint {str(path)!r} cannot be read: {reason[0]}") from error
    for nest in _NESTS:
        if isinstance(content, Mapping) and isinstance(content.get(nest), Mapping):
            content = content[nest]
    if not isinstance(content, Mapping):
        raise CheckpointError(f"checkpoint {str(path)!r} holds no parameters by name")
    state = {str(key).removeprefix("module."): value for key, value in content.items() if isinstance(value, Tensor)}
    if not state:
        raise CheckpointError(f"checkpoint {str(path)!r} holds no parameters by name")
    # Two of OpenShape's files hold the encoder among other things.
    inner = {key.removeprefix("pc_encoder."): value for key, value in state.items() if key.startswith("pc_encoder.")}
    return inner or state


def _own(spec: PointEncoderSpec, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The parameters without those of towers that the authors saved in the same file."""
    return {key: value for key, value in state.items() if not key.startswith(spec.other_towers or ("\0",))}


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in state.items()}


def _layout(spec: PointEncoderSpec) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return _shapes(spec.build().state_dict())


def _complaint(expected: PointEncoderSpec, state: dict[str, Tensor], path: Path) -> str:
    for spec in (*POINT_ENCODERS.values(), STANDIN_POINTS):
        if _shapes(_own(spec, state)) == _layout(spec):
            return f"checkpoint {str(path)!r} holds {spec.name}; expected {expected.name}"
    return f"checkpoint {str(path)!r} is not {expected.name}: {differences(_own(expected, state), _layout(expected))}"


def differences(state: Mapping[str, Tensor], wanted: Mapping[str, tuple[int, ...]]) -> str:
    """Which parameters are missing, unknown or misshapen, the first of each by name; empty where none is."""
    found = _shapes(state)
    misshapen = [
        f"{key} has shape {list(found[key])}, not {list(wanted[key])}"
        for key in wanted
        if key in found and found[key] != wanted[key]
    ]
    parts = [
        _some("missing", [key for key in wanted if key not in found]),
        _some("unknown", [key for key in found if key not in wanted]),
        _some("misshapen", misshapen),
    ]
    return "; ".join(part for part in parts if part)


def _some(what: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"{len(names)} {what} ({', '.join(names[:_LISTED])}{more})"
