"""The row of one asset by one method, and the file of rows: one JSON line each, appended as they are made."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

SCHEMA_VERSION: Final = 1
FILE = "rows.jsonl"

# ok: has all scores. failed: the prediction is missing, unusable, too slow or crashed; it counts with the worst score
# of every metric. no_reference: the reference cannot be used, so the asset counts for no method.
Status = Literal["ok", "failed", "no_reference"]


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class MeshFacts(_Data):
    """What the scores do not tell of a prediction."""

    vertices: int
    faces: int
    area: float  # in squared units of the protocol's frame
    watertight: bool
    components: int
    interior_share: float | None  # of the area; None where the protocol does not look


class Row(_Data):
    """One asset by one method, with what is needed to make the scores again."""

    schema_version: Literal[1] = SCHEMA_VERSION
    asset: str
    method: str
    status: Status
    reason: str | None = None
    scores: dict[str, float] = Field(default_factory=dict)  # by the metrics' keys
    ceilings: dict[str, float] = Field(default_factory=dict)  # what samples of the reference itself would score
    facts: MeshFacts | None = None
    protocol: str
    protocol_digest: str
    points: int
    seed: int
    pred: str | None  # file, or how the prediction was made; None where there is none
    ref: str
    pred_sha256: str | None  # of that file, or of the weights that the prediction was made with
    ref_sha256: str
    scale: float | None = None  # of the transform into the protocol's frame
    device: str
    software: dict[str, str]
    seconds: float | None  # None where its process did not come to the end

    @model_validator(mode="after")
    def _scores_or_reason(self) -> Row:
        if (self.status == "ok") != bool(self.scores):
            raise ValueError(f"status {self.status} must {'have' if self.status == 'ok' else 'not have'} scores")
        if self.status != "ok" and not self.reason:
            raise ValueError(f"status {self.status} needs a reason")
        return self


def read_rows(path: Path) -> list[Row]:
    """Rows of a file; a last line that was cut short, by a run that was stopped, is left out.

    Raises:
        ValueError: another line that is no row of this schema.
    """
    rows = []
    lines = path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            rows.append(Row.model_validate_json(line))
        except ValidationError as error:
            if number == len(lines):  # no line break behind it
                break
            detail = error.errors()[0]
            where = ".".join(str(part) for part in detail["loc"])
            raise ValueError(f"{path}:{number}: not a row: {where} {detail['msg']}") from error
    return rows


def to_lines(rows: Iterable[Row]) -> str:
    """The rows as the file has them."""
    return "".join(row.model_dump_json() + "\n" for row in rows)
