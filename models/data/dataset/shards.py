"""Tar archives whose bytes depend on their samples and on nothing else: no times, no owners."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from models.data.dataset.manifest import Member
from models.files import write_whole

_BLOCK = tarfile.BLOCKSIZE
# Two empty blocks end an archive.
END = bytes(2 * _BLOCK)


def encode(key: str, members: Mapping[str, bytes]) -> tuple[bytes, dict[str, Member]]:
    """A sample as it stands in an archive: headers and contents of the members KEY.name, and where those begin."""
    pieces: list[bytes] = []
    index = {}
    place = 0
    for name, content in members.items():
        info = tarfile.TarInfo(f"{key}.{name}")  # time 0, owner 0, mode 0644
        info.size = len(content)
        header = info.tobuf(tarfile.USTAR_FORMAT)
        padding = bytes(-len(content) % _BLOCK)
        index[name] = Member(offset=place + len(header), size=len(content), sha256=hashlib.sha256(content).hexdigest())
        pieces += [header, content, padding]
        place += len(header) + len(content) + len(padding)
    return b"".join(pieces), index


def write_shard(path: Path, samples: Iterable[Path]) -> None:
    """Join encoded samples to an archive, whole."""

    def pieces() -> Iterable[bytes]:
        for sample in samples:
            yield sample.read_bytes()
        yield END

    write_whole(path, pieces())


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
