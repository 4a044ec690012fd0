"""The assets of a source: what there is to prepare, and what is known of it."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from models.data.dataset.furniture import PREFIX as FURNITURE
from models.data.dataset.furniture import Furniture, read_furniture
from models.data.dataset.geometry import ArchiveMesh, FileMesh, GeneratedSolid, Geometry
from models.data.dataset.splits import Split

SUFFIXES = (".glb", ".gltf", ".obj", ".off", ".ply", ".stl")
# Meshes too, so that leaving them out must not go unnoticed.
_UNREADABLE = (
    ".3ds",
    ".abc",
    ".blend",
    ".dae",
    ".fbx",
    ".max",
    ".step",
    ".stp",
    ".usd",
    ".usda",
    ".usdc",
    ".usdz",
    ".wrl",
    ".x3d",
)
_KEY_LENGTH = 80  # with a member's name after it, it has to fit into the 100 bytes of a tar header
KINDS = (
    "a folder of meshes, sweethome3d-furniture:PATH, solids:COUNT, objaverse:LIST (or a .json, .json.gz or .csv list), "
    "or shapenet:FOLDER"
)


@dataclass(frozen=True)
class Asset:
    """One thing to prepare. Its key is of a-z, 0-9, _ and -, and unlike all others of the source."""

    key: str
    location: str  # in the source, for people
    geometry: Geometry | None  # None where `missing` says why
    group: str  # assets of one group are in the same split
    caption: str = ""  # empty: the mesh's own name
    category: str = ""
    creator: str = ""
    licence: str = ""
    split: Split | None = None  # the source's own
    missing: str = ""


def list_assets(source: str, scratch: Path) -> list[Asset]:
    """The assets of a source, sorted by key.

    Args:
        source: see `KINDS`.
        scratch: a folder where a source that comes packed may be unpacked.

    Raises:
        ValueError: no such source, or nothing in it.
    """
    kind, _, rest = source.partition(":")
    if source.startswith(FURNITURE):
        assets = [_of_furniture(item) for item in read_furniture(Path(source.removeprefix(FURNITURE)), scratch)]
    elif kind == "solids":
        assets = list(_solids(rest))
    elif kind == "shapenet":
        assets = list(_shapenet(Path(rest)))
    elif kind == "objaverse":
        assets = list(_objaverse(Path(rest)))
    elif Path(source).is_file() and source.lower().endswith((".json", ".json.gz", ".csv")):
        assets = list(_objaverse(Path(source)))
    elif Path(source).is_dir():
        folder = Path(source)
        # Category folders are named by the eight digits of their synset.
        synsets = any(re.fullmatch(r"\d{8}", child.name) for child in folder.iterdir() if child.is_dir())
        assets = list(_shapenet(folder) if synsets else _folder(folder))
    else:
        raise ValueError(f"SOURCE must be {KINDS}, and there is no {source!r}")
    if not assets:
        raise ValueError(f"SOURCE {source!r} has no meshes ({', '.join(SUFFIXES)})")
    return sorted(_distinct(assets), key=lambda asset: asset.key)


def slug(text: str) -> str:
    """Text as (part of) a key; short enough for the header of a tar member."""
    plain = re.sub(r"[^a-z0-9_]+", "-", text.lower()).strip("-")
    if plain and len(plain) <= _KEY_LENGTH:
        return plain
    return f"{plain[: _KEY_LENGTH - 9]}-{_short_hash(text)}".lstrip("-")


def _distinct(assets: Iterable[Asset]) -> Iterator[Asset]:
    """Assets whose keys are equal get the hash of their location behind it."""
    assets = list(assets)
    count = Counter(asset.key for asset in assets)
    for asset in assets:
        if count[asset.key] == 1:
            yield asset
        else:
            yield replace(asset, key=f"{asset.key[: _KEY_LENGTH - 9]}-{_short_hash(asset.location)}")


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _folder(folder: Path) -> Iterator[Asset]:
    for path in sorted(folder.rglob("*")):
        suffix = path.suffix.lower()
        if suffix not in SUFFIXES + _UNREADABLE or path.is_dir():
            continue
        inside = path.relative_to(folder)
        name = inside.with_suffix("").as_posix()
        yield Asset(
            key=slug(name),
            location=inside.as_posix(),
            geometry=FileMesh(path) if suffix in SUFFIXES else None,
            group=name,
            caption=path.stem,
            category=inside.parent.as_posix() if inside.parent.parts else "",
            missing="" if suffix in SUFFIXES else f"has an unsupported format {suffix}",
        )


def _of_furniture(item: Furniture) -> Asset:
    return Asset(
        key=slug(item.id),
        location=f"{item.archive.name}/{item.member}",
        geometry=ArchiveMesh(item.archive, item.member, item.rotation),
        group=item.name.lower(),  # variants of a piece share their name
        caption=item.name,
        category=item.category,
        creator=item.creator,
        licence=item.licence,
    )


def _solids(count: str) -> Iterator[Asset]:
    if not re.fullmatch(r"[1-9]\d*", count):
        raise ValueError(f"solids:COUNT takes a positive number, got {count!r}")
    for seed in range(int(count)):
        name = f"solid-{seed:06d}"
        yield Asset(name, name, GeneratedSolid(seed), name, category="solid", licence="CC0 1.0")


def _objaverse(listing: Path) -> Iterator[Asset]:
    """What is on this machine of a list: uid -> path, in a JSON object, a JSON list, or a CSV with both columns."""
    for uid, place in sorted(_read_listing(listing)):
        path = Path(place)
        if not path.is_absolute():
            path = listing.parent / path
        remote = re.match(r"\w+://", place) is not None
        missing = ""
        if remote:
            missing = "is not on this machine: only its address is listed"
        elif not path.is_file():
            missing = "is listed but not on this machine"
        geometry = FileMesh(path) if not missing else None
        yield Asset(slug(uid), place, geometry, uid, missing=missing)


def _read_listing(listing: Path) -> list[tuple[str, str]]:
    """Pairs of uid and path."""
    wanted = (
        f"{listing} must hold uids and paths: a JSON object, a JSON list of paths, or a CSV with columns uid and path"
    )
    try:
        data = listing.read_bytes()
        text = (gzip.decompress(data) if listing.suffix.lower() == ".gz" else data).decode()
        if listing.suffix.lower() == ".csv":
            rows = list(csv.DictReader(text.splitlines()))
            return [(row["uid"], row["path"]) for row in rows]
        document = json.loads(text)
    except (UnicodeDecodeError, KeyError, json.JSONDecodeError, gzip.BadGzipFile) as error:
        raise ValueError(f"{wanted} ({type(error).__name__}: {error})") from error
    if isinstance(document, dict):
        pairs = list(document.items())
    elif isinstance(document, list):
        pairs = [(Path(str(place)).stem, place) for place in document]
    else:
        raise ValueError(wanted)
    if not all(isinstance(place, str) for _, place in pairs):
        raise ValueError(wanted)
    return pairs


def _shapenet(folder: Path) -> Iterator[Asset]:
    """synset/model/models/model_normalized.obj, with taxonomy.json and the official all.csv where they are there."""
    if not folder.is_dir():
        raise ValueError(f"shapenet:FOLDER must be a folder, and there is no {str(folder)!r}")
    names = _taxonomy(folder / "taxonomy.json")
    splits = _official_splits(folder / "all.csv")
    for model in sorted(folder.glob("[0-9]*/*/")):
        synset = model.parent.name
        if not re.fullmatch(r"\d{8}", synset):
            continue
        path = model / "models" / "model_normalized.obj"
        category = names.get(synset, synset)
        identity = f"{synset}-{model.name}"
        yield Asset(
            key=slug(identity),
            location=path.relative_to(folder).as_posix(),
            geometry=FileMesh(path) if path.is_file() else None,
            group=identity,
            caption=category,
            category=category,
            split=splits.get((synset, model.name)),
            missing="" if path.is_file() else "has no models/model_normalized.obj",
        )


def _taxonomy(path: Path) -> dict[str, str]:
    """First name of each synset."""
    if not path.is_file():
        return {}
    try:
        return {row["synsetId"]: row["name"].split(",")[0] for row in json.loads(path.read_text(encoding="utf-8"))}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not ShapeNet's taxonomy: {type(error).__name__}: {error}") from error


def _official_splits(path: Path) -> dict[tuple[str, str], Split]:
    """Of (synset, model), from the columns synsetId, modelId and split."""
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        try:
            return {(row["synsetId"], row["modelId"]): Split(row["split"]) for row in csv.DictReader(file)}
        except (KeyError, ValueError) as error:
            raise ValueError(f"{path} is not ShapeNet's list of splits: {type(error).__name__}: {error}") from error
