"""The records of cells and trainings: their form, what is checked when one is read, and how older ones are upgraded.

A record is one JSON object with a ``schema``. One of an older schema is upgraded to the present form when it is read;
one of a newer schema or without what a record must have is refused with a message that says what to do. Whatever else
stands in a record is kept. Reading is checked once, by pydantic from the file's bytes: ten thousand records take well
under a second.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, Strict, ValidationError

from harness.errors import StoreError
from harness.metrics import measures
from harness.metrics.extractors import EXTRACTORS

CELL_SCHEMA = 3
"""Raised when the form of a cell's record changes; :func:`upgraded_cell` then has to know the one before."""
TRAINING_SCHEMA = 2
CURE = "move it away and run again"


Count = Annotated[int, Strict()]
Number = Annotated[float, Strict()]
Flag = Annotated[bool, Strict()]
"""Numbers and truth values as JSON has them: text in their place is damage, however much it looks like one."""


OF_NEWER_VERSION = "written by a newer version"
"""What a report says in the place of such a record's figures."""


class NewerRecord(StoreError):
    """A record that a newer version of this project has written: whole, but not for this version to read."""


class DamagedRecord(StoreError):
    """A record that is cut short, of another cell or training, or lacks what a record has."""


class Part(BaseModel):
    """Base of the records and their parts: immutable, and what it does not know is kept as it is."""

    model_config = ConfigDict(frozen=True, extra="allow", populate_by_name=True, defer_build=True)


class ReferenceRecord(Part):
    """What generated images were compared with."""

    name: str
    """``<data> <split>``, as tables have it."""
    data: str
    """Name of the data with the images' side, as ``digits 8×8``."""
    split: str
    images: Count
    id: str
    """Identity of the images' features: of the pixels (size and channels included), extractor and N."""
    fingerprint: str | None = None
    """Identity of the pixels alone."""


class MeasureRecord(Part):
    """What a number of ``values`` is called in tables, and which way is better."""

    label: str
    better: Literal["lower", "higher"] = "lower"


class SeedRecord(Part):
    """The numbers of one sampling seed's images, by name, and the standard errors of those that tell one."""

    seed: Count = 0
    values: dict[str, Number | None]
    standard_errors: dict[str, Number | None] = Field(default_factory=dict)


def psnr_of(squared_error: float) -> float:
    """Peak signal-to-noise ratio in decibels, of the mean squared error of pixels in [-1, 1]."""
    return 10 * math.log10(4 / squared_error) if squared_error > 0 else math.inf


class ReconstructionRecord(Part):
    """Images of the reference, encoded and decoded, measured as generated ones are: what perfect samples have."""

    images: Count
    squared_error: Number
    """The mean over pixels, which are in [-1, 1]."""
    values: dict[str, Number | None]
    standard_errors: dict[str, Number | None] = Field(default_factory=dict)

    @property
    def psnr(self) -> float:
        """Of all pixels together."""
        return psnr_of(self.squared_error)


class QualityRecord(Part):
    """Quality under one condition: features, N, reference."""

    features: str
    features_label: str = ""
    extractor: str = ""
    """Identity of the extractor's weights and preprocessing."""
    official: Flag = True
    """Whether its weights are the ones that the literature's figures were made with."""
    images: Count
    """Generated images per sampling seed."""
    reference: ReferenceRecord
    measures: dict[str, MeasureRecord]
    per_seed: tuple[SeedRecord, ...]
    reconstruction: ReconstructionRecord | None = None
    """Of the autoencoder whose latents are sampled; None where the networks see images."""
    kernel_subsets: dict[str, Count] = Field(default_factory=dict)
    covariance_singular: Flag = False
    """Whether there were no more images than features: the distances are a rough guide."""


