"""How close a measurement comes to the ceilings of its machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bench.records import Record

Ceiling = Literal["matrix units", "exponentials", "memory"]
CEILINGS: tuple[Ceiling, ...] = ("matrix units", "exponentials", "memory")


@dataclass(frozen=True)
class Roofline:
    """Milliseconds that the work would take if one ceiling alone limited it, beside those it took."""

    milliseconds: float
    needed: dict[Ceiling, float]

    @property
    def limit(self) -> Ceiling:
        """The ceiling that is nearest."""
        return max(self.needed, key=self.needed.__getitem__)

    @property
    def floor(self) -> float:
        """Milliseconds below which no implementation of the counted work can go."""
        return self.needed[self.limit]

    def share(self, ceiling: Ceiling) -> float:
        """Of the ceiling's rate, 0 to 1."""
        return self.needed[ceiling] / self.milliseconds


def roofline(record: Record) -> Roofline | None:
    """None where the record has no time, or no ceilings, as records before version 0.1 have none."""
    ceilings = record.ceilings
    if record.summary is None or ceilings is None:
        return None
    if record.flops is None or record.bytes is None or record.exponentials is None:
        return None
    return Roofline(
        record.summary.p50,
        {
            "matrix units": record.flops / ceilings.matrix_flops_per_s * 1e3,
            "exponentials": record.exponentials / ceilings.exp2_per_s * 1e3,
            "memory": record.bytes / ceilings.copy_bytes_per_s * 1e3,
        },
    )
