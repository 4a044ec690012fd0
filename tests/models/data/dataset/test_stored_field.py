"""A field in its file: nothing is lost, and a box of it is what the whole field has there."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import shapes
import torch
from torch import Tensor

from models.data.dataset.manifest import DatasetError
from models.data.dataset.stored_field import StoredField, encode_field
from models.data.masks import sharp_voxels
from models.data.sdf import SparseSDF, sparse_sdf

MULTIPLE = 8


@pytest.fixture(scope="module")
def given() -> tuple[SparseSDF, Tensor]:
    field = sparse_sdf(*shapes.moved(shapes.box(0.9, 0.7, 0.5), shapes.rotation(1)), 64)
    return field, sharp_voxels(field)


def stored(given: tuple[SparseSDF, Tensor], before: bytes = b"") -> StoredField:
    return StoredField(io.BytesIO(before + encode_field(*given) + b"what follows"), len(before))


def test_a_field_survives_its_file(given: tuple[SparseSDF, Tensor]) -> None:
    field, sharp = given
    read, mask = stored(given, b"what stands before it").read()
    assert torch.equal(read.coords, field.coords)
    assert torch.equal(read.values, field.values)
    assert torch.equal(mask, sharp)
    assert (read.resolution, read.tau) == (field.resolution, field.tau)
    assert 0 < int(mask.sum()) < len(mask)


def test_a_crop_is_a_box_of_whole_blocks_that_holds_something(given: tuple[SparseSDF, Tensor]) -> None:
    field, sharp = given
    generator = np.random.default_rng(0)
    seen = set()
    for _ in range(20):
        part, edges = stored(given).crop(16, MULTIPLE, generator)
        low, high = part.coords.aminmax(dim=0)
        assert len(part.coords) > 0
        assert bool((high // MULTIPLE - low // MULTIPLE <= 1).all())
        inside = torch.isin(_flat(field.coords), _flat(part.coords))
        assert torch.equal(field.coords[inside], part.coords)
        assert torch.equal(field.values[inside], part.values)
        assert torch.equal(sharp[inside], edges)
        whole = torch.isin(_flat(field.coords // MULTIPLE), _flat((part.coords // MULTIPLE).unique(dim=0)))
        assert torch.equal(whole, inside), "a block was cut"
        seen.add(tuple(low.tolist()))
    assert len(seen) > 1


def test_a_crop_is_a_function_of_its_generator(given: tuple[SparseSDF, Tensor]) -> None:
    one, other = (stored(given).crop(16, MULTIPLE, np.random.default_rng(1))[0] for _ in range(2))
    assert torch.equal(one.values, other.values)


def test_a_box_as_large_as_the_grid_is_the_whole_field(given: tuple[SparseSDF, Tensor]) -> None:
    part, _ = stored(given).crop(64, MULTIPLE, np.random.default_rng(0))
    assert torch.equal(part.values, given[0].values)


def test_a_field_without_points_is_read() -> None:
    empty = SparseSDF(torch.zeros(0, 3, dtype=torch.int32), torch.zeros(0), 64, 1 / 16)
    field, sharp = stored((empty, torch.zeros(0, dtype=torch.bool))).crop(16, MULTIPLE, np.random.default_rng(0))
    assert len(field.coords) == len(field.values) == len(sharp) == 0


def test_a_file_that_ends_early_is_named(given: tuple[SparseSDF, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "train-00000.tar"
    path.write_bytes(encode_field(*given)[:-1])
    with path.open("rb") as file, pytest.raises(DatasetError, match=r"train-00000\.tar ends before its field does"):
        StoredField(file).read()
    path.write_bytes(b"")
    with path.open("rb") as file, pytest.raises(DatasetError, match="ends before"):
        StoredField(file)


def _flat(coords: Tensor) -> Tensor:
    return (coords[:, 0].long() * 64 + coords[:, 1]) * 64 + coords[:, 2]
