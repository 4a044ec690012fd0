"""Profiles: of a hand-made trace, of real passes on the CPU, and on a GPU where there is one."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch
from small_shape import small_shape

from bench import profiler
from bench.accounting import ssa_costs
from bench.kineto import read_trace
from bench.profiled import Profile, Row, Target
from bench.profiler import CALLS, device_rows, kernel_flops, profile, run_bare
from bench.providers import Problem, block_indices, get_provider, make_problem
from bench.records import Ceilings
from bench.workloads import make_tokens

ROOT = Path(__file__).resolve().parents[2]
TRACE = Path(__file__).parent / "samples" / "kineto_trace.json"
CEILINGS = Ceilings(copy_bytes_per_s=4e12, matrix_flops_per_s=8e14, exp2_per_s=4e12)
SHAPE = small_shape(heads=2, kv_heads=1)
SMALL = Target(stage="slc", direction="bwd", provider="ssa-eager", shape=SHAPE, device="cpu", tokens=64)


@pytest.fixture
def ceilings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Known at once: probing them takes a second."""
    monkeypatch.setattr(profiler, "probe", lambda device, dtype: CEILINGS)


def rows_of_the_sample(flops: dict[str, float]) -> dict[str, Row]:
    trace = read_trace(TRACE.read_bytes())
    local = {("_segment_dkv_kernel", 168, 128): 0, ("_segment_dq_kernel", 255, 256): 16}
    return {row.name: row for row in device_rows(trace, CEILINGS, (9, 0), flops=flops, local_bytes=local)}


def test_a_kernels_row_has_its_time_resources_and_occupancy() -> None:
    dkv = rows_of_the_sample({})["_segment_dkv_kernel"]
    assert (dkv.launches, dkv.milliseconds, dkv.share) == (1, 1.05, pytest.approx(2.1 / 3.325))
    assert (dkv.programs, dkv.threads, dkv.registers, dkv.shared_bytes, dkv.local_bytes) == (4096, 128, 168, 49152, 0)
    assert (dkv.resident_programs, dkv.resident_warps, dkv.most_warps) == (3, 12, 64)
    assert dkv.limited_by == "registers"


def test_spills_are_known_for_triton_kernels_alone() -> None:
    local = {name.split("(")[0]: row.local_bytes for name, row in rows_of_the_sample({}).items()}
    assert local["_segment_dq_kernel"] == 16
    assert local["Memcpy DtoH "] is None
    assert sum(row.local_bytes is not None for row in rows_of_the_sample({}).values()) == 2


def test_the_rate_of_a_kernel_is_its_own_work_over_its_own_time() -> None:
    rows = rows_of_the_sample({"_segment_dkv_kernel": 4.2e11})
    assert rows["_segment_dkv_kernel"].flops_per_s == pytest.approx(4.2e11 / 1.05e-3)
    assert rows["_segment_dkv_kernel"].matrix_share == pytest.approx(0.5)
    assert rows["_segment_dq_kernel"].flops_per_s is None


def test_work_of_several_variants_is_not_attributed() -> None:
    content = json.loads(TRACE.read_text())
    (first, *_) = (event for event in content["traceEvents"] if event["name"] == "_segment_dkv_kernel")
    first["args"]["registers per thread"] = 128
    trace = read_trace(json.dumps(content))
    rows = device_rows(trace, CEILINGS, (9, 0), flops={"_segment_dkv_kernel": 4.2e11}, local_bytes={})
    assert [row.flops_per_s for row in rows if row.name == "_segment_dkv_kernel"] == [None, None]


@pytest.fixture
def problem() -> Problem:
    """A small one whose selection, as if by Triton, was made by what is fast on a CPU."""
    problem = make_problem(make_tokens("gyroid", 64), SHAPE, device="cpu", seed=0)
    chosen = block_indices(problem, "eager")
    problem.once("block_indices triton", lambda: chosen)
    return problem


