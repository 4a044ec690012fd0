"""The numbers of the Direct3D-S2 paper and repository, each with the place it was printed.

They live in `published.json`, one table of the source a table there; pydantic refuses a table without a source.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

_FILE = Path(__file__).with_name("published.json")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Work(_Frozen):
    """A paper version or a repository."""

    title: str = Field(min_length=1)
    url: str | None  # None where no stable address is known


class Source(_Frozen):
    """Where a table was printed."""

    work: str  # key of `Published.works`
    where: str = Field(min_length=1)  # "Table 1", "Fig. 7"


class Metric(_Frozen):
    """One column. `unit` is None for a pure number or where the source states none."""

    name: str
    unit: str | None
    better: Literal["higher", "lower"] | None  # None: descriptive


class Row(_Frozen):
    name: str
    values: list[float]  # one a metric


class PublishedTable(_Frozen):
    """One table or figure of a source, with what the source leaves open in `notes`."""

    id: str
    title: str
    source: list[Source] = Field(min_length=1)
    row_label: str
    metrics: list[Metric] = Field(min_length=1)
    rows: list[Row] = Field(min_length=1)
    notes: list[str]

    @model_validator(mode="after")
    def _rows_fit_metrics(self) -> PublishedTable:
        for row in self.rows:
            if len(row.values) != len(self.metrics):
                raise ValueError(f"row {row.name} of {self.id} needs {len(self.metrics)} values, got {len(row.values)}")
        return self

    def value(self, row: str, metric: str) -> float:
        """One number.

        Raises:
            KeyError: no such row or metric.
        """
        columns = [column.name for column in self.metrics]
        for candidate in self.rows:
            if candidate.name == row and metric in columns:
                return candidate.values[columns.index(metric)]
        raise KeyError(f"{self.id} has no number for row {row!r} and metric {metric!r}")


class Published(_Frozen):
    """Everything in `published.json`."""

    works: dict[str, Work]
    tables: list[PublishedTable]

    @model_validator(mode="after")
    def _sources_are_known(self) -> Published:
        for table in self.tables:
            for source in table.source:
                if source.work not in self.works:
                    raise ValueError(f"table {table.id} cites the unknown work {source.work!r}")
        return self

    def table(self, table_id: str) -> PublishedTable:
        """The table with this id.

        Raises:
            KeyError: no such table.
        """
        for table in self.tables:
            if table.id == table_id:
                return table
        raise KeyError(f"no published table {table_id!r}; there are {', '.join(table.id for table in self.tables)}")

    def speedups(self, direction: str) -> dict[int, float]:
        """Speedup of SSA over FlashAttention-2 by token count (arXiv 2505.17412v2, Fig. 7); empty for "fwd_bwd"."""
        table = self.table("attention_run_time")
        if direction not in [metric.name for metric in table.metrics]:
            return {}
        return {int(row.name): table.value(row.name, direction) for row in table.rows}


@cache
def load_published() -> Published:
    """The published numbers, read once."""
    return Published.model_validate_json(_FILE.read_text(encoding="utf-8"))
