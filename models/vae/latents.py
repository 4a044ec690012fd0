"""A dataset of fields to a dataset of latents: shards like those of `models.data.dataset`, one for one."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Final

import torch
from pydantic import BaseModel, ConfigDict
from safetensors.torch import load, save
from torch import Tensor

from models.data.dataset import open_dataset
from models.data.dataset.manifest import DatasetError, Entry, Member
from models.data.dataset.shards import END, encode
from models.data.dataset.splits import Split
from models.files import write_whole
from models.sparse.tensor import SparseTensor
from models.vae.batch import inputs_of
from models.vae.config import FACTOR
from models.vae.model import Posterior, SparseVAE

HEADER: Final = "latents.json"
MANIFEST: Final = "manifest.jsonl"


class LatentEntry(BaseModel):
    """The latents of one sample; its caption, licence and the rest stand in the dataset that they are of."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    split: Split
    latents: int
    shard: str
    offset: int
    member: Member


def encode_dataset(
    vae: SparseVAE,
    dataset: Path,
    out: Path,
    resolution: int,
    device: torch.device,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[LatentEntry]:
    """Encodes every sample of a dataset; whole shards that are there are kept.

    A member KEY.latent.safetensors has coords int16 [L, 3], mean and log_variance fp16 [L, latent_channels].

    Raises:
        DatasetError: no complete dataset, no fields of that resolution, or latents of another model or dataset in out.
    """
    fields = open_dataset(dataset, resolutions=[resolution], mesh=False, views=False)
    place = {entry.key: index for index, entry in enumerate(fields.entries)}
    shards: dict[str, list[Entry]] = defaultdict(list)
    for entry in sorted(fields.entries, key=lambda entry: (entry.shard or "", entry.offset or 0)):
        shards[entry.shard or ""].append(entry)
    digests = {"dataset": _digest(dataset / "dataset.json"), "weights": weights_digest(vae)}
    _claim(out, {**digests, "resolution": resolution})
    vae = vae.to(device).eval()
    found: list[LatentEntry] = []
    done = 0
    for name, entries in shards.items():
        index = out / f"{name}.jsonl"
        if index.exists() and (out / name).exists():
            found += [LatentEntry.model_validate_json(line) for line in index.read_text("utf-8").splitlines()]
            done += len(entries)
            continue
        pieces: list[bytes] = []
        lines: list[LatentEntry] = []
        offset = 0
        for entry in entries:
            if progress is not None:
                progress(entry.key, done, len(fields))
            field, _ = fields.field(place[entry.key], resolution)
            data, member, count = _encoded(vae, entry.key, inputs_of([field]).to(device))
            lines.append(
                LatentEntry(key=entry.key, split=entry.split, latents=count, shard=name, offset=offset, member=member)
            )
            pieces.append(data)
            offset += len(data)
            done += 1
        write_whole(out / name, [*pieces, END])
        write_whole(index, (line.model_dump_json() + "\n" for line in lines))
        found += lines
    write_whole(out / MANIFEST, (line.model_dump_json() + "\n" for line in found))
    if progress is not None:
        progress("done", done, len(fields))
    return found


def read_latents(folder: Path, entry: LatentEntry) -> Posterior:
    """The posterior of a sample, on the CPU."""
    with (folder / entry.shard).open("rb") as file:
        file.seek(entry.offset + entry.member.offset)
        tensors = load(file.read(entry.member.size))
    order = SparseTensor.from_coords(tensors["coords"].int(), torch.arange(len(tensors["coords"]))[:, None].double())
    index = order.feats[:, 0].long()
    return Posterior(order.replace(tensors["mean"][index].float()), tensors["log_variance"][index].float())


def read_latent_manifest(folder: Path) -> list[LatentEntry]:
    """
    Raises:
        DatasetError: no complete dataset of latents.
    """
    try:
        lines = (folder / MANIFEST).read_text("utf-8").splitlines()
    except FileNotFoundError as error:
        raise DatasetError(f"{folder} holds no finished latents: run the same ssabench encode again") from error
    return [LatentEntry.model_validate_json(line) for line in lines]


def weights_digest(vae: SparseVAE) -> str:
    """Of configuration and weights."""
    digest = hashlib.sha256(vae.config.model_dump_json().encode())
    for name, tensor in sorted(vae.state_dict().items()):
        digest.update(name.encode() + tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


@torch.no_grad()
def _encoded(vae: SparseVAE, key: str, x: SparseTensor) -> tuple[bytes, Member, int]:
    posterior = vae.encode(x)
    tensors: dict[str, Tensor] = {
        "coords": posterior.mean.coords[:, 1:].to("cpu", torch.int16).contiguous(),
        "mean": posterior.mean.feats.to("cpu", torch.float16),
        "log_variance": posterior.log_variance.to("cpu", torch.float16),
    }
    data, members = encode(key, {"latent.safetensors": save(tensors)})
    return data, members["latent.safetensors"], posterior.mean.num_voxels


def _claim(out: Path, made_with: dict[str, object]) -> None:
    """
    Raises:
        DatasetError: the folder holds latents that were made with something else.
    """
    header = out / HEADER
    made_with = {**made_with, "factor": FACTOR}
    if header.exists():
        held = json.loads(header.read_text("utf-8"))
        for name, value in made_with.items():
            if held.get(name) != value:
                raise DatasetError(f"{out} holds latents of another {name}: {held.get(name)} there, {value} now")
        return
    write_whole(header, [json.dumps(made_with, indent=2), "\n"])


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
