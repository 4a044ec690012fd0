"""Reading .npy files that hold Python objects, as published datasets do, without running what they say.

Such a file is a pickle. Only arrays, numbers, strings and containers of them are read; a file that names anything else
is refused before it can do anything.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

# What NumPy's own pickles name, under the module names of its versions 1 and 2.
_ALLOWED = {
    (module, name)
    for core in ("numpy.core", "numpy._core")
    for module, name in (
        (f"{core}.multiarray", "_reconstruct"),
        (f"{core}.multiarray", "scalar"),
        (f"{core}.numeric", "_frombuffer"),
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("_codecs", "encode"),
    )
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return super().find_class(module, name)


def read_npy(path: Path) -> Any:
    """The array of a .npy file; of one that holds a single object, that object.

    Raises:
        ValueError: unreadable, or holding more than arrays, numbers, strings and containers.
    """
    try:
        with path.open("rb") as file:
            shape, fortran, dtype = _header(file)
            if not dtype.hasobject:
                file.seek(0)
                return np.load(file, allow_pickle=False)
            values = _Reader(file).load()
    except (OSError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise ValueError(f"{str(path)!r} cannot be read: {error}") from error
    if not isinstance(values, np.ndarray) or values.shape != shape or fortran:
        raise ValueError(f"{str(path)!r} cannot be read: its array is not the one of its header")
    return values.item() if values.shape == () else values


def _header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(file)
