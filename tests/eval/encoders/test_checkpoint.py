"""Published files: every wrapping is read, everything else is refused and named."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny_encoders import randomised
from torch import Tensor

from eval.encoders.catalogue import POINT_ENCODERS
from eval.encoders.checkpoint import CheckpointError, load_point_encoder
from eval.encoders.point_encoder import PointEncoder

State = dict[str, Tensor]
SLIP = {"visual.cls_token": torch.zeros(1, 1, 768), "text_projection": torch.zeros(512, 512)}


def encoder_of(name: str) -> PointEncoder:
    return randomised(POINT_ENCODERS[name].build())


def prefixed(prefix: str, state: State) -> State:
    return {prefix + key: value for key, value in state.items()}


# How the authors saved each: by DeepSpeed, as a training state, as a part of a larger model.
WRAPPINGS: dict[str, tuple[str, Callable[[State], object]]] = {
    "deepspeed": ("uni3d-ti", lambda state: {"module": prefixed("module.", state), "global_steps": 7}),
    "deepspeed-plain": ("uni3d-ti", lambda state: {"module": state, "optimizer": None}),
    "training": (
        "ulip2-10k-xyzrgb",
        lambda state: {
            "state_dict": prefixed("module.", state),
            "epoch": 249,
            "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}},
            "args": argparse.Namespace(model="ULIP2", lr=0.001, betas=(0.9, 0.98)),
        },
    ),
    "with-towers": ("ulip2-8k-xyz", lambda state: {"state_dict": prefixed("module.", state | SLIP)}),
    "module": ("openshape-pointbert-vitg14-rgb", lambda state: {"state_dict": prefixed("module.", state)}),
    "part": (
        "openshape-pointbert-vitl14-rgb",
        lambda state: {**prefixed("pc_encoder.", state), "logit_scale": torch.ones(())},
    ),
    "part-unprojected": ("openshape-pointbert-vitb32-rgb", lambda state: prefixed("pc_encoder.", state)),
    "bare": ("uni3d-ti", lambda state: state),
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_what_the_authors_saved_is_read_bit_for_bit(tmp_path: Path, wrapping: str) -> None:
    name, wrap = WRAPPINGS[wrapping]
    saved = encoder_of(name).state_dict()
    path = tmp_path / "model.pt"
    torch.save(wrap(dict(saved)), path)
    loaded = load_point_encoder(name, path)
    assert loaded.spec.name == name
    assert loaded.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    state = loaded.encoder.state_dict()
    assert state.keys() == saved.keys()
    assert all(torch.equal(value, saved[key]) for key, value in state.items())
    assert not any(module.training for module in loaded.encoder.modules())
    assert not any(parameter.requires_grad for parameter in loaded.encoder.parameters())


def test_safetensors_are_read(tmp_path: Path) -> None:
    saved = encoder_of("ulip2-8k-xyz").state_dict()
    save_file(saved, tmp_path / "model.safetensors")
    state = load_point_encoder("ulip2-8k-xyz", tmp_path / "model.safetensors").encoder.state_dict()
    assert all(torch.equal(value, saved[key]) for key, value in state.items())


def test_half_precision_is_widened(tmp_path: Path) -> None:
    saved = {key: value.half() for key, value in encoder_of("uni3d-ti").state_dict().items()}
    torch.save({"module": saved}, tmp_path / "model.pt")
    encoder = load_point_encoder("uni3d-ti", tmp_path / "model.pt").encoder
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}
    assert torch.isfinite(encoder(torch.rand(1, 600, 6))).all()


@pytest.mark.parametrize(
    ("held", "expected"),
    [("uni3d-ti", "uni3d-s"), ("ulip2-8k-xyz", "ulip2-10k-xyzrgb"), ("openshape-pointbert-vitb32-rgb", "uni3d-ti")],
)
def test_another_encoders_file_is_named(tmp_path: Path, held: str, expected: str) -> None:
    torch.save({"state_dict": prefixed("module.", dict(encoder_of(held).state_dict()))}, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match=f"holds {held}; expected {expected}"):
        load_point_encoder(expected, tmp_path / "m.pt")


def test_missing_unknown_and_misshapen_parameters_are_listed_shortly(tmp_path: Path) -> None:
    state = dict(encoder_of("uni3d-ti").state_dict())
    for key in [key for key in state if key.startswith("point_encoder.visual.blocks.3.")]:
        del state[key]
    state["point_encoder.extra"] = torch.zeros(2)
    state["point_encoder.cls_pos"] = torch.zeros(1, 1, 5)
    torch.save(state, tmp_path / "m.pt")
    with pytest.raises(CheckpointError) as caught:
        load_point_encoder("uni3d-ti", tmp_path / "m.pt")
    message = str(caught.value)
    assert "is not uni3d-ti: 13 missing (point_encoder.visual.blocks.3.norm1.weight, " in message
    assert " and 10 more); 1 unknown (point_encoder.extra); 1 misshapen " in message
    assert "(point_encoder.cls_pos has shape [1, 1, 5], not [1, 1, 192])" in message


def test_towers_are_ignored_only_where_the_authors_saved_them(tmp_path: Path) -> None:
    torch.save(dict(encoder_of("uni3d-ti").state_dict()) | SLIP, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match=r"2 unknown \(visual.cls_token, text_projection\)"):
        load_point_encoder("uni3d-ti", tmp_path / "m.pt")


class Dangerous:
    """Would run a command when unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (eval, ("1 / 0",))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({"state_dict": Dangerous()}, "holds more than tensors and plain values"),
        ([1, 2], "holds no parameters by name"),
        ({"epoch": 3}, "holds no parameters by name"),
    ],
)
def test_files_without_parameters_are_refused(tmp_path: Path, content: object, complaint: str) -> None:
    torch.save(content, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match=complaint):
        load_point_encoder("uni3d-ti", tmp_path / "m.pt")


@pytest.mark.parametrize("name", ["m.pt", "m.safetensors"])
def test_unreadable_and_absent_files_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with pytest.raises(CheckpointError, match="is not a file"):
        load_point_encoder("uni3d-ti", path)
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(CheckpointError) as caught:
        load_point_encoder("uni3d-ti", path)
    assert len(str(caught.value).splitlines()) == 1


def test_unknown_names_are_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown point encoder 'uni3d'; expected one of uni3d-ti, uni3d-s"):
        load_point_encoder("uni3d", tmp_path)