class ComputeRecord(Part):
    """Multiply-adds and evaluations of one image, parameters, and what the training cost."""

    gmacs_per_image: Number | None = None
    """Of latents with their decoding."""
    decoder_gmacs_per_image: Number | None = None
    """What decoding an image's latents is of it; None where the networks see images."""
    gflops_per_image: Number | None = None
    macs_per_image: Count | None = None
    evaluations: dict[str, Count] = Field(default_factory=dict)
    """How often each network runs per image, as it was counted."""
    refreshes: Count | None = None
    """Runs of the heavy part per image; None for a network that runs whole at every step."""
    refresh_interval: Number | None = None
    """Steps from one refresh to the next: as set, or on average."""
    steps: Count | None = None
    """Of a schedule that was found: how many there are."""
    times: tuple[Number, ...] | None = None
    """Where they begin."""
    refresh_steps: tuple[Count, ...] | None = None
    """Which of them refresh."""
    gmacs_per_evaluation: dict[str, Number] = Field(default_factory=dict)
    parameters: dict[str, Count] = Field(default_factory=dict)
    training_gmacs_per_step: Number | None = None
    training_steps: Count | None = None
    training_gmacs_inherited: Number | None = None
    """Of the trainings that its training started from, the whole chain: 0 without a start, None where not known."""


class TimingConditions(Part):
    """What the system reported while times were taken."""

    yardstick_seconds: tuple[Number, ...] = ()
    """A fixed piece of work on the device, before and after."""
    others_share: Number | None = None
    waiting_share: Number | None = None
    """How many of the process's threads waited for a processor on average; may exceed 1."""


class TimeRecord(Part):
    """Seconds per image, and the conditions that they hold for."""

    seconds_per_image: Number | None = None
    """Of latents with their decoding."""
    decoder_seconds_per_image: Number | None = None
    """What decoding an image's latents is of it; None where the networks see images."""
    decoder_latency_seconds: Number | None = None
    seconds_per_image_quartiles: tuple[Number | None, ...] | None = None
    latency_seconds: Number | None = None
    latency_seconds_quartiles: tuple[Number | None, ...] | None = None
    device: str | None = None
    dtype: str | None = None
    compiled: Flag = False
    cuda_graphs: Flag | None = None
    threads: Count | None = None
    batch: Count | None = None
    warmup: Count | None = None
    repeats: Count | None = None
    images_per_second: Number | None = None
    share: dict[str, Number] = Field(default_factory=dict)
    latency_share: dict[str, Number] = Field(default_factory=dict)
    peak_memory_bytes: Count | None = None
    peak_memory_of: str | None = None
    trusted: Flag | None = None
    """Whether the machine was quiet meanwhile; None where that was not watched."""
    reasons: tuple[str, ...] = ()
    """Why the times are not to be trusted."""
    conditions: TimingConditions | None = None


class Provenance(Part):
    """What made a result: commit, versions, device, job."""

    commit: str | None = None
    dirty: Flag | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    host: str | None = None
    slurm_job_id: str | None = None
    started: Number | None = None
    finished: Number | None = None
    seconds: Number | None = None
    ranks: Count | None = None
    weights_sha256: str | None = None
    training_device: str | None = None
    training_images_per_second: Number | None = None
    training_seconds: Number | None = None
    """Of the training's own steps, over all its runs."""
    training_others_share: Number | None = None
    """Share of the processors that other processes took meanwhile."""
    training_seconds_inherited: Number | None = None
    """Of the trainings that it started from: 0 without a start, None where not known."""
    training_chain: tuple[str, ...] = ()
    """Their ids, the nearest first."""
    method_source: dict[str, Any] | None = None
    """Of a method that is not the project's own: ``sha256`` of its source, and the ``files`` that it is of."""
    timed: dict[str, Any] | None = None
    """Provenance of the times, where they were taken again later."""


class LatentsRecord(Part):
    """The autoencoder whose latents networks are trained on."""

    autoencoder: str
    """Its class."""
    digest: str
    """Of its configuration and weights."""
    shape: tuple[Count, ...]
    """(channels, side, side) of an image's latents."""
    posterior: Literal["mean", "sample"] | None = None
    """Of one that encodes to a distribution, what training sees."""


