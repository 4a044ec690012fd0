"""Where measurements were made, and how two such places differ."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from bench.records import Environment, Record
from reports import formatting
from reports.markup import Cell, Table
from reports.study import Study, commit_name

_UNKNOWN = "not readable"
# What a difference does, the gravest first.
_EFFECTS = ("not comparable", "casts doubt", "the code", "its own baseline", "harmless")
_COMPARABLE = {"device", "driver", "torch", "triton"}  # all of a fingerprint but Python and threads, see `_effect`
_CLOCKS = {"power_limit_w", "throttle_reasons"}
_CODE = {"ssabench", "git_commit", "git_dirty"}
_NAMES = {
    "device_type": "Kind of device",
    "sm_clock_mhz": "SM clock at start, MHz",
    "max_sm_clock_mhz": "Highest SM clock, MHz",
    "power_limit_w": "Power limit, W",
    "temperature_c": "Temperature at start, °C",
    "cuda": "CUDA",
    "cpu": "CPU",
    "cpu_cores": "CPU cores",
    "os": "System",
    "torch": "PyTorch",
    "ssabench": "ssabench",
    "git_commit": "Commit",
    "git_dirty": "Uncommitted changes",
}


def environment_table(environment: Environment) -> Table:
    """Where it ran; fields that could not be read say so."""
    rows = [("Device", environment.device)]
    if environment.device_type == "cuda":
        memory = environment.device_memory_bytes
        clock, fastest = environment.sm_clock_mhz, environment.max_sm_clock_mhz
        reasons = environment.throttle_reasons
        power, temperature = environment.power_limit_w, environment.temperature_c
        rows += [
            ("Compute capability", environment.compute_capability or _UNKNOWN),
            ("Device memory", f"{memory / 2**30:.1f} GiB" if memory else _UNKNOWN),
            ("Multiprocessors", str(environment.multiprocessors or _UNKNOWN)),
            ("Driver", environment.driver or _UNKNOWN),
            ("CUDA", environment.cuda or _UNKNOWN),
            ("SM clock at start", f"{clock} of {fastest or 'unknown'} MHz" if clock else _UNKNOWN),
            ("Power limit", f"{power:.0f} W" if power else _UNKNOWN),
            ("Temperature", f"{temperature} °C" if temperature is not None else _UNKNOWN),
            ("Throttle reasons", _UNKNOWN if reasons is None else ", ".join(reasons) or "none"),
        ]
    packages = [f"{package} {version}" for package, version in sorted(environment.packages.items())]
    rows += [
        ("CPU", f"{environment.cpu}, {environment.cpu_cores} cores, {environment.threads} threads used"),
        ("System", environment.os),
        ("Python", environment.python),
        ("PyTorch", environment.torch),
        ("Triton", environment.triton or "not installed"),
        ("Optional baselines", ", ".join(packages) or "none found"),
        ("ssabench", environment.ssabench),
        ("Fingerprint", environment.fingerprint),
    ]
    return Table(
        id="environment",
        title="Environment",
        header=["", ""],
        rows=[[Cell(field), Cell(value)] for field, value in rows],
        prose=frozenset({1}),
    )


def environments_table(studies: Sequence[Study]) -> Table:
    """How the environments of a report's records differ; no rows where there is only one.

    Machines and installations are told apart by fingerprint and commit; the newest record of each speaks for it.
    """
    newest: dict[tuple[str, str], Record] = {}
    where: dict[tuple[str, str], list[int]] = {}
    for study in studies:
        for record in study.records:
            key = (record.environment.fingerprint, commit_name(record.environment))
            if key not in newest or record.created > newest[key].created:
                newest[key] = record
            if study.number not in where.setdefault(key, []):
                where[key].append(study.number)
    keys = sorted(newest, key=lambda key: newest[key].created)
    sides = {chr(ord("A") + i): newest[key].environment for i, key in enumerate(keys)}
    table = difference_table(sides)
    if table.rows:
        studies_row = [", ".join(map(str, where[key])) for key in keys]
        table.rows.insert(0, [Cell("In studies"), *map(Cell, studies_row), Cell("")])
    return table


def difference_table(sides: Mapping[str, Environment]) -> Table:
    """Every field that is not the same in all environments, and what that does; the gravest first."""
    found: list[tuple[str, str, list[str]]] = []  # effect, name, values
    for field in Environment.model_fields:
        values = [getattr(environment, field) for environment in sides.values()]
        if field == "packages":
            for package in sorted({name for packages in values for name in packages}):
                versions = [packages.get(package, "not found") for packages in values]
                found.append(("its own baseline", package, versions))
        else:
            name = _NAMES.get(field, field.replace("_", " ").capitalize())
            found.append((_effect(field, sides.values()), name, [_shown(field, value) for value in values]))
    differing = [row for row in found if len(set(row[2])) > 1]
    differing.sort(key=lambda row: _EFFECTS.index(row[0]))
    return Table(
        id="environments",
        title="Differences between environments",
        header=["", *sides, "Effect"],
        rows=[[Cell(name), *map(Cell, values), Cell(effect)] for effect, name, values in differing],
        caption="Not comparable: times across it may differ for any reason. Casts doubt: clocks may have differed. The "
        "code: the change that is looked at. Its own baseline: other versions of a package concern only what runs it. "
        "Harmless: says where and when, and does not enter the fingerprint.",
        prose=frozenset(range(1, len(sides) + 2)),
    )


def _effect(field: str, environments: Collection[Environment]) -> str:
    if field == "fingerprint" or field in _COMPARABLE:
        return "not comparable"
    if field == "python":
        minor = {".".join(environment.python.split(".")[:2]) for environment in environments}
        return "not comparable" if len(minor) > 1 else "harmless"
    if field == "threads":
        on_cpu = any(environment.device_type == "cpu" for environment in environments)
        return "not comparable" if on_cpu else "harmless"
    if field in _CLOCKS:
        return "casts doubt"
    return "the code" if field in _CODE else "harmless"


def _shown(field: str, value: object) -> str:
    if value is None:
        return _UNKNOWN
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return formatting.join(value) if value else "none"
    if field == "device_memory_bytes" and isinstance(value, int):
        return f"{value / 2**30:.1f} GiB"
    if field == "git_commit":
        return str(value)[:10]
    return f"{value:g}" if isinstance(value, float) else str(value)
