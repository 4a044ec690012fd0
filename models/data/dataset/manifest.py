"""The manifest: a line an asset, whatever became of it; it is the index of the shards too."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.data.dataset.settings import FORMAT_VERSION
from models.data.dataset.splits import Split
from models.files import write_whole

MANIFEST, HEADER = "manifest.jsonl", "dataset.json"


class DatasetError(ValueError):
    """A folder that is no dataset, or not the one asked for; the message says which and why."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Member(_Frozen):
    """A file of a sample. `offset` is from the sample's start to the first byte of its content."""

    offset: int
    size: int
    sha256: str


class Entry(_Frozen):
    """What became of one asset."""

    key: str
    source: str  # place in the source
    caption: str = ""
    category: str = ""
    creator: str = ""
    licence: str = ""
    source_sha256: str | None = None  # of the content; None where it cannot be read
    status: Literal["ok", "failed", "duplicate"]
    reason: str | None = None  # of a failure
    duplicate_of: str | None = None  # key of the asset with the same content that was prepared
    split: Split
    seconds: float | None = None  # of one worker
    faces: int | None = None
    vertices: int | None = None
    voxels: dict[int, int] = Field(default_factory=dict)  # by resolution
    views: int = 0
    warnings: list[str] = Field(default_factory=list)  # what of the surface's looks could not be read
    shard: str | None = None  # file name
    offset: int | None = None  # of the sample in the shard, in bytes
    size: int | None = None  # of the sample in the shard, headers included
    members: dict[str, Member] = Field(default_factory=dict)  # by name without the key


class Shard(_Frozen):
    """One tar archive of samples."""

    name: str
    split: Split
    samples: int
    size: int
    sha256: str


class Header(_Frozen):
    """What a dataset was made with."""

    format_version: Literal[1] = FORMAT_VERSION
    complete: bool
    source: str  # as it was given
    settings: dict[str, object]
    versions: dict[str, str]
    assets: int
    assets_sha256: str  # of the list of assets, what is known of them and their content
    sha256: str  # of settings, versions and assets
    shards: list[Shard] = Field(default_factory=list)


def write_header(folder: Path, header: Header) -> None:
    write_whole(folder / HEADER, [header.model_dump_json(indent=2), "\n"])


def read_header(folder: Path) -> Header:
    """Settings and shards of a dataset, complete or not.

    Raises:
        DatasetError: no dataset, or one of another format.
    """
    try:
        return Header.model_validate_json((folder / HEADER).read_bytes())
    except FileNotFoundError as error:
        raise DatasetError(f"{folder} is not a prepared dataset: it has no {HEADER}") from error
    except ValidationError as error:
        raise DatasetError(f"{folder / HEADER} is not of format {FORMAT_VERSION}: {_first(error)}") from error


def write_manifest(folder: Path, entries: Iterable[Entry]) -> None:
    write_whole(folder / MANIFEST, (to_line(entry) for entry in entries))


def read_manifest(folder: Path) -> list[Entry]:
    """All entries of a complete dataset.

    Raises:
        DatasetError: no complete dataset, or a damaged manifest.
    """
    if not read_header(folder).complete:
        raise DatasetError(f"{folder} is not finished: run the same ssabench prepare again")
    entries = []
    try:
        lines = (folder / MANIFEST).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise DatasetError(f"{folder} has no {MANIFEST}") from error
    for number, line in enumerate(lines, start=1):
        try:
            entries.append(Entry.model_validate_json(line))
        except ValidationError as error:
            raise DatasetError(f"{folder / MANIFEST}:{number}: not an entry: {_first(error)}") from error
    return entries


def to_line(entry: Entry) -> str:
    """JSON without what is not set, and a line break."""
    return json.dumps(entry.model_dump(mode="json", exclude_defaults=True), ensure_ascii=False) + "\n"


def _first(error: ValidationError) -> str:
    detail = error.errors()[0]
    return f"{'.'.join(str(part) for part in detail['loc'])} {detail['msg']}".strip()
