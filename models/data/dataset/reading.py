"""Samples of a prepared dataset, in any order."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from safetensors.torch import load
from torch import Tensor
from torch.utils.data import Dataset

from models.data.cameras import Camera
from models.data.dataset.manifest import DatasetError, Entry, read_manifest
from models.data.dataset.sample import decode_camera, decode_view, view_name
from models.data.dataset.splits import Split
from models.data.dataset.stored_field import StoredField
from models.data.render import Render
from models.data.sdf import SparseSDF

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class View:
    """A render and the camera that made it."""

    camera: Camera
    render: Render


@dataclass(frozen=True, eq=False)
class Sample:
    """What was asked for of one asset, on the CPU."""

    entry: Entry  # key, caption, category, creator, licence, split, counts
    fields: dict[int, SparseSDF]  # by resolution
    sharp: dict[int, Tensor]  # by resolution, bool [V]: points near a sharp edge
    vertices: Tensor | None  # fp32 [V, 3] in [-0.95, 0.95]^3
    faces: Tensor | None  # int32 [F, 3]
    views: list[View]

    @property
    def key(self) -> str:
        return self.entry.key


class PreparedDataset(Dataset[Sample]):
    """A map-style dataset; see `open_dataset`. It holds no open files, so that workers of a loader may share it."""

    def __init__(
        self, folder: Path, entries: list[Entry], resolutions: tuple[int, ...], *, mesh: bool, views: bool
    ) -> None:
        self.folder = folder
        self.entries = entries
        self.resolutions = resolutions
        self._mesh, self._views = mesh, views

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Sample:
        entry = self.entries[index]
        read = _Reader(self.folder, entry)
        fields, sharp = {}, {}
        for resolution in self.resolutions:
            fields[resolution], sharp[resolution] = self.field(index, resolution)
        mesh = load(read("mesh.safetensors")) if self._mesh else {}
        return Sample(entry, fields, sharp, mesh.get("vertices"), mesh.get("faces"), self.views(index))

    def field(self, index: int, resolution: int) -> tuple[SparseSDF, Tensor]:
        """One field of one sample, and which of its points are near a sharp edge, bool [V]."""
        return self._stored(index, resolution, StoredField.read)

    def crop(
        self, index: int, resolution: int, side: int, multiple: int, generator: np.random.Generator
    ) -> tuple[SparseSDF, Tensor]:
        """The part of one field that is in a random box of so many grid points, as of `StoredField.crop`."""
        return self._stored(index, resolution, lambda stored: stored.crop(side, multiple, generator))

    def _stored(self, index: int, resolution: int, read: Callable[[StoredField], T]) -> T:
        path, start, _ = _Reader(self.folder, self.entries[index]).place(f"sdf.{resolution}.safetensors")
        with path.open("rb") as file:
            return read(StoredField(file, start))

    def views(self, index: int) -> list[View]:
        """The views of one sample, none where they were not asked for."""
        entry = self.entries[index]
        read = _Reader(self.folder, entry)
        if not (self._views and entry.views):
            return []
        found = []
        for number, about in enumerate(json.loads(read("json"))["views"]):
            camera = decode_camera(about)
            rgb, normal, depth = (read(f"{view_name(number)}.{kind}.png") for kind in ("rgb", "normal", "depth"))
            found.append(View(camera, decode_view(rgb, normal, depth, camera)))
        return found


def open_dataset(
    folder: str | Path,
    split: Split | str | None = None,
    *,
    resolutions: Sequence[int] | None = None,
    mesh: bool = True,
    views: bool = True,
) -> PreparedDataset:
    """The samples of a dataset, of which only what is asked for is read.

    Args:
        folder: written by `ssabench prepare`, complete.
        split: train, val or test; None has all.
        resolutions: of the fields; None has all there are.

    Raises:
        DatasetError: no complete dataset, a resolution that it does not have, or no samples.
        ValueError: no such split.
    """
    folder = Path(folder)
    if split is not None and split not in list(Split):
        raise ValueError(f"split must be train, val or test, got {split!r}")
    entries = [entry for entry in read_manifest(folder) if entry.status == "ok" and split in (None, entry.split)]
    if not entries:
        raise DatasetError(f"{folder} has no samples" + (f" in {split}" if split is not None else ""))
    there = sorted(entries[0].voxels)
    wanted = there if resolutions is None else list(resolutions)
    for resolution in wanted:
        if resolution not in there:
            raise DatasetError(f"{folder} has fields of {', '.join(map(str, there))}, not of {resolution}")
    return PreparedDataset(folder, entries, tuple(wanted), mesh=mesh, views=views)


class _Reader:
    """Reads members of one sample by name."""

    def __init__(self, folder: Path, entry: Entry) -> None:
        if entry.shard is None or entry.offset is None:
            raise DatasetError(f"{folder} has no place for sample {entry.key!r}")
        self._path, self._start, self._members = folder / entry.shard, entry.offset, entry.members

    def __call__(self, name: str) -> bytes:
        path, start, size = self.place(name)
        with path.open("rb") as file:
            file.seek(start)
            data = file.read(size)
        if len(data) != size:
            raise DatasetError(f"{path} ends before its {name} does")
        return data

    def place(self, name: str) -> tuple[Path, int, int]:
        """A shard, the first byte of a member in it, and how many there are."""
        member = self._members[name]
        return self._path, self._start + member.offset, member.size
