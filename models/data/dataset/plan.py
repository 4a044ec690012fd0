"""What is decided before the first mesh is loaded: order, splits, duplicates and shards."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

from models.data.dataset.manifest import Entry
from models.data.dataset.sample import Job, entry_of
from models.data.dataset.settings import Settings
from models.data.dataset.sources import Asset
from models.data.dataset.splits import Split, split_of

Progress = Callable[[str, int, int], None]  # what happens, steps done, steps in all


@dataclass(frozen=True)
class Plan:
    """Every asset is a job or settled."""

    jobs: list[Job]
    settled: dict[str, Entry]  # by key: duplicates, and what cannot be read
    order: list[str]  # keys
    assets_sha256: str

    @cached_property
    def shards(self) -> dict[str, list[Job]]:
        """Jobs by shard."""
        found: dict[str, list[Job]] = {}
        for job in self.jobs:
            found.setdefault(job.shard, []).append(job)
        return found


def make_plan(assets: list[Asset], settings: Settings, limit: int | None, progress: Progress) -> Plan:
    """The plan of a source's assets, of which the content is read and hashed.

    Args:
        limit: only the first of the plan's order.
    """
    # Not by name: every shard, and every beginning of the list, is to be a fair choice.
    assets = sorted(assets, key=lambda asset: hashlib.sha256(asset.key.encode()).digest())[:limit]
    identity = hashlib.sha256()
    jobs: list[Job] = []
    settled: dict[str, Entry] = {}
    first: dict[str, Job] = {}
    count: Counter[Split] = Counter()
    # Reading files and hashing them is what threads can do at the same time.
    with ThreadPoolExecutor() as threads:
        for number, (asset, digest) in enumerate(zip(assets, threads.map(_digest, assets), strict=True)):
            progress(f"reading {asset.key}", number, len(assets))
            split = asset.split or split_of(asset.group, settings.split)
            facts = (asset.key, asset.location, asset.caption, asset.category, asset.creator, asset.licence)
            identity.update(json.dumps([*facts, split.value, digest.sha256, digest.reason]).encode() + b"\n")
            if digest.sha256 is None:
                entry = entry_of(Job(asset, "", split, ""))
                lost = {"status": "failed", "reason": digest.reason, "source_sha256": None, "shard": None}
                settled[asset.key] = entry.model_copy(update=lost)
            elif digest.sha256 in first:
                original = first[digest.sha256]
                entry = entry_of(Job(asset, digest.sha256, original.split, ""))
                twin = {"status": "duplicate", "duplicate_of": original.asset.key, "shard": None}
                settled[asset.key] = entry.model_copy(update=twin)
            else:
                shard = f"{split.value}-{count[split] // settings.shard_size:05d}.tar"
                count[split] += 1
                job = first[digest.sha256] = Job(asset, digest.sha256, split, shard)
                jobs.append(job)
    return Plan(jobs, settled, [asset.key for asset in assets], identity.hexdigest())


@dataclass(frozen=True)
class _Digest:
    sha256: str | None
    reason: str | None = None


def _digest(asset: Asset) -> _Digest:
    if asset.geometry is None:
        return _Digest(None, asset.missing)
    try:
        return _Digest(asset.geometry.digest())
    except OSError as error:
        return _Digest(None, f"cannot be read: {error.strerror or error}")
