"""Profile one pass of a provider: where its time goes, kernel by kernel, and how far that is from the machine.

A profile is for looking, not for comparing: nothing here checks the results, and profilers slow the host down. Times to
compare come from `bench.speed`.
"""

from __future__ import annotations

import gc
import multiprocessing
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import torch
from torch._functorch import config as functorch_config
from torch.profiler import ProfilerActivity, record_function
from torch.profiler import profile as torch_profile

from bench.accounting import Cost, Costs, ssa_costs
from bench.captured import load_matching
from bench.ceilings import probe
from bench.environment import capture
from bench.jobs import Job, branch_jobs, operator_job, upstream_gradient
from bench.kineto import CALL, CallTrace, DeviceWork, base_name, read_trace
from bench.ncu import NcuError, NcuLaunch, ncu_command, parse_ncu, run_ncu
from bench.occupancy import occupancy
from bench.plan import validate_shape
from bench.profiled import Profile, Rate, Row, Target, to_csv, to_json
from bench.providers import Problem, Provider, block_indices, get_provider, make_problem
from bench.records import Ceilings, Stage, write_whole
from bench.workloads import make_tokens

Progress = Callable[[str, int, int], None]
_Variant = tuple[str, int | None, int | None]  # of a kernel: name, registers and threads

CALLS: Final = 10
_WARM_UPS = 3
_PROTON_TIMEOUT_S = 300
_OUTSIDE = "outside operators"  # on a CPU: Python, and kernels in Triton's interpreter
_FILES = ("trace.json", "kernels.csv", "profile.json", "proton.hatchet", "ncu.ncu-rep", "ncu.csv")


