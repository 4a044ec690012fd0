"""Normal maps of whole sets: equal sets are at 0, worse ones farther, and what failed counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from torch import Tensor

from eval.encoders.inception import KIND
from eval.job import Job, run_job
from eval.normal_frechet import normal_frechet
from eval.protocols.protocol import NormalFIDMetric, Protocol, load_protocol
from eval.rows import Row

VIEWS = {"elevation": 10, "azimuths": [0, 90], "fov": 40, "size": 32}
METRIC = NormalFIDMetric.model_validate({"kind": "normal_fid", "key": "normal_fid", "label": "FID", "views": VIEWS})
PAPER = load_protocol("direct3d-s2")
PROTOCOL = PAPER.model_copy(update={"points": 100, "metrics": (PAPER.metrics[0], METRIC)})


@dataclass(frozen=True)
class Means:
    """The mean colour of an image, and how far its pixels spread."""

    kind: str = "means"
    sha256: str = "0" * 64

    def embed_images(self, images: Sequence[Image.Image]) -> Tensor:
        pixels = torch.stack([torch.from_numpy(np.array(image)).double() for image in images]).flatten(1, 2)
        return torch.cat([pixels.mean(1), pixels.std(1)], 1)


def rows(tmp_path: Path, method: str, side: float | None, protocol: Protocol = PROTOCOL) -> list[Row]:
    """Of two boxes, predicted with their height times `side`; None: nothing was."""
    found = []
    for asset, height in (("a", 1.0), ("b", 1.5)):
        ref = tmp_path / "ref" / f"{asset}.ply"
        pred = None if side is None else tmp_path / method / f"{asset}.ply"
        for path, factor in ((ref, 1.0), (pred, side)):
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                trimesh.creation.box((1, height * (factor or 1.0), 1.2)).export(path)
        found.append(run_job(Job(asset, method, pred, ref), protocol, tmp_path / "pictures", "cpu"))
    return found


def test_worse_sets_are_farther_and_failures_the_farthest(tmp_path: Path) -> None:
    given = [
        row
        for method in (("same", 1.0), ("near", 0.9), ("far", 0.5), ("none", None))
        for row in rows(tmp_path, *method)
    ]
    found = normal_frechet(given, PROTOCOL, Means())
    assert [one.method for one in found] == ["same", "near", "far", "none"]
    same, near, far, none = (one.distance for one in found)
    assert same == pytest.approx(0, abs=1e-6)
    assert same < near < far < none
    assert [one.failed for one in found] == [0, 0, 0, 2]


def test_a_result_says_what_it_depends_on(tmp_path: Path) -> None:
    found = normal_frechet(rows(tmp_path, "near", 0.9), PROTOCOL, Means())[0]
    assert (found.features, found.features_sha256, found.images) == ("means", "0" * 64, 4)
    assert found.protocol_digest == PROTOCOL.digest
    assert found.views.size == 32
    assert not found.is_fid


def test_features_of_fid_make_it_fid(tmp_path: Path) -> None:
    given = rows(tmp_path, "near", 0.9)
    assert normal_frechet(given, PROTOCOL, Means(KIND))[0].is_fid
    assert not normal_frechet(given, PROTOCOL, Means(f"unknown weights in the layout of {KIND}"))[0].is_fid


def test_what_cannot_be_judged_counts_for_no_method(tmp_path: Path) -> None:
    near, far = rows(tmp_path, "near", 0.9), rows(tmp_path, "far", 0.5)
    (tmp_path / "ref" / "a.ply").write_text("")
    job = Job("a", "near", tmp_path / "near" / "a.ply", tmp_path / "ref" / "a.ply")
    unusable = run_job(job, PROTOCOL, tmp_path / "pictures", "cpu")
    found = normal_frechet([unusable, near[1], *far], PROTOCOL, Means())
    assert [one.images for one in found] == [2, 2]
    assert found[0].distance < found[1].distance


def test_a_protocol_without_views_is_refused_and_so_is_one_map(tmp_path: Path) -> None:
    given = rows(tmp_path, "near", 0.9)
    with pytest.raises(ValueError, match="protocol trellis2 has no normal maps of sets"):
        normal_frechet(given, load_protocol("trellis2"), Means())
    with pytest.raises(ValueError, match="needs two normal maps or more, got 0"):
        normal_frechet([], PROTOCOL, Means())