class DataRecord(Part):
    """The data that the training saw."""

    name: str
    """With the images' side, as ``digits 8×8``."""
    size: Count | None = None
    channels: Count | None = None
    """None in records of an older form whose configuration did not name them."""
    fingerprint: str | None = None
    latents: LatentsRecord | None = None
    """None where the networks see images."""


class _Record(Part):
    """What both records share."""

    @property
    def plain(self) -> dict[str, Any]:
        """JSON values; what was never set is left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


class NoiseScheduleRecord(Part):
    """The noise schedule that a training has found, at points of the process: λ(t) is `log_snr` against `times`, the
    process's own `log_snr` against `process_times`."""

    kind: str
    knots: Count
    process_times: tuple[Number, ...]
    times: tuple[Number, ...]
    """The schedule's own, rising from 0 to 1."""
    log_snr: tuple[Number, ...]
    """Falling."""
    variance: Number | None = None
    """Of one image's loss, near the end of the training."""
    variance_fixed: Number | None = None
    """What it would have been with noise levels drawn evenly in the process's time."""


class CellRecord(_Record):
    """Everything that was measured of one cell."""

    schema_: Literal[3] = Field(alias="schema")
    id: str
    training: str = "?"
    config: dict[str, Any]
    """The resolved experiment as plain values."""
    data: DataRecord
    quality: QualityRecord
    compute: ComputeRecord
    time: TimeRecord | None
    provenance: Provenance
    samples: str | None = None
    """Where the first images lie, relative to the folder of results."""
    noise_schedule: NoiseScheduleRecord | None = None
    """That of its training; None for the fixed one."""

    @property
    def seed(self) -> int:
        """Of the training."""
        return int(self.config.get("seed", 0))


class InheritedCost(Part):
    """What the trainings took that another has started from, the whole chain together; None is not known."""

    gmacs: Number | None = None
    seconds: Number | None = None
    trainings: tuple[str, ...] = ()
    """Their ids, the nearest first."""


NOTHING_INHERITED = InheritedCost(gmacs=0.0, seconds=0.0, trainings=())
"""Of a training that has started from random weights."""


class SelectedWeights(Part):
    """A network that began its training with a part of another's weights."""

    source: str
    """The other."""
    tensors: Count
    """In how many of its tensors."""
    weights: Count
    of: Count
    """How many of its weights, of how many."""


class TrainingRecord(_Record):
    """What a training that has ended leaves beside its weights (``done.json``)."""

    schema_: Literal[2] = Field(alias="schema")
    training: str
    steps: Count
    data: str = ""
    weights_bytes: Count
    weights_sha256: str | None = None
    ranks: Count = 1
    device: str | None = None
    precision: str = "float32"
    seconds_of_last_run: Number | None = None
    steps_of_last_run: Count | None = None
    seconds: Number | None = None
    """Of all its runs together; None in records of schema 1."""
    others_share: Number | None = None
    """Share of the processors that other processes took meanwhile; None where the system does not tell."""
    inherited: InheritedCost | None = None
    """None in records of schema 1."""
    images_per_second: Number | None = None
    provenance: Provenance = Provenance()
    noise_schedule: NoiseScheduleRecord | None = None
    """None for the fixed one."""
    selected: dict[str, SelectedWeights] | None = None
    """By the name of the network; None where none did."""


def parse_cell(content: bytes | str | Mapping[str, Any], source: str) -> CellRecord:
    """A cell's record from JSON, or from its values, of any schema up to today's; `source` opens every message.

    Raises :class:`DamagedRecord`, or :class:`NewerRecord` for one of a newer version.
    """
    if not isinstance(content, Mapping):
        try:
            return CellRecord.model_validate_json(content)
        except ValidationError:
            content = _values(content, source)
    schema = _checked_schema(content, CELL_SCHEMA, source)
    try:
        return CellRecord.model_validate(upgraded_cell(content) if schema < CELL_SCHEMA else content)
    except ValidationError as error:
        raise DamagedRecord(f"{source}: {_first(error)}; {CURE}") from None


