"""The schema of an experiment: every key that a sweep can set, with its type, range and default.

An experiment is fully resolved and immutable. :func:`parse_experiment` turns a plain mapping (from YAML) into one and
reports *all* problems at once, each with the key, the value, the choices and the nearest match.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, field_validator, model_validator

from harness.config.complaints import complaints, section_of
from harness.config.complaints import known_keys as known_keys
from harness.config.complaints import nearest as nearest
from harness.config.values import as_typed
from harness.errors import ConfigError, printable
from harness.wording import count_of
from models.limits import RHO_LIMITS, SEEDS, check_log_snr_range, check_sigma_range
from models.samplers import SAMPLERS, Option, Sampler

PositiveInt = Annotated[int, Field(ge=1, le=2**31 - 1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=SEEDS)]
Probability = Annotated[float, Field(ge=0, le=1)]
SCORE_SPLITS = 10
"""The Inception score is the mean over this many parts of the images, as in the literature."""
NEIGHBOURS = 3
"""Precision and recall take an image to reach as far as its nearest neighbour of this number, as in the literature."""
MOST_CHANNELS = 2**20
Channels = Annotated[int, Field(ge=1, le=MOST_CHANNELS)]
Factor = Annotated[float, Field(gt=0, le=1024)]
BlockCount = Annotated[int, Field(ge=1, le=256)]
TRAINING_ID = r"training:(?:unknown-)?[0-9a-f]{16}"
LevelKind = Literal["conv", "transformer"]


class Section(BaseModel):
    """Base of all sections: immutable, strict types, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def distinct(seeds: tuple[int, ...]) -> tuple[int, ...]:
    """`seeds`. Raises ValueError where one stands there twice."""
    if len(set(seeds)) != len(seeds):
        raise ValueError("has a seed twice")
    return seeds


class DataConfig(Section):
    """Which images, and at what size."""

    name: Literal["digits", "cifar10", "images"] = Field(
        "digits",
        description="scikit-learn's 8×8 digits, CIFAR-10's archive, or a folder or zip of images",
    )
    path: str | None = Field(
        None,
        description="folder or zip of the data, or CIFAR-10's archive; digits needs none. Relative to the folder the "
        "command runs in; ~ is your home",
    )
    size: PositiveInt | None = Field(None, description="side in pixels; larger images are reduced by area averaging")
    channels: Literal[1, 3] | None = Field(None, description="1 grey, 3 RGB; by default what the data set has")
    classes: PositiveInt | None = Field(
        None, description="number of classes, held against the data; costs can be counted with it without them"
    )
    label: str | None = Field(None, description="name of the data in reports; by default from the data or its path")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.name == "digits" and self.path is not None:
            raise ValueError(
                "path: the digits come with scikit-learn and take no path; for the images at this path set "
                f"data.name: {'cifar10' if 'cifar-10' in self.path.lower() else 'images'}"
            )
        if self.name != "digits" and not self.path:
            raise ValueError(f"path: {self.name} needs the path of its archive, folder or zip")
        if self.name == "digits" and self.size not in (None, 8):
            raise ValueError("size: the digits are 8×8")
        if self.name in ("digits", "cifar10") and self.classes not in (None, 10):
            raise ValueError(f"classes: {self.name} has 10")
        return self


