"""Train, val or test: by hash, so that an asset keeps its split whatever else is in the dataset."""

from __future__ import annotations

import enum
import hashlib


class Split(enum.StrEnum):
    train = "train"
    val = "val"
    test = "test"


Shares = tuple[float, float, float]  # of train, val and test; their sum is 1


def split_of(group: str, shares: Shares) -> Split:
    """The split of all assets of a group."""
    draw = int.from_bytes(hashlib.sha256(f"split {group}".encode()).digest()[:8]) / 2**64
    if draw < shares[0]:
        return Split.train
    return Split.val if draw < shares[0] + shares[1] else Split.test
