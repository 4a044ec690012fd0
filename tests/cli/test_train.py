"""From random solids to a trained SS-VAE, latents and a reconstruction, by command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import trimesh
from typer.testing import CliRunner

from cli.app import app
from kernels import api
from models.data.dataset.manifest import DatasetError
from models.data.sdf import sparse_sdf
from models.training.checkpoint import checkpoint_path, read_checkpoint
from models.training.config import TrainingConfig
from models.training.metrics import read_metrics
from models.vae.batch import inputs_of
from models.vae.config import FACTOR, VAEConfig
from models.vae.files import load_vae, save_vae
from models.vae.latents import read_latent_manifest, read_latents
from models.vae.model import SparseVAE
from models.vae.task import DataConfig, VAETask, VAETrainingConfig

CONFIG = """
checkpointing = {checkpointing}
[data]
folders = ["{data}"]
resolutions = [32]
validation_samples = 1
[model]
channels = 32
latent_channels = 2
blocks = 1
head_channels = 16
window = 4
[training]
steps = {steps}
batch_size = 1
learning_rate = 0.01
warmup_steps = 0
precision = "fp32"
loader_workers = 0
log_every = 1
validate_every = 4
save_every = 2
"""


@pytest.fixture(autouse=True)
def _eager_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    if not torch.cuda.is_available():
        monkeypatch.setattr(api, "_triton_unavailable", lambda q: "tests of models run the eager implementation")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "solids"
    arguments = ["prepare", "solids:6", str(folder), "--resolution", "32", "--workers", "0", "--split", "50,50,0"]
    result = CliRunner().invoke(app, [*arguments, "--device", "cpu"])
    assert result.exit_code == 0, result.output
    return folder


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [*map(str, arguments), "--device", "cpu"])
    assert result.exit_code == 0, result.output + result.stderr
    return result.output


def write_config(folder: Path, data: Path, steps: int, checkpointing: bool = True) -> Path:
    path = folder / "vae.toml"
    path.write_text(CONFIG.format(data=data, steps=steps, checkpointing=str(checkpointing).lower()))
    return path


@pytest.mark.slow
def test_train_goes_on_encode_and_reconstruct(tmp_path: Path, data: Path) -> None:
    out = tmp_path / "run"
    run("train", "vae", write_config(tmp_path, data, 2), "--out", out)
    text = run("train", "vae", write_config(tmp_path, data, 4), "--out", out)
    assert f"run: {out}, step 4 of 4" in text
    rows = read_metrics(out)
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4]
    validations = {row["step"]: row["validation/32/wrong_side"] for row in rows if "validation/32/steps" in row}
    assert list(validations) == [2, 4]  # at the last step of each run
    assert all(0 <= share <= 1 for share in validations.values())
    folder = out / "validation" / "step-00000004"
    errors = [json.loads(line) for line in (folder / "errors.jsonl").read_text().splitlines()]
    assert [(folder / f"32-{row['key']}.png").exists() for row in errors] == [True]

    weights, latents = checkpoint_path(out, 4), tmp_path / "latents"
    assert "6 samples" in run("encode", data, latents, "--weights", weights, "--resolution", "32")
    entries = read_latent_manifest(latents)
    assert len(entries) == 6
    posterior = read_latents(latents, entries[0])
    assert posterior.mean.feats.shape == (entries[0].latents, 2)
    assert "6 samples" in run("encode", data, latents, "--weights", weights, "--resolution", "32")  # all kept

    vae = load_vae(weights)
    mesh, found = tmp_path / "box.obj", tmp_path / "out" / "box.ply"
    box = trimesh.creation.box((0.6, 1.2, 1.9))
    box.export(mesh)
    with torch.no_grad():  # four steps teach it no surface: half of its answers become positive
        decoded = vae.decode(vae.encode(inputs_of([sparse_sdf(box.vertices, box.faces, 32)])).mean)
        vae.decoder.out_layer.bias -= decoded.feats.atanh().median()
    save_vae(tmp_path / "vae.safetensors", vae)
    text = run("reconstruct", mesh, "--weights", tmp_path / "vae.safetensors", "--resolution", "32", "-o", found)
    assert "field alone" in text
    assert len(trimesh.load(found).faces) > 0
    assert found.with_suffix(".jpg").exists()


def test_a_batch_is_of_one_resolution_from_the_folders_that_have_it(tmp_path: Path, data: Path) -> None:
    finer = tmp_path / "finer"
    run("prepare", "solids:4", finer, "--resolution", "32,48", "--workers", "0", "--split", "50,50,0")
    training = TrainingConfig(batch_size=2)
    both = DataConfig(folders=(data, finer), resolutions=(32, 48), crop=32)
    task = VAETask(VAETrainingConfig(data=both, model=VAEConfig(channels=32, head_channels=16), training=training))
    held: dict[int, set[int]] = {32: set(), 48: set()}
    for number in range(16):
        batch = task.batch(number)
        (resolution,) = {field.resolution for field in batch.fields}
        held[resolution] |= {len(field.values) for field in batch.fields}
        sides = [field.coords.amax(0) // FACTOR - field.coords.amin(0) // FACTOR for field in batch.fields]
        assert all(int(side.max()) < 32 // FACTOR for side in sides)
    assert held[32]
    assert held[48]

    with pytest.raises(DatasetError, match="has fields of 32, not of 48"):
        VAETask(VAETrainingConfig(data=DataConfig(folders=(data,), resolutions=(48,))))
    with pytest.raises(DatasetError, match=r"no dataset of .* has fields of 64"):
        VAETask(VAETrainingConfig(data=DataConfig(folders=(data, finer), resolutions=(48, 32, 64))))


def test_a_new_run_begins_with_weights_of_another(tmp_path: Path, data: Path) -> None:
    weights = tmp_path / "vae.safetensors"
    torch.manual_seed(7)
    vae = SparseVAE(VAEConfig(channels=32, latent_channels=2, blocks=1, head_channels=16, window=4))
    save_vae(weights, vae)
    config, out = write_config(tmp_path, data, 1), tmp_path / "run"
    slow = config.read_text().replace("learning_rate = 0.01", "learning_rate = 1e-12")
    config.write_text(slow)
    for _ in range(2):  # the second goes on, with nothing left to do
        assert "step 1 of 1" in run("train", "vae", config, "--init", weights, "--out", out)
    groups = read_checkpoint(checkpoint_path(out, 1)).groups
    for name, tensor in vae.state_dict().items():
        torch.testing.assert_close(groups["model"][name], tensor)
        torch.testing.assert_close(groups["ema"][name], tensor)

    # Positions in blocks may be added to a model that has none: at zero.
    config.write_text(slow.replace("window = 4", "window = 4\nblock_positions = true"))
    run("train", "vae", config, "--init", weights, "--out", tmp_path / "told")
    groups = read_checkpoint(checkpoint_path(tmp_path / "told", 1)).groups
    torch.testing.assert_close({name: groups["ema"][name] for name in vae.state_dict()}, dict(vae.state_dict()))
    assert float(groups["ema"]["encoder.block_position.weight"].abs().max()) < 1e-9

    config.write_text(slow.replace("window = 4", "window = 8"))
    result = CliRunner().invoke(
        app, ["train", "vae", str(config), "--init", str(weights), "--out", str(tmp_path / "b")]
    )
    assert result.exit_code == 2
    assert "are of another model: window is 4 there, 8 in [model]" in " ".join(result.stderr.split())


@pytest.mark.slow
def test_the_same_latents_come_from_the_same_weights_only(tmp_path: Path, data: Path) -> None:
    out, latents = tmp_path / "run", tmp_path / "latents"
    run("train", "vae", write_config(tmp_path, data, 2, checkpointing=False), "--out", out)
    run("encode", data, latents, "--weights", checkpoint_path(out, 2), "--resolution", "32")
    vae = load_vae(checkpoint_path(out, 2))
    torch.nn.init.ones_(vae.encoder.out_layer.bias)
    save_vae(tmp_path / "other.safetensors", vae)
    arguments = ["encode", data, latents, "--weights", tmp_path / "other.safetensors", "--resolution", "32"]
    result = CliRunner().invoke(app, [*map(str, arguments), "--device", "cpu"])
    assert result.exit_code == 2
    assert "holds latents of another weights" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "vae", "missing.toml", "--out", "run"], "configuration missing.toml does not exist"),
        (["reconstruct", "a.obj", "--weights", "w.safetensors", "-o", "a.txt"], "--out must end in one of"),
        (
            ["reconstruct", "a.obj", "--weights", "w.safetensors", "-o", "a.ply", "--resolution", "100"],
            "--resolution must be a multiple of 8, got 100",
        ),
        (["reconstruct", "a.obj", "--weights", "w.safetensors", "-o", "a.ply"], "weights w.safetensors are no file"),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, [*arguments, "--device", "cpu"])
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
