"""A run learns, stops at any moment, and goes on with the numbers it would have had."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from toy import toy

from models.training.checkpoint import CheckpointError, checkpoint_path, latest_checkpoint, read_checkpoint
from models.training.config import TrainingConfig
from models.training.metrics import read_metrics
from models.training.trainer import learning_rate, train

CPU = torch.device("cpu")
TOY = Path(__file__).parent / "toy.py"
ROOT = Path(__file__).parents[3]


def losses(folder: Path) -> dict[int, float]:
    return {row["step"]: row["loss"] for row in read_metrics(folder) if "loss" in row}


def tensors(folder: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(checkpoint_path(folder, step))


def test_a_run_learns_and_leaves_its_record(tmp_path: Path) -> None:
    assert train(toy(steps=300, save_every=100), tmp_path, CPU) == 300
    found = losses(tmp_path)
    assert list(found) == list(range(1, 301))
    assert found[300] < 0.1 * found[1]
    assert [path.name for path in sorted((tmp_path / "checkpoints").iterdir())] == [
        "step-00000200.safetensors",
        "step-00000300.safetensors",
    ]
    assert (tmp_path / "validation" / "step-00000010").is_dir()


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_run_goes_on_as_if_it_had_never_stopped(tmp_path: Path, accumulate: int) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(toy(accumulate=accumulate), whole, CPU)
    train(toy(accumulate=accumulate, steps=7), parts, CPU)
    train(toy(accumulate=accumulate), parts, CPU)
    assert losses(parts) == losses(whole)
    ours, theirs = tensors(parts, 20), tensors(whole, 20)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_killed_run_goes_on_from_its_last_checkpoint(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train(toy(), whole, CPU)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    run = subprocess.Popen([sys.executable, str(TOY), str(killed), "20", "0.1"], env=environment)
    deadline = time.monotonic() + 120
    while not (killed / "metrics.jsonl").exists() or max(losses(killed), default=0) < 8:
        assert run.poll() is None, "the run ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    run.send_signal(signal.SIGKILL)
    run.wait()
    latest = latest_checkpoint(killed)
    assert latest is not None
    assert 5 <= read_checkpoint(latest).step < 20
    train(toy(), killed, CPU)
    assert losses(killed) == losses(whole)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["ddp", "fsdp2"])
def test_two_processes_learn_what_one_does_with_both_their_batches(tmp_path: Path, how: str) -> None:
    alone, together = tmp_path / "alone", tmp_path / "together"
    train(toy(steps=6, accumulate=2), alone, CPU)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for steps in ("4", "6"):  # and goes on
        subprocess.run([*command, str(TOY), str(together), steps, "0", how], env=environment, check=True)
    expected, found = losses(alone), losses(together)
    assert list(found) == list(expected)
    for step in expected:
        assert found[step] == pytest.approx(expected[step], rel=1e-4)


def test_a_run_of_another_configuration_is_refused(tmp_path: Path) -> None:
    train(toy(steps=5), tmp_path, CPU)
    with pytest.raises(CheckpointError, match=r"another configuration: training.learning_rate is 0.01 there, 0.1 now"):
        train(toy(learning_rate=0.1), tmp_path, CPU)


def test_a_run_goes_on_only_as_what_it_began(tmp_path: Path) -> None:
    given, random = tmp_path / "given", tmp_path / "random"
    train(replace(toy(steps=5), initial="a"), given, CPU)
    for initial, steps in (("a", 6), (None, 7), ("a", 8)):
        assert train(replace(toy(steps=steps), initial=initial), given, CPU) == steps
    with pytest.raises(CheckpointError, match="holds a run that began with weights a, not with b"):
        train(replace(toy(), initial="b"), given, CPU)
    train(toy(steps=5), random, CPU)
    with pytest.raises(CheckpointError, match="holds a run that began with random weights, not with a"):
        train(replace(toy(), initial="a"), random, CPU)


def test_time_that_is_up_ends_a_run_with_a_checkpoint(tmp_path: Path) -> None:
    reached = train(toy(steps=10_000, pause=0.01), tmp_path, CPU, minutes=0.5 / 60)
    assert 0 < reached < 10_000
    assert latest_checkpoint(tmp_path) == checkpoint_path(tmp_path, reached)


def test_a_loss_that_is_not_finite_ends_a_run(tmp_path: Path) -> None:
    task = toy()
    torch.nn.init.constant_(task.model[0].weight, torch.nan)
    with pytest.raises(FloatingPointError, match="the loss is nan at step 1"):
        train(task, tmp_path, CPU)
    assert latest_checkpoint(tmp_path) is None


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    train(toy(steps=5), tmp_path, CPU)
    path = checkpoint_path(tmp_path, 5)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"step-00000005.safetensors is no checkpoint"):
        train(toy(), tmp_path, CPU)


def test_the_rate_warms_up_and_falls_to_a_hundredth() -> None:
    config = TrainingConfig(steps=110, warmup_steps=10, learning_rate=1.0, decay="cosine")
    rates = [learning_rate(config, step) for step in range(111)]
    assert rates[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert rates[60] == pytest.approx(0.01 + 0.99 / 2)
    assert rates[110] == pytest.approx(0.01)
    assert learning_rate(TrainingConfig(warmup_steps=0, learning_rate=2.0), 10**6) == 2.0