def parse_training(content: bytes | str, source: str) -> TrainingRecord:
    """A training's record from JSON. Raises as :func:`parse_cell` does."""
    values = {"schema": 1, **_values(content, source)}  # the first ones had no schema
    _checked_schema(values, TRAINING_SCHEMA, source)
    try:
        return TrainingRecord.model_validate({**values, "schema": TRAINING_SCHEMA})  # what 1 lacks stays unknown
    except ValidationError as error:
        raise DamagedRecord(f"{source}: {_first(error)}; {CURE}") from None


def training_record_in(folder: Path, training: str) -> TrainingRecord | None:
    """The record that `training` has left in its folder; None where there is none that can be read, or another's."""
    path = folder / "done.json"
    try:
        record = parse_training(path.read_bytes(), str(path))
    except (OSError, StoreError):
        return None
    return record if record.training == training else None


def _values(content: bytes | str, source: str) -> dict[str, Any]:
    try:
        values = json.loads(content)
    except ValueError as error:
        raise DamagedRecord(f"{source}: cannot be read ({error}); {CURE}") from None
    if not isinstance(values, dict):
        raise DamagedRecord(f"{source}: is no record; {CURE}")
    return values


def _checked_schema(values: Mapping[str, Any], newest: int, source: str) -> int:
    schema = values.get("schema")
    if not isinstance(schema, int) or isinstance(schema, bool) or schema < 1:
        raise DamagedRecord(f"{source}: is of schema {schema!r}; {CURE}")
    if schema > newest:
        raise NewerRecord(
            f"{source}: was written by a newer version of this project (schema {schema}, this one reads up to "
            f"{newest}); update the project, or {CURE}"
        )
    return schema


def _first(error: ValidationError) -> str:
    """The first problem in words."""
    problem = error.errors()[0]
    key = ".".join(map(str, problem["loc"]))
    return f"has no {key}" if problem["type"] == "missing" else f"{key}: {problem['msg']}"


def upgraded_cell(old: Mapping[str, Any]) -> dict[str, Any]:
    """A record of an older schema in the present form. What it lacks is left out: the check that follows reports it."""
    return _from_schema_2(_from_schema_1(old) if old["schema"] == 1 else old)


def _from_schema_2(old: Mapping[str, Any]) -> dict[str, Any]:
    """It did not tell what a training inherits: nothing where there was no start, else it is not known."""
    new = {**old, "schema": CELL_SCHEMA}
    if _mapping(_mapping(old.get("config")).get("train")).get("start") is None:
        for part, key in (("compute", "training_gmacs_inherited"), ("provenance", "training_seconds_inherited")):
            if isinstance(old.get(part), Mapping):
                new[part] = {**old[part], key: 0.0}
    return new


def _from_schema_1(old: Mapping[str, Any]) -> dict[str, Any]:
    new = dict(old)
    config, quality, compute = (_mapping(old.get(part)) for part in ("config", "quality", "compute"))
    if "quality" in old and isinstance(quality.get("reference"), Mapping):
        named = _Named.read(quality["reference"], _mapping(config.get("data")))
        new["quality"] = _upgraded_quality(quality, named)
        new["data"] = {"name": named.data, "size": named.size, "channels": named.channels}
    else:
        new["data"] = {"name": "?"}
    if "compute" in old:
        refreshes, interval = refreshing(_mapping(config.get("sample")))
        new["compute"] = {**compute, "refreshes": refreshes, "refresh_interval": interval}
    return new


