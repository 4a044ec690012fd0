"""What a protocol is: frame, samples, and metrics in the order in which a table prints them.

The files beside this one hold what papers state, and say in `notes` what they leave open and was chosen here. A user's
own TOML file works as well. Rows carry a digest of the protocol, so that scores of two versions are never mixed.
"""

from __future__ import annotations

import hashlib
import math
import tomllib
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from eval.normalise import Frame, Policy
from eval.surface import Surface
from models.data.cameras import Camera, focal_of_fov, orbit

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
# points: to the other side's samples, whose spacing is in the value. surface: to the other side itself.
Target = Literal["points", "surface"]
# outer: samples only of what can be seen from outside.
Area = Literal["all", "outer"]
# Of the cube that a policy fits the reference into, or of the cube around its ball.
_SIDES: dict[str, float] = {
    "unit-cube": 1.0,
    "max-extent": 2.0,
    "mesh-rcnn": 10.0,
    "unit-sphere": 2.0,
    "centroid-sphere": 2.0,
}


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Views(_Data):
    """Cameras at one elevation that look at the middle of the reference's bounding box; a ball around it fits."""

    elevation: float
    azimuths: tuple[float, ...] = Field(min_length=1)
    fov: Positive  # degrees
    size: Count  # pixels along each side

    def cameras(self, reference: Surface) -> list[Camera]:
        """In the order of the azimuths, for a reference already in the protocol's frame."""
        low, high = reference.bounds
        x, y, z = ((low + high) / 2).tolist()
        radius = float((high - low).norm()) / 2
        focal = focal_of_fov(self.fov)
        return [
            orbit(
                self.elevation,
                azimuth,
                focal_mm=focal,
                radius=radius,
                target=(x, y, z),
                width=self.size,
                height=self.size,
            )
            for azimuth in self.azimuths
        ]


class _Metric(_Data):
    """`key` names the score in rows and CSV, `label` in tables."""

    key: str = Field(pattern=r"^[a-z0-9_.]+$")
    label: str = Field(min_length=1)

    @property
    def higher_is_better(self) -> bool:
        return True

    def worst(self, diagonal: float) -> float:
        """The score of an asset that has none.

        Args:
            diagonal: of the protocol's cube: no distance between shapes inside it is larger.
        """
        return 0.0

    @property
    def not_run(self) -> str | None:
        """Why the metric has no scores here; None for one that has."""
        return None


class _Error(_Metric):
    """A metric of which less is better."""

    @property
    def higher_is_better(self) -> bool:
        return False


class ChamferMetric(_Error):
    """A convention of `eval.chamfer`, times `scale`."""

    kind: Literal["chamfer"]
    convention: Literal["accuracy", "completeness", "sum_l1", "mean_l1", "sum_l2sq", "mean_l2sq", "mean_l2"]
    target: Target
    area: Area = "all"
    scale: Positive = 1.0

    def worst(self, diagonal: float) -> float:
        side = diagonal**2 if "l2sq" in self.convention else diagonal
        return self.scale * side * (2 if self.convention.startswith("sum") else 1)


class FScoreMetric(_Metric):
    """F-score at a threshold in units of the protocol's frame, times `scale`."""

    kind: Literal["fscore"]
    threshold: Positive
    target: Target
    area: Area = "all"
    strict: bool = False
    scale: Positive = 1.0


class HausdorffMetric(_Error):
    """A quantile of the distances, the larger of both sides; 1 is the Hausdorff distance."""

    kind: Literal["hausdorff"]
    quantile: Annotated[float, Field(gt=0, le=1)]
    target: Target
    scale: Positive = 1.0

    def worst(self, diagonal: float) -> float:
        return self.scale * diagonal


class NormalMetric(_Metric):
    """Normal consistency (`eval.normals`); degrees are the mean angle between unoriented normals."""

    kind: Literal["normals"]
    convention: Literal["signed", "absolute", "degrees"]
    target: Target

    @property
    def higher_is_better(self) -> bool:
        return self.convention != "degrees"

    def worst(self, diagonal: float) -> float:
        return {"signed": -1.0, "absolute": 0.0, "degrees": 90.0}[self.convention]


class VolumeMetric(_Metric):
    """Volumetric IoU by winding numbers (`eval.volume.volume_iou`), times `scale`."""

    kind: Literal["volume_iou"]
    points: Count
    scale: Positive = 1.0


class NormalPSNRMetric(_Metric):
    """PSNR of normal maps (`eval.normal_maps`), dB."""

    kind: Literal["normal_psnr"]
    views: Views


class SharpNormalMetric(_Error):
    """Sharp normal error (`eval.sharp_normals`) from views evenly around the shape, times `scale`."""

    kind: Literal["sharp_normal_error"]
    views: Count
    size: Count
    scale: Positive = 1.0

    def worst(self, diagonal: float) -> float:
        return 4 * self.scale  # opposite normals everywhere


class NormalLPIPSMetric(_Error):
    """Perceptual distance of normal maps."""

    kind: Literal["normal_lpips"]
    views: Views

    @property
    def not_run(self) -> str | None:
        return "needs the published weights of LPIPS and of its VGG16, which are not part of ssabench"


