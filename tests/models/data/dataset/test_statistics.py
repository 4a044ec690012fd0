"""What is said of a dataset, in numbers and in a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.data.dataset import open_dataset
from models.data.dataset.contact_sheet import TILE, contact_sheet
from models.data.dataset.manifest import Entry, read_manifest
from models.data.dataset.splits import Split
from models.data.dataset.statistics import statistics


def entry(number: int, **changes: object) -> Entry:
    facts: dict[str, object] = {"category": "chair", "faces": 100 * number, "voxels": {64: number}, "seconds": 2.0}
    return Entry.model_validate(
        {"key": f"k{number}", "source": "s", "status": "ok", "split": Split.train, "size": 2**20} | facts | changes
    )


def test_counts_and_quantiles() -> None:
    entries = [entry(number) for number in range(1, 10)]
    entries += [entry(10, category="", split=Split.test), entry(11, status="failed", reason="r", voxels={})]
    entries += [entry(12, status="duplicate", duplicate_of="k1", voxels={}, seconds=None)]
    found = statistics(entries)
    assert found.status == {"ok": 10, "failed": 1, "duplicate": 1}
    assert found.splits == {"train": 9, "val": 0, "test": 1}
    assert found.categories == {"chair": 9, "none": 1}
    assert found.licences == {"not known": 10}
    assert found.reasons == {"r": 1}
    assert (found.voxels, found.size, found.seconds) == (55, 10 * 2**20, 22)
    spreads = {spread.name: spread for spread in found.spreads}
    assert spreads["voxels at 64"].quantiles == pytest.approx((1, 1.45, 5.5, 9.55, 10))
    assert spreads["faces"].mean == 550
    assert spreads["size in MiB"].mean == 1


def test_nothing_prepared_has_counts_and_no_quantiles() -> None:
    found = statistics([entry(1, status="failed", reason="r")])
    assert found.status["failed"] == 1
    assert found.spreads == []


@pytest.mark.parametrize("views", [True, False])
def test_a_contact_sheet_has_a_picture_of_each_sample(views: bool, dataset: Path) -> None:
    samples = open_dataset(dataset, resolutions=(), views=views)
    sheet = contact_sheet(samples, 5)
    pixels = np.asarray(sheet)
    columns, rows = 3, 2
    assert sheet.width // TILE == columns
    assert sheet.height // TILE == rows
    for place in range(6):
        left, top = (place % columns) * (TILE + 8) + 8, (place // columns) * (TILE + 38) + 8
        drawn = float((pixels[top : top + TILE, left : left + TILE] < 250).mean())
        # Five samples; one is a single triangle.
        assert (drawn > 0.01) == (place < 5)


def test_a_contact_sheet_of_few_takes_them_from_the_whole(dataset: Path) -> None:
    assert contact_sheet(open_dataset(dataset, resolutions=()), 2).width // TILE == 2


def test_the_manifest_of_a_run_has_statistics(dataset: Path) -> None:
    found = statistics(read_manifest(dataset))
    assert found.status == {"ok": 5, "failed": 7, "duplicate": 1}
    assert found.categories == {"none": 3, "chairs": 2} or found.categories == {"chairs": 3, "none": 2}