def refreshing(sample: Mapping[str, Any]) -> tuple[int | None, float | None]:
    """(refreshes, steps from one to the next on average) as a configuration's ``sample`` sets them."""
    steps, interval = sample.get("steps"), sample.get("refresh_interval")
    listed = sample.get("refresh_steps")
    refreshes = sample.get("refreshes") if listed is None else len(listed)
    if interval is not None:
        return (None if steps is None else -(-steps // interval)), interval
    return refreshes, (steps / refreshes if refreshes and steps else None)


def _upgraded_quality(old: Mapping[str, Any], named: _Named) -> dict[str, Any]:
    kind = EXTRACTORS.get(str(old.get("features")))
    official = old.get("features") != "inception" or old.get("frechet_label", "FID") == "FID"
    seeds = [_upgraded_seed(seed) for seed in old.get("per_seed") or ()]
    label = kind.label if kind else str(old.get("features"))
    reference = {
        **old["reference"],
        "name": f"{named.data} {named.split}" if named.has_parts else named.written,
        "data": named.data,
        "split": named.split,
        "id": named.identity,
    }
    kept = {key: value for key, value in old.items() if key not in ("frechet_label", "kernel_label")}
    return {
        **kept,
        "features_label": label,
        "official": official,
        "reference": reference,
        "measures": {
            name: {
                "label": measure.label_for(label, old.get("features") == "inception" and official),
                "better": measure.better,
            }
            for name, measure in measures().items()
            if not seeds or any(name in seed["values"] for seed in seeds)
        },
        "per_seed": seeds,
    }


ERROR_SUFFIX = "_standard_error"


def _upgraded_seed(old: Mapping[str, Any]) -> dict[str, Any]:
    values = {key: value for key, value in old.items() if key != "seed" and not key.endswith(ERROR_SUFFIX)}
    errors = {key.removesuffix(ERROR_SUFFIX): value for key, value in old.items() if key.endswith(ERROR_SUFFIX)}
    return {"seed": old.get("seed", 0), "values": values, "standard_errors": errors}


SIDED = re.compile(r"(?P<stem>.+) (?P<size>\d+)×\d+")
OWN_CHANNELS = {"digits": 1, "cifar10": 3}
"""Channels of the data sets that have one number of them, where a configuration does not name them."""


class _Named(Part):
    """What a record of schema 1 calls its data and its reference."""

    written: str
    data: str
    size: int | None
    channels: int | None
    split: str
    identity: str
    has_parts: bool
    """Whether the name tells data, side and split."""

    @classmethod
    def read(cls, reference: Mapping[str, Any], data: Mapping[str, Any]) -> Self:
        """From a record's reference and the configuration's data.

        The name is ``<data> <side> <split>``, as cells write it; older records have no parts of it. Their hash does
        not cover the images' size and channels, so that both are put behind it.
        """
        written = str(reference.get("name", ""))
        whole, _, split = written.rpartition(" ")
        whole, split = str(reference.get("data") or whole), str(reference.get("split") or split)
        sided = SIDED.fullmatch(whole)
        name, size = (whole, int(sided["size"])) if sided else _from_configuration(data)
        channels = data.get("channels") or OWN_CHANNELS.get(str(data.get("name", "digits")))
        identity = str(reference.get("id") or reference.get("fingerprint") or name)
        if "data" not in reference:
            identity = f"{identity} {size} {channels}"
        return cls(
            written=written,
            data=name,
            size=size,
            channels=channels,
            split=split,
            identity=identity,
            has_parts=sided is not None,
        )


def _from_configuration(data: Mapping[str, Any]) -> tuple[str, int | None]:
    """(name with side, size) of a record whose reference does not tell them."""
    name, size = str(data.get("name")), 8 if data.get("name") == "digits" else data.get("size")
    if name == "images" and data.get("path"):
        name = Path(str(data["path"])).stem
    return (f"{name} {size}×{size}" if size and not name.endswith(f"{size}×{size}") else name), size


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def is_number(value: float | None) -> bool:
    """Whether `value` is there, and neither infinite nor nan."""
    return value is not None and math.isfinite(value)
