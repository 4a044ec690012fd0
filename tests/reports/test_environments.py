"""How environments differ, and what that means for their times."""

from __future__ import annotations

from typing import Any

import pytest
from records_factory import CPU, GPU, cpu_sweep, gpu_sweep, timed

from bench.environment import fingerprint
from bench.pairing import environment_differences
from bench.records import Environment
from reports.environments import difference_table, environments_table
from reports.study import group

CHANGES: dict[str, Any] = {
    "device": "NVIDIA B200",
    "driver": "580",
    "torch": "2.13.0",
    "triton": "3.9.0",
    "python": "3.12.1",
    "threads": 4,
    "temperature_c": 70,
    "sm_clock_mhz": 1200,
    "power_limit_w": 500.0,
    "throttle_reasons": ["sw_power_cap"],
    "os": "Linux 7",
    "cpu": "another",
    "git_commit": "f" * 40,
}


def rows(a: Environment, b: Environment) -> dict[str, list[str]]:
    table = difference_table({"BASE": a, "HEAD": b})
    assert table.header == ["", "BASE", "HEAD", "Effect"]
    return {row[0].text: [cell.text for cell in row[1:]] for row in table.rows}


@pytest.mark.parametrize("base", [GPU, CPU], ids=["gpu", "cpu"])
@pytest.mark.parametrize("field", CHANGES)
def test_what_makes_times_incomparable_is_what_the_gate_refuses(base: Environment, field: str) -> None:
    other = base.model_copy(update={field: CHANGES[field], "fingerprint": fingerprint(changed=field)})
    refused = not environment_differences(base, other)[0].startswith("fingerprint")
    shown = rows(base, other)
    del shown["Fingerprint"]
    ((_, _, effect),) = shown.values()
    assert (effect == "not comparable") == refused


def test_harmless_differences_are_shown_and_called_so() -> None:
    warm = GPU.model_copy(update={"temperature_c": 70, "python": "3.11.10"})
    assert rows(GPU, warm) == {
        "Temperature at start, °C": ["34", "70", "harmless"],
        "Python": ["3.11.9", "3.11.10", "harmless"],
    }


def test_clocks_cast_doubt_and_the_code_is_no_difference_of_machines() -> None:
    other = GPU.model_copy(update={"throttle_reasons": ["sw_power_cap"], "git_dirty": True, "packages": {}})
    assert rows(GPU, other) == {
        "Throttle reasons": ["none", "sw_power_cap", "casts doubt"],
        "Uncommitted changes": ["no", "yes", "the code"],
        "flash-attn": ["2.8.3", "not found", "its own baseline"],
    }


def test_equal_environments_have_no_table() -> None:
    assert rows(GPU, GPU) == {}
    assert environments_table(group(gpu_sweep(tokens=(8192,)))).rows == []


def test_the_environments_of_a_report_are_told_apart_and_placed() -> None:
    newer = GPU.model_copy(update={"git_commit": "f" * 40})
    records = [
        *gpu_sweep(tokens=(8192,)),
        *cpu_sweep((512,)),
        timed("ssa-triton", 16384, "fwd", 1.0, environment=newer),
    ]
    table = environments_table(group(records))
    assert table.header[0] == ""
    assert len(table.header) == 5  # three environments and the effect
    assert sorted(cell.text for cell in table.rows[0][1:4]) == ["1", "1", "2"]
    assert table.rows[1][-1].text == "not comparable"
