"""Tables of tile sizes: shipped for each architecture, replaced by the user's own, wrong files named."""

from __future__ import annotations

import json
from pathlib import Path
from unittest import mock

import pytest
import torch

from kernels.triton import configs
from kernels.triton.configs import ARCHITECTURES, KERNEL_NAMES, TileConfig

CUDA = torch.device("cuda", 0)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> mock.Mock:
    """A GPU that can be asked for its name and capability, and an empty folder for the user's tables."""
    monkeypatch.setenv("SSABENCH_TUNED_DIR", str(tmp_path))
    described = mock.Mock(name="NVIDIA H200", capability=(9, 0))
    described.name = "NVIDIA H200"
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _index: described.name)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _index: described.capability)
    configs._gpu_table.cache_clear()
    yield described
    configs._gpu_table.cache_clear()


@pytest.mark.parametrize("name", ["fp32", *(f"sm{architecture}" for architecture in ARCHITECTURES)])
@pytest.mark.parametrize("head_dim", [16, 17, 32, 48, 64, 100, 128])
def test_a_shipped_table_has_a_configuration_for_every_kernel_and_head_dim(name: str, head_dim: int) -> None:
    table = configs.shipped_table(name)
    assert table.origin
    for kernel in KERNEL_NAMES:
        config = table.config(kernel, head_dim)
        assert config.block_m >= 32  # rows of the largest group
        assert config.num_warps in (4, 8, 16)


@pytest.mark.parametrize(
    ("capability", "nearest"), [(75, 80), (80, 80), (86, 80), (89, 80), (90, 90), (100, 100), (120, 100)]
)
def test_a_gpu_takes_the_newest_table_that_is_not_newer_than_itself(capability: int, nearest: int) -> None:
    assert configs.nearest_architecture(capability) == nearest


def test_a_head_dim_that_is_no_power_of_two_takes_the_next_row() -> None:
    table = configs.shipped_table("sm90")
    assert table.config("gathered_dkv", 20) == table.config("gathered_dkv", 64)
    assert table.config("gathered_dkv", 48) == table.config("gathered_dkv", 128)
    assert table.config("gathered_dkv", 32) != table.config("gathered_dkv", 64)


def test_a_table_survives_writing_and_reading(tmp_path: Path) -> None:
    table = configs.shipped_table("sm90")
    path = tmp_path / "deeper" / "table.json"
    configs.write_table(path, table)
    assert configs.read_table(path) == table
    assert [file.name for file in path.parent.iterdir()] == ["table.json"]


@pytest.mark.parametrize(
    "content",
    [
        "not json",
        "{}",
        json.dumps({"origin": "x", "kernels": {"compressed_forward": []}}),
        json.dumps({"origin": "x", "kernels": {kernel: [] for kernel in KERNEL_NAMES}}),
        json.dumps({"origin": "x", "kernels": {kernel: [{"head_dim": 64, "tile": 3}] for kernel in KERNEL_NAMES}}),
    ],
    ids=["no json", "empty", "kernels missing", "no rows", "unknown field"],
)
def test_a_file_that_is_no_table_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "table.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"table\.json is not a table"):
        configs.read_table(path)


def test_a_measured_gpu_takes_its_table_without_a_word(gpu: mock.Mock, recwarn: pytest.WarningsRecorder) -> None:
    assert configs.tuned_table(torch.bfloat16, CUDA) is configs.shipped_table("sm90")
    assert not recwarn.list


@pytest.mark.parametrize(
    ("name", "capability", "used"),
    [("NVIDIA A10", (8, 6), "sm80"), ("NVIDIA H100 80GB HBM3", (9, 0), "sm90"), ("NVIDIA RTX 5090", (12, 0), "sm100")],
)
def test_an_untuned_gpu_says_what_it_uses(gpu: mock.Mock, name: str, capability: tuple[int, int], used: str) -> None:
    gpu.name, gpu.capability = name, capability
    with pytest.warns(UserWarning, match=rf"no tile sizes were measured on {name}.*ssabench tune"):
        assert configs.tuned_table(torch.float16, CUDA) is configs.shipped_table(used)


def test_the_users_own_table_goes_first(gpu: mock.Mock) -> None:
    shipped = configs.shipped_table("sm90")
    rows = ((128, TileConfig(64, 64, 4, 2)),)
    own = configs.TunedTable("mine", {**shipped.kernels, "block_scores": rows})
    configs.write_table(configs.user_table_path(gpu.name), own)
    assert configs.tuned_table(torch.bfloat16, CUDA) == own
    assert configs.tuned_table(torch.float32, CUDA) is configs.shipped_table("fp32")  # fp32 is not tuned


def test_an_override_goes_before_everything_and_ends(gpu: mock.Mock) -> None:
    other = configs.shipped_table("sm80")
    with configs.overridden(other):
        assert configs.tuned_table(torch.float32, torch.device("cpu")) is other
    assert configs.tuned_table(torch.float32, torch.device("cpu")) is configs.shipped_table("fp32")
