"""`ssabench info`: this machine, and which providers can run on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cli.options import DeviceOption, resolve_device
from cli.output import console

if TYPE_CHECKING:
    from bench.records import Environment


def info(device: DeviceOption = None) -> None:
    """Show this machine, its software, and which providers can run here and why the others cannot.

    \b
    ssabench info
    ssabench info --device cpu
    """
    from rich.table import Table

    from bench.environment import capture, environment_line
    from bench.plan import paper_plan
    from bench.providers import get_provider, make_problem, provider_names
    from bench.workloads import make_tokens

    where = resolve_device(device)
    environment = capture(where)
    # A provider is asked about a real problem; this one is small enough for every device.
    problem = make_problem(make_tokens("sphere", 512), paper_plan(where).shape, device=where, seed=0)
    shape = problem.shape
    table = Table(
        caption=f"asked for {shape.heads} heads of width {shape.head_dim}, {shape.dtype}, forward and backward",
        caption_justify="left",
    )
    table.add_column("provider")
    table.add_column("runs here")
    table.add_column("implementation, or why not")
    for name in provider_names():
        provider = get_provider(name)
        reason = provider.unavailable(problem)
        table.add_row(name, "no" if reason else "yes", reason or provider.implementation(problem))

    out = console()
    out.print(environment_line(environment), markup=False)
    if environment.device_type == "cuda":
        out.print(_gpu_line(environment), markup=False)
    out.print(f"CPU {environment.cpu}, {environment.cpu_cores} cores; {environment.os}", markup=False)
    if environment.packages:
        found = ", ".join(f"{name} {version}" for name, version in environment.packages.items())
        out.print(f"optional packages: {found}", markup=False)
    out.print(table)


def _gpu_line(environment: Environment) -> str:
    """Size, clocks, power and temperature of the GPU, as far as the driver tells."""
    memory = environment.device_memory_bytes
    facts = [
        ("compute capability", environment.compute_capability, ""),
        ("memory", None if memory is None else round(memory / 2**30), "GiB"),
        ("multiprocessors", environment.multiprocessors, ""),
        ("SM clock", environment.sm_clock_mhz, "MHz"),
        ("highest SM clock", environment.max_sm_clock_mhz, "MHz"),
        ("power limit", environment.power_limit_w, "W"),
        ("temperature", environment.temperature_c, "°C"),
    ]
    return ", ".join(f"{name} {value} {unit}".rstrip() for name, value, unit in facts if value is not None)
