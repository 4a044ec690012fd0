"""Settings and splits: values in range, splits by hash in the shares asked for, whole groups together."""

from __future__ import annotations

from collections import Counter

import pytest

from models.data.dataset.settings import Settings
from models.data.dataset.splits import split_of


def test_shares_are_kept_on_average() -> None:
    count = Counter(split_of(f"group {number}", (0.9, 0.05, 0.05)) for number in range(10_000))
    assert count["train"] == pytest.approx(9000, abs=120)  # four standard deviations
    assert count["val"] == pytest.approx(500, abs=90)
    assert count["test"] == pytest.approx(500, abs=90)


def test_a_group_keeps_its_split_when_shares_of_others_move_between_them() -> None:
    names = [f"group {number}" for number in range(500)]
    before, after = ([split_of(name, shares) for name in names] for shares in ((0.8, 0.1, 0.1), (0.8, 0.2, 0.0)))
    assert [name == "train" for name in before] == [name == "train" for name in after]


def test_an_empty_share_gets_nothing() -> None:
    assert {split_of(str(number), (0.0, 0.0, 1.0)) for number in range(100)} == {"test"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"resolutions": (8,)}, "resolutions must be from 16 to 2048, got 8"),
        ({"resolutions": ()}, "resolutions must be"),
        ({"resolutions": (64, 32)}, "ascending"),
        ({"views": "many"}, "views must be none, paper"),
        ({"views": "0"}, "views must be none, paper"),
        ({"image_size": 0}, "image_size must be positive"),
        ({"shard_size": -1}, "shard_size must be positive"),
        ({"split": (0.9, 0.2, 0.1)}, "split must be three shares"),
    ],
)
def test_settings_out_of_range_are_named(change: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Settings(**change)  # type: ignore[arg-type]


@pytest.mark.parametrize(("views", "count"), [("none", 0), ("3", 3), ("paper", 45), ("trellis2", 4)])
def test_views_are_those_of_the_preset(views: str, count: int) -> None:
    cameras = Settings(views=views, image_size=64).cameras("chair")
    assert len(cameras) == count
    assert {camera.width for camera in cameras} <= {64}


def test_the_paper_s_views_are_drawn_for_each_asset() -> None:
    settings = Settings(views="paper")
    assert settings.cameras("a") == settings.cameras("a") != settings.cameras("b")
