"""A field and its sharp points as a member of a sample: written whole; read whole, or in a box."""

from __future__ import annotations

import json
from bisect import bisect_left
from io import BufferedIOBase
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor

from models.data.dataset.manifest import DatasetError
from models.data.sdf import SparseSDF


def encode_field(field: SparseSDF, sharp: Tensor) -> bytes:
    """A safetensors file; with one entry of metadata, because the order of several is left to chance."""
    tensors = {"coords": field.coords.to("cpu", torch.int16), "values": field.values.cpu(), "sharp": sharp.cpu()}
    return save(tensors, {"field": json.dumps({"resolution": field.resolution, "tau": field.tau})})


class StoredField:
    """What `encode_field` made, in an open file.

    Args:
        file: open while points are read.
        start: first byte of the field.

    Raises:
        DatasetError: the file ends too early; also of the methods.
    """

    def __init__(self, file: BufferedIOBase, start: int = 0) -> None:
        self._file = file
        # Eight bytes hold the length of the header, which is JSON; offsets in it count from its end.
        length = int(self._array(start, 1, np.dtype("<u8"))[0])
        header = json.loads(self._array(start + 8, length, np.dtype("u1")).tobytes())
        self._begin = {
            name: start + 8 + length + header[name]["data_offsets"][0] for name in ("coords", "values", "sharp")
        }
        self.points: int = header["values"]["shape"][0]
        about: dict[str, Any] = json.loads(header["__metadata__"]["field"])
        self.resolution, self.tau = int(about["resolution"]), float(about["tau"])

    def read(self) -> tuple[SparseSDF, Tensor]:
        """The field, and which of its points are near a sharp edge, bool [V]."""
        return self._field(*self._rows(0, self.points))

    def crop(self, side: int, multiple: int, generator: np.random.Generator) -> tuple[SparseSDF, Tensor]:
        """The points in a random box around one of them, and which of these are near a sharp edge. Of the file only the
        points between two planes of constant x are read.

        Args:
            side: of the box in grid points, a multiple of `multiple`; all points where that is the whole grid.
            multiple: of all coordinates where a box may begin, so that no block of so many points is cut.
        """
        if not self.points or side >= self.resolution:
            return self.read()
        seen = self._coords(int(generator.integers(self.points)), 1)[0].astype(np.int64) // multiple
        start = seen - generator.integers(side // multiple, size=3)
        start = start.clip(0, (self.resolution - side) // multiple) * multiple
        # Points are sorted by x first.
        first, last = (bisect_left(range(self.points), int(x), key=self._x) for x in (start[0], start[0] + side))
        coords, values, sharp = self._rows(first, last)
        inside = np.ones(len(coords), dtype=bool)
        for axis in (1, 2):
            place = coords[:, axis]
            inside &= (place >= start[axis]) & (place < start[axis] + side)
        kept = inside.nonzero()[0]
        return self._field(coords[kept], values[kept], sharp[kept])

    def _x(self, row: int) -> int:
        return int(self._array(self._begin["coords"] + 6 * row, 1, np.dtype("<i2"))[0])

    def _coords(self, first: int, count: int) -> NDArray[np.int16]:
        return self._array(self._begin["coords"] + 6 * first, 3 * count, np.dtype("<i2")).reshape(-1, 3)

    def _rows(self, first: int, last: int) -> tuple[NDArray[np.int16], NDArray[np.float32], NDArray[np.bool_]]:
        count = last - first
        values = self._array(self._begin["values"] + 4 * first, count, np.dtype("<f4"))
        sharp = self._array(self._begin["sharp"] + first, count, np.dtype("?"))
        return self._coords(first, count), values, sharp

    def _field(
        self, coords: NDArray[np.int16], values: NDArray[np.float32], sharp: NDArray[np.bool_]
    ) -> tuple[SparseSDF, Tensor]:
        wide = torch.from_numpy(coords).int()
        return SparseSDF(wide, torch.from_numpy(values), self.resolution, self.tau), torch.from_numpy(sharp)

    def _array(self, place: int, count: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        self._file.seek(place)
        found = np.empty(count, dtype)
        if self._file.readinto(found.view("u1").data) != found.nbytes:
            raise DatasetError(f"{getattr(self._file, 'name', 'the field')} ends before its field does")
        return found