class ModelConfig(Section):
    """The networks. Tuples have one entry per resolution level, from the highest resolution to the lowest."""

    kind: Literal["single_rate", "dual_rate"] = Field(
        "single_rate", description="one network at every step, or an encoder at refreshes and a light denoiser"
    )
    patch: PositiveInt = Field(1, description="side of a patch in pixels")
    width: Channels = Field(64, description="channels of level i are width × multipliers[i], to a multiple of 8")
    multipliers: tuple[Factor, ...] = Field((1, 2), description="channels of each level over width")
    blocks: tuple[BlockCount, ...] = Field(
        (1, 4), description="blocks per level; on all levels but the lowest this many on the way down and again up"
    )
    levels: tuple[LevelKind, ...] = Field(
        ("conv", "transformer"), min_length=1, description="kind of the blocks of each level; each halves the side"
    )
    head_width: Channels = Field(32, description="channels per attention head")
    mlp_ratio: Factor = Field(4.0, description="hidden channels of a transformer block's MLP over its channels")
    embedding: Channels | None = Field(None, description="width of the time and class embedding; 4 × width if unset")
    dropout: Probability = Field(0.0, description="dropout inside transformer blocks")
    class_conditional: bool = Field(False, description="whether the network is told each image's class")
    light_width: Factor | None = Field(None, description="dual_rate: denoiser's channels relative to the encoder's")
    light_blocks: tuple[BlockCount, ...] | None = Field(None, description="dual_rate: denoiser's blocks per level")
    light_levels: tuple[LevelKind, ...] | None = Field(
        None, description="dual_rate: denoiser's kinds; encoder's if unset"
    )
    context_channels: Channels | None = Field(
        None, description="dual_rate: channels the context is projected to, per level; the denoiser's own if unset"
    )
    context_levels: Literal["all", "last"] | None = Field(
        None, description="dual_rate: features of every level or of the last (highest resolution) only"
    )
    context_entry: Literal["level", "block"] | None = Field(
        None, description="dual_rate: context enters at the start of each level, or in each block"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        count = len(self.levels)
        for key in ("multipliers", "blocks", "light_blocks", "light_levels"):
            value = getattr(self, key)
            if value is not None and len(value) != count:
                raise ValueError(f"{key}: has {count_of(len(value), 'entry')}, but levels has {count}")
        widest = self.width * max(self.multipliers) * max(1.0, self.light_width or 1.0)
        if widest > MOST_CHANNELS:
            raise ValueError(f"width: a level would have {widest:.4g} channels, more than {MOST_CHANNELS:,}")
        only_dual = (
            "light_width",
            "light_blocks",
            "light_levels",
            "context_channels",
            "context_levels",
            "context_entry",
        )
        if self.kind == "single_rate":
            for key in only_dual:
                if getattr(self, key) is not None:
                    raise ValueError(f"{key}: only a dual_rate model has it, this one is single_rate")
        return self


class DiffusionConfig(Section):
    """Process, prediction and loss."""

    schedule: Literal["cosine"] = Field("cosine", description="log-SNR against time [SiD]")
    base_resolution: PositiveInt | None = Field(
        None,
        description="the schedule's log-SNR is shifted by 2·log(base_resolution / resolution) [SiD]; none if unset",
    )
    log_snr_range: tuple[float, float] = Field(
        (-15.0, 15.0), description="log-SNR at t = 1 and at t = 0, shift included"
    )
    prediction: Literal["v", "x", "epsilon"] | None = Field(None, description="v if unset; edm fixes its own")
    preconditioning: Literal["none", "edm"] = Field(
        "none", description="edm: scalings, times and loss weight of EDM [EDM, table 1], as a single_rate baseline"
    )
    loss_bias: float = Field(-1.0, description="bias b of the weight sigmoid(b - log-SNR) [KG, SiD2]")
    sigma_data: PositiveFloat = Field(0.5, description="edm: standard deviation of the data")
    log_sigma_mean: float = Field(-1.2, description="edm: mean of log σ in training")
    log_sigma_std: PositiveFloat = Field(1.2, description="edm: standard deviation of log σ in training")

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_log_snr_range(self.log_snr_range)
        if self.preconditioning == "edm" and self.prediction is not None:
            raise ValueError("prediction: edm preconditioning fixes what is predicted; leave it unset")
        return self


class TrainConfig(Section):
    """Optimisation. A training's result depends on all of this but `checkpoint_every`, `log_every`, `workers`."""

    steps: PositiveInt = Field(1000, description="optimiser steps")
    batch: PositiveInt = Field(128, description="images per optimiser step, over all ranks and accumulations")
    accumulate: PositiveInt = Field(1, description="micro-batches per optimiser step")
    learning_rate: PositiveFloat = Field(1e-4, description="of Adam, after the warm-up")
    warmup: NonNegativeInt = Field(0, description="steps of linear warm-up")
    adam_betas: tuple[Probability, Probability] = Field((0.9, 0.99), description="of Adam's running averages")
    gradient_clip: PositiveFloat | None = Field(
        1.0, description="largest norm of the gradient of all parameters; null does not clip"
    )
    ema: Probability = Field(0.9999, description="decay of the average; ramped as min(ema, (1+step)/(10+step))")
    translation: NonNegativeInt = Field(0, description="random translation by up to this many pixels, zero filled")
    flip: bool = Field(False, description="random horizontal flips")
    label_dropout: Probability = Field(0.0, description="class label dropped, for classifier-free guidance")
    context_dropout: Probability | None = Field(None, description="dual_rate: whole context dropped, per sample")
    pairs: Literal["grid", "range"] | None = Field(None, description="dual_rate: how τ is drawn given t")
    refreshes: tuple[PositiveInt, PositiveInt] | PositiveInt | None = Field(
        None, description="dual_rate: grid takes the number of refreshes, range takes [fewest, most]"
    )
    denoiser_times: PositiveInt | None = Field(None, description="dual_rate: denoiser times trained per encoder pass")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="of the networks' operations (autocast); weights and optimiser stay float32"
    )
    compile: bool = Field(False, description="torch.compile the networks")
    checkpoint_activations: bool = Field(
        False, description="recompute activations in the backward pass: less memory, a third more compute"
    )
    checkpoint_every: PositiveInt = Field(200, description="steps between checkpoints")
    log_every: PositiveInt = Field(50, description="steps between lines of the training's log")
    workers: NonNegativeInt = Field(0, description="loader processes")
    start: str | None = Field(
        None,
        min_length=1,
        description="the weights that training begins with: an arm of the sweep (its training of the same seed), "
        "training:ID, or the path of a weights file. Random weights if unset",
    )

    @field_validator("start")
    @classmethod
    def _start(cls, start: str | None) -> str | None:
        if start is not None and start.startswith("training:") and not re.fullmatch(TRAINING_ID, start):
            raise ValueError(f"{start!r} is no id of a training; write it as training:0123456789abcdef")
        return start


