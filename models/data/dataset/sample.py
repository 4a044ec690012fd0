"""One asset to the members of its sample, and back from bytes."""

from __future__ import annotations

import io
import json
import math
import re
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save
from torch import Tensor

from models.data.cameras import CUBE_RADIUS, Camera
from models.data.dataset.manifest import Entry
from models.data.dataset.settings import Settings
from models.data.dataset.shards import encode
from models.data.dataset.sources import Asset
from models.data.dataset.splits import Split
from models.data.dataset.stored_field import encode_field
from models.data.masks import sharp_voxels
from models.data.mesh_file import MeshError
from models.data.render import Render, normal_colors, render
from models.data.sdf import sparse_sdf

# Depth in 16 bits; 0 is for where nothing is.
_DEPTH_STEPS = 2**16 - 2


@dataclass(frozen=True)
class Job:
    """An asset to prepare, and what was decided about it."""

    asset: Asset
    digest: str
    split: Split
    shard: str


def prepare_sample(job: Job, settings: Settings) -> tuple[Entry, bytes]:
    """The sample of an asset in the form that it has in a shard, or the reason why there is none, and no bytes.

    Raises:
        RuntimeError: the GPU cannot be used any more by this process.
    """
    start = time.perf_counter()
    entry = entry_of(job)
    try:
        entry, members = _members(job, settings, entry)
    except Exception as error:  # whatever an asset does to a library, the others go on
        if "CUDA error" in str(error):  # after one every call fails, of other assets too
            raise
        failed = {"status": "failed", "reason": reason_of(error), "shard": None}
        return entry.model_copy(update={**failed, "seconds": _since(start)}), b""
    data, index = encode(job.asset.key, members)
    return entry.model_copy(update={"seconds": _since(start), "size": len(data), "members": index}), data


def entry_of(job: Job) -> Entry:
    """What is known before anything is loaded."""
    asset = job.asset
    return Entry(
        key=asset.key,
        source=asset.location,
        caption=asset.caption,
        category=asset.category,
        creator=asset.creator,
        licence=asset.licence,
        source_sha256=job.digest,
        status="ok",
        split=job.split,
        shard=job.shard,
    )


def reason_of(error: Exception) -> str:
    """One line that is the same for all assets with the same trouble."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return "out of memory"
    text = (str(error).strip() or "no message").splitlines()[0]
    if isinstance(error, MeshError):
        return re.sub(r"""^mesh (?:'[^']*'|"[^"]*") """, "", text)
    return text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}"


def _members(job: Job, settings: Settings, entry: Entry) -> tuple[Entry, dict[str, bytes]]:
    asset = job.asset
    assert asset.geometry is not None  # what is missing is no job
    mesh = asset.geometry.load()
    if len(mesh.faces) > settings.max_faces:
        raise ValueError(f"has more than {settings.max_faces} faces")
    mesh = mesh.to(settings.device)
    members = {"mesh.safetensors": save({"vertices": mesh.vertices.float().cpu(), "faces": mesh.faces.int().cpu()})}
    voxels, taus = {}, {}
    for resolution in settings.resolutions:
        field = sparse_sdf(mesh.vertices, mesh.faces, resolution, device=settings.device)
        members[f"sdf.{resolution}.safetensors"] = encode_field(field, sharp_voxels(field))
        voxels[resolution], taus[resolution] = len(field.coords), field.tau
    cameras = settings.cameras(asset.key)
    for number, camera in enumerate(cameras):
        members |= encode_view(view_name(number), render(mesh, camera, background=None), camera)
    counts: dict[str, Any] = {
        "caption": asset.caption or mesh.name,
        "faces": len(mesh.faces),
        "vertices": len(mesh.vertices),
        "voxels": voxels,
        "warnings": list(mesh.warnings),
    }
    entry = entry.model_copy(update={**counts, "views": len(cameras)})
    about = {
        "key": asset.key,
        "source": asset.location,
        "source_sha256": job.digest,
        "split": job.split.value,
        "category": asset.category,
        "creator": asset.creator,
        "licence": asset.licence,
        **counts,
        "tau": taus,
        "views": [{**asdict(camera), "depth_range": depth_range(camera)} for camera in cameras],
    }
    return entry, {"json": json.dumps(about, ensure_ascii=False).encode(), **members}


def view_name(number: int) -> str:
    return f"view.{number:02d}"


def depth_range(camera: Camera) -> tuple[float, float]:
    """Nearest and farthest plane that the cube [-1, 1]^3 may reach."""
    distance = math.dist(camera.position, camera.target)
    return max(distance - CUBE_RADIUS, 0.0), distance + CUBE_RADIUS


def encode_view(name: str, view: Render, camera: Camera) -> dict[str, bytes]:
    """Images by name; see the package's description."""
    near, far = depth_range(camera)
    level = ((view.depth.double() - near) / (far - near)).clamp(0, 1) * _DEPTH_STEPS + 1
    depth = torch.where(view.depth.isfinite(), level, 0).round()
    rgba = torch.cat([view.rgb, view.mask[..., None]], dim=-1)
    return {
        f"{name}.rgb.png": _png(_bytes(rgba)),
        f"{name}.normal.png": _png(_bytes(normal_colors(view.normal))),
        f"{name}.depth.png": _png(depth.cpu().numpy().astype(np.uint16)),
    }


def decode_camera(about: dict[str, Any]) -> Camera:
    """A camera from an item of `views` in KEY.json."""
    position, target, up = (tuple(about[name]) for name in ("position", "target", "up"))
    return Camera(position, target, about["focal_mm"], about["width"], about["height"], up)


def decode_view(rgb: bytes, normal: bytes, depth: bytes, camera: Camera) -> Render:
    """The images, as exact as bytes are: colours to 1/510, normals to 1/255, depth to (far - near) / 131068."""
    near, far = depth_range(camera)
    rgba = torch.from_numpy(_pixels(rgb)).float() / 255
    level = torch.from_numpy(_pixels(depth).astype(np.float64))
    covered = level > 0
    toward = torch.from_numpy(_pixels(normal)).float() / 255 * 2 - 1
    return Render(
        rgb=rgba[..., :3],
        mask=rgba[..., 3],
        depth=torch.where(covered, near + (level - 1) / _DEPTH_STEPS * (far - near), math.inf).float(),
        normal=torch.where(covered[..., None], toward, 0),
    )


def _bytes(image: Tensor) -> NDArray[np.uint8]:
    return (image.clamp(0, 1) * 255).round().to("cpu", torch.uint8).numpy()


def _png(pixels: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


def _pixels(data: bytes) -> NDArray[Any]:
    return np.array(Image.open(io.BytesIO(data)))


def _since(start: float) -> float:
    return round(time.perf_counter() - start, 3)
