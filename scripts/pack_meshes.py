"""Make the shipped meshes in bench/assets from the Sweet Home 3D furniture catalogue "Blend Swap CC-0".

The result is committed; run this only to change the selection. The catalogue is part of the Debian package
sweethome3d-furniture:

    apt-get download sweethome3d-furniture && dpkg-deb -x sweethome3d-furniture_*.deb furniture
    python scripts/pack_meshes.py furniture/usr/share/sweethome3d/furniture/BlendSwap-CC-0.sh3f

Each mesh becomes a compressed .npz: `vertices` uint16 [V, 3], positions on a cubic grid whose 65,536 points span the
longest side (equal positions merged), and `faces` uint16 [F, 3] (collapsed and repeated triangles dropped). Runs on
the same catalogue give identical files. A model whose own licence file does not say Creative Commons Zero is refused.
"""

from __future__ import annotations

import io
import os
import re
import sys
import zipfile
from pathlib import Path

import numpy as np
import trimesh

# Shipped name -> folder in the catalogue. Chosen for varied topology: one thick body, thin wings and struts, legs and
# a frame, an animal, a wire cage, thousands of loose leaves.
MODELS = {
    "bear": "teddyBear",
    "biplane": "cartoon_biplane",
    "chair": "antiqueChair",
    "deer": "deer",
    "fan": "tableFan",
    "plant": "decorativePlant",
}
ASSETS = Path(__file__).resolve().parents[1] / "bench" / "assets"
LARGEST = 2**16 - 1

ATTRIBUTION_HEAD = """# Meshes

All meshes here are in the public domain under CC0 1.0 (https://creativecommons.org/publicdomain/zero/1.0/). They were
published on Blend Swap, converted to OBJ by Emmanuel Puybaret (eTeks) for the Sweet Home 3D furniture catalogue
"Blend Swap CC-0" (Debian package sweethome3d-furniture), and reduced to quantised geometry by scripts/pack_meshes.py.

| Name | Shows | Creator | Source | Licence | Vertices | Triangles |
|---|---|---|---|---|---|---|
"""


def quantise(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vertices [V, 3] float and faces [F, 3] int to their uint16 forms, with doubles and collapsed faces dropped."""
    low = vertices.min(axis=0)
    grid = np.rint((vertices - low) / np.ptp(vertices, axis=0).max() * LARGEST).astype(np.uint16)
    positions, merged = np.unique(grid, axis=0, return_inverse=True)
    triangles = merged.reshape(-1)[faces]
    a, b, c = triangles.T
    triangles = triangles[(a != b) & (b != c) & (c != a)]
    _, first = np.unique(np.sort(triangles, axis=1), axis=0, return_index=True)
    triangles = triangles[first]
    used, compact = np.unique(triangles, return_inverse=True)
    if len(used) > LARGEST + 1:
        raise SystemExit(f"a shipped mesh may have at most {LARGEST + 1} vertices, got {len(used)}")
    return positions[used], compact.reshape(-1, 3).astype(np.uint16)


def blend_swap_page(catalogue: zipfile.ZipFile, folder: str) -> str:
    """The model's page on Blend Swap, from its licence file, which must say Creative Commons Zero."""
    names = [n for n in catalogue.namelist() if n.startswith(f"blendswap-cc-0/{folder}/") and "license" in n.lower()]
    text = "".join(catalogue.read(name).decode("utf-8", errors="replace") for name in names)
    page = re.search(r"blendswap\.com/blends/view/(\d+)", text)
    if "Creative Commons Zero" not in text or page is None:
        raise SystemExit(f"{folder}: no licence file that says Creative Commons Zero")
    return f"https://www.blendswap.com/blends/view/{page.group(1)}"


def catalogue_entry(properties: str, folder: str) -> tuple[str, str]:
    """Title and creator of a model in PluginFurnitureCatalog.properties."""
    number = re.search(rf"^model#(\d+)=/blendswap-cc-0/{folder}/", properties, re.MULTILINE)
    if number is None:
        raise SystemExit(f"{folder}: not in the catalogue")
    title, creator = (
        re.search(rf"^{key}#{number.group(1)}=(.+)$", properties, re.MULTILINE) for key in ("name", "creator")
    )
    if title is None or creator is None:
        raise SystemExit(f"{folder}: the catalogue names no title or creator")
    return title.group(1).strip(), creator.group(1).strip()


def write(path: Path, content: bytes) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def main(catalogue_path: str) -> None:
    rows = []
    with zipfile.ZipFile(catalogue_path) as catalogue:
        properties = catalogue.read("PluginFurnitureCatalog.properties").decode("latin-1")
        if not re.search(r"^license=Public domain\s*$", properties, re.MULTILINE):
            raise SystemExit("the catalogue's licence is not public domain")
        for name, folder in MODELS.items():
            title, creator = catalogue_entry(properties, folder)
            page = blend_swap_page(catalogue, folder)
            source = io.BytesIO(catalogue.read(f"blendswap-cc-0/{folder}/{folder}.obj"))
            mesh = trimesh.load(source, file_type="obj", force="mesh", process=False, skip_materials=True)
            vertices, faces = quantise(np.asarray(mesh.vertices), np.asarray(mesh.faces))
            packed = io.BytesIO()
            np.savez_compressed(packed, vertices=vertices, faces=faces)
            write(ASSETS / f"{name}.npz", packed.getvalue())
            rows.append(f"| {name} | {title} | {creator} | {page} | CC0 1.0 | {len(vertices):,} | {len(faces):,} |\n")
    write(ASSETS / "ATTRIBUTION.md", (ATTRIBUTION_HEAD + "".join(rows)).encode())


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(f"usage: {sys.argv[0]} BlendSwap-CC-0.sh3f")
    main(sys.argv[1])