class MeasuredLPIPSMetric(_Error):
    """Perceptual distance of normal maps, by weights that are here.

    `eval.lpips_column` puts it into a protocol, with the digest of the weights. A failed asset counts with `bound`,
    which no distance exceeds.
    """

    kind: Literal["measured_normal_lpips"]
    views: Views
    provenance: str
    bound: Positive

    def worst(self, diagonal: float) -> float:
        return self.bound


class NormalFIDMetric(_Error):
    """Frechet distance of image features of paired normal maps (`eval.normal_maps.paired_normal_maps`): of a set."""

    kind: Literal["normal_fid"]
    views: Views

    @property
    def not_run(self) -> str | None:
        return "needs published weights of Inception v3; ssabench renders the paired normal maps"


class SimilarityMetric(_Metric):
    """Cosine between features of a shape and of an image or a caption."""

    kind: Literal["similarity"]
    encoder: Literal["ulip-2", "uni3d", "openshape"]
    query: Literal["image", "text"]

    @property
    def not_run(self) -> str | None:
        return f"needs published weights of {self.encoder} and one {self.query} for each asset"


class MeasuredSimilarityMetric(_Metric):
    """Cosine between a shape and its image, by an encoder whose weights are here.

    `eval.similarity_columns` puts it into a protocol, with the digest of all that the cosines depend on. A failed asset
    counts as the opposite of its image.
    """

    kind: Literal["measured_similarity"]
    encoder: str
    provenance: str

    def worst(self, diagonal: float) -> float:
        return -1.0


Metric = Annotated[
    ChamferMetric
    | FScoreMetric
    | HausdorffMetric
    | NormalMetric
    | VolumeMetric
    | NormalPSNRMetric
    | SharpNormalMetric
    | NormalLPIPSMetric
    | MeasuredLPIPSMetric
    | NormalFIDMetric
    | SimilarityMetric
    | MeasuredSimilarityMetric,
    Field(discriminator="kind"),
]


class Protocol(_Data):
    """How shapes are brought into one frame and sampled, and what is measured."""

    name: str
    title: str
    source: str
    notes: tuple[str, ...] = ()  # what the source leaves open, and was chosen here
    normalisation: Policy
    frame: Frame = "reference"
    side: Positive | None = None  # of the cube that shapes lie in; only without normalisation
    points: Count  # on each side
    seed: int = 0  # of the prediction's samples; the reference's is the next
    metrics: tuple[Metric, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> Protocol:
        if (self.side is None) != (self.normalisation != "none"):
            raise ValueError('side must be given with normalisation "none", and with no other')
        keys = [metric.key for metric in self.metrics]
        if len(set(keys)) < len(keys):
            raise ValueError(f"metrics must have different keys, got {', '.join(keys)}")
        if all(metric.not_run for metric in self.metrics):
            raise ValueError("metrics must have one that runs here")
        return self

    @property
    def diagonal(self) -> float:
        """Of the cube that references lie in: what a failed asset counts as distance."""
        return math.sqrt(3) * (self.side or _SIDES[self.normalisation])

    @property
    def scored(self) -> tuple[Metric, ...]:
        """The metrics that run here."""
        return tuple(metric for metric in self.metrics if metric.not_run is None)

    @property
    def uses_outer_area(self) -> bool:
        return any(getattr(metric, "area", "all") == "outer" for metric in self.scored)

    @property
    def digest(self) -> str:
        """Of all that can change a score; texts can not."""
        text = self.model_dump_json(exclude={"title", "source", "notes"})
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def protocol_names() -> tuple[str, ...]:
    """Names of the protocols that come with the package, sorted."""
    folder = resources.files("eval").joinpath("protocols")
    return tuple(sorted(item.name.removesuffix(".toml") for item in folder.iterdir() if item.name.endswith(".toml")))


def load_protocol(name_or_path: str) -> Protocol:
    """A protocol by name, or from a TOML file of one's own.

    Raises:
        ValueError: neither, or a file that is no protocol.
    """
    if name_or_path in protocol_names():
        text = resources.files("eval").joinpath("protocols", f"{name_or_path}.toml").read_text(encoding="utf-8")
    elif Path(name_or_path).is_file():
        text = Path(name_or_path).read_text(encoding="utf-8")
    else:
        raise ValueError(f"protocol must be one of {', '.join(protocol_names())}, or a TOML file, got {name_or_path!r}")
    try:
        protocol = Protocol.model_validate(tomllib.loads(text))
    except ValidationError as error:
        detail = error.errors()[0]
        where = ".".join(str(part) for part in detail["loc"])
        raise ValueError(f"protocol {name_or_path!r}: {where} {detail['msg']}".replace("  ", " ")) from None
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"protocol {name_or_path!r} is not TOML: {error}") from None
    for metric in protocol.metrics:
        if isinstance(metric, MeasuredSimilarityMetric | MeasuredLPIPSMetric):
            raise ValueError(f"protocol {name_or_path!r} must not have {metric.kind}: weights are named beside it")
    return protocol
