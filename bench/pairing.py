"""Which record of one side is the counterpart of which of the other, and whether their times may be compared."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.conditions import held_back
from bench.records import Environment, Pass, Record, Shape, Stage, Workload


@dataclass(frozen=True)
class Measured:
    """What a record measures; a record of the other side with the same is its counterpart."""

    provider: str
    stage: Stage
    direction: Pass
    workload: Workload
    shape: Shape

    @classmethod
    def of(cls, record: Record) -> Measured:
        return cls(record.provider, record.stage, record.direction, record.workload, record.shape)

    @property
    def name(self) -> str:
        """The same in every comparison, for tools that keep a history."""
        work, shape = self.workload, self.shape
        problem = f"{work.name}/{work.inputs}/{work.tokens}/batch{work.batch_size}/seed{work.seed}"
        blocks = f"c{shape.compression_block}s{shape.selection_block}w{shape.window}+{shape.window_shift}k{shape.topk}"
        heads = f"{shape.heads}x{shape.head_dim}kv{shape.kv_heads}"
        return f"{self.provider}/{self.stage}/{self.direction}/{problem}/{heads}/{blocks}/{shape.dtype}"


def newest(records: Iterable[Record]) -> dict[Measured, Record]:
    """The newest record of every measurement, in order of first appearance."""
    found: dict[Measured, Record] = {}
    for record in records:
        key = Measured.of(record)
        if key not in found or record.created >= found[key].created:
            found[key] = record
    return found


def environment_differences(a: Environment, b: Environment) -> tuple[str, ...]:
    """The fields behind two different fingerprints, "driver 570 and 580"; none where the fingerprints agree."""
    if a.fingerprint == b.fingerprint:
        return ()
    parts = [
        ("device", a.device, b.device),
        ("driver", a.driver, b.driver),
        ("torch", a.torch, b.torch),
        ("triton", a.triton, b.triton),
        ("Python", *(".".join(side.python.split(".")[:2]) for side in (a, b))),
    ]
    if "cpu" in (a.device_type, b.device_type):
        parts.append(("threads", str(a.threads), str(b.threads)))
    found = tuple(f"{name} {old} and {new}" for name, old, new in parts if old != new)
    return found or (f"fingerprint {a.fingerprint} and {b.fingerprint}",)


def flaw(base: Record, head: Record) -> str | None:
    """Why the times of the two records cannot be compared, or None.

    The clocks were held back at the start of a run or during samples that had to be kept, or the power limits differ.
    """
    for side, record in (("BASE", base), ("HEAD", head)):
        if held := held_back(record.environment.throttle_reasons):
            return f"the clocks of {side} were held back by {', '.join(held)}"
        if record.sampling is not None and record.sampling.disturbed:
            count = f"{record.sampling.disturbed} of {len(record.samples_ms)}"
            return f"the clocks of {side} were held back during {count} samples"
    limits = base.environment.power_limit_w, head.environment.power_limit_w
    if None not in limits and limits[0] != limits[1]:
        return f"power limits differ: {limits[0]:g} and {limits[1]:g} W"
    return None


def labels(measured: Sequence[Measured]) -> list[str]:
    """Names for people: of workload and shape, beyond name and tokens, only what is not the same for all."""
    facts = [
        {
            "batch": key.workload.batch_size,
            "seed": key.workload.seed,
            "inputs": key.workload.captured or "random",
            **key.shape.model_dump(),
        }
        for key in measured
    ]
    varying = [name for name in (facts[0] if facts else ()) if len({row[name] for row in facts}) > 1]
    names = []
    for key, row in zip(measured, facts, strict=True):
        stage = "" if key.stage == "total" else f" {key.stage}"
        parts = [f"{key.provider}{stage} {key.direction}", key.workload.label, f"{key.workload.tokens:,} tokens"]
        names.append(", ".join(parts + [f"{name.replace('_', ' ')} {row[name]}" for name in varying]))
    return names
