"""Configurations are TOML with types; batches are functions of their number."""

from __future__ import annotations

from pathlib import Path

import pytest
from toy import ToyConfig

from models.training.config import read_config
from models.training.order import batch_generator, batch_indices


def test_a_file_fills_in_what_it_names(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text("width = 3\n[training]\nsteps = 7\nbetas = [0.8, 0.9]\n")
    config = read_config(path, ToyConfig)
    assert (config.width, config.training.steps, config.training.betas) == (3, 7, (0.8, 0.9))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("width = [", "is no TOML"),
        ("widht = 3", "widht: Extra inputs are not permitted"),
        ("[training]\nsteps = 0", "training.steps: Input should be greater than or equal to 1"),
        ("[training]\nprecision = 'fp8'", "training.precision: Input should be 'bf16' or 'fp32'"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "run.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_config(path, ToyConfig)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"run.toml does not exist"):
        read_config(tmp_path / "run.toml", ToyConfig)


def test_every_epoch_has_every_sample_once_in_an_order_of_its_own() -> None:
    drawn = [index for number in range(20) for index in batch_indices(number, 3, 15, seed=1)]
    epochs = [drawn[first : first + 15] for first in range(0, 60, 15)]
    assert all(sorted(epoch) == list(range(15)) for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert batch_indices(3, 4, 5, seed=0) != batch_indices(3, 4, 5, seed=1)


def test_random_numbers_of_a_batch_depend_on_seed_and_number_alone() -> None:
    assert batch_generator(5, 1).random() == batch_generator(5, 1).random()
    assert len({batch_generator(number, seed).random() for number in range(4) for seed in range(4)}) == 16
