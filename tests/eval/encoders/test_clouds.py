"""Clouds are prepared as each encoder's authors prepare them."""

from __future__ import annotations

import pytest
import torch

from eval.encoders.catalogue import POINT_ENCODERS
from eval.encoders.clouds import CloudPolicy, prepare

GREY = CloudPolicy(10, 0.4)


@pytest.mark.parametrize("name", POINT_ENCODERS)
def test_axes_are_those_that_the_authors_feed(name: str) -> None:
    up = torch.tensor([[0.0, 0, 0], [0, 4, 0], [0, 2, 0]])  # a pole along y
    cloud = prepare(up, None, POINT_ENCODERS[name].clouds)
    axis = 2 if name == "openshape-pointbert-vitg14-rgb" else 1
    expected = torch.zeros(3, 3)
    expected[:, axis] = torch.tensor([-1.0, 1, 0])
    torch.testing.assert_close(cloud[:, :3], expected)


def test_scale_and_place_do_not_matter() -> None:
    points, colours = torch.rand(20, 3, dtype=torch.float64), torch.rand(20, 3)
    torch.testing.assert_close(prepare(points * 1000 - 7, colours, GREY), prepare(points, colours, GREY))


def test_colours_are_kept_or_the_policys() -> None:
    points, colours = torch.rand(20, 3), torch.rand(20, 3)
    assert torch.equal(prepare(points, colours, GREY)[:, 3:], colours)
    assert torch.equal(prepare(points, None, GREY)[:, 3:], torch.full((20, 3), 0.4))
    assert torch.equal(prepare(points, colours, CloudPolicy(10, None))[:, 3:], torch.zeros(20, 3))


def test_records_say_what_was_seen() -> None:
    assert GREY.colour_text("constant") == "constant 0.4"
    assert GREY.colour_text("own") == "own"
    assert CloudPolicy(10, None).colour_text("own") == "none"
    assert GREY.axes_text == "as stored, y up"
    assert CloudPolicy(10, 0.4, (0, 2, 1)).axes_text == "xzy of y up"


@pytest.mark.parametrize(
    ("points", "colours", "complaint"),
    [
        (torch.rand(5, 2), None, r"points must have shape \[N, 3\], got \[5, 2\]"),
        (torch.empty(0, 3), None, r"points must have shape \[N, 3\], got \[0, 3\]"),
        (torch.tensor([[0, 0, torch.inf]]), None, "points must be finite"),
        (torch.rand(5, 3), torch.rand(4, 3), r"colours must have shape \[5, 3\]"),
        (torch.rand(5, 3), torch.full((5, 3), 100.0), "between 0 and 1"),
        (torch.rand(5, 3), torch.full((5, 3), torch.nan), "between 0 and 1"),
    ],
)
def test_what_is_no_cloud_is_refused(points: torch.Tensor, colours: torch.Tensor | None, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        prepare(points, colours, GREY)
