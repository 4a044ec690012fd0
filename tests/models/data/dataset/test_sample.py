"""Members of a sample: what is in them is what was computed, and bytes are the same each time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mesh_folder import SETTINGS

from models.data.cameras import orbit
from models.data.dataset.geometry import FileMesh
from models.data.dataset.sample import (
    Job,
    decode_view,
    depth_range,
    encode_view,
    prepare_sample,
    reason_of,
)
from models.data.dataset.settings import Settings
from models.data.dataset.sources import Asset
from models.data.dataset.splits import Split
from models.data.mesh_file import MeshError
from models.data.render import render
from models.data.textured import load_textured


def job(path: Path) -> Job:
    return Job(Asset("box", path.name, FileMesh(path), "box"), "digest", Split.train, "train-00000.tar")


def test_a_view_survives_its_images_but_for_rounding(meshes: Path) -> None:
    camera = orbit(20, 40, width=40, height=30)
    view = render(load_textured(meshes / "box.obj"), camera, background=None)
    images = encode_view("view.00", view, camera)
    assert list(images) == ["view.00.rgb.png", "view.00.normal.png", "view.00.depth.png"]
    read = decode_view(*images.values(), camera)
    torch.testing.assert_close(read.rgb, view.rgb, atol=1 / 510 + 1e-6, rtol=0)
    torch.testing.assert_close(read.mask, view.mask, atol=1 / 510 + 1e-6, rtol=0)
    torch.testing.assert_close(read.normal, view.normal, atol=1 / 255 + 1e-6, rtol=0)
    covered = view.depth.isfinite()
    assert 0 < int(covered.sum()) < covered.numel()
    assert torch.equal(read.depth.isfinite(), covered)
    near, far = depth_range(camera)
    torch.testing.assert_close(read.depth[covered], view.depth[covered], atol=(far - near) / 131068 + 1e-6, rtol=0)


def test_the_range_of_depths_holds_the_cube() -> None:
    camera = orbit(35.26, 45)  # towards a corner
    near, far = depth_range(camera)
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 3).double()
    matrix = camera.world_to_camera()
    depth = -(corners @ matrix[:3, :3].T + matrix[:3, 3])[:, 2]
    assert near <= float(depth.min()) + 1e-9
    assert far >= float(depth.max()) - 1e-9
    assert depth_range(orbit(0, 0, radius=0.1))[0] == 0


def test_a_sample_has_the_same_bytes_each_time(meshes: Path) -> None:
    (first, data), (second, again) = (prepare_sample(job(meshes / "box.obj"), SETTINGS) for _ in range(2))
    assert data == again
    assert first.members == second.members
    assert list(first.members) == [
        *("json", "mesh.safetensors", "sdf.16.safetensors", "sdf.32.safetensors"),
        *(f"view.{view}.{kind}.png" for view in ("00", "01") for kind in ("rgb", "normal", "depth")),
    ]


def test_a_mesh_of_too_many_faces_is_a_failure(meshes: Path) -> None:
    entry, data = prepare_sample(job(meshes / "box.obj"), Settings(resolutions=(16,), max_faces=11))
    assert (entry.status, entry.reason, data) == ("failed", "has more than 11 faces", b"")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MeshError("mesh '/tmp/x y/a.obj' has no faces"), "has no faces"),
        (MeshError("""mesh "/tmp/it's/a.obj" cannot be read: no"""), "cannot be read: no"),
        (MemoryError(), "out of memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB"), "out of memory"),
        (ValueError("two\nlines"), "two"),
        (KeyError("x"), "KeyError: 'x'"),
        (RuntimeError(), "RuntimeError: no message"),
    ],
)
def test_a_reason_is_one_line_without_places(error: Exception, reason: str) -> None:
    assert reason_of(error) == reason


def test_a_broken_gpu_is_no_fault_of_the_asset(meshes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr("models.data.dataset.sample.sparse_sdf", broken)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        prepare_sample(job(meshes / "box.obj"), SETTINGS)
