"""Pictures show the shape whole, and colours tell distances."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from surfaces import box, sphere

from eval.pictures import HEAT_COLORS, HEAT_LIMIT, VIEW, heat_color, heat_map, overview, save, thumbnail
from eval.surface import Surface


def shown(image: Image.Image) -> np.ndarray:
    """Colours of the pixels that show something, 0..255 [P, 3]; of the heat map's only green falls all the way."""
    pixels = np.asarray(image).astype(int)
    return pixels[(pixels < 250).any(2)]


def test_colours_go_from_the_palest_to_the_darkest_and_stay() -> None:
    colors = heat_color(torch.tensor([0.0, 0.5, 1.0, 7.0])) * 255
    np.testing.assert_allclose(colors.numpy(), HEAT_COLORS[[0, 2, 4, 4]])


@pytest.mark.parametrize("surface", [box(1, 1, 1), box(3, 0.1, 0.2), sphere(0.01, at=(4, 5, 6))])
def test_the_reference_fills_the_picture_and_is_not_cut(surface: Surface) -> None:
    covered = (np.asarray(thumbnail(surface, surface)) < 250).any(2)
    assert covered.shape == (VIEW.size, VIEW.size)
    assert not covered[[0, -1]].any()
    assert not covered[:, [0, -1]].any()
    rows, columns = covered.any(1).nonzero()[0], covered.any(0).nonzero()[0]
    assert max(np.ptp(rows), np.ptp(columns)) > 0.5 * VIEW.size


def test_an_equal_surface_is_pale() -> None:
    assert np.ptp(shown(heat_map(box(1, 1, 1), box(1, 1, 1))), axis=1).max() < 30


def test_an_error_in_the_middle_of_a_triangle_is_seen_though_all_its_corners_are_right() -> None:
    ref = box(1, 1, 1)
    dented = ref.vertices.clone()
    front = Surface(torch.cat([dented, torch.tensor([[0.0, 0, 0.4]]).double()]), _front_open_to_a_point(ref))
    greens = shown(heat_map(ref, front))[:, 1]  # the flat front, though its corners lie on the dented one
    assert (greens < 60).mean() > 0.2


def test_colours_follow_the_distance() -> None:
    ref = box(1, 1, 1)
    greens = [shown(heat_map(box(s, s, s), ref))[:, 1].mean() for s in (1, 1 + HEAT_LIMIT, 1 + 2 * HEAT_LIMIT)]
    assert greens[0] > greens[1] > greens[2]


def test_a_prediction_out_of_sight_is_an_empty_picture() -> None:
    ref = box(1, 1, 1)
    away = Surface(ref.vertices + 50, ref.faces)
    assert (np.asarray(heat_map(away, ref)) == 255).all()


def test_an_overview_leaves_the_place_of_a_missing_picture_empty(tmp_path: Path) -> None:
    grey = Image.new("RGB", (VIEW.size, VIEW.size), "grey")
    save(grey, tmp_path / "ref.jpg")
    save(grey, tmp_path / "a" / "x.jpg")
    gone = tmp_path / "gone.jpg"
    sheet = overview(tmp_path / "ref.jpg", [("a", tmp_path / "a" / "x.jpg", tmp_path / "ref.jpg"), ("b", gone, gone)])
    means = np.asarray(sheet)[-VIEW.size // 2 :].reshape(-1, 3, VIEW.size, 3).mean((0, 2, 3))
    assert sheet.width == 3 * VIEW.size
    assert means == pytest.approx([255, 128, 255], abs=2)
    assert not list(tmp_path.rglob(".*"))


def _front_open_to_a_point(surface: Surface) -> torch.Tensor:
    """Faces of a box whose side at +z is drawn in to a further vertex behind its last."""
    corners = surface.vertices[surface.faces]
    front = (corners[..., 2] > 0.49).all(1)
    faces = []
    for face in surface.faces[front].tolist():
        for a, b in zip(face, face[1:] + face[:1], strict=True):
            along = (surface.vertices[a] - surface.vertices[b]).abs()
            if int((along > 0.5).sum()) == 1:  # a side of the square, not its diagonal
                faces.append([a, b, len(surface.vertices)])
    return torch.cat([surface.faces[~front], torch.tensor(faces)])
