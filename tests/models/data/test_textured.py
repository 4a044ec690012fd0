"""Files are read with their looks, or say what is missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from trimesh.visual import TextureVisuals
from trimesh.visual.material import PBRMaterial

from models.data.textured import TexturedMesh, decode_srgb, load_textured

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
MTL = "newmtl painted\nKd 0.5 0.25 1\nmap_Kd paint.png\nnewmtl plain\nKd 0.2 0.4 0.6\n"
OBJ = """mtllib model.mtl
v 0 0 0
v 2 0 0
v 2 4 0
v 0 4 0
v 0 0 1
v 100 100 100
vt 0 0
vt 1 0
vt 1 0.75
vn 0 0 1
usemtl painted
f 1/1/1 2/2/1 3/3/1
usemtl plain
f 1 3 5
"""


def obj(folder: Path, *, image: bool = True, material: bool = True) -> Path:
    (folder / "model.obj").write_text(OBJ)
    if material:
        (folder / "model.mtl").write_text(MTL)
    if image:
        Image.fromarray(PIXELS).save(folder / "paint.png")
    return folder / "model.obj"


def box(
    color: tuple[int, ...] = (255, 255, 255, 255), image: Image.Image | None = None, **more: object
) -> trimesh.Trimesh:
    mesh = trimesh.creation.box((1, 2, 1))
    material = PBRMaterial(name="box", baseColorFactor=color, baseColorTexture=image, **more)
    uv = np.random.default_rng(1).random((len(mesh.vertices), 2))
    mesh.visual = TextureVisuals(uv=uv, material=material)
    return mesh


def material_of(mesh: TexturedMesh, name: str) -> int:
    return [material.name for material in mesh.materials].index(name)


def test_an_obj_has_the_materials_of_its_mtl(tmp_path: Path) -> None:
    mesh = load_textured(obj(tmp_path))
    assert mesh.name == "model"
    assert mesh.warnings == ()
    painted, plain = material_of(mesh, "painted"), material_of(mesh, "plain")
    assert sorted(mesh.material.tolist()) == [0, 1]
    texture = mesh.materials[painted].texture
    assert texture is not None
    assert torch.equal(texture, torch.from_numpy(PIXELS))
    assert mesh.materials[painted].factor == (1, 1, 1)  # a texture replaces Kd
    assert mesh.materials[plain].texture is None
    assert mesh.materials[plain].factor == pytest.approx((0.2, 0.4, 0.6), abs=0.5 / 255)
    face = mesh.faces[mesh.material == painted][0]
    assert mesh.uv[face].tolist() == [[0, 0], [1, 0], [1, 0.75]]
    assert mesh.normals[face].tolist() == [[0, 0, 1]] * 3


def test_the_box_of_the_used_vertices_is_centred_and_its_longest_side_is_1_9(tmp_path: Path) -> None:
    vertices = load_textured(obj(tmp_path)).vertices
    assert vertices.amax(0).tolist() == pytest.approx([0.475, 0.95, 0.2375])
    assert vertices.amin(0).tolist() == pytest.approx([-0.475, -0.95, -0.2375])


def test_a_missing_image_is_told_and_its_surface_has_the_base_colour(tmp_path: Path) -> None:
    mesh = load_textured(obj(tmp_path, image=False))
    assert any("paint.png" in warning for warning in mesh.warnings)
    painted = mesh.materials[material_of(mesh, "painted")]
    assert painted.texture is None
    assert painted.factor == pytest.approx((0.5, 0.25, 1), abs=0.5 / 255)


def test_a_missing_mtl_is_told(tmp_path: Path) -> None:
    mesh = load_textured(obj(tmp_path, image=False, material=False))
    assert any("model.mtl" in warning for warning in mesh.warnings)
    assert len(mesh.faces) == 2


def test_what_is_told_does_not_depend_on_where_the_folder_lies(tmp_path: Path) -> None:
    told = []
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        path = obj(tmp_path / name, image=False)
        material = path.with_name("model.mtl")
        material.write_text(material.read_text().replace("paint.png", "/Users/somebody/paint.png"))
        told.append(load_textured(path).warnings)
    assert any("/Users/somebody/paint.png" in warning for warning in told[0])
    assert told[0] == told[1]


def test_a_broken_image_is_told(tmp_path: Path) -> None:
    path = obj(tmp_path)
    (tmp_path / "paint.png").write_bytes((tmp_path / "paint.png").read_bytes()[:60])
    mesh = load_textured(path)
    assert len(mesh.warnings) == 1
    assert mesh.materials[material_of(mesh, "painted")].texture is None


def test_all_geometry_of_a_glb_is_placed_and_keeps_its_material(tmp_path: Path) -> None:
    scene = trimesh.Scene()
    scene.add_geometry(box((51, 102, 153, 255)), transform=trimesh.transformations.translation_matrix((5, 0, 0)))
    scene.add_geometry(box(image=Image.fromarray(PIXELS)))
    scene.export(tmp_path / "two.glb")
    mesh = load_textured(tmp_path / "two.glb")
    assert mesh.warnings == ()
    assert len(mesh.faces) == 24
    assert (mesh.vertices.amax(0) - mesh.vertices.amin(0)).tolist() == pytest.approx([1.9, 1.9 / 3, 1.9 / 6])
    right = (mesh.vertices[mesh.faces][..., 0] > 0).all(1)
    plain, painted = mesh.materials[int(mesh.material[right][0])], mesh.materials[int(mesh.material[~right][0])]
    assert (mesh.material[right] == mesh.material[right][0]).all()
    assert plain.factor == pytest.approx((0.2, 0.4, 0.6), abs=1 / 255)  # glTF factors are linear
    assert plain.texture is None
    assert painted.texture is not None
    assert torch.equal(painted.texture, torch.from_numpy(PIXELS))
    original = box().visual.uv
    assert mesh.uv[mesh.faces[~right]].amax() == pytest.approx(original.max(), abs=1e-6)


def test_transparency_is_told(tmp_path: Path) -> None:
    alpha = np.full((*PIXELS.shape[:2], 1), 255, dtype=np.uint8)
    opaque = Image.fromarray(np.concatenate([PIXELS, alpha], axis=2))
    alpha[0] = 0
    cut = Image.fromarray(np.concatenate([PIXELS, alpha], axis=2))
    for mesh, told in ((box(image=opaque), False), (box(image=cut), True), (box((255, 255, 255, 100)), True)):
        mesh.export(tmp_path / "box.glb")
        warnings = load_textured(tmp_path / "box.glb").warnings
        assert [("alpha" in warning and "box" in warning) for warning in warnings] == [True] * told


@pytest.mark.parametrize(("dissolve", "told"), [("d 1.000", False), ("d 0.3", True), ("d", False)])
def test_transparency_of_an_mtl_is_told(tmp_path: Path, dissolve: str, told: bool) -> None:
    path = obj(tmp_path)
    (tmp_path / "model.mtl").write_text(MTL + dissolve + "\n")
    assert [("alpha" in warning and "plain" in warning) for warning in load_textured(path).warnings] == [True] * told


def test_normals_turn_with_their_geometry(tmp_path: Path) -> None:
    sphere = trimesh.creation.icosphere(subdivisions=2)
    transform = trimesh.transformations.rotation_matrix(1.0, (1, 2, 3)) @ np.diag([1.0, 3.0, 0.5, 1.0])
    scene = trimesh.Scene()
    scene.add_geometry(
        trimesh.Trimesh(sphere.vertices, sphere.faces, vertex_normals=sphere.vertices), transform=transform
    )
    scene.export(tmp_path / "ellipsoid.glb", include_normals=True)
    mesh = load_textured(tmp_path / "ellipsoid.glb")
    a, b, c = mesh.vertices[mesh.faces].unbind(1)
    flat = torch.nn.functional.normalize(torch.linalg.cross(b - a, c - a))
    smooth = torch.nn.functional.normalize(mesh.normals[mesh.faces].mean(1))
    assert (flat * smooth).sum(1).min() > 0.95


def test_a_file_without_normals_has_none(tmp_path: Path) -> None:
    trimesh.creation.box().export(tmp_path / "box.stl")
    trimesh.creation.box().export(tmp_path / "box.off")
    assert (load_textured(tmp_path / "box.off").normals == 0).all()


@pytest.mark.parametrize("of", ["vertex", "face"])
def test_colours_of_a_ply_are_srgb(tmp_path: Path, of: str) -> None:
    mesh = trimesh.creation.box()
    colors = np.random.default_rng(2).integers(0, 256, (len(mesh.vertices if of == "vertex" else mesh.faces), 4))
    colors[:, 3] = 255
    setattr(mesh.visual, f"{of}_colors", colors.astype(np.uint8))
    mesh.export(tmp_path / "box.ply")
    loaded = load_textured(tmp_path / "box.ply")
    index = mesh.faces if of == "vertex" else np.arange(12)[:, None].repeat(3, 1)
    expected = decode_srgb(colors[:, :3] / 255)[index]
    np.testing.assert_allclose(loaded.colors[loaded.faces], expected, atol=1e-6)
    assert loaded.materials[0].factor == (1, 1, 1)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.obj", None, "is not a file"),
        ("box.xyzabc", b"", "unsupported format"),
        ("cut.glb", b"glTF\x02\x00\x00\x00\x10", "cannot be read"),
        ("empty.obj", b"v 0 0 0\n", "no faces|cannot be read"),
        ("nan.obj", b"v 0 0 nan\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "not finite"),
        ("line.obj", b"v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\n", "no surface area"),
        ("point.obj", b"v 1 0 0\nv 1 0 0\nv 1 0 0\nf 1 2 3\n", "no surface area"),
    ],
)
def test_what_is_no_mesh_is_refused_with_its_name(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as refused:
        load_textured(tmp_path / name)
    assert name in str(refused.value)
    assert "\n" not in str(refused.value)
