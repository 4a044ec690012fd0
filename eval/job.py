"""One asset by one method: read, brought into the frame, scored, drawn."""

from __future__ import annotations

import hashlib
import importlib.metadata
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eval.normalise import normalise, transform_of
from eval.pictures import heat_map, save, thumbnail
from eval.protocols.protocol import Protocol
from eval.rays import interior_share
from eval.rows import MeshFacts, Row, Status
from eval.scoring import Pair
from eval.surface import Surface
from eval.topology import topology
from models.data.isosurface import isosurface
from models.data.mesh_file import fit_into_cube, read_mesh_file
from models.data.sdf import sparse_sdf
from models.vae.files import load_vae
from models.vae.model import SparseVAE
from models.vae.reconstruction import reconstruct

_SOFTWARE = ("ssabench", "torch", "numpy", "scipy", "trimesh")


@dataclass(frozen=True)
class RoundTrip:
    """A prediction that is the reference itself, through a sparse signed distance field and back; with `weights` the
    field goes through the latents of an SS-VAE on its way."""

    resolution: int
    weights: Path | None = None

    def __str__(self) -> str:
        return f"{'' if self.weights is None else 'VAE '}round trip at {self.resolution}"


@dataclass(frozen=True)
class Job:
    """What to score. The reference of a round trip is fitted into the cube first."""

    asset: str
    method: str
    pred: Path | RoundTrip | None
    ref: Path

    @property
    def pred_file(self) -> Path | None:
        """The file that the prediction is, or that it is made with beside the reference."""
        return self.pred.weights if isinstance(self.pred, RoundTrip) else self.pred


def run_job(job: Job, protocol: Protocol, pictures: Path, device: str) -> Row:
    """The row of a job; its pictures are in place when it returns. Nothing that a mesh can be wrong in raises."""
    start = time.perf_counter()

    def row(status: Status, reason: str | None = None, **found: Any) -> Row:
        return make_row(job, protocol, device, status, reason, seconds=round(time.perf_counter() - start, 3), **found)

    try:
        ref = read_surface(job.ref, "reference", device)
        if isinstance(job.pred, RoundTrip):
            ref = fitted(ref)
        transform_of(ref, protocol.normalisation)
    except ValueError as error:
        return row("no_reference", str(error))
    if job.pred is None:
        return row("failed", "no prediction")
    try:
        if isinstance(job.pred, RoundTrip):
            pred = _round_trip(ref, job.pred)
        else:
            pred = read_surface(job.pred, "prediction", device)
        pred, ref, transform, _ = normalise(pred, ref, protocol.normalisation, protocol.frame)
        pair = Pair(pred, ref, protocol)
        scores, ceilings = pair.scores(), pair.ceilings()
    except ValueError as error:
        return row("failed", str(error))
    _draw(pred, ref, job, pictures)
    counts = topology(pred)
    facts = MeshFacts(
        vertices=len(pred.vertices),
        faces=len(pred.faces),
        area=pred.area,
        watertight=counts.watertight,
        components=counts.components,
        interior_share=interior_share(pred) if protocol.uses_outer_area else None,
    )
    return row("ok", scores=scores, ceilings=ceilings, facts=facts, scale=transform.scale)


def make_row(job: Job, protocol: Protocol, device: str, status: Status, reason: str | None = None, **found: Any) -> Row:
    """A row with its provenance.

    Args:
        found: further fields of `Row`; at least `seconds`.
    """
    return Row(
        asset=job.asset,
        method=job.method,
        status=status,
        reason=reason,
        protocol=protocol.name,
        protocol_digest=protocol.digest,
        points=protocol.points,
        seed=protocol.seed,
        pred=None if job.pred is None else str(job.pred),
        ref=str(job.ref),
        pred_sha256=None if job.pred_file is None else sha256(job.pred_file),
        ref_sha256=sha256(job.ref),
        device=device,
        software=software(),
        **found,
    )


def picture_paths(pictures: Path, asset: str, method: str) -> tuple[Path, Path, Path]:
    """Of the reference, the prediction and its heat map."""
    file = f"{asset}.jpg"
    return pictures / "reference" / file, pictures / "prediction" / method / file, pictures / "error" / method / file


def read_surface(path: Path, name: str, device: str) -> Surface:
    """All triangles of a mesh file.

    Raises:
        ValueError: an unreadable file, or one without triangles or with coordinates that are not finite.
    """
    mesh = read_mesh_file(path, "mesh")
    if not len(getattr(mesh, "faces", ())):
        raise ValueError(f"{name} {str(path)!r} has no triangles")
    vertices = torch.from_numpy(np.array(mesh.vertices, dtype=np.float64))
    return Surface(vertices.to(device), torch.from_numpy(np.array(mesh.faces, dtype=np.int64)).to(device), name)


@cache
def sha256(path: Path) -> str:
    """Of a file's bytes; empty for a file that cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


@cache
def software() -> dict[str, str]:
    """Versions of what scores depend on."""
    found = {}
    for package in _SOFTWARE:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def fitted(surface: Surface) -> Surface:
    """The surface as Direct3D-S2 fits it into the cube [-1, 1]: longest side 1.9.

    Raises:
        MeshError: no surface area.
    """
    vertices, faces, _ = fit_into_cube(surface.vertices.cpu().numpy(), surface.faces.cpu().numpy(), surface.name)
    device = surface.vertices.device
    return Surface(torch.from_numpy(vertices).to(device), torch.from_numpy(faces).to(device), surface.name)


def _round_trip(surface: Surface, how: RoundTrip) -> Surface:
    field = sparse_sdf(surface.vertices, surface.faces, how.resolution, device=surface.vertices.device)
    if how.weights is None:
        found = isosurface(field)
    else:
        found, _ = reconstruct(_vae(how.weights, str(field.coords.device)), field)
    return Surface(found.vertices, found.faces, str(how))


@cache
def _vae(weights: Path, device: str) -> SparseVAE:
    """Read once a process."""
    return load_vae(weights).to(device)


def _draw(pred: Surface, ref: Surface, job: Job, pictures: Path) -> None:
    reference, prediction, error = picture_paths(pictures, job.asset, job.method)
    if not reference.exists():
        save(thumbnail(ref, ref), reference)
    save(thumbnail(pred, ref), prediction)
    save(heat_map(pred, ref), error)
