"""Image-shape and text-shape similarity: the cosine between embeddings in one space.

Direct3D-S2's table (arXiv 2505.17412) has one column for each of ULIP-2, Uni3D and OpenShape: the mean cosine between
the input image and the generated shape, neither scaled by the logit scale nor by 100. It names no checkpoint, number of
points, colours or axes, and other papers' values of the same name differ by several times. So a value means nothing
without its `Provenance`, and `SimilarityScores` cannot be made without one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat
from torch import Tensor
from torch.nn import functional as F

from eval.encoders.checkpoint import LoadedPointEncoder
from eval.encoders.clip import Towers
from eval.encoders.clouds import NORMALISATION, ColourPolicy, prepare
from eval.encoders.images import ImagePolicy, opaque
from eval.encoders.point_encoder import embed_clouds

SCHEMA_VERSION: Final = 1


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Sampling(_Frozen):
    """How points were drawn from surfaces."""

    points: int = Field(gt=0)
    method: str  # "uniform by area"
    seed: int
    shell: Literal["all surfaces", "outer surface"]


class Provenance(_Frozen):
    """All that two similarities must share to be comparable."""

    kind: Literal["image-shape", "text-shape"]
    encoder: str
    encoder_sha256: str  # of the checkpoint
    tower: str  # architecture, by open_clip's name
    tower_weights: str  # sha256 of their file, or open_clip's tag
    sampling: Sampling
    colours: str  # what the encoder saw: "own", "constant 0.4", "none"
    axes: str
    normalisation: str
    query: str  # what became of images' transparency, or the template around texts


class SimilarityScores(_Frozen):
    """Cosines by name of the asset, and where they come from."""

    schema_version: Literal[1] = SCHEMA_VERSION
    provenance: Provenance
    cosines: dict[str, FiniteFloat] = Field(min_length=1)
    mean: FiniteFloat


@dataclass(frozen=True)
class Cloud:
    """Points of a shape [N, 3], y up, and their colours [N, 3], sRGB 0..1, if it has any."""

    points: Tensor
    colours: Tensor | None = None


def image_shape_similarity(
    encoder: LoadedPointEncoder,
    towers: Towers,
    clouds: Mapping[str, Cloud],
    images: Mapping[str, Image.Image],
    sampling: Sampling,
    *,
    colours: ColourPolicy = "constant",
    transparency: ImagePolicy = "drop alpha",
    batch_size: int = 8,
) -> SimilarityScores:
    """Between each shape and the image of the same name: Uni3D-I, ULIP-2-I, OpenShape-I.

    Args:
        sampling: how the clouds came about; it is recorded, and its number of points is checked.
        colours: the clouds' own, or the encoder's constant, for shapes without texture.

    Raises:
        ValueError: towers of another space, other names, clouds of other sizes or without the colours asked for.
    """
    _check(encoder, towers, clouds, images, sampling, colours)
    embedded = towers.embed_images([opaque(images[name], transparency) for name in clouds])
    shapes = _embed(encoder, clouds, colours, batch_size)
    return _scores(
        "image-shape", encoder, towers, clouds, paired_cosines(shapes, embedded), sampling, colours, transparency
    )


def text_shape_similarity(
    encoder: LoadedPointEncoder,
    towers: Towers,
    clouds: Mapping[str, Cloud],
    texts: Mapping[str, str],
    sampling: Sampling,
    *,
    colours: ColourPolicy = "constant",
    template: str = "{}",
    batch_size: int = 8,
) -> SimilarityScores:
    """Between each shape and the text of the same name: Uni3D-T, ULIP-2-T, OpenShape-T.

    Args:
        sampling: how the clouds came about; it is recorded, and its number of points is checked.
        colours: the clouds' own, or the encoder's constant, for shapes without texture.
        template: what stands around a text, at ``{}``; published evaluation code has the text alone.

    Raises:
        ValueError: towers of another space, other names, clouds of other sizes or without the colours asked for, or a
            template without ``{}``.
    """
    if "{}" not in template:
        raise ValueError(f"template must hold {{}}, got {template!r}")
    _check(encoder, towers, clouds, texts, sampling, colours)
    embedded = towers.embed_texts([template.replace("{}", texts[name]) for name in clouds])
    shapes = _embed(encoder, clouds, colours, batch_size)
    return _scores("text-shape", encoder, towers, clouds, paired_cosines(shapes, embedded), sampling, colours, template)


def paired_cosines(a: Tensor, b: Tensor) -> Tensor:
    """fp32 [n], between rows of a and b [n, E] in turn.

    Raises:
        ValueError: other shapes, or a row of zeros or of what is not finite.
    """
    if a.shape != b.shape or a.ndim != 2:
        raise ValueError(f"embeddings must have equal shapes [n, E], got {list(a.shape)} and {list(b.shape)}")
    return (_unit(a) * _unit(b)).sum(1)


def cosine_matrix(a: Tensor, b: Tensor) -> Tensor:
    """fp32 [n, m], between all rows of a [n, E] and b [m, E].

    Raises:
        ValueError: other shapes, or a row of zeros or of what is not finite.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"embeddings must have shapes [n, E] and [m, E], got {list(a.shape)} and {list(b.shape)}")
    return _unit(a) @ _unit(b).T


