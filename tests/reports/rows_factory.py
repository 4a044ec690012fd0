"""Rows of evaluations, made up."""

from __future__ import annotations

from typing import Any

from eval.protocols.protocol import load_protocol
from eval.rows import Row, Status

PROTOCOL = load_protocol("roundtrip")
SCORES = {"cd": 10.0, "f_0.01": 50.0, "f_0.005": 40.0, "f_0.001": 5.0, "nc": 0.9}


def ok(asset: str, method: str, **scores: float) -> Row:
    return _row(asset, method, "ok", scores=SCORES | scores)


def failed(asset: str, method: str, reason: str = "no prediction") -> Row:
    return _row(asset, method, "failed", reason=reason)


def unusable(asset: str, method: str, reason: str = "no triangles") -> Row:
    return _row(asset, method, "no_reference", reason=reason)


def _row(asset: str, method: str, status: Status, **found: Any) -> Row:
    return Row(
        asset=asset,
        method=method,
        status=status,
        protocol=PROTOCOL.name,
        protocol_digest=PROTOCOL.digest,
        points=PROTOCOL.points,
        seed=PROTOCOL.seed,
        pred=f"{method}/{asset}.ply",
        ref=f"ref/{asset}.ply",
        pred_sha256="0" * 64,
        ref_sha256="1" * 64,
        device="cpu",
        software={},
        seconds=1.0,
        **found,
    )
