"""The catalogues of Sweet Home 3D: zip archives (.sh3f) of OBJ meshes with names, categories, creators and licences.

Debian packages them as sweethome3d-furniture; a .deb is an `ar` archive that holds a tar archive of the files.
"""

from __future__ import annotations

import re
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from models.data.dataset.geometry import Rotation
from models.files import write_whole

PREFIX = "sweethome3d-furniture:"
_CATALOGUE = "PluginFurnitureCatalog.properties"


@dataclass(frozen=True)
class Furniture:
    """One entry of a catalogue."""

    id: str
    name: str
    category: str
    creator: str
    licence: str
    archive: Path
    member: str  # the mesh in the archive
    rotation: Rotation | None


def read_furniture(path: Path, scratch: Path) -> list[Furniture]:
    """All entries of the catalogues of a folder, of one .sh3f, or of Debian's package, which is unpacked into scratch.

    Raises:
        ValueError: no catalogue there, or a damaged one.
    """
    if path.suffix == ".deb" and path.is_file():
        archives = _unpack(path, scratch)
    elif path.is_dir():
        archives = sorted(path.rglob("*.sh3f"))
    else:
        archives = [path] if path.is_file() else []
    if not archives:
        raise ValueError(f"{PREFIX}PATH must name the .deb, a .sh3f or a folder of .sh3f files, got {str(path)!r}")
    return [entry for archive in archives for entry in _entries(archive)]


def _entries(archive: Path) -> Iterator[Furniture]:
    try:
        with zipfile.ZipFile(archive) as file:
            properties = parse_properties(file.read(_CATALOGUE).decode("latin-1"))
    except (zipfile.BadZipFile, KeyError) as error:
        raise ValueError(f"{archive} is not a catalogue of Sweet Home 3D: {error}") from error
    for number in sorted(int(key[len("model#") :]) for key in properties if re.fullmatch(r"model#\d+", key)):

        def field(name: str, number: int = number) -> str:
            return " ".join(properties.get(f"{name}#{number}", "").split())

        member = field("model").lstrip("/")
        turned = field("modelRotation").split()
        yield Furniture(
            id=field("id") or member,
            name=field("name"),
            category=field("category"),
            creator=field("creator"),
            licence=" ".join(properties.get("license", "").split()),
            archive=archive,
            member=member,
            rotation=tuple(float(value) for value in turned) if len(turned) == 9 else None,
        )


def parse_properties(text: str) -> dict[str, str]:
    """A Java properties file: `key=value` lines with \\uXXXX escapes, continued after a backslash at the end."""
    found = {}
    for line in re.sub(r"\\\r?\n[ \t]*", "", text).splitlines():
        if line.lstrip().startswith(("#", "!")):
            continue
        key, separator, value = line.partition("=")
        if separator:
            unescaped = re.sub(r"\\u([0-9a-fA-F]{4})", lambda match: chr(int(match[1], 16)), value)
            found[key.strip()] = re.sub(r"\\(.)", r"\1", unescaped).strip()
    return found


def _unpack(package: Path, scratch: Path) -> list[Path]:
    """The .sh3f files of a .deb, in scratch; those of an earlier call are kept."""
    names = []
    with package.open("rb") as file, _data_archive(file, package) as archive:
        for member in archive:
            if member.isfile() and member.name.endswith(".sh3f"):
                target = scratch / Path(member.name).name
                if not (target.is_file() and target.stat().st_size == member.size):
                    content = archive.extractfile(member)
                    assert content is not None  # it is a file
                    write_whole(target, content)
                names.append(target)
    return sorted(names)


def _data_archive(file: BinaryIO, package: Path) -> tarfile.TarFile:
    """The tar archive data.tar.* of an ar archive: after eight bytes of magic, members with headers of 60 bytes."""
    if file.read(8) != b"!<arch>\n":
        raise ValueError(f"{package} is not a Debian package")
    while len(header := file.read(60)) == 60:
        name, size = header[:16].decode("ascii").strip(" /"), int(header[48:58])
        if name.startswith("data.tar"):
            return tarfile.open(fileobj=file, mode="r|*")
        file.seek(size + size % 2, 1)  # members begin at even places
    raise ValueError(f"{package} holds no data.tar")