class _SampleConfig(Section):
    """How images are drawn from a trained network; the samplers' own options come with :class:`SampleConfig`."""

    sampler: str = Field("ancestral", description=f"one of {', '.join(SAMPLERS)}")
    steps: Annotated[int, Field(ge=1, le=100_000)] = Field(32, description="steps of the sampler")
    refresh_interval: PositiveInt | None = Field(None, description="steps from one run of the encoder to the next")
    refreshes: PositiveInt | None = Field(None, description="runs of the encoder in all, spread evenly")
    refresh_steps: tuple[NonNegativeInt, ...] | None = Field(None, description="the very steps, starting with 0")
    cache_from_level: PositiveInt | None = Field(
        None,
        description="single_rate: levels from this one down run at refresh steps only (training-free feature cache)",
    )
    spacing: Literal["time", "karras", "log_snr"] | None = Field(
        None, description="where the steps lie: even in t, Karras in σ, even in log-SNR; the sampler's own if unset"
    )
    rho: float | None = Field(None, ge=RHO_LIMITS[0], le=RHO_LIMITS[1], description="karras: ρ, 7 if unset")
    sigma_range: tuple[PositiveFloat, PositiveFloat] | None = Field(None, description="karras: [σ_min, σ_max]")
    clip: bool | None = Field(
        None,
        description="clip x̂ to the range of the data at every evaluation; "
        "if unset, yes, but not with edm preconditioning, as EDM's own sampler does not",
    )
    guidance: NonNegativeFloat | None = Field(None, description="classifier-free guidance scale; 1 is none")
    guidance_interval: tuple[NonNegativeFloat, NonNegativeFloat] | None = Field(
        None, description="guide only where σ is inside [low, high]"
    )
    seeds: tuple[Seed, ...] = Field((0,), min_length=1, description="sampling seeds; each draws all images")
    batch: PositiveInt = Field(250, description="images drawn at once")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="of the networks' operations (autocast); the sampler's own stay float32"
    )
    compile: bool = Field(False, description="torch.compile the networks")

    @field_validator("sampler")
    @classmethod
    def _known(cls, sampler: str) -> str:
        if sampler not in SAMPLERS:
            choices = list(SAMPLERS)
            raise ValueError(f"{sampler!r} is not one of {', '.join(map(repr, choices))}{nearest(sampler, choices)}")
        return sampler

    _distinct = field_validator("seeds")(distinct)

    @model_validator(mode="after")
    def _check(self) -> Self:
        schedules = [k for k in ("refresh_interval", "refreshes", "refresh_steps") if getattr(self, k) is not None]
        if len(schedules) > 1:
            raise ValueError(f"{schedules[1]}: set only one of refresh_interval, refreshes, refresh_steps")
        for key in ("refresh_interval", "refreshes"):
            value = getattr(self, key)
            if value is not None and value > self.steps:
                raise ValueError(f"{key}: {value} is more than the {count_of(self.steps, 'step')}")
        if self.refresh_steps is not None:
            steps = self.refresh_steps
            if not steps or steps[0] != 0 or list(steps) != sorted(set(steps)) or steps[-1] >= self.steps:
                raise ValueError(f"refresh_steps: must start with 0, rise, and stay below {self.steps} steps")
        for owner in SAMPLERS.values():
            for key in owner.options:
                if getattr(self, key) is not None and self.sampler != owner.name:
                    raise ValueError(f"{key}: only {owner.name} has it, the sampler is {self.sampler}")
        karras = (self.spacing or SAMPLERS[self.sampler].spacing) == "karras"
        for key in ("rho", "sigma_range"):
            if getattr(self, key) is not None and not karras:
                raise ValueError(f"{key}: only karras spacing has it")
        ranges = [key for owner in SAMPLERS.values() for key, option in owner.options.items() if option.is_range]
        for key in ("sigma_range", "guidance_interval", *ranges):
            value = getattr(self, key)
            if value is not None and value[0] >= value[1]:
                raise ValueError(f"{key}: {value[0]} is not below {value[1]}")
        if self.guidance_interval is not None and self.guidance is None:
            raise ValueError("guidance_interval: needs guidance")
        return self