# A compiled forward must not give its buffers away, because backward is called with the graph retained.
@functorch_config.patch(donated_buffer=False)
def profile(
    target: Target,
    out: Path,
    *,
    again: Sequence[str],
    with_ncu: bool = True,
    progress: Progress | None = None,
) -> Profile:
    """Profile a pass and write a folder: the trace, Proton's and ncu's where they run, the table, all of it as JSON.

    Args:
        out: files of an earlier profile in it are removed first; everything else is left.
        again: the command line that does `run_bare` for the same target in another process.
        with_ncu: run ncu, if there is one and a GPU.

    Raises:
        ValueError: something in the target that cannot be, or a provider that cannot run here; in one line.
    """
    steps = ("set-up", "torch profiler", "ceilings", "Proton", "ncu")

    def tell(step: str) -> None:
        if progress is not None:
            progress(step, steps.index(step), len(steps))

    tell("set-up")
    device = torch.device(target.device)
    problem, provider, job = _prepare(target)
    call = job.call(job.prepare(problem), problem.inputs, upstream_gradient(problem))
    out.mkdir(parents=True, exist_ok=True)
    for name in _FILES:
        (out / name).unlink(missing_ok=True)
    tell("torch profiler")
    recorded = _record(call, device)
    trace = _exported(recorded, out)
    write_whole(out / "trace.json", [trace])
    tell("ceilings")
    ceilings = probe(device, problem.dtype)

    notes: list[str] = []
    synchronizations: dict[str, float] = {}
    kernels: list[str] = []
    launches = 0
    if device.type == "cuda":
        found = read_trace(trace)
        if found.without_launch:
            notes.append(f"{found.without_launch} pieces of device work have no launch in the trace and are left out")
        milliseconds = sum(work.milliseconds for work in found.work) / found.calls
        if not milliseconds:
            raise ValueError("the trace holds no device work: is another profiler attached to this process?")
        rows = device_rows(
            found,
            ceilings,
            torch.cuda.get_device_capability(device),
            flops=kernel_flops(provider, problem, target.stage),
            local_bytes=_local_bytes(),
        )
        synchronizations = {name: count / found.calls for name, count in found.synchronizations.items()}
        kernels = list(dict.fromkeys(base_name(work.name) for work in found.work if work.registers is not None))
        launches = sum(work.launches for work in found.work if work.registers is not None)
        torch.cuda.empty_cache()  # the other profilers run in processes of their own
        tell("Proton")
        notes += _record_proton(target, out)
    else:
        rows, milliseconds = _host_rows(recorded)
        notes.append("no GPU: neither kernels nor Proton nor ncu")
    command = ncu_command(again, kernels, -(-launches // CALLS) or None, out / "ncu")
    tell("ncu")
    measured: list[NcuLaunch] = []
    if device.type == "cuda" and with_ncu:
        try:
            details = run_ncu(command, out / "ncu")
            measured = parse_ncu(details)
            write_whole(out / "ncu.csv", [details])
        except (NcuError, ValueError) as error:
            notes.append(f"no counters of ncu: {error}")
    if progress is not None:
        progress("done", len(steps), len(steps))

    write_whole(out / "kernels.csv", [to_csv(rows)])
    result = Profile(
        target=target,
        implementation=provider.implementation(problem),
        workload=problem.workload,
        environment=capture(device),
        calls=CALLS,
        milliseconds=milliseconds,
        rows=tuple(rows),
        rates=_rates(job.cost, ceilings, milliseconds),
        synchronizations=synchronizations,
        ncu=tuple(command),
        launches=tuple(measured),
        notes=tuple(notes),
        files=tuple(out / name for name in _FILES if (out / name).exists() or name == "profile.json"),
    )
    write_whole(out / "profile.json", [to_json(result)])
    return result


@functorch_config.patch(donated_buffer=False)
def run_bare(target: Target) -> None:
    """Warm up, then one call between cudaProfilerStart and cudaProfilerStop, for ncu and other profilers.

    Raises:
        ValueError: as `profile`, or no GPU.
    """
    device = torch.device(target.device)
    if device.type != "cuda":
        raise ValueError("a bare run is for profilers of a GPU, and this is a CPU")
    problem, _, job = _prepare(target)
    call = job.call(job.prepare(problem), problem.inputs, upstream_gradient(problem))
    _warm_up(call, device)
    with torch.cuda.device(device), torch.cuda.profiler.profile():
        call()
        torch.cuda.synchronize(device)


def _prepare(target: Target) -> tuple[Problem, Provider, Job]:
    """The problem as the provider sees it, and the pass to profile."""
    validate_shape(target.shape)
    provider = get_provider(target.provider)
    if target.inputs is not None:
        problem = make_problem(
            load_matching(target.inputs, target.shape), target.shape, device=target.device, seed=target.seed
        )
    else:
        tokens = make_tokens(target.workload, target.tokens)
        problem = make_problem(tokens, target.shape, device=target.device, seed=target.seed)
    reason = provider.unavailable(problem)
    if reason is not None:
        raise ValueError(f"provider {provider.name} cannot run here: {reason}")
    problem = provider.adapt(problem)
    if target.stage == "total":
        return problem, provider, operator_job(provider, problem, target.direction)
    if provider.branches is None:
        raise ValueError(f"provider {provider.name} has no branches to profile apart; profile total")
    jobs = [job for job in branch_jobs(provider, problem, [target.direction]) if job.stage == target.stage]
    if not jobs:
        raise ValueError(f"branch {target.stage} has no pass {target.direction}: fwd, and bwd but for select")
    return problem, provider, jobs[0]


def _warm_up(call: Callable[[], object], device: torch.device) -> None:
    for _ in range(_WARM_UPS):
        call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _record(call: Callable[[], object], device: torch.device) -> torch_profile:
    """`CALLS` marked calls under torch's profiler, each with a cold L2 as in `bench.timing`."""
    _warm_up(call, device)
    if device.type == "cpu":
        with torch_profile(activities=[ProfilerActivity.CPU]) as recorded:
            for _ in range(CALLS):
                with record_function(CALL):
                    call()
        return recorded
    cache_bytes = torch.cuda.get_device_properties(device).L2_cache_size
    flush = torch.empty(2 * cache_bytes, dtype=torch.int8, device=device)
    with (
        torch.cuda.device(device),
        torch_profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as recorded,
    ):
        for _ in range(CALLS):
            flush.zero_()
            torch.cuda.synchronize(device)
            with record_function(CALL):
                call()
            torch.cuda.synchronize(device)
    return recorded


def _exported(recorded: torch_profile, folder: Path) -> bytes:
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        path = Path(scratch) / "trace.json"
        recorded.export_chrome_trace(str(path))
        return path.read_bytes()


def _record_proton(target: Target, out: Path) -> list[str]:
    """Write Proton's profile of the calls; else a note that says why not.

    In a process of its own: a process has one subscriber to CUPTI, and torch's profiler stays subscribed.
    """
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(dir=out) as scratch:
        receiver, sender = context.Pipe(duplex=False)
        name = str(Path(scratch) / "proton")
        child = context.Process(target=_answer_for_proton, args=(sender, target, name), daemon=True)
        child.start()
        sender.close()  # the child has the only one now, so its death ends the wait
        try:
            reason = receiver.recv() if receiver.poll(_PROTON_TIMEOUT_S) else f"no answer in {_PROTON_TIMEOUT_S} s"
        except EOFError:
            reason = "its process died"
        child.join(timeout=10)
        child.kill()
        if reason is not None:
            return [f"no profile by Proton: {reason}"]
        write_whole(out / "proton.hatchet", [Path(f"{name}.hatchet").read_bytes()])
    return []


def _answer_for_proton(sender: Connection, target: Target, name: str) -> None:
    """Send None once the profile is written, else why it is not, in one line."""
    reason = None
    try:
        _run_proton(target, name)
    except Exception as error:  # an extra view must not cost the others
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    sender.send(reason)


@functorch_config.patch(donated_buffer=False)
def _run_proton(target: Target, name: str) -> None:
    import triton.profiler as proton

    device = torch.device(target.device)
    problem, _, job = _prepare(target)
    call = job.call(job.prepare(problem), problem.inputs, upstream_gradient(problem))
    _warm_up(call, device)
    with torch.cuda.device(device):
        proton.start(name)
        for _ in range(CALLS):
            with proton.scope(f"{target.stage} {target.direction}"):
                call()
        torch.cuda.synchronize(device)
        proton.finalize()


def device_rows(
    trace: CallTrace,
    ceilings: Ceilings,
    capability: tuple[int, int],
    *,
    flops: Mapping[str, float],
    local_bytes: Mapping[_Variant, int],
) -> list[Row]:
    """The device work of a trace, in its order.

    Args:
        flops: of a kernel's matrix products in a call, by its base name.
        local_bytes: of local memory a thread, by name, registers and threads.
    """
    total = sum(work.milliseconds for work in trace.work)
    variants = Counter(base_name(work.name) for work in trace.work)
    rows = []
    for work in trace.work:
        name = base_name(work.name)
        # Of several variants of a kernel it is not known which computes which part.
        rate = None
        if name in flops and variants[name] == 1:
            rate = flops[name] * trace.calls / work.milliseconds * 1e3
        rows.append(
            Row(
                name=work.name,
                launches=work.launches / trace.calls,
                milliseconds=work.milliseconds / trace.calls,
                share=work.milliseconds / total,
                programs=work.programs,
                threads=work.threads,
                registers=work.registers,
                local_bytes=local_bytes.get((work.name, work.registers, work.threads)),
                shared_bytes=work.shared_bytes,
                **_resident(work, capability),
                flops_per_s=rate,
                matrix_share=None if rate is None else rate / ceilings.matrix_flops_per_s,
            )
        )
    return rows


def _resident(work: DeviceWork, capability: tuple[int, int]) -> dict[str, Any]:
    if work.threads is None or work.registers is None or work.shared_bytes is None:
        return {}
    found = occupancy(capability, threads=work.threads, registers=work.registers, shared_bytes=work.shared_bytes)
    if found is None:
        return {}
    return {
        "resident_programs": found.programs,
        "resident_warps": found.warps,
        "most_warps": found.most_warps,
        "limited_by": " and ".join(found.limits),
    }


def _local_bytes() -> dict[_Variant, int]:
    """Bytes of local memory a thread of the Triton kernels in this process, by name, registers and threads.

    Asked of all compiled kernels there are, because neither a kernel's cache of variants nor Inductor's kernels have a
    public list.
    """
    from triton.compiler import CompiledKernel

    found: dict[_Variant, int] = {}
    for kernel in gc.get_objects():
        # isinstance would run the __class__ of every lazy object there is.
        if type(kernel) is CompiledKernel and kernel.module is not None:
            key = (kernel.name, kernel.n_regs, kernel.metadata.num_warps * 32)
            # Triton divides the bytes by four.
            found[key] = max(4 * kernel.n_spills, found.get(key, 0))
    return found


def kernel_flops(provider: Provider, problem: Problem, stage: Stage) -> dict[str, float]:
    """FLOPs of the matrix products that our Triton and Gluon kernels compute in a call, by kernel.

    What the kernels compute, recomputed scores included: forward QK^T and PV; dq QK^T, dO V^T and dS K; dk and dv
    QK^T, dO V^T, dS^T Q and P^T dO. `bench.accounting` counts the scores of backward once, by convention.
    """
    if provider.selection_impl != "triton":
        return {}
    costs: dict[Stage, Costs] = ssa_costs(problem.layout, block_indices(problem, "triton"), problem.shape)
    if stage == "select":
        return {"_select_blocks_kernel": costs["select"]["fwd"].flops}
    found: dict[str, float] = {}
    for branch in ("cmp", "slc", "win") if stage == "total" else (stage,):
        product = costs[branch]["fwd"].flops / 2
        for kernel, products in zip(_branch_kernels(problem, branch), (2, 3, 4), strict=True):
            found[kernel] = found.get(kernel, 0.0) + products * product
    if stage == "total":
        found["_select_blocks_kernel"] = costs["select"]["fwd"].flops
    return found


def _branch_kernels(problem: Problem, branch: Stage) -> tuple[str, str, str]:
    """The kernels of a branch: forward, dq, and dk and dv."""
    from kernels.segments import compressed_segments, selected_segments, window_segments
    from kernels.triton import hopper

    x, layout = problem.inputs, problem.layout
    k, v = (x.k_cmp, x.v_cmp) if branch == "cmp" else (x.k, x.v)
    if branch == "cmp":
        segments = compressed_segments(layout.cu_seqlens, layout.cu_compression)
    elif branch == "slc":
        segments = selected_segments(block_indices(problem, "triton"), layout.selection_offsets, 1)
    else:
        segments = window_segments(layout.window_order, layout.window_offsets)
    gradients = (x.q, x.q, k, v, x.q, segments)  # dO and the terms lie like q
    gluon_forward = branch == "slc" and hopper.supported(x.q, k, v)
    return (
        "_hopper_selected_forward_kernel" if gluon_forward else "_segment_forward_kernel",
        "_segment_dq_kernel" if hopper.dq_config(*gradients) is None else "_hopper_dq_kernel",
        "_segment_dkv_kernel" if hopper.dkv_config(*gradients) is None else "_hopper_dkv_kernel",
    )


def _host_rows(recorded: torch_profile) -> tuple[list[Row], float]:
    """Operators by their own time, and the milliseconds of a call."""
    events = {event.key: event for event in recorded.key_averages()}
    marked = events.pop(CALL)
    total = marked.cpu_time_total
    own = [(_OUTSIDE, marked.count, marked.self_cpu_time_total)]
    own += [(name, event.count, event.self_cpu_time_total) for name, event in events.items()]
    rows = [Row(name, count / CALLS, us / CALLS / 1e3, us / total) for name, count, us in own if us > 0]
    return sorted(rows, key=lambda row: -row.milliseconds), total / CALLS / 1e3


def _rates(cost: Cost, ceilings: Ceilings, milliseconds: float) -> tuple[Rate, ...]:
    seconds = milliseconds / 1e3
    return (
        Rate("matrix units", "FLOP/s", cost.flops / seconds, ceilings.matrix_flops_per_s),
        Rate("exponentials", "exp2/s", cost.exponentials / seconds, ceilings.exp2_per_s),
        Rate("memory", "B/s", cost.bytes / seconds, ceilings.copy_bytes_per_s),
    )
