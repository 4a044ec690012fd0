"""Triangle meshes with what their surface looks like: materials, textures, colours and normals."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.data.mesh_file import MeshError, fit_into_cube, read_mesh_file

_LINEAR_COLOURS = (".glb", ".gltf")  # colours of vertices and faces; other formats have sRGB


@dataclass(frozen=True, eq=False)
class Material:
    """The colour of a surface: `factor` times the texture where there is one."""

    name: str
    factor: tuple[float, float, float] = (1.0, 1.0, 1.0)  # linear RGB
    texture: Tensor | None = None  # uint8 [h, w, 3], sRGB, top row first; on the mesh's device


@dataclass(frozen=True, eq=False)
class TexturedMesh:
    """A triangle mesh; attributes belong to vertices, so a vertex on a seam is there twice."""

    vertices: Tensor  # fp64 [V, 3]
    faces: Tensor  # int64 [F, 3]
    material: Tensor  # int64 [F], index of `materials`
    materials: tuple[Material, ...]
    uv: Tensor  # fp64 [V, 2], (0, 0) at a texture's lower left corner; zeros where there is none
    colors: Tensor  # fp32 [V, 3], linear RGB that multiplies the material; ones where there is none
    normals: Tensor  # fp64 [V, 3] as in the file, not necessarily unit; zeros where there is none
    name: str
    warnings: tuple[str, ...] = ()  # what of the surface could not be read, one line each

    def to(self, device: torch.device | str) -> TexturedMesh:
        """The mesh with its tensors on a device."""
        names = ("vertices", "faces", "material", "uv", "colors", "normals")
        moved: dict[str, Any] = {name: getattr(self, name).to(device) for name in names}
        materials = tuple(
            material if material.texture is None else replace(material, texture=material.texture.to(device))
            for material in self.materials
        )
        return replace(self, materials=materials, **moved)


def untextured(
    vertices: Tensor, faces: Tensor, name: str, *, color: tuple[float, float, float] = (0.6, 0.6, 0.6)
) -> TexturedMesh:
    """A mesh of one material and flat faces.

    Args:
        vertices: floating [V, 3].
        faces: int64 [F, 3].
        color: linear RGB.
    """
    count = len(vertices)
    return TexturedMesh(
        vertices=vertices.double(),
        faces=faces,
        material=torch.zeros(len(faces), dtype=torch.int64, device=faces.device),
        materials=(Material("plain", color),),
        uv=vertices.new_zeros(count, 2, dtype=torch.float64),
        colors=vertices.new_ones(count, 3, dtype=torch.float32),
        normals=vertices.new_zeros(count, 3, dtype=torch.float64),
        name=name,
    )


def load_textured(path: str | Path) -> TexturedMesh:
    """Load all geometry of a file with its materials, normalised into [-0.95, 0.95]^3 with its longest side 1.9.

    Geometry is concatenated in world coordinates; axes are kept as they are in the file. Textures are opaque here:
    alpha is ignored, which `warnings` tells, like every image or material that could not be read. A surface without
    texture has its material's base colour.

    Args:
        path: a file in a format that trimesh reads: glb, gltf, obj with its mtl and images, ply, off, stl.

    Raises:
        MeshError: no such file, an unreadable or unsupported one, no faces, faces of missing vertices, coordinates
            that are not finite, or no surface area.
    """
    path = Path(path)
    geometries, warnings = _read(path)
    parts = [_part(geometry, transform, path, warnings) for geometry, transform in geometries]
    parts = [part for part in parts if len(part.faces)]
    if not parts:
        raise MeshError(f"mesh {str(path)!r} has no faces")
    # Not where the folder lies: what is prepared from an archive, unpacked anywhere, is to be the same bytes.
    for folder in (str(path.parent.resolve()), str(path.parent.absolute())):
        warnings = [warning.replace(folder, ".") for warning in warnings]
    return _normalised(_concatenated(parts, path.stem, tuple(dict.fromkeys(warnings))), str(path))


def _read(path: Path) -> tuple[list[tuple[Any, NDArray[np.float64]]], list[str]]:
    """Geometries with their transforms into the world, and what could not be read."""
    import trimesh  # takes half a second to import

    warnings: list[str] = []
    with _recorded(warnings):
        scene = read_mesh_file(path, "scene")
    geometries = []
    for node in sorted(scene.graph.nodes_geometry):
        transform, geometry = scene.graph[node]
        if isinstance(scene.geometry[geometry], trimesh.Trimesh):
            geometries.append((scene.geometry[geometry], np.asarray(transform, dtype=np.float64)))
    return geometries, warnings


@contextmanager
def _recorded(warnings: list[str]) -> Iterator[None]:
    """Append what trimesh says of images and materials: it reads on without them, and tells only its debug log."""

    class Recorder(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            message = record.getMessage()
            if re.search(r"image|texture|material|mtl", message, re.IGNORECASE):
                reason = record.exc_info[1] if record.exc_info else None
                warnings.append(f"{message.strip()}: {reason}" if reason is not None else message.strip())

    logger = logging.getLogger("trimesh")
    level, propagate, handler = logger.level, logger.propagate, Recorder(logging.DEBUG)
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False  # its debug messages are not for the program's log
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


def _part(geometry: Any, transform: NDArray[np.float64], path: Path, warnings: list[str]) -> TexturedMesh:
    """One geometry, in the world."""
    linear = path.suffix.lower() in _LINEAR_COLOURS
    visual = geometry.visual
    vertices = np.asarray(geometry.vertices, dtype=np.float64)
    faces = np.asarray(geometry.faces, dtype=np.int64).reshape(-1, 3)
    if len(faces) and (faces.min() < 0 or faces.max() >= len(vertices)):
        raise ValueError(f"mesh {str(path)!r} has faces of vertices that do not exist")
    # trimesh computes normals when asked; only its cache tells those that the file has.
    normals = geometry._cache.cache.get("vertex_normals", np.zeros_like(vertices))
    uv = np.zeros((len(vertices), 2))
    colors = np.ones((len(vertices), 3))
    material = Material("none", (0.6, 0.6, 0.6))
    if visual.kind == "texture":
        if visual.uv is not None and len(visual.uv) == len(vertices):
            uv = np.asarray(visual.uv, dtype=np.float64)[:, :2]
        material = _material(visual.material, warnings)
        given = visual.vertex_attributes.get("color")
    elif visual.kind == "face":
        corners = vertices[faces].reshape(-1, 3)
        colors = np.repeat(_linear(visual.face_colors[:, :3], linear), 3, axis=0)
        normals = normals[faces].reshape(-1, 3)
        vertices, faces, uv = corners, np.arange(len(corners)).reshape(-1, 3), np.zeros((len(corners), 2))
        material, given = Material("face colours"), None
    else:
        given = visual.vertex_colors if visual.kind == "vertex" else None
        material = Material("vertex colours") if given is not None else material
    if given is not None and len(given) == len(vertices):
        colors = _linear(np.asarray(given)[:, :3], linear)
    return TexturedMesh(
        vertices=torch.from_numpy(vertices @ transform[:3, :3].T + transform[:3, 3]),
        faces=torch.from_numpy(faces.copy()),
        material=torch.zeros(len(faces), dtype=torch.int64),
        materials=(material,),
        uv=torch.from_numpy(np.nan_to_num(uv, posinf=0, neginf=0)),
        colors=torch.from_numpy(colors.astype(np.float32)),
        normals=torch.from_numpy(normals @ np.linalg.pinv(transform[:3, :3])),
        name=path.stem,
    )


def _material(material: Any, warnings: list[str]) -> Material:
    """Base colour and texture of a material, metallic-roughness or of an mtl file.

    In an mtl file, a texture replaces the colour Kd, and Kd is linear, as Blender reads and writes it: exporters leave
    anything in Kd beside a texture, often black.
    """
    name = str(material.name or "unnamed")
    if hasattr(material, "baseColorFactor"):
        image, factor = material.baseColorTexture, material.baseColorFactor
    else:
        image = material.image
        factor = material.diffuse if image is None else None
    if factor is None:
        factor = np.full(4, 255, dtype=np.uint8)
    factor = np.asarray(factor)
    opaque = 255 if factor.dtype.kind in "iu" else 1.0
    transparent = len(factor) > 3 and factor[3] < opaque
    transparent |= getattr(material, "alphaMode", None) not in (None, "OPAQUE")
    transparent |= _dissolve(material) < 1
    texture = None
    if image is not None:
        try:
            texture = torch.from_numpy(np.array(image.convert("RGB")))  # images are decoded only now
        except Exception as error:  # each format's decoder raises its own kinds
            warnings.append(f"texture of material {name!r} cannot be read: {error}")
        else:
            transparent |= image.mode in ("RGBA", "LA", "PA") and np.asarray(image.getchannel("A")).min() < 255
    if transparent:
        warnings.append(f"material {name!r} is drawn opaque: its alpha is ignored")
    red, green, blue = _linear(factor[:3], True).tolist()
    return Material(name, (red, green, blue), texture)


def _dissolve(material: Any) -> float:
    """Opacity `d` of a material of an mtl file, 1 where it is not given or no number."""
    try:
        return float(getattr(material, "kwargs", {})["d"][-1])
    except (KeyError, IndexError, ValueError):
        return 1.0


def _linear(color: NDArray[Any], linear: bool) -> NDArray[np.float64]:
    """Linear 0..1 from bytes or fractions, sRGB unless `linear`."""
    fraction = color / 255 if color.dtype.kind in "iu" else color.astype(np.float64)
    return np.asarray(fraction if linear else decode_srgb(fraction))


def decode_srgb(value: NDArray[np.float64]) -> NDArray[np.float64]:
    """Linear light from sRGB, both 0..1 (IEC 61966-2-1)."""
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def _concatenated(parts: list[TexturedMesh], name: str, warnings: tuple[str, ...]) -> TexturedMesh:
    """One mesh, with a material for each part."""
    first = np.cumsum([0, *(len(part.vertices) for part in parts)]).tolist()
    return TexturedMesh(
        vertices=torch.cat([part.vertices for part in parts]),
        faces=torch.cat([part.faces + start for part, start in zip(parts, first, strict=False)]),
        material=torch.cat([part.material + i for i, part in enumerate(parts)]),
        materials=tuple(part.materials[0] for part in parts),
        uv=torch.cat([part.uv for part in parts]),
        colors=torch.cat([part.colors for part in parts]),
        normals=torch.cat([part.normals for part in parts]),
        name=name,
        warnings=warnings,
    )


def _normalised(mesh: TexturedMesh, label: str) -> TexturedMesh:
    fitted, faces, kept = fit_into_cube(mesh.vertices.numpy(), mesh.faces.numpy(), label)
    vertices, compact, used = (torch.from_numpy(array) for array in (fitted, faces, kept))
    return replace(
        mesh, vertices=vertices, faces=compact, uv=mesh.uv[used], colors=mesh.colors[used], normals=mesh.normals[used]
    )