def _option_field(sampler: Sampler, option: Option) -> Any:
    """(type, default) of a sampler's own option, as pydantic takes it."""
    above = {"gt": option.low} if option.above_low else {"ge": option.low}
    number = Annotated[float, Field(**above, le=option.high)]
    kind: Any = tuple[number, number] if option.is_range else number
    return (kind | None, Field(None, description=f"{sampler.name}: {option.description}"))


SampleConfig: type[_SampleConfig] = create_model(
    "SampleConfig",
    __base__=_SampleConfig,
    __doc__="How images are drawn from a trained network.",
    **{key: _option_field(sampler, option) for sampler in SAMPLERS.values() for key, option in sampler.options.items()},
)


class LatencyConfig(Section):
    """The protocol of timing."""

    batch: PositiveInt | None = Field(None, description="throughput batch; sample.batch if unset")
    warmup: NonNegativeInt = Field(1, description="runs before those that are timed")
    repeats: PositiveInt = Field(5, description="timed runs, of which the median is told")


class MeasureConfig(Section):
    """What is measured of the images, and against what."""

    images: PositiveInt = Field(2000, description="images per sampling seed")
    features: Literal["digits", "inception", "efficientnet_lite0", "dinov2"] = Field(
        "digits", description="network whose features are compared; only the distance in Inception's is an FID"
    )
    weights: str | None = Field(
        None,
        description="path of the extractor's weights, where they are not in a package. Relative to the folder the "
        "command runs in; ~ is your home",
    )
    reference: Literal["train", "test"] = Field("train", description="split that the images are compared with")
    inception_score: bool = Field(False, description="also measure the Inception Score [IS]")
    precision_recall: bool = Field(False, description="also measure improved precision and recall [PR]")
    batch: PositiveInt = Field(250, description="images through the extractor at once")
    latency: LatencyConfig = LatencyConfig()

    @model_validator(mode="after")
    def _check(self) -> Self:
        least, why = self.least_images
        if self.images < least:
            raise ValueError(f"images: {self.images} are too few, {why} needs at least {least}")
        if self.inception_score and self.images < SCORE_SPLITS:
            raise ValueError(
                f"images: {self.images} are too few, measure.inception_score needs at least {SCORE_SPLITS}, one for "
                "each of its splits"
            )
        return self

    @property
    def least_images(self) -> tuple[int, str]:
        """Fewest images of each side that can be compared, generated and reference, and what needs them."""
        if self.precision_recall:
            return NEIGHBOURS + 1, f"measure.precision_recall (of {NEIGHBOURS} neighbours)"
        return 2, "a covariance"