def test_the_products_of_our_kernels_come_from_the_real_selection(problem: Problem) -> None:
    costs = ssa_costs(problem.layout, block_indices(problem, "eager"), SHAPE)
    provider = get_provider("ssa-triton")
    window = kernel_flops(provider, problem, "win")
    assert window["_segment_forward_kernel"] == costs["win"]["fwd"].flops
    assert window["_segment_dq_kernel"] == 1.5 * costs["win"]["fwd"].flops
    assert window["_segment_dkv_kernel"] == 2 * costs["win"]["fwd"].flops
    whole = kernel_flops(provider, problem, "total")
    assert whole["_segment_forward_kernel"] + whole["_select_blocks_kernel"] == costs["total"]["fwd"].flops
    assert kernel_flops(provider, problem, "select") == {"_select_blocks_kernel": costs["select"]["fwd"].flops}
    assert kernel_flops(get_provider("ssa-eager"), problem, "win") == {}


def test_on_hopper_products_are_those_of_the_kernels_that_run_there() -> None:
    from kernels.triton import hopper

    shape = SHAPE.model_copy(update={"heads": 16, "kv_heads": 1, "head_dim": 64, "dtype": "bfloat16"})
    problem = make_problem(make_tokens("gyroid", 64), shape, device="cpu", seed=0)
    chosen = block_indices(problem, "eager")
    problem.once("block_indices triton", lambda: chosen)
    costs = ssa_costs(problem.layout, chosen, shape)
    with mock.patch.object(hopper, "_available", return_value=True):
        found = kernel_flops(get_provider("ssa-triton"), problem, "total")
    cmp, slc, win = (costs[branch]["fwd"].flops for branch in ("cmp", "slc", "win"))
    assert found == {
        "_segment_forward_kernel": cmp + win,
        "_hopper_selected_forward_kernel": slc,
        "_segment_dq_kernel": 1.5 * (cmp + win),
        "_hopper_dq_kernel": 1.5 * slc,
        "_segment_dkv_kernel": 2 * win,
        "_hopper_dkv_kernel": 2 * (cmp + slc),
        "_select_blocks_kernel": costs["select"]["fwd"].flops,
    }


def test_the_kernels_with_known_products_exist(problem: Problem) -> None:
    from kernels.triton import segment_backward, segment_dkv, segment_forward, select

    found = {name for module in (segment_backward, segment_dkv, segment_forward, select) for name in vars(module)}
    assert set(kernel_flops(get_provider("ssa-triton"), problem, "total")) <= found


def test_a_profile_on_a_cpu_has_operators_that_sum_to_the_call(tmp_path: Path, ceilings: None) -> None:
    (tmp_path / "ncu.csv").write_text("of an earlier profile")
    (tmp_path / "mine.txt").write_text("precious")
    found = profile(SMALL, tmp_path, again=["ssabench", "profile", "slc", "--bare"])
    assert {path.name for path in found.files} == {"trace.json", "kernels.csv", "profile.json"}
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in found.files} | {"mine.txt"}
    assert sum(row.milliseconds for row in found.rows) == pytest.approx(found.milliseconds, rel=0.05)
    assert "aten::mm" in {row.name for row in found.rows}
    assert all(row.registers is None for row in found.rows)
    assert found.notes == ("no GPU: neither kernels nor Proton nor ncu",)
    assert found.ncu[0] == "ncu"
    assert found.ncu[-2:] == ("slc", "--bare")

    trace = read_trace((tmp_path / "trace.json").read_bytes())
    assert (trace.calls, trace.work) == (CALLS, ())
    with (tmp_path / "kernels.csv").open() as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == ["name", "launches", "milliseconds", "share"]
    assert len(table) == len(found.rows)
    content = json.loads((tmp_path / "profile.json").read_text())
    assert content["workload"]["tokens"] == 64
    assert content["environment"]["device_type"] == "cpu"
    assert content["rows"][0]["name"] == found.rows[0].name