def _unit(embeddings: Tensor) -> Tensor:
    length = embeddings.float().norm(dim=1)
    if not ((length > 0) & length.isfinite()).all():
        raise ValueError("embeddings must be finite and not zero")
    return F.normalize(embeddings.float(), dim=1)


def _check(
    encoder: LoadedPointEncoder,
    towers: Towers,
    clouds: Mapping[str, Cloud],
    queries: Mapping[str, object],
    sampling: Sampling,
    colours: ColourPolicy,
) -> None:
    spec = encoder.spec
    if towers.tower != spec.tower:
        raise ValueError(f"{spec.name} is aligned with {spec.tower.architecture}, got {towers.tower.architecture}")
    if not clouds or clouds.keys() != queries.keys():
        alone = sorted(clouds.keys() ^ queries.keys())
        raise ValueError(f"clouds and what they are compared with must have equal names; alone: {', '.join(alone[:3])}")
    for name, cloud in clouds.items():
        if len(cloud.points) != sampling.points:
            raise ValueError(
                f"cloud {name!r} has {len(cloud.points)} points, not the {sampling.points} of the sampling"
            )
        if colours == "own" and cloud.colours is None:
            raise ValueError(f"cloud {name!r} has no colours of its own")


def _embed(encoder: LoadedPointEncoder, clouds: Mapping[str, Cloud], colours: ColourPolicy, batch_size: int) -> Tensor:
    policy = encoder.spec.clouds
    prepared = [prepare(cloud.points, cloud.colours if colours == "own" else None, policy) for cloud in clouds.values()]
    return embed_clouds(encoder.encoder, prepared, batch_size=batch_size)


def _scores(
    kind: Literal["image-shape", "text-shape"],
    encoder: LoadedPointEncoder,
    towers: Towers,
    names: Mapping[str, object],
    cosines: Tensor,
    sampling: Sampling,
    colours: ColourPolicy,
    query: str,
) -> SimilarityScores:
    provenance = Provenance(
        kind=kind,
        encoder=encoder.spec.name,
        encoder_sha256=encoder.sha256,
        tower=towers.tower.architecture,
        tower_weights=towers.weights,
        sampling=sampling,
        colours=encoder.spec.clouds.colour_text(colours),
        axes=encoder.spec.clouds.axes_text,
        normalisation=NORMALISATION,
        query=query,
    )
    return SimilarityScores(
        provenance=provenance,
        cosines=dict(zip(names, cosines.tolist(), strict=True)),
        mean=cosines.mean().item(),
    )