class Experiment(Section):
    """One fully resolved configuration."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    diffusion: DiffusionConfig = DiffusionConfig()
    train: TrainConfig = TrainConfig()
    sample: SampleConfig = SampleConfig()
    measure: MeasureConfig = MeasureConfig()
    seed: Seed = Field(0, description="seed of the training: initial weights, data order, noise")

    @model_validator(mode="after")
    def _check(self) -> Self:
        dual = self.model.kind == "dual_rate"
        if not dual:
            for key in ("context_dropout", "pairs", "refreshes", "denoiser_times"):
                if getattr(self.train, key) is not None:
                    raise ValueError(f"train.{key}: only a dual_rate model has it, this one is single_rate")
        elif self.train.pairs == "grid" and not isinstance(self.train.refreshes, int):
            raise ValueError("train.refreshes: pairs on a grid take one number of refreshes")
        elif self.train.pairs == "range" and not (
            isinstance(self.train.refreshes, tuple) and self.train.refreshes[0] <= self.train.refreshes[1]
        ):
            raise ValueError("train.refreshes: pairs over a range take [fewest, most]")
        sample = self.sample
        refreshing = [k for k in ("refresh_interval", "refreshes", "refresh_steps") if getattr(sample, k) is not None]
        if refreshing and not dual and sample.cache_from_level is None:
            raise ValueError(
                f"sample.{refreshing[0]}: a single_rate model refreshes nothing; "
                "set model.kind: dual_rate, or sample.cache_from_level for a feature cache"
            )
        if not refreshing and (dual or sample.cache_from_level is not None):
            raise ValueError(
                "sample.refresh_interval: missing; set one of refresh_interval, refreshes, refresh_steps "
                f"for a {'dual_rate model' if dual else 'feature cache'}"
            )
        if sample.cache_from_level is not None:
            if dual:
                raise ValueError("sample.cache_from_level: only a single_rate model can be cached")
            if sample.cache_from_level >= len(self.model.levels):
                raise ValueError(
                    f"sample.cache_from_level: {sample.cache_from_level} is no level; "
                    f"the model has levels 0 to {len(self.model.levels) - 1}"
                )
        if sample.sigma_range is not None:
            try:
                check_sigma_range(sample.sigma_range, self.diffusion.log_snr_range)
            except ValueError as error:
                raise ValueError(f"sample.{error}") from None
        if self.diffusion.preconditioning == "edm" and dual:
            raise ValueError("diffusion.preconditioning: edm is a single_rate baseline")
        if sample.guidance is not None and not self.model.class_conditional:
            raise ValueError("sample.guidance: needs model.class_conditional: true")
        if sample.guidance is not None and sample.guidance != 1 and self.train.label_dropout == 0:
            raise ValueError("sample.guidance: needs train.label_dropout > 0, or no unconditional network is trained")
        if self.train.label_dropout > 0 and not self.model.class_conditional:
            raise ValueError("train.label_dropout: needs model.class_conditional: true")
        if self.train.batch % self.train.accumulate:
            raise ValueError(f"train.accumulate: {self.train.accumulate} does not divide the batch {self.train.batch}")
        if sample.compile and self.measure.latency.warmup == 0:
            raise ValueError(
                "measure.latency.warmup: must be at least 1 with sample.compile, or compiling is in the times"
            )
        if self.data.name == "digits" and self.measure.reference == "test":
            raise ValueError("measure.reference: the digits have one split, train")
        if self.measure.features == "digits" and self.data.name != "digits":
            raise ValueError("measure.features: the digits' extractor is for the digits only")
        return self


def parse_section(model: type[Section], values: Mapping[str, Any], source: str) -> Any:
    """Validate `values` as `model`. Raises :class:`ConfigError` that lists every problem, prefixed with `source`."""
    foreign = [f"{key}: {printable(text)!r} is not UTF-8; {NOT_UTF_8}" for key, text in _not_utf8(values)]
    if foreign:
        raise ConfigError(source, foreign)
    try:
        return model.model_validate_json(json.dumps(as_typed(model, values)))
    except ValidationError as failure:
        raise ConfigError(source, complaints(failure, model)) from None


NOT_UTF_8 = "name the file by a pattern (caf*.zip), by a link to it, or rename it"


def _not_utf8(values: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """(key, text) of each text in `values` that was typed in bytes that are no UTF-8: no JSON can hold it."""
    if isinstance(values, str) and not values.isascii():
        try:
            values.encode()
        except UnicodeEncodeError:
            yield prefix, values
    elif isinstance(values, Mapping):
        for key, value in values.items():
            yield from _not_utf8(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _not_utf8(value, prefix)


def as_plain(section: Section) -> dict[str, Any]:
    """`section` as JSON values that :func:`parse_experiment` reads back to an equal one; unset keys are left out."""
    plain = json.loads(section.model_dump_json())
    return _without_unset(plain, type(section))


def _without_unset(values: dict[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, value in values.items():
        field = model.model_fields[key]
        section = section_of(field.annotation)
        if isinstance(value, dict) and section is not None:
            kept[key] = _without_unset(value, section)
        elif value is not None or field.default is not None:  # a None that is not the default says something
            kept[key] = value
    return kept


DUAL_RATE_DEFAULTS: dict[str, dict[str, Any]] = {
    "model": {"light_width": 0.5, "context_levels": "all", "context_entry": "level"},
    "train": {"context_dropout": 0.0, "pairs": "range", "denoiser_times": 1},
}
REFRESHES_DEFAULTS: dict[str, Any] = {"range": [4, 32], "grid": 8}


def with_defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with the defaults that only a dual_rate model has, so that a single_rate one may not set them."""
    model, train = values.get("model", {}), values.get("train", {})
    if not (isinstance(model, dict) and isinstance(train, dict) and model.get("kind") == "dual_rate"):
        return dict(values)
    model = {**DUAL_RATE_DEFAULTS["model"], **model}
    train = {**DUAL_RATE_DEFAULTS["train"], **train}
    if train["pairs"] in REFRESHES_DEFAULTS:
        train.setdefault("refreshes", REFRESHES_DEFAULTS[train["pairs"]])
    return {**values, "model": model, "train": train}


def parse_experiment(values: Mapping[str, Any], source: str) -> Experiment:
    """A resolved experiment from a plain mapping; `source` (a file, an arm) opens every message."""
    return parse_section(Experiment, with_defaults(values), source)