def test_rates_are_the_counts_of_the_pass_over_its_time(problem: Problem, tmp_path: Path, ceilings: None) -> None:
    found = profile(SMALL, tmp_path, again=["ssabench"])
    cost = ssa_costs(problem.layout, block_indices(problem, "eager"), SHAPE)["slc"]["bwd"]
    by_ceiling = {rate.ceiling: rate for rate in found.rates}
    seconds = found.milliseconds / 1e3
    assert by_ceiling["matrix units"].achieved == pytest.approx(cost.flops / seconds)
    assert by_ceiling["matrix units"].share == pytest.approx(cost.flops / seconds / CEILINGS.matrix_flops_per_s)
    assert by_ceiling["memory"].achieved == pytest.approx(cost.bytes / seconds)
    assert by_ceiling["exponentials"].achieved == pytest.approx(cost.exponentials / seconds)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stage": "select"}, "branch select has no pass bwd"),
        ({"direction": "fwd_bwd"}, "branch slc has no pass fwd_bwd"),
        ({"provider": "dense-sdpa-cpu"}, "provider dense-sdpa-cpu has no branches to profile apart; profile total"),
        ({"provider": "dense-sdpa-flash", "stage": "total"}, "provider dense-sdpa-flash cannot run here"),
        ({"provider": "ssa-cuda"}, "provider 'ssa-cuda' is unknown"),
        ({"workload": "torus"}, "torus"),
        ({"inputs": Path("missing.safetensors")}, "missing.safetensors"),
        ({"shape": SHAPE.model_copy(update={"head_dim": 7})}, "head_dim must be from 16"),
    ],
)
def test_what_cannot_be_profiled_says_why(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    target = Target(**(vars(SMALL) | changes))
    with pytest.raises(ValueError, match=message):
        profile(target, tmp_path / "out", again=[])
    assert not (tmp_path / "out").exists()


def test_proton_that_fails_in_its_process_is_a_note(tmp_path: Path) -> None:
    """Here for want of a GPU, after all of the set-up."""
    (note,) = profiler._record_proton(SMALL, tmp_path)
    assert note.startswith("no profile by Proton: ")
    assert "\n" not in note
    assert list(tmp_path.iterdir()) == []


def test_a_bare_run_needs_a_gpu() -> None:
    with pytest.raises(ValueError, match="for profilers of a GPU"):
        run_bare(SMALL)


ON_A_GPU = Target(
    stage="slc",
    direction="bwd",
    provider="ssa-triton",
    shape=SHAPE.model_copy(update={"heads": 8, "head_dim": 32, "dtype": "bfloat16", "topk": 4}),
    device="cuda",
    tokens=4096,
)
AGAIN = (
    *(sys.executable, "-m", "cli", "profile", "slc", "--pass", "bwd", "--tokens", "4096", "--bare"),
    *("--heads", "8", "--kv-heads", "1", "--head-dim", "32", "--topk", "4"),
)


@pytest.fixture(scope="module")
def on_a_gpu(tmp_path_factory: pytest.TempPathFactory) -> Profile:
    return profile(ON_A_GPU, tmp_path_factory.mktemp("profile"), again=AGAIN)


@pytest.mark.gpu
def test_our_kernels_have_resources_occupancy_and_rates(on_a_gpu: Profile) -> None:
    rows = {row.name: row for row in on_a_gpu.rows}
    for name in ("_segment_dq_kernel", "_segment_dkv_kernel"):
        row = rows[name]
        assert row.launches >= 1
        assert row.programs
        assert row.threads
        assert row.threads % 32 == 0
        assert row.registers
        assert 0 < row.registers <= 255
        assert row.local_bytes is not None
        assert row.shared_bytes is not None
        assert row.resident_programs
        assert row.matrix_share is not None
        assert 0 < row.matrix_share < 1
    assert sum(row.share for row in on_a_gpu.rows) == pytest.approx(1)
    assert on_a_gpu.milliseconds == pytest.approx(sum(row.milliseconds for row in on_a_gpu.rows))


@pytest.mark.gpu
def test_the_hot_path_never_waits_for_the_device(on_a_gpu: Profile) -> None:
    assert on_a_gpu.synchronizations == {}


@pytest.mark.gpu
def test_proton_writes_its_profile(on_a_gpu: Profile) -> None:
    assert not [note for note in on_a_gpu.notes if "Proton" in note]
    (path,) = (path for path in on_a_gpu.files if path.name == "proton.hatchet")
    assert "_segment_dkv_kernel" in path.read_text()


@pytest.mark.gpu
def test_ncu_measures_the_kernels_of_one_call_or_says_why_not(on_a_gpu: Profile) -> None:
    if on_a_gpu.launches:
        assert {"_segment_dq_kernel", "_segment_dkv_kernel"} <= {launch.kernel for launch in on_a_gpu.launches}
        assert any(path.name == "ncu.csv" for path in on_a_gpu.files)
    else:
        (reason,) = (note for note in on_a_gpu.notes if note.startswith("no counters of ncu: "))
        assert "\n" not in reason


@pytest.mark.gpu
def test_a_bare_run_ends_well() -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run(AGAIN, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert torch.cuda.is_available()
