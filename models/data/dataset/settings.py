"""What decides the bytes of a sample, beside the asset itself."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

from models.data.cameras import Camera, direct3d_s2_views, trellis2_views, turntable
from models.data.dataset.splits import Shares
from models.data.sdf import RESOLUTIONS

FORMAT_VERSION: Final = 1
# Their arithmetic or encoders are in the samples.
_PACKAGES = ("torch", "numpy", "scipy", "numba", "trimesh", "manifold3d", "pillow", "safetensors")


@dataclass(frozen=True)
class Settings:
    """How assets are prepared.

    Raises:
        ValueError: a value outside its range.
    """

    resolutions: tuple[int, ...] = (256,)
    views: str = "none"  # none, a number of turntable views, or the preset paper or trellis2
    image_size: int = 512  # pixels along a side
    shard_size: int = 64  # samples
    split: Shares = (0.9, 0.05, 0.05)
    max_faces: int = 10_000_000
    device: Literal["cpu", "cuda"] = "cpu"

    def __post_init__(self) -> None:
        low, high = RESOLUTIONS
        if not self.resolutions or not all(low <= resolution <= high for resolution in self.resolutions):
            raise ValueError(f"resolutions must be from {low} to {high}, got {_listed(self.resolutions)}")
        if tuple(sorted(set(self.resolutions))) != self.resolutions:
            raise ValueError(f"resolutions must be different and ascending, got {_listed(self.resolutions)}")
        if not re.fullmatch(r"none|paper|trellis2|[1-9]\d{0,2}", self.views):
            raise ValueError(f"views must be none, paper, trellis2 or a number from 1 to 999, got {self.views!r}")
        for name in ("image_size", "shard_size", "max_faces"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if len(self.split) != 3 or min(self.split) < 0 or not math.isclose(sum(self.split), 1, abs_tol=1e-9):
            raise ValueError(f"split must be three shares of train, val and test that sum to 1, got {self.split}")

    def cameras(self, key: str) -> list[Camera]:
        """The views of an asset; those of the paper are drawn anew for each."""
        if self.views == "none":
            return []
        if self.views == "paper":
            seed = int.from_bytes(hashlib.sha256(f"views {key}".encode()).digest()[:8])
            return direct3d_s2_views(seed, size=self.image_size)
        if self.views == "trellis2":
            return trellis2_views(size=self.image_size)
        return turntable(int(self.views), size=self.image_size)

    def to_json(self) -> dict[str, Any]:
        """Plain values, as json reads them back."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain


def versions() -> dict[str, str]:
    """Versions of what the bytes of a sample may depend on: distributions, and a hash of our own sources."""
    found = {"ssabench": _sources_hash()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # not every source needs every package
            found[package] = "not installed"
    return found


def _sources_hash() -> str:
    """Of all modules of models.data: a version's number does not tell one commit from the next."""
    folder = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def _listed(values: tuple[int, ...]) -> str:
    return ", ".join(map(str, values)) or "none"
