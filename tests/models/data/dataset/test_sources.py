"""What assets a source has, and what is known of them."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zipfile
from pathlib import Path

import pytest
from mesh_folder import BAD, GOOD, TRIANGLE

from models.data.dataset import furniture
from models.data.dataset.furniture import parse_properties
from models.data.dataset.geometry import ArchiveMesh
from models.data.dataset.sources import Asset, list_assets, slug

CATALOGUE = """# comment
license=CC-BY \\u00a9 Ann
id#1=Shop#lamp
name#1=Desk lamp
category#1=Lights
creator#1=Ann
model#1=/shop/lamp/lamp.obj
name#2=Desk lamp
model#2=/shop/lamp2/lamp.obj
modelRotation#2=1 0 0 0 0 1 0 -1 0
"""


def listed(source: str, scratch: Path) -> dict[str, Asset]:
    return {asset.key: asset for asset in list_assets(source, scratch)}


@pytest.fixture
def catalogue(tmp_path: Path) -> Path:
    """A folder with one catalogue of two lamps."""
    path = tmp_path / "furniture" / "Shop.sh3f"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("PluginFurnitureCatalog.properties", CATALOGUE.encode("latin-1"))
        archive.writestr("shop/lamp/lamp.obj", "mtllib lamp.mtl\nusemtl red\n" + TRIANGLE)
        archive.writestr("shop/lamp/lamp.mtl", "newmtl red\nKd 1 0 0\n")
        archive.writestr("shop/lamp2/lamp.obj", TRIANGLE.replace("v 0 1 0", "v 0 2 0"))
    return path.parent


def test_a_folder_has_its_meshes_and_those_that_cannot_be_read(meshes: Path, tmp_path: Path) -> None:
    assets = listed(str(meshes), tmp_path)
    assert set(assets) == GOOD | set(BAD) | {"chairs-twin"}
    assert assets["chairs-stool"].location == "chairs/stool.stl"
    assert assets["chairs-stool"].category == "chairs"
    assert assets["box"].caption == "box"
    assert assets["model"].missing == "has an unsupported format .fbx"


def test_files_that_differ_in_their_suffix_only_share_a_group_and_not_a_key(tmp_path: Path) -> None:
    for name in ("a.obj", "a.stl", "b.obj"):
        (tmp_path / name).touch()
    assets = list_assets(str(tmp_path), tmp_path)
    assert len({asset.key for asset in assets}) == 3
    assert sorted(asset.group for asset in assets) == ["a", "a", "b"]


def test_keys_are_fit_for_names_in_archives() -> None:
    assert slug("Chairs/Sofa #2 (old).v1") == "chairs-sofa-2-old-v1"
    long, other = slug("x" * 200), slug("x" * 201)
    assert len(long) <= 80
    assert long != other
    assert slug("椅子") != slug("机")


@pytest.mark.parametrize(
    "source", ["nowhere", "solids:0", "solids:many", "shapenet:nowhere", "sweethome3d-furniture:no"]
)
def test_no_such_source_is_an_error_that_says_what_there_may_be(source: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"folder|positive"):
        list_assets(source, tmp_path)


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no meshes"):
        list_assets(str(tmp_path), tmp_path)


def test_furniture_keeps_names_creators_and_licences(catalogue: Path, tmp_path: Path) -> None:
    lamp = listed(f"sweethome3d-furniture:{catalogue}", tmp_path)["shop-lamp"]
    assert (lamp.caption, lamp.category, lamp.creator, lamp.licence) == ("Desk lamp", "Lights", "Ann", "CC-BY © Ann")
    assert lamp.location == "Shop.sh3f/shop/lamp/lamp.obj"
    assert lamp.geometry is not None
    mesh = lamp.geometry.load()
    assert mesh.materials[0].factor == (1.0, 0.0, 0.0)


def test_furniture_of_one_name_is_one_group(catalogue: Path, tmp_path: Path) -> None:
    assets = list_assets(f"sweethome3d-furniture:{catalogue}", tmp_path)
    assert [asset.group for asset in assets] == ["desk lamp", "desk lamp"]


def test_furniture_stands_as_the_catalogue_turns_it(catalogue: Path, tmp_path: Path) -> None:
    turned = listed(f"sweethome3d-furniture:{catalogue}", tmp_path)["shop-lamp2-lamp-obj"].geometry
    assert isinstance(turned, ArchiveMesh)
    vertices = turned.load().vertices
    # (x, y, z) to (x, z, -y): what was 2 high is 2 deep.
    assert (vertices.amax(0) - vertices.amin(0)).tolist() == pytest.approx([0.95, 0, 1.9])


def test_furniture_comes_out_of_debian_s_package_too(catalogue: Path, tmp_path: Path) -> None:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:xz") as archive:
        archive.add(catalogue / "Shop.sh3f", "./usr/share/sweethome3d/furniture/Shop.sh3f")
    package = tmp_path / "furniture.deb"
    with package.open("wb") as file:
        file.write(b"!<arch>\n")
        for name, data in (("debian-binary", b"2.0"), ("data.tar.xz", content.getvalue())):
            file.write(f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode() + data)
            file.write(b"\n" * (len(data) % 2))
    of_folder = list_assets(f"sweethome3d-furniture:{catalogue}", tmp_path / "a")
    of_package = list_assets(f"sweethome3d-furniture:{package}", tmp_path / "b")
    digests = [[asset.geometry.digest() for asset in assets if asset.geometry] for assets in (of_folder, of_package)]
    assert digests[0] == digests[1] != []


def test_a_damaged_package_or_catalogue_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.deb").write_bytes(b"!<arch>\n")
    (tmp_path / "x.sh3f").write_bytes(b"PK")
    for name, words in (("x.deb", "holds no data.tar"), ("x.sh3f", "is not a catalogue")):
        with pytest.raises(ValueError, match=words):
            furniture.read_furniture(tmp_path / name, tmp_path)


def test_properties_are_read_as_java_does() -> None:
    text = "# a=b\n! c=d\nname = 10\\u20ac \\: two\\\n   lines\nempty=\nno separator\n"
    assert parse_properties(text) == {"name": "10€ : twolines", "empty": ""}


@pytest.mark.parametrize("form", ["object", "list", "csv", "gz"])
def test_an_objaverse_list_has_what_is_here_and_says_what_is_not(form: str, tmp_path: Path) -> None:
    (tmp_path / "glbs").mkdir()
    (tmp_path / "glbs" / "aa11.glb").touch()
    paths = {"aa11": "glbs/aa11.glb", "bb22": "glbs/bb22.glb", "cc33": "https://example.org/cc33.glb"}
    listing = tmp_path / {"csv": "paths.csv", "gz": "object-paths.json.gz"}.get(form, "paths.json")
    text = json.dumps(list(paths.values()) if form == "list" else paths)
    if form == "csv":
        text = "uid,path\n" + "".join(f"{uid},{path}\n" for uid, path in paths.items())
    listing.write_bytes(gzip.compress(text.encode()) if form == "gz" else text.encode())
    assets = listed(f"objaverse:{listing}", tmp_path)
    assert list(assets) == ["aa11", "bb22", "cc33"]
    assert assets["aa11"].geometry is not None
    assert assets["bb22"].missing == "is listed but not on this machine"
    assert "only its address" in assets["cc33"].missing


@pytest.mark.parametrize("text", ["{", "7", '{"a": 1}', '["a", 2]'])
def test_a_list_that_is_none_is_an_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text(text)
    with pytest.raises(ValueError, match="must hold uids and paths"):
        list_assets(str(tmp_path / "list.json"), tmp_path)


def test_shapenet_has_its_categories_and_official_splits(tmp_path: Path) -> None:
    for model in ("02691156/m1", "02691156/m2", "03001627/m3"):
        (tmp_path / model / "models").mkdir(parents=True)
    for model in ("02691156/m1", "03001627/m3"):
        (tmp_path / model / "models" / "model_normalized.obj").write_text(TRIANGLE)
    (tmp_path / "taxonomy.json").write_text(json.dumps([{"synsetId": "02691156", "name": "airplane,plane"}]))
    (tmp_path / "all.csv").write_text("id,synsetId,subSynsetId,modelId,split\n1,02691156,02691156,m1,test\n")
    assets = listed(str(tmp_path), tmp_path)  # known by its folders
    assert (assets["02691156-m1"].category, assets["02691156-m1"].split) == ("airplane", "test")
    assert (assets["03001627-m3"].category, assets["03001627-m3"].split) == ("03001627", None)
    assert assets["02691156-m2"].missing == "has no models/model_normalized.obj"


def test_solids_are_numbered_by_their_seeds(tmp_path: Path) -> None:
    assets = list_assets("solids:3", tmp_path)
    assert [asset.key for asset in assets] == ["solid-000000", "solid-000001", "solid-000002"]
    assert len({asset.geometry.digest() for asset in assets if asset.geometry}) == 3
