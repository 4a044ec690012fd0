"""Which prediction belongs to which reference: by name, whatever the format of the file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# Formats of meshes that trimesh reads without further packages.
SUFFIXES = (".glb", ".gltf", ".obj", ".off", ".ply", ".stl")


@dataclass(frozen=True)
class Match:
    """The predictions of all methods for one reference."""

    asset: str  # path of the reference below its folder, without the suffix
    ref: Path
    preds: dict[str, Path | None]  # by method; None where there is no file


@dataclass(frozen=True)
class Matching:
    """All assets, by name, and predictions that belong to none."""

    matches: list[Match]
    unmatched: list[Path]


def match(preds: Sequence[str], ref: Path) -> Matching:
    """Match files, or files in folders and their folders below.

    Args:
        preds: a path for each method, or NAME=PATH where no path is called so; a method without a name is called as
            its folder or file.
        ref: a file if the predictions are files, else a folder.

    Raises:
        ValueError: something that does not exist or has another format, folders among files, folders without meshes,
            two meshes or methods of one name, or a method of which no file has the name of a reference.
    """
    methods: dict[str, Path] = {}
    for given in preds:
        name, _, where = given.partition("=") if "=" in given and not Path(given).exists() else ("", "", given)
        folder = Path(where)
        if "/" in name:
            raise ValueError(f"the name of a method must not contain a slash, got {name!r}")
        name = name or (folder.resolve().name if folder.is_dir() else folder.stem)
        if name in methods:
            raise ValueError(f"two predictions are called {name!r}: name them, as in NAME={folder}")
        methods[name] = folder
    for path in (*methods.values(), ref):
        if not path.exists():
            raise ValueError(f"{path} does not exist")
        if path.is_dir() != ref.is_dir():
            raise ValueError(f"predictions and REF must be all files or all folders, got {path} and {ref}")
    if ref.is_file():
        for path in (*methods.values(), ref):
            if path.suffix.lower() not in SUFFIXES:
                raise ValueError(f"{path} must be a mesh ({', '.join(SUFFIXES)})")
        return Matching([Match(ref.stem, ref, dict(methods))], [])

    references = _in_folder(ref)
    found = {name: _in_folder(folder) for name, folder in methods.items()}
    for name, meshes in found.items():
        if not set(meshes) & set(references):
            raise ValueError(
                f"no mesh in {methods[name]} has the name of one in {ref}: for instance {min(meshes)!r} and "
                f"{min(references)!r}"
            )
    matches = [
        Match(asset, path, {name: meshes.get(asset) for name, meshes in found.items()})
        for asset, path in sorted(references.items())
    ]
    unmatched = [path for meshes in found.values() for asset, path in meshes.items() if asset not in references]
    return Matching(matches, sorted(unmatched))


def find_meshes(paths: Sequence[Path]) -> dict[str, Path]:
    """Files, and files in folders and their folders below, by name without the suffix.

    Raises:
        ValueError: something that does not exist or has another format, folders without meshes, or equal names.
    """
    meshes: dict[str, Path] = {}
    for given in paths:
        if not given.exists():
            raise ValueError(f"{given} does not exist")
        if given.is_file() and given.suffix.lower() not in SUFFIXES:
            raise ValueError(f"{given} must be a mesh ({', '.join(SUFFIXES)})")
        for asset, path in ({given.stem: given} if given.is_file() else _in_folder(given)).items():
            if asset in meshes:
                raise ValueError(f"{meshes[asset]} and {path} have the same name")
            meshes[asset] = path
    return meshes


def _in_folder(folder: Path) -> dict[str, Path]:
    """By path below the folder, without the suffix."""
    meshes: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES and path.is_file():
            asset = path.relative_to(folder).with_suffix("").as_posix()
            if asset in meshes:
                raise ValueError(f"{meshes[asset]} and {path} have the same name")
            meshes[asset] = path
    if not meshes:
        raise ValueError(f"{folder} holds no meshes ({', '.join(SUFFIXES)})")
    return meshes
