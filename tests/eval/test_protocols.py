"""Protocols are data: complete, consistent, and told apart by a digest of what changes scores."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from eval.protocols.protocol import Protocol, load_protocol, protocol_names

OWN = """
name = "mine"
title = "Mine"
source = "me"
normalisation = "{normalisation}"
points = 100
{extra}
[[metrics]]
key = "cd"
label = "CD"
kind = "chamfer"
convention = "mean_l1"
target = "surface"
"""


def own(tmp_path: Path, normalisation: str = "unit-cube", extra: str = "") -> str:
    path = tmp_path / "mine.toml"
    path.write_text(OWN.format(normalisation=normalisation, extra=extra))
    return str(path)


def test_the_published_protocols_are_there() -> None:
    assert {"direct3d-s2", "trellis2", "dora", "3dshape2vecset", "roundtrip"} == set(protocol_names())


@pytest.mark.parametrize("name", protocol_names())
def test_a_protocol_is_called_as_its_file_and_names_its_source(name: str) -> None:
    protocol = load_protocol(name)
    assert protocol.name == name
    assert "arXiv" in protocol.source or protocol.source.startswith("ours")


@pytest.mark.parametrize(
    ("name", "normalisation", "points", "keys"),
    [
        ("direct3d-s2", "max-extent", 100_000, ["cd", "f1_0.005", "f1_0.001"]),
        ("trellis2", "unit-cube", 1_000_000, ["md", "md_f1", "cd_outer", "cd_outer_f1", "normal_psnr"]),
        ("dora", "max-extent", 1_000_000, ["f_0.01", "f_0.005", "cd", "sne"]),
        ("3dshape2vecset", "max-extent", 100_000, ["iou", "cd", "f_0.02"]),
    ],
)
def test_what_papers_state_is_in_the_data(name: str, normalisation: str, points: int, keys: list[str]) -> None:
    protocol = load_protocol(name)
    assert (protocol.normalisation, protocol.points) == (normalisation, points)
    assert [metric.key for metric in protocol.scored] == keys


def test_trellis2_states_squares_of_thresholds() -> None:
    thresholds = {m.key: m.threshold for m in load_protocol("trellis2").scored if m.kind == "fscore"}
    assert thresholds == {"md_f1": pytest.approx(1e-8**0.5), "cd_outer_f1": pytest.approx(1e-6**0.5)}


def test_metrics_that_cannot_run_say_why() -> None:
    missing = {
        m.key: m.not_run for name in ("direct3d-s2", "trellis2") for m in load_protocol(name).metrics if m.not_run
    }
    assert set(missing) == {"ulip2", "uni3d", "openshape", "normal_fid", "normal_lpips"}
    assert all("need" in reason for reason in missing.values())


def test_the_worst_score_is_that_of_the_farthest_places_in_the_cube() -> None:
    protocol = load_protocol("3dshape2vecset")  # [-1, 1]^3
    worst = {metric.key: metric.worst(protocol.diagonal) for metric in protocol.scored}
    assert worst == {"iou": 0, "cd": pytest.approx(2 * 2 * math.sqrt(3)), "f_0.02": 0}


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    assert load_protocol(own(tmp_path)).name == "mine"


@pytest.mark.parametrize(
    ("normalisation", "extra", "message"),
    [
        ("unit-cub", "", "normalisation"),
        ("none", "", "side must be given"),
        ("unit-cube", "side = 2.0", "side must be given"),
        ("unit-cube", "samples = 4", "samples"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, normalisation: str, extra: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_protocol(own(tmp_path, normalisation, extra))


def test_what_is_neither_a_name_nor_a_file_is_refused() -> None:
    with pytest.raises(ValueError, match=r"one of .*trellis2.* got 'trellis3'"):
        load_protocol("trellis3")


def test_the_digest_changes_with_scores_and_not_with_texts() -> None:
    protocol = load_protocol("dora")

    def changed(**update: object) -> Protocol:
        return protocol.model_copy(update=update)

    assert changed(notes=("more",)).digest == protocol.digest
    assert changed(points=999).digest != protocol.digest
    assert changed(metrics=protocol.metrics[:2]).digest != protocol.digest


def test_a_file_cannot_claim_scores_that_weights_give(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    metric = '[[metrics]]\nkind = "measured_normal_lpips"\nkey = "a"\nlabel = "a"\nprovenance = "a"\nbound = 1.0\n'
    metric += "views = { elevation = 0, azimuths = [0], fov = 6, size = 64 }\n"
    head = 'name = "own"\ntitle = "Own"\nsource = "a test"\nnormalisation = "unit-cube"\npoints = 100\n\n'
    path.write_text(head + metric)
    with pytest.raises(ValueError, match="must not have measured_normal_lpips"):
        load_protocol(str(path))
