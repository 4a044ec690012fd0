"""The sweep, on tiny problems, with providers and a clock that the test controls."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
from small_shape import small_shape
from torch import Tensor
from torch._functorch import config as functorch_config

from bench import check, measurement, speed, timing
from bench.accounting import full_attention_costs
from bench.captured import save_captured
from bench.conditions import Condition
from bench.environment import capture
from bench.plan import Plan, paper_plan
from bench.providers import Problem, Provider, get_provider
from bench.records import Ceilings, Correctness, Record, TensorError, read_records
from bench.renewal import BLOCKS
from bench.speed import Growth, run_speed
from bench.workloads import make_tokens
from kernels.layout import BlockLayout
from kernels.testing import Inputs

SHAPE = small_shape(heads=2, kv_heads=1)
Register = Callable[..., Provider]


def make_plan(**changes: object) -> Plan:
    plan = Plan(workloads=["gyroid"], tokens=[64], providers=["dense-fake"], shape=SHAPE, max_seconds=0.0)
    return dataclasses.replace(plan, **changes)  # type: ignore[arg-type]


def correctness(error: float) -> Correctness:
    return Correctness(passed=error <= 0.1, oracle="a fake", tensors=[TensorError(name="o", error=error, budget=0.1)])


def mean_of_values(problem: Problem, x: Inputs) -> Tensor:
    """[N, H, D]: depends on q, k and v, and costs nothing."""
    heads = x.q.shape[1] // x.v.shape[1]
    return 0.0 * x.q + (x.k + x.v).mean(0, keepdim=True).repeat_interleave(heads, dim=1)


@pytest.fixture(autouse=True)
def ceilings(monkeypatch: pytest.MonkeyPatch) -> Ceilings:
    """Known at once: probing them takes a second."""
    known = Ceilings(copy_bytes_per_s=1e10, matrix_flops_per_s=1e11, exp2_per_s=1e9)
    monkeypatch.setattr(speed, "probe", lambda device, dtype: known)
    return known


def test_every_time_carries_the_ceilings_of_its_run(register: Register, ceilings: Ceilings) -> None:
    register()
    records = run_speed(make_plan(), device="cpu")
    assert records
    assert all(record.ceilings == ceilings and record.exponentials for record in records)


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Register:
    """Adds fake providers beside the real ones, and lets every check pass."""
    fakes: dict[str, Provider] = {}

    def add(name: str = "dense-fake", **changes: object) -> Provider:
        provider = Provider(
            name=name,
            family="dense",
            implementation=lambda problem: "fake",
            unavailable=lambda problem: None,
            forward=mean_of_values,
            grads=("q", "k", "v"),
            costs=lambda problem: full_attention_costs(problem.workload.tokens, [problem.workload.tokens], SHAPE),
        )
        fakes[name] = dataclasses.replace(provider, **changes)  # type: ignore[arg-type]
        return fakes[name]

    monkeypatch.setattr(speed, "get_provider", lambda name: fakes.get(name) or get_provider(name))
    monkeypatch.setattr(speed, "check_provider", lambda provider, problem: correctness(0.01))
    monkeypatch.setattr(measurement, "judge", lambda provider, witness, checked: correctness(0.01))
    return add


def sample_for_a_second(monkeypatch: pytest.MonkeyPatch, watch: Callable[[str], object] = lambda event: None) -> None:
    """Every call is made once a block and takes a second."""

    def measure_blocks(
        calls: Iterable[Callable[[], object]], blocks: int, device: object, *, inspect: timing.Inspect, **_: object
    ) -> timing.Series:
        for call in calls:
            watch("timed")
            result = call()
            watch("end")
        inspect(result)
        return timing.Series([1000.0] * blocks, [Condition()] * blocks, [1] * blocks)

    monkeypatch.setattr(timing, "measure_blocks", measure_blocks)


def commit(monkeypatch: pytest.MonkeyPatch, commit: str | None, *, dirty: bool = False) -> None:
    """Pretend that the checkout is at this commit."""
    here = capture("cpu").model_copy(update={"git_commit": commit, "git_dirty": dirty})
    monkeypatch.setattr(speed, "capture", lambda device: here)


def test_every_pass_is_timed_and_carries_check_cost_and_environment(register: Register) -> None:
    register()
    records = run_speed(make_plan(), device="cpu")

    assert [(r.stage, r.direction, r.status) for r in records] == [
        ("total", "fwd", "ok"),
        ("total", "bwd", "ok"),
        ("total", "fwd_bwd", "ok"),
    ]
    for record in records:
        assert record.correctness is not None
        assert record.correctness.passed
        assert record.summary is not None
        assert record.summary.count == len(record.samples_ms) == 5
        assert record.workload.tokens == 64
        assert record.environment.device_type == "cpu"
        assert record.peak_memory_bytes is None  # not counted on a CPU
        assert record.flops == record.dense_flops
        assert record.schema_version == 2
        assert record.sampling is not None
        assert record.sampling.blocks == [1, 2, 2]
        assert record.timed_correctness is not None
        assert record.modes is None  # only of CUDA
    assert records[0].flops == 4 * 2 * 16 * 64**2
    assert len({record.run_id for record in records}) == 1


def test_real_sparse_attention_is_timed_whole_and_branch_by_branch() -> None:
    plan = make_plan(providers=["ssa-eager"], directions=["fwd", "bwd"])
    records = run_speed(plan, device="cpu")

    assert all(record.status == "ok" for record in records), [record.reason for record in records]
    assert {(r.stage, r.direction) for r in records} == {
        *((stage, direction) for stage in ("total", "cmp", "slc", "win") for direction in ("fwd", "bwd")),
        ("select", "fwd"),
    }
    parts = [r.flops for r in records if r.stage != "total" and r.direction == "fwd"]
    (total,) = (r.flops for r in records if r.stage == "total" and r.direction == "fwd")
    assert total == sum(part for part in parts if part is not None)


def test_results_are_judged_a_row_at_a_time_where_no_more_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(check._ORACLE_ELEMENTS, "cpu", 1)
    plan = make_plan(providers=["ssa-eager", "dense-sdpa-cpu"], directions=["fwd", "bwd"])
    records = run_speed(plan, device="cpu")
    assert len(records) == 9 + 2
    assert all(record.status == "ok" for record in records), [record.reason for record in records]
    assert all(record.timed_correctness is not None for record in records)


@pytest.mark.parametrize("name", ["nsa-eager", "dense-sdpa-cpu", "packed-sdpa-cpu"])
def test_real_alternatives_pass_their_check_and_are_timed(name: str) -> None:
    records = run_speed(make_plan(providers=[name], directions=["fwd_bwd"]), device="cpu")
    assert [(r.provider, r.stage, r.status) for r in records] == [(name, "total", "ok")], records[0].reason


def test_a_provider_that_fails_its_check_gets_the_error_and_no_time(
    register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    register()
    monkeypatch.setattr(speed, "check_provider", lambda provider, problem: correctness(0.5))
    for record in run_speed(make_plan(), device="cpu"):
        assert record.status == "failed_check"
        assert record.reason == "error of o 5.00e-01 exceeds its budget 1.00e-01"
        assert record.correctness is not None
        assert record.summary is None


def test_an_unavailable_provider_is_recorded_with_its_reason_and_never_called(register: Register) -> None:
    def never(problem: Problem, inputs: Inputs) -> Tensor:
        raise AssertionError("called")

    register(unavailable=lambda problem: "needs a fairy", forward=never)
    records = run_speed(make_plan(), device="cpu")
    assert [(r.direction, r.status, r.reason) for r in records] == [
        (direction, "unavailable", "needs a fairy") for direction in ("fwd", "bwd", "fwd_bwd")
    ]


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (torch.OutOfMemoryError("CUDA out of memory.\nTried ..."), "out_of_memory", "CUDA out of memory."),
        (MemoryError(), "out_of_memory", "MemoryError"),
        (RuntimeError("DefaultCPUAllocator: not enough memory"), "out_of_memory", "DefaultCPUAllocator: not enough"),
        (TypeError("no such kernel"), "error", "TypeError: no such kernel"),
    ],
)
def test_a_crash_is_recorded_and_the_other_providers_go_on(
    register: Register, error: Exception, status: str, reason: str
) -> None:
    def crash(problem: Problem, inputs: Inputs) -> Tensor:
        raise error

    register("dense-crash", forward=crash)
    register("dense-fake")
    records = run_speed(make_plan(providers=["dense-crash", "dense-fake"], directions=["fwd"]), device="cpu")
    assert [r.status for r in records] == [status, "ok"]
    assert records[0].reason is not None
    assert records[0].reason.startswith(reason)


def test_memory_that_lasts_for_forward_only_leaves_the_forward_time(
    register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forward(problem: Problem, x: Inputs) -> Tensor:
        o = mean_of_values(problem, x)
        if problem.once("timing", lambda: [False])[0] and o.requires_grad:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return o

    def check(provider: Provider, problem: Problem) -> Correctness:
        problem.once("timing", lambda: [False])[0] = True  # from here on the card is full
        return correctness(0.01)

    register(forward=forward)
    monkeypatch.setattr(speed, "check_provider", check)
    records = run_speed(make_plan(), device="cpu")
    assert [(r.direction, r.status) for r in records] == [
        ("fwd", "ok"),
        ("bwd", "out_of_memory"),
        ("fwd_bwd", "out_of_memory"),
    ]


def test_a_size_predicted_to_exceed_the_limit_is_not_run(register: Register, monkeypatch: pytest.MonkeyPatch) -> None:
    register()
    sample_for_a_second(monkeypatch)
    plan = make_plan(tokens=[128, 64], directions=["fwd"], limit_s=3.0)
    small, large = run_speed(plan, device="cpu")
    assert (small.workload.tokens, small.status) == (64, "ok")
    assert (large.workload.tokens, large.status) == (128, "unavailable")
    assert large.reason == "predicted 4.0 s a call exceeds the limit of 3 s (--limit)"


def test_the_prediction_starts_from_the_fastest_sample_of_the_last_measured_size(register: Register) -> None:
    register()
    (measured,) = run_speed(make_plan(directions=["fwd"]), device="cpu")
    slow = measured.model_copy(update={"samples_ms": [90000.0, 2000.0, 3000.0]})
    growth = Growth(limit_s=10.0)
    growth.learn([slow])
    assert growth.too_slow("dense-fake", "fwd", 128) is None
    assert "predicted 32.0 s" in str(growth.too_slow("dense-fake", "fwd", 256))
    assert growth.too_slow("dense-fake", "bwd", 256) is None
    assert growth.too_slow("dense-other", "fwd", 256) is None


def test_backward_alone_is_timed_on_a_saved_forward(register: Register, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def forward(problem: Problem, x: Inputs) -> Tensor:
        calls.append("grad" if torch.is_grad_enabled() else "no_grad")
        return mean_of_values(problem, x)

    register(forward=forward)
    sample_for_a_second(monkeypatch, calls.append)
    monkeypatch.setattr(timing, "first_call_seconds", lambda fn, device: 0.0)
    run_speed(make_plan(), device="cpu")
    timed = calls[calls.index("timed") :]
    forward_blocks = ["timed", "no_grad", "end"] * BLOCKS
    backward_blocks = ["grad", "timed", "end"] * BLOCKS
    assert timed == forward_blocks + backward_blocks + ["timed", "grad", "end"] * BLOCKS


def test_compiled_providers_keep_their_buffers_for_the_next_backward(register: Register) -> None:
    donated: set[bool] = set()

    def forward(problem: Problem, x: Inputs) -> Tensor:
        donated.add(functorch_config.donated_buffer)
        return mean_of_values(problem, x)

    register(forward=forward)
    run_speed(make_plan(), device="cpu")
    assert donated == {False}


def test_the_file_is_complete_after_every_provider(register: Register, tmp_path: Path) -> None:
    out = tmp_path / "speed.jsonl"
    lengths: list[int] = []

    def watch(message: str, done: int, total: int) -> None:
        lengths.append(len(read_records(out)) if out.exists() else 0)

    register("dense-a")
    register("dense-b")
    plan = make_plan(providers=["dense-a", "dense-b"], directions=["fwd"], tokens=[64, 72])
    records = run_speed(plan, device="cpu", out=out, progress=watch)
    assert lengths == [0, 1, 2, 3, 4]
    assert read_records(out) == records


def test_progress_counts_providers(register: Register) -> None:
    register()
    steps: list[tuple[str, int, int]] = []
    run_speed(make_plan(tokens=[64, 72], directions=["fwd"]), device="cpu", progress=lambda *step: steps.append(step))
    assert steps == [
        ("gyroid, 64 tokens, dense-fake", 0, 2),
        ("gyroid, 72 tokens, dense-fake", 1, 2),
        ("done", 2, 2),
    ]


class TestCaptured:
    """Inputs from a file beside random ones."""

    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        return self.save(tmp_path / "a.safetensors", tokens=80)

    def save(self, path: Path, tokens: int, seed: int = 0) -> Path:
        voxels = make_tokens("gyroid", tokens)
        layout = BlockLayout.from_coords(voxels.coords, resolution=voxels.resolution)
        inputs = Inputs.random(layout, heads=2, kv_heads=1, head_dim=16, dtype=torch.float32, seed=seed)
        save_captured(path, voxels, layout, inputs, "a test")
        return path

    def test_files_are_measured_after_the_workloads_smaller_ones_first(
        self, register: Register, file: Path, tmp_path: Path
    ) -> None:
        register()
        smaller = self.save(tmp_path / "b.safetensors", tokens=72)
        steps: list[tuple[str, int, int]] = []
        plan = make_plan(inputs=[file, smaller], directions=["fwd"])
        records = run_speed(plan, device="cpu", progress=lambda *step: steps.append(step))
        assert [step[0] for step in steps] == [
            "gyroid, 64 tokens, dense-fake",
            "gyroid, captured, 72 tokens, dense-fake",
            "gyroid, captured, 80 tokens, dense-fake",
            "done",
        ]
        assert {step[2] for step in steps} == {3}
        assert [record.workload.captured is None for record in records] == [True, False, False]

    def test_files_alone_need_neither_workloads_nor_tokens(self, register: Register, file: Path) -> None:
        register()
        records = run_speed(make_plan(workloads=[], tokens=[], inputs=[file]), device="cpu")
        assert {(record.workload.label, record.workload.tokens) for record in records} == {("gyroid, captured", 80)}

    def test_a_prediction_carries_over_from_file_to_file(
        self, register: Register, file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        register()
        sample_for_a_second(monkeypatch)
        larger = self.save(tmp_path / "b.safetensors", tokens=160)
        plan = make_plan(tokens=[64], inputs=[larger, file], directions=["fwd"], limit_s=3.0)
        records = run_speed(plan, device="cpu")
        assert [record.status for record in records] == ["ok", "ok", "unavailable"]
        assert records[2].reason == "predicted 4.0 s a call exceeds the limit of 3 s (--limit)"

    @pytest.mark.parametrize("name", ["ssa-eager", "nsa-eager", "dense-sdpa-cpu", "packed-sdpa-cpu"])
    def test_real_providers_pass_their_check_on_a_file(self, name: str, file: Path) -> None:
        plan = make_plan(workloads=[], tokens=[], inputs=[file], providers=[name], directions=["fwd_bwd"])
        records = run_speed(plan, device="cpu")
        assert [(r.provider, r.stage, r.status) for r in records] == [(name, "total", "ok")], records[0].reason

    def test_resume_keeps_a_file_apart_from_random_inputs_and_from_other_files(
        self, register: Register, file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        register()
        commit(monkeypatch, "a" * 40)
        out = tmp_path / "speed.jsonl"
        first = run_speed(make_plan(tokens=[80], directions=["fwd"]), device="cpu", out=out)
        other = self.save(tmp_path / "b.safetensors", tokens=80, seed=1)
        plan = make_plan(tokens=[80], inputs=[file, other], directions=["fwd"])
        records = run_speed(plan, device="cpu", out=out, resume=True)
        assert records[:1] == first
        assert len({record.workload.inputs for record in records}) == len(records) == 3
        assert run_speed(plan, device="cpu", out=out, resume=True) == records

    @pytest.mark.parametrize("change", [{"heads": 4}, {"kv_heads": 2}, {"head_dim": 32}, {"compression_block": 8}])
    def test_a_file_of_another_shape_says_which_options_fit(self, change: dict[str, int], file: Path) -> None:
        fitting = "--heads 2 --kv-heads 1 --head-dim 16 --compression-block 4"
        with pytest.raises(ValueError, match=f"a.safetensors holds inputs of another shape; measure it with {fitting}"):
            run_speed(make_plan(shape=SHAPE.model_copy(update=change), inputs=[file]), device="cpu")

    def test_records_from_before_captured_inputs_are_random(self, register: Register, tmp_path: Path) -> None:
        register()
        (record,) = run_speed(make_plan(directions=["fwd"]), device="cpu")
        line = record.model_dump_json()
        assert '"inputs":"random",' in line
        (tmp_path / "old.jsonl").write_text(line.replace('"inputs":"random",', ""))
        assert read_records(tmp_path / "old.jsonl") == [record]


class TestResume:
    @pytest.fixture
    def first(self, register: Register, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Record]:
        """Records of one size, made by a clean commit."""
        register()
        commit(monkeypatch, "a" * 40)
        return run_speed(make_plan(), device="cpu", out=tmp_path / "speed.jsonl")

    def test_what_this_commit_measured_is_kept(self, first: list[Record], tmp_path: Path) -> None:
        again = run_speed(make_plan(tokens=[64, 72]), device="cpu", out=tmp_path / "speed.jsonl", resume=True)
        assert again[:3] == first
        assert [record.workload.tokens for record in again[3:]] == [72, 72, 72]
        assert again[3].run_id != first[0].run_id

    def test_another_commit_replaces_it(
        self, first: list[Record], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        commit(monkeypatch, "b" * 40)
        again = run_speed(make_plan(), device="cpu", out=tmp_path / "speed.jsonl", resume=True)
        assert [record.environment.git_commit for record in again] == ["b" * 40] * 3

    @pytest.mark.parametrize(("name", "dirty"), [("a" * 40, True), (None, False)])
    def test_local_changes_or_an_unknown_commit_keep_nothing(
        self, first: list[Record], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str | None, dirty: bool
    ) -> None:
        commit(monkeypatch, name, dirty=dirty)
        again = run_speed(make_plan(), device="cpu", out=tmp_path / "speed.jsonl", resume=True)
        assert {record.run_id for record in again}.isdisjoint({record.run_id for record in first})

    def test_other_shapes_and_providers_stay_in_the_file(
        self, first: list[Record], register: Register, tmp_path: Path
    ) -> None:
        register("dense-other")
        plan = make_plan(providers=["dense-other"])
        again = run_speed(plan, device="cpu", out=tmp_path / "speed.jsonl", resume=True)
        assert again[:3] == first
        assert [record.provider for record in again[3:]] == ["dense-other"] * 3

    def test_a_pass_that_is_missing_is_measured(self, first: list[Record], tmp_path: Path) -> None:
        out = tmp_path / "speed.jsonl"
        out.write_text(first[0].model_dump_json() + "\n")
        again = run_speed(make_plan(), device="cpu", out=out, resume=True)
        assert [record.direction for record in again] == ["fwd", "bwd", "fwd_bwd"]

    def test_without_resume_the_file_is_replaced(self, first: list[Record], tmp_path: Path) -> None:
        again = run_speed(make_plan(tokens=[72]), device="cpu", out=tmp_path / "speed.jsonl")
        assert [record.workload.tokens for record in again] == [72] * 3
        assert read_records(tmp_path / "speed.jsonl") == again


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": []}, "tokens must not be empty"),
        ({"workloads": []}, "workloads must not be empty"),
        ({"workloads": [], "inputs": [Path("missing.safetensors")]}, "missing.safetensors: not a readable"),
        ({"tokens": [0]}, "tokens must be positive"),
        ({"providers": ["no-such"]}, "provider 'no-such' is unknown; known: ssa-triton"),
        ({"workloads": ["torus"]}, "torus"),
        (
            {"shape": SHAPE.model_copy(update={"kv_heads": 3})},
            "heads must be a multiple of kv_heads=3, at most 32 times it, got 2",
        ),
        ({"shape": SHAPE.model_copy(update={"topk": 0})}, "topk must be positive"),
        ({"shape": SHAPE.model_copy(update={"selection_block": 6})}, "selection_block must be a multiple"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(changes: dict[str, object], message: str, register: Register) -> None:
    register()
    with pytest.raises(ValueError, match=message):
        run_speed(make_plan(**changes), device="cpu")


def test_the_papers_plan_has_the_papers_shape() -> None:
    plan = paper_plan("cuda")
    assert plan.tokens == (8192, 16384, 32768, 65536, 131072)
    assert (plan.shape.heads, plan.shape.kv_heads, plan.shape.head_dim, plan.shape.topk) == (32, 2, 32, 8)
    assert (plan.shape.compression_block, plan.shape.selection_block, plan.shape.window) == (4, 8, 8)
    assert plan.shape.dtype == "bfloat16"
    small = paper_plan("cpu")
    assert small.shape == plan.shape.model_copy(update={"dtype": "float32"})
    assert max(small.tokens) <= 4096
