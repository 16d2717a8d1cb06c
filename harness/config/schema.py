"""The schema of an experiment: every key that a sweep can set, with its type, range and default.

An experiment is fully resolved and immutable. :func:`parse_experiment` turns a plain mapping (from YAML) into one and
reports *all* problems at once, each with the key, the value, the choices and the nearest match. ``Experiment(…)`` in
Python takes the same values, or sections, and raises the same errors.

The sections `model`, `train` and `sample` have the keys that stand here and those of the method that ``model.kind``
names, which declares them itself (:mod:`models.methods`): :func:`experiment_of` is the class that has both.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, Union

from pydantic import BaseModel, Field, ValidationError, create_model, field_validator, model_validator
from pydantic.fields import FieldInfo

from harness.config.complaints import complaints, section_of
from harness.config.complaints import key_types as types_of_keys
from harness.config.datasets import DATA_SETS
from harness.config.methods import SECTIONS as OF_METHODS
from harness.config.methods import known_methods, method_of, source_of
from harness.config.values import as_typed, options_of
from harness.errors import ConfigError, printable
from harness.metrics import METRICS, metric_of
from harness.metrics.extractors import EXTRACTORS, extractor_of
from harness.plugins import failure as failure_of
from harness.wording import nearest as nearest
from models import refresh
from models.distillation import DISTILLERS
from models.distillation.base import check_student
from models.limits import (
    LOG_SIGMA_MEAN,
    LOG_SIGMA_STD,
    LOG_SNR_RANGE,
    LOSS_BIAS,
    MEASURED_SCHEDULES,
    NOISE_KNOTS,
    NOISE_LEARNING_RATE,
    RHO,
    RHO_LIMITS,
    SEEDS,
    SIGMA_DATA,
    check_log_snr_range,
    check_sigma_range,
)
from models.methods import METHODS, Settings
from models.methods.base import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Probability
from models.samplers import SAMPLERS

Seed = Annotated[int, Field(ge=0, lt=SEEDS)]
if TYPE_CHECKING:
    DataName = str
else:
    DataName = Literal[tuple(DATA_SETS)]
MOST_CANDIDATES, MOST_SCHEDULED = 128, 1024
"""Most steps that a budget is spent on, and that refreshes are placed at: beyond, finding the best takes minutes."""
TRAINING_SAMPLES = 64
"""Images of each set that is drawn during training, unless told."""
DEFAULT_KIND = "single_rate"
TRAINING_ID = r"training:(?:unknown-)?[0-9a-f]{16}"
NO_TRAINING_ID = "is no id of a training; write it as training:0123456789abcdef"


def is_named(named: str) -> bool:
    """Whether `named` can name weights: one that begins like the id of a training must be such an id."""
    return not named.startswith("training:") or re.fullmatch(TRAINING_ID, named) is not None


class Section(Settings):
    """Base of all sections: immutable, strict types, no unknown keys."""


def distinct(seeds: tuple[int, ...]) -> tuple[int, ...]:
    """`seeds`, if they are distinct; raises ValueError otherwise."""
    if len(set(seeds)) != len(seeds):
        raise ValueError("has a seed twice")
    return seeds


class DataConfig(Section):
    """Which images, and at what size."""

    name: DataName = Field(
        "digits", description="; ".join(f"{name}: {facts.description}" for name, facts in DATA_SETS.items())
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
    latents: str | None = Field(
        None,
        min_length=1,
        description="folder of a frozen autoencoder (diffusers' AutoencoderKL or AutoencoderTiny): networks are "
        "trained on its latents of the images, and what they draw is decoded. Relative to the folder the command runs "
        "in; ~ is your home",
    )
    posterior: Literal["mean", "sample"] | None = Field(
        None,
        description="of an AutoencoderKL, which encodes an image to a normal distribution: its mean (if unset), or at "
        "each training step a sample of it",
    )

    @field_validator("posterior")
    @classmethod
    def _unset_is_mean(cls, posterior: str | None) -> str | None:
        """One value for one meaning: a configuration's id does not depend on how it is written."""
        return None if posterior == "mean" else posterior

    @model_validator(mode="after")
    def _check(self) -> Self:
        facts = DATA_SETS[self.name]
        if self.posterior is not None and self.latents is None:
            raise ValueError("posterior: is of latents; set data.latents, or leave it out")
        if self.path is not None and not facts.needs_path:
            raise ValueError(
                f"path: {self.name} ({facts.description}) takes no path; for the images at this path set "
                f"data.name: {'cifar10' if 'cifar-10' in self.path.lower() else 'images'}"
            )
        if facts.needs_path and not self.path:
            raise ValueError(f"path: {self.name} needs the path of its archive, folder or zip")
        if facts.size is not None and self.size not in (None, facts.size):
            raise ValueError(f"size: {self.name} has images {facts.size}×{facts.size}")
        if facts.classes is not None and self.classes not in (None, facts.classes):
            raise ValueError(f"classes: {self.name} has {facts.classes}")
        return self


class ModelConfig(Section):
    """The networks: the keys that every method has. The class that is made is that of its kind."""

    kind: str = Field(
        DEFAULT_KIND,
        description="the method: single_rate (one network at every step), dual_rate (an encoder at refreshes and a "
        "light denoiser), one that an installed package announces, or package.module:Class",
    )
    class_conditional: bool = Field(False, description="whether the network is conditioned on each image's class")
    weights: str | None = Field(
        None,
        min_length=1,
        description="a file of finished weights, which are taken as they are, and nothing is trained: a snapshot of "
        "EDM's code (.pkl), safetensors, or a folder of diffusers. Relative to the folder the command runs in; ~ is "
        "your home. Or, of diffusers, `owner/name` of the Hugging Face hub",
    )

    def __new__(cls, **values: Any) -> Self:
        kind = values.get("kind", DEFAULT_KIND)
        chosen = section_class("model", kind) if cls is ModelConfig and isinstance(kind, str) else cls
        return super().__new__(chosen)

    @field_validator("kind")
    @classmethod
    def _known_kind(cls, kind: str) -> str:
        try:
            method_of(kind)
        except ConfigError as error:
            raise ValueError(error.problems[0]) from None
        return kind


class DiffusionConfig(Section):
    """Process, prediction and loss."""

    schedule: Literal["cosine"] = Field("cosine", description="log-SNR against time [SiD]")
    base_resolution: PositiveInt | None = Field(
        None,
        description="the schedule's log-SNR is shifted by 2·log(base_resolution / resolution) [SiD]; none if unset",
    )
    log_snr_range: tuple[float, float] = Field(
        LOG_SNR_RANGE, description="log-SNR at t = 1 and at t = 0, shift included"
    )
    prediction: Literal["v", "x", "epsilon"] | None = Field(None, description="v if unset; edm fixes its own")
    preconditioning: Literal["none", "edm"] = Field(
        "none", description="edm: scalings, times and loss weight of EDM [EDM, table 1], as a single_rate baseline"
    )
    loss_bias: float = Field(LOSS_BIAS, description="bias b of the weight sigmoid(b - log-SNR) [KG, SiD2]")
    sigma_data: PositiveFloat = Field(SIGMA_DATA, description="edm: standard deviation of the data")
    log_sigma_mean: float = Field(LOG_SIGMA_MEAN, description="edm: mean of log σ in training")
    log_sigma_std: PositiveFloat = Field(LOG_SIGMA_STD, description="edm: standard deviation of log σ in training")

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_log_snr_range(self.log_snr_range)
        if self.preconditioning == "edm" and self.prediction is not None:
            raise ValueError("prediction: edm preconditioning fixes what is predicted; leave it unset")
        return self


class TrainConfig(Section):
    """Optimisation: the keys that every method has.

    A training's result depends on all of this but `checkpoint_every`, `log_every`, `loggers`, `sample_every`,
    `sample_images`, `workers`.
    """

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
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="of the networks' operations (autocast); weights and optimiser stay float32"
    )
    compile: bool = Field(False, description="torch.compile the networks")
    checkpoint_every: PositiveInt = Field(200, description="steps between checkpoints")
    log_every: PositiveInt = Field(50, description="steps between lines of the training's log")
    loggers: tuple[Literal["tensorboard", "wandb"], ...] | None = Field(
        None, description="what copies the training's log for others to read; changes nothing of the training"
    )
    sample_every: PositiveInt | None = Field(
        None,
        description="steps between small sets of images that the average draws while it is trained, with their "
        "distances; changes nothing of the training. None are drawn if unset",
    )
    sample_images: PositiveInt | None = Field(None, description=f"images of such a set; {TRAINING_SAMPLES} if unset")
    workers: NonNegativeInt = Field(0, description="loader processes")
    start: str | None = Field(
        None,
        min_length=1,
        description="the weights that training begins with: an arm of the sweep (its training of the same seed), "
        "training:ID, or the path of a weights file. Random weights if unset",
    )
    freeze: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        description="networks that keep the weights they start with: [encoder] of a dual_rate model",
    )
    noise_schedule: Literal["fixed", "learned", "adaptive"] | None = Field(
        None,
        description="where training draws its noise levels: evenly in the process's time (fixed, as if unset), by a "
        "density that is learned for the least variance of the loss [VDM], or in proportion to the measured loss [KG]",
    )
    noise_knots: Annotated[int, Field(ge=2, le=1024)] | None = Field(
        None, description=f"learned, adaptive: bins of the density, even in the process's time; {NOISE_KNOTS} if unset"
    )
    noise_learning_rate: PositiveFloat | None = Field(
        None, description=f"learned: of the density's increments; {NOISE_LEARNING_RATE:g} if unset"
    )

    @field_validator("noise_schedule")
    @classmethod
    def _unset_is_fixed(cls, chosen: str | None) -> str | None:
        """One value for one meaning: a configuration's id does not depend on how it is written."""
        return None if chosen == "fixed" else chosen

    @field_validator("loggers")
    @classmethod
    def _loggers(cls, loggers: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if loggers is not None and len(set(loggers)) != len(loggers):
            raise ValueError("has a logger twice")
        return loggers

    @field_validator("start")
    @classmethod
    def _start(cls, start: str | None) -> str | None:
        if start is not None and not is_named(start):
            raise ValueError(f"{start!r} {NO_TRAINING_ID}")
        return start

    def __new__(cls, **values: Any) -> Self:
        return super().__new__(_class_with("train", values) if cls is TrainConfig else cls)

    @property
    def samples(self) -> int:
        """Images of each set that is drawn during training, where any is (``sample_every``)."""
        return self.sample_images or TRAINING_SAMPLES

    @model_validator(mode="after")
    def _check_train(self) -> Self:
        if self.batch % self.accumulate:
            raise ValueError(f"accumulate: {self.accumulate} does not divide the batch {self.batch}")
        if self.sample_images is not None and self.sample_every is None:
            raise ValueError("sample_images: needs train.sample_every, how often they are drawn")
        if self.noise_knots is not None and self.noise_schedule is None:
            raise ValueError("noise_knots: the fixed schedule has none; set train.noise_schedule: learned or adaptive")
        if self.noise_learning_rate is not None and self.noise_schedule != "learned":
            raise ValueError("noise_learning_rate: only train.noise_schedule: learned has one; leave it out")
        return self


class DistillConfig(Section):
    """Teaching a student of few steps: of a training that starts from trained weights. Unset, nothing is distilled."""

    method: str | None = Field(
        None, description="; ".join(f"{name}: {one.description}" for name, one in DISTILLERS.items())
    )
    teacher: str | None = Field(
        None,
        min_length=1,
        description="the trained network that teaches, which runs at every step: an arm of the sweep (its training of "
        "the same seed) or the path of a weights file",
    )
    steps: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        None, description="steps that the student will be sampled in"
    )
    refreshes: PositiveInt | None = Field(
        None, description="of a student that refreshes: at how many of its steps, spread evenly"
    )
    times: Literal["discrete", "continuous"] | None = Field(
        None, description="the steps that are taught: those of the student (discrete, if unset) or anywhere in time"
    )
    rollout: Literal["data", "full"] | None = Field(
        None,
        description="the state at a refresh: a noised image (data, if unset) or the student's own sampling from noise, "
        "which needs no image",
    )
    guidance: NonNegativeFloat | None = Field(None, description="classifier-free guidance of the teacher; 1 is none")
    guidance_interval: tuple[NonNegativeFloat, NonNegativeFloat] | None = Field(
        None, description="guide the teacher only where σ is inside [low, high]"
    )
    variant: Literal["alternating", "instant"] | None = Field(
        None,
        description="moment_matching: what tracks the student: a trained copy of the teacher (alternating, if unset) "
        "or one gradient step of the teacher",
    )
    auxiliary_learning_rate: PositiveFloat | None = Field(
        None, description="moment_matching: learning rate of the copy of the teacher; train.learning_rate if unset"
    )
    teacher_steps: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        None, description="regression: steps of the teacher for one of the student; 1 if unset"
    )

    @field_validator("method")
    @classmethod
    def _known_method(cls, method: str | None) -> str | None:
        if method is not None and method not in DISTILLERS:
            choices = list(DISTILLERS)
            raise ValueError(f"{method!r} is not one of {', '.join(map(repr, choices))}{nearest(method, choices)}")
        return method

    @model_validator(mode="after")
    def _check_distill(self) -> Self:
        given = [key for key in type(self).model_fields if key != "method" and getattr(self, key) is not None]
        if self.method is None:
            if given:
                raise ValueError(f"{given[0]}: needs distill.method; choices: {', '.join(DISTILLERS)}")
            return self
        of_others = {key: name for name, one in DISTILLERS.items() for key in one.keys if name != self.method}
        for key in given:
            if key in of_others:
                raise ValueError(f"{key}: only {of_others[key]} has it, the method is {self.method}")
        for key in ("teacher", "steps"):
            if getattr(self, key) is None:
                raise ValueError(f"{key}: missing; distill.method: {self.method} needs it")
        if self.teacher is not None and not is_named(self.teacher):
            raise ValueError(f"teacher: {self.teacher!r} {NO_TRAINING_ID}")
        if self.auxiliary_learning_rate is not None and self.variant == "instant":
            raise ValueError("auxiliary_learning_rate: the instant variant trains no copy of the teacher; leave it out")
        if self.guidance_interval is not None:
            if self.guidance is None:
                raise ValueError("guidance_interval: needs distill.guidance")
            low, high = self.guidance_interval
            if low >= high:
                raise ValueError(f"guidance_interval: {low} is not below {high}")
        check_student(self.steps or 1, self.refresh_schedule, self.times or "discrete", self.rollout or "data")
        return self

    @property
    def refresh_schedule(self) -> refresh.Refreshes | None:
        """Which of the student's steps refresh; None for one with nothing to refresh."""
        return refresh.schedule(self.steps or 1, refreshes=self.refreshes)


class _SampleConfig(Section):
    """How images are drawn from a trained network; the samplers' own options come with :class:`SampleConfig`."""

    sampler: str = Field("ancestral", description=f"one of {', '.join(SAMPLERS)}")
    steps: Annotated[int, Field(ge=1, le=100_000)] = Field(32, description="steps of the sampler")
    refresh_interval: PositiveInt | None = Field(None, description="steps from one run of the encoder to the next")
    refreshes: PositiveInt | None = Field(
        None, description="runs of the encoder in all, spread evenly, or as sample.schedule has them"
    )
    refresh_steps: tuple[NonNegativeInt, ...] | None = Field(None, description="the very steps, starting with 0")
    schedule: Literal["uniform", "uniform_log_snr", "optimal", "ddt", "random"] | None = Field(
        None,
        description="at which steps the refreshes of sample.refreshes are: even in the steps (uniform, as if unset), "
        "even in log-SNR, best for sample.objective by a table of the network's errors (optimal), by the similarity of "
        "the encoder's features (ddt), or drawn (random); an explicit one is sample.refresh_steps",
    )
    objective: Literal["elbo", "sigmoid"] | None = Field(
        None,
        description="optimal: the bound that is minimised, with the sigmoid weight sigmoid(b - log-SNR) (if unset) or "
        "without (elbo)",
    )
    objective_bias: float | None = Field(
        None, ge=-20, le=20, description="sigmoid objective: its bias b; diffusion.loss_bias if unset"
    )
    schedule_seed: Seed | None = Field(
        None, description="random: the seed that the refreshes are drawn with; 0 if unset"
    )
    budget: PositiveFloat | None = Field(
        None,
        description="optimal: GMACs per image; steps and refreshes are chosen together, the steps from the times of "
        "sample.steps and sample.spacing, in the place of sample.refreshes",
    )
    times: tuple[Probability, ...] | None = Field(
        None,
        min_length=1,
        description="where the very steps begin, falling from noise at 1; as many as sample.steps, in the place of "
        "sample.spacing",
    )
    spacing: Literal["time", "karras", "log_snr", "noise_schedule"] | None = Field(
        None,
        description="where the steps lie: even in t, Karras in σ, even in log-SNR, or even in the time of the noise "
        "schedule that the training has found (train.noise_schedule); the sampler's own if unset",
    )
    rho: float | None = Field(None, ge=RHO_LIMITS[0], le=RHO_LIMITS[1], description=f"karras: ρ, {RHO:g} if unset")
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
    stitch: str | None = Field(
        None,
        min_length=1,
        description="a second trained network, which runs a share of the steps [T-Stitch]: an arm of the sweep (its "
        "training of the same seed) or the path of a weights file",
    )
    stitch_share: Probability | None = Field(
        None, description="the share of the steps, to the nearest whole number, that the second network runs"
    )
    stitch_at: Literal["first", "last"] | None = Field(
        None, description="which steps the second network runs: the first, noisiest ones (if unset) or the last"
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

    @field_validator("schedule")
    @classmethod
    def _unset_is_uniform(cls, schedule: str | None) -> str | None:
        """One value for one meaning: a configuration's id does not depend on how it is written."""
        return None if schedule == "uniform" else schedule

    @field_validator("stitch_at")
    @classmethod
    def _unset_is_first(cls, place: str | None) -> str | None:
        """One value for one meaning, likewise."""
        return None if place == "first" else place

    _distinct = field_validator("seeds")(distinct)

    def __new__(cls, **values: Any) -> Self:
        return super().__new__(_class_with("sample", values) if cls is SampleConfig else cls)

    @property
    def refresh_schedule(self) -> refresh.Refreshes | None:
        """Which steps refresh; None for a network with nothing to refresh.

        As many do with a ``schedule`` of its own, elsewhere: what costs depend on. None with a ``budget``.
        """
        return refresh.schedule(self.steps, self.refresh_interval, self.refreshes, self.refresh_steps)

    @model_validator(mode="after")
    def _check_sample(self) -> Self:
        self.refresh_schedule  # noqa: B018 - raises where there is no such schedule
        self._check_schedule()
        if self.times is not None:
            self._check_times(self.times)
        for key, owners in _owners_of_options().items():
            if getattr(self, key) is not None and self.sampler not in owners:
                have = f"only {owners[0]} has it" if len(owners) == 1 else f"only {', '.join(owners)} have it"
                raise ValueError(f"{key}: {have}, the sampler is {self.sampler}")
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
        if (self.stitch is None) != (self.stitch_share is None):
            given, lacking = ("stitch", "stitch_share") if self.stitch_share is None else ("stitch_share", "stitch")
            raise ValueError(f"{given}: needs {lacking} beside it")
        if self.stitch_at is not None and self.stitch is None:
            raise ValueError("stitch_at: needs stitch beside it")
        if self.stitch is not None and not is_named(self.stitch):
            raise ValueError(f"stitch: {self.stitch!r} {NO_TRAINING_ID}")
        return self

    def _check_schedule(self) -> None:
        """Whether the keys that choose a schedule fit each other."""
        owners = {"objective": "optimal", "objective_bias": "optimal", "budget": "optimal", "schedule_seed": "random"}
        for key, owner in owners.items():
            if getattr(self, key) is not None and self.schedule != owner:
                raise ValueError(f"{key}: only schedule: {owner} has it, the schedule is {self.schedule or 'uniform'}")
        if self.objective == "elbo" and self.objective_bias is not None:
            raise ValueError("objective_bias: only objective: sigmoid has it")
        if self.schedule is None:
            return
        if self.spacing == "noise_schedule" and self.schedule != "random":
            raise ValueError(
                f"spacing: schedule: {self.schedule} is found before a trained noise schedule is read; set another "
                "spacing, or times"
            )
        placed = [key for key in ("refresh_interval", "refresh_steps") if getattr(self, key) is not None]
        if placed:
            raise ValueError(
                f"{placed[0]}: schedule: {self.schedule} places the refreshes itself; set refreshes, how many, instead"
            )
        if self.budget is None and self.refreshes is None:
            also = ", or budget" if self.schedule == "optimal" else ""
            raise ValueError(f"refreshes: missing; schedule: {self.schedule} needs to know how many there are{also}")
        if self.budget is not None:
            if self.refreshes is not None:
                raise ValueError("budget: chooses the number of refreshes too; leave out refreshes")
            if self.times is not None:
                raise ValueError("budget: chooses the times too, of those of steps and spacing; leave out times")
            if self.guidance_interval is not None:
                raise ValueError(
                    "budget: with guidance_interval steps cost more at some times than at others; leave out one of them"
                )
            if self.steps > MOST_CANDIDATES:
                raise ValueError(f"steps: a budget is spent on at most {MOST_CANDIDATES} steps; {self.steps} are more")
        if self.steps > MOST_SCHEDULED:
            raise ValueError(f"steps: a schedule is found for at most {MOST_SCHEDULED} steps; {self.steps} are more")

    def _check_times(self, times: tuple[float, ...]) -> None:
        for key in ("spacing", "rho", "sigma_range"):
            if getattr(self, key) is not None:
                raise ValueError(f"{key}: times says where the steps are; leave out one of them")
        if len(times) != self.steps:
            raise ValueError(f"times: has {len(times)} for {self.steps} steps (sample.steps)")
        if any(after >= before for before, after in pairwise(times)):
            raise ValueError("times: must fall strictly")


def _owners_of_options() -> dict[str, list[str]]:
    """Of each option of a sampler, the samplers that have it."""
    keys = dict.fromkeys(key for sampler in SAMPLERS.values() for key in sampler.options)
    return {key: [name for name, sampler in SAMPLERS.items() if key in sampler.options] for key in keys}


def _option_field(key: str, owners: list[str]) -> Any:
    """(type, default) of a sampler's own option, as pydantic takes it."""
    option, *others = (SAMPLERS[owner].options[key] for owner in owners)
    if any(replace(other, description="") != replace(option, description="") for other in others):
        raise ValueError(f"{key}: the samplers {', '.join(owners)} declare it with different ranges")
    above = {"gt": option.low} if option.above_low else {"ge": option.low}
    number = Annotated[float, Field(**above, le=option.high)]
    kind: Any = tuple[number, number] if option.is_range else number
    return (kind | None, Field(None, description=f"{', '.join(owners)}: {option.description}"))


SampleConfig: type[_SampleConfig] = create_model(
    "SampleConfig",
    __base__=_SampleConfig,
    __doc__="How images are drawn from a trained network.",
    **{key: _option_field(key, owners) for key, owners in _owners_of_options().items()},
)


class LatencyConfig(Section):
    """The protocol of timing."""

    batch: PositiveInt | None = Field(None, description="throughput batch; sample.batch if unset")
    warmup: NonNegativeInt = Field(1, description="runs before those that are timed")
    repeats: PositiveInt = Field(
        5,
        description="timed runs, of which the median is reported; of a batch on a machine that is not quiet, one",
    )


class MeasureConfig(Section):
    """What is measured of the images, and against what."""

    images: PositiveInt = Field(2000, description="images per sampling seed")
    features: str = Field("digits", description=f"one of {', '.join(EXTRACTORS)}, or package.module:NAME")
    metrics: tuple[str, ...] = Field(
        (),
        description="metrics beside the Fréchet and the kernel distance: "
        f"of {', '.join(name for name, metric in METRICS.items() if not metric.always)}, or package.module:NAME",
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

    @field_validator("features")
    @classmethod
    def _known_features(cls, features: str) -> str:
        extractor_of(features)
        return features

    @field_validator("metrics")
    @classmethod
    def _known_metrics(cls, metrics: tuple[str, ...]) -> tuple[str, ...]:
        for name in metrics:
            metric_of(name)
        return metrics

    @model_validator(mode="after")
    def _check(self) -> Self:
        giver: dict[str, str] = {}
        for name in self.metric_names:
            for measure in metric_of(name).measures:
                if giver.setdefault(measure.name, name) != name:
                    raise ValueError(
                        f"metrics: {name!r} gives {measure.name!r}, as {giver[measure.name]!r} does; "
                        "give its measure a name of its own"
                    )
        least, why = self.least_images
        if self.images < least:
            raise ValueError(f"images: {self.images} are too few, {why} needs at least {least}")
        return self

    @property
    def metric_names(self) -> tuple[str, ...]:
        """What is measured: the metrics that always are, those turned on by a key of their own, and `metrics`."""
        own = [
            name for name, metric in METRICS.items() if metric.always or (metric.flag and getattr(self, metric.flag))
        ]
        return tuple(dict.fromkeys([*own, *self.metrics]))

    @property
    def needs_logits(self) -> bool:
        """Whether a metric looks at the output of a classifier."""
        return any("logits" in metric_of(name).needs for name in self.metric_names)

    @property
    def least_images(self) -> tuple[int, str]:
        """Fewest images of each side that can be compared, generated and reference, and what needs them."""
        metric = max(map(metric_of, self.metric_names), key=lambda metric: metric.least_images)
        return metric.least_images, metric.least_because


class Experiment(Section):
    """One fully resolved configuration. The class that is made is that of its ``model.kind``."""

    data: DataConfig = DataConfig()
    model: ModelConfig = Field(default_factory=ModelConfig)
    diffusion: DiffusionConfig = DiffusionConfig()
    train: TrainConfig = Field(default_factory=TrainConfig)
    distill: DistillConfig = DistillConfig()
    sample: SampleConfig = Field(default_factory=SampleConfig)
    measure: MeasureConfig = MeasureConfig()
    seed: Seed = Field(0, description="seed of the training: initial weights, data order, noise")
    stitched: dict[str, Any] | None = Field(
        None, description="keys of the network that sample.stitch names; a sweep fills them in"
    )
    teacher: dict[str, Any] | None = Field(
        None, description="keys of the network that distill.teacher names; a sweep fills them in"
    )

    def __new__(cls, **values: Any) -> Self:
        chosen: Any = _class_for(values) if cls is Experiment else cls
        return super().__new__(chosen)

    def __init__(self, **values: Any) -> None:
        """Of sections, or of mappings as a file has them. Raises :class:`ConfigError` like :func:`parse_experiment`."""
        _fill(self, values, "Experiment")

    def __reduce__(self) -> tuple[Any, ...]:
        return parse_experiment, (as_plain(self), "a pickled experiment")

    @model_validator(mode="after")
    def _check_experiment(self) -> Self:
        method, sample = method_of(self.model.kind), self.sample
        method.check(self)
        self._check_latents()
        size = None if self.data.latents else self.data.size or DATA_SETS[self.data.name].size
        if size is not None:  # otherwise only the data tell it: the preflight checks look there
            try:
                self.model.check_size(size)
            except ValueError as error:
                raise ValueError(f"model.{error}") from None
        given = [key for key in (*refresh.KEYS, "schedule") if getattr(sample, key) is not None]
        if sample.schedule in MEASURED_SCHEDULES and self.distill.method is not None:
            raise ValueError(
                f"sample.schedule: {sample.schedule} is chosen by the errors of estimates of the data, which a "
                "distilled student does not make; place its refreshes by sample.refreshes or sample.refresh_steps"
            )
        if sample.stitch is not None and method.needs_refreshes(self):
            raise ValueError(
                f"sample.stitch: a {self.model.kind} model that refreshes cannot be stitched; leave it out"
            )
        if given and not method.needs_refreshes(self):
            raise ValueError(f"sample.{given[0]}: a {self.model.kind} model refreshes nothing; leave it out")
        if not given and method.needs_refreshes(self):
            raise ValueError(
                f"sample.{refresh.KEYS[0]}: missing; set one of {', '.join(refresh.KEYS)} for a {self.model.kind} model"
            )
        self._check_training_samples()
        self._check_noise_schedule()
        self._check_weights()
        self._check_freeze()
        self._check_student(method.needs_refreshes(self))
        if sample.sigma_range is not None:
            try:
                check_sigma_range(sample.sigma_range, self.diffusion.log_snr_range)
            except ValueError as error:
                raise ValueError(f"sample.{error}") from None
        if sample.guidance is not None and not self.model.class_conditional:
            raise ValueError("sample.guidance: needs model.class_conditional: true")
        if sample.guidance is not None and sample.guidance != 1 and self.train.label_dropout == 0:
            raise ValueError("sample.guidance: needs train.label_dropout > 0, or no unconditional network is trained")
        if self.train.label_dropout > 0 and not self.model.class_conditional:
            raise ValueError("train.label_dropout: needs model.class_conditional: true")
        if sample.compile and self.measure.latency.warmup == 0:
            raise ValueError(
                "measure.latency.warmup: must be at least 1 with sample.compile, or compiling is in the times"
            )
        splits = DATA_SETS[self.data.name].splits
        if self.measure.reference not in splits:
            raise ValueError(f"measure.reference: {self.data.name} has one split, {splits[0]}")
        only = extractor_of(self.measure.features).only_data
        if only is not None and self.data.name != only:
            raise ValueError(f"measure.features: {self.measure.features} is for data.name: {only} alone")
        return self

    def _check_latents(self) -> None:
        """Whether nothing that is said of pixels is asked of latents."""
        if self.data.latents is None:
            return
        for key in ("flip", "translation"):
            if getattr(self.train, key):
                raise ValueError(
                    f"train.{key}: changes pixels, and the images are encoded once (data.latents): leave it out"
                )
        if self.sample.clip:
            raise ValueError("sample.clip: latents have no range to clip to (data.latents); leave it out")
        reads = self.diffusion.preconditioning == "edm" or getattr(self.model, "preconditioning", None) is not None
        if reads and "sigma_data" not in self.diffusion.model_fields_set:
            raise ValueError(
                f"diffusion.sigma_data: {self.diffusion.sigma_data:g} is the standard deviation of pixels, and that of "
                "latents scaled by their autoencoder is about 1 (data.latents); say it: diffusion.sigma_data: 1"
            )

    def _check_student(self, refreshes: bool) -> None:
        """Whether the student of a distillation is one that can be taught so."""
        distill = self.distill
        if distill.method is None:
            return
        if self.train.start is None:
            raise ValueError(
                "train.start: missing; a student starts from trained weights: its teacher's, or those of a dual-rate "
                "network that was adapted from it"
            )
        if refreshes and distill.refreshes is None:
            raise ValueError(
                f"distill.refreshes: missing; a {self.model.kind} student needs to know at how many steps it refreshes"
            )
        if not refreshes and distill.refreshes is not None:
            raise ValueError(f"distill.refreshes: a {self.model.kind} student refreshes nothing; leave it out")
        if self.diffusion.prediction == "epsilon":
            raise ValueError(
                "diffusion.prediction: epsilon says nothing about an image at pure noise, where a student's first step "
                "is; distill networks that predict v or x"
            )
        if distill.guidance not in (None, 1) and not self.model.class_conditional:
            raise ValueError("distill.guidance: needs model.class_conditional: true")
        for key in method_of(self.model.kind).loss_keys:
            field, value = type(self.train).model_fields[key], getattr(self.train, key)
            if value != field.get_default(call_default_factory=True, validated_data=self.train.__dict__):
                raise ValueError(
                    f"train.{key}: {value!r} is of the {self.model.kind} model's own loss, which a distillation does "
                    "not use; leave it out (in an arm: null)"
                )
        images = self.train.batch // self.train.accumulate
        if distill.variant == "instant" and images % 2:
            raise ValueError(
                f"train.batch: the instant variant halves each micro-batch, of {images} images; make it even"
            )

    def _check_training_samples(self) -> None:
        """Whether as many images as are drawn during training can be measured."""
        (least, why), images = self.measure.least_images, self.train.samples
        if self.train.sample_every is not None and images < least:
            raise ValueError(f"train.sample_images: {images} are too few, {why} needs at least {least}")

    def _check_noise_schedule(self) -> None:
        chosen = self.train.noise_schedule
        if chosen is None:
            if self.sample.spacing == "noise_schedule":
                raise ValueError(
                    "sample.spacing: noise_schedule needs a training that finds one; set train.noise_schedule: learned "
                    "or adaptive"
                )
            return
        if self.diffusion.preconditioning == "edm":
            raise ValueError(
                f"train.noise_schedule: {chosen} has no place with diffusion.preconditioning: edm, which draws log σ "
                "by a normal law of its own; leave it out"
            )
        if self.distill.method is not None:
            raise ValueError(
                f"train.noise_schedule: {chosen} has no place in a distillation, whose times are the student's steps; "
                "leave it out"
            )
        if not method_of(self.model.kind).draws_by_noise_schedule(self):
            raise ValueError(
                f"train.noise_schedule: the loss of a {self.model.kind} model draws its noise levels itself; leave it "
                "out (a method whose loss can do so says it by draws_by_noise_schedule)"
            )

    def _check_weights(self) -> None:
        """Whether nothing would train weights that are given."""
        if self.model.weights is None:
            return
        training = {
            "train.start": self.train.start,
            "train.freeze": self.train.freeze,
            "distill.method": self.distill.method,
            "train.noise_schedule": self.train.noise_schedule,
        }
        for key, value in training.items():
            if value is not None:
                raise ValueError(f"{key}: model.weights are finished, nothing trains them; leave one of the two out")

    def _check_freeze(self) -> None:
        frozen, kind = self.train.freeze, self.model.kind
        if frozen is None:
            return
        choices = method_of(kind).freezable
        if not choices:
            raise ValueError(f"train.freeze: a {kind} model has no network that can be frozen; leave it out")
        for name in frozen:
            if name not in choices:
                raise ValueError(
                    f"train.freeze: {name!r} is not one of {', '.join(map(repr, choices))}{nearest(name, choices)}"
                )
        if self.train.start is None:
            raise ValueError("train.freeze: needs train.start, or what is frozen are random weights")


COMMON: dict[str, type[Section]] = {"model": ModelConfig, "train": TrainConfig, "sample": SampleConfig}
"""The sections that methods have keys of their own in, with the keys that all have."""


@cache
def section_class(section: str, kind: str) -> type[Any]:
    """The section called `section` of an experiment of that kind: the common keys and the method's own."""
    own: type[Settings] = getattr(method_of(kind), OF_METHODS[section])
    twice = sorted(own.model_fields.keys() & COMMON[section].model_fields.keys())
    if twice:
        raise ConfigError("model.kind", [f"{kind!r} has {section}.{twice[0]}, which every method has already"])
    common = COMMON[section]
    if not own.model_fields and section != "model":
        return common
    # of `model` always a class of its own: pydantic makes an instance by __new__ without values, and ModelConfig's own
    # then is of the default kind
    bases = (own, common) if own.model_fields else common
    return create_model(common.__name__, __base__=bases, __doc__=common.__doc__)


@cache
def experiment_of(kind: str) -> type[Experiment]:
    """The class of the experiments of that kind. Raises :class:`ConfigError` where there is no such kind."""
    classes = {section: section_class(section, kind) for section in COMMON}
    fields: dict[str, Any] = {section: (made, Field(default_factory=made)) for section, made in classes.items()}
    return create_model("Experiment", __base__=Experiment, __doc__=Experiment.__doc__, **fields)


def _class_with(section: str, values: Mapping[str, Any]) -> type[Any]:
    """The common section, or the first method's that has all the keys of `values`."""
    kinds = (kind for kind in known_methods() if values.keys() <= section_class(section, kind).model_fields.keys())
    has_all = values.keys() <= COMMON[section].model_fields.keys()
    kind = None if has_all else next(kinds, None)
    return COMMON[section] if kind is None else section_class(section, kind)


def own_keys() -> dict[str, dict[str, FieldInfo]]:
    """Of each method known so far, its own keys, dotted."""
    return {
        kind: {
            f"{section}.{name}": field
            for section, attribute in OF_METHODS.items()
            for name, field in getattr(method, attribute).model_fields.items()
        }
        for kind, method in known_methods().items()
    }


def owners_of(key: str) -> list[str]:
    """The kinds known so far that have the dotted `key` as their own."""
    return [kind for kind, keys in own_keys().items() if key in keys]


def every_key() -> type[BaseModel]:
    """An experiment with the keys of all methods known so far, for a list of them: descriptions name the methods."""
    kinds, of_kinds = list(known_methods()), own_keys()
    sections: dict[str, Any] = {}
    for section, common in COMMON.items():
        fields: dict[str, Any] = {}
        for dotted in dict.fromkeys(key for keys in of_kinds.values() for key in keys):
            if dotted.startswith(f"{section}."):
                owned = [kind for kind in kinds if dotted in of_kinds[kind]]
                field = of_kinds[owned[0]][dotted]
                whose = "" if set(owned) >= set(METHODS) else f"{', '.join(owned)}: "
                described = FieldInfo.merge_field_infos(field, description=f"{whose}{field.description or ''}")
                fields[dotted.partition(".")[2]] = (field.annotation, described)
        sections[section] = (create_model(common.__name__, __base__=common, **fields), ...)
    return create_model("Experiment", __base__=Experiment, **sections)


def key_types() -> dict[str, Any]:
    """Every dotted key of an experiment of any method known so far, with the type of its value."""
    kinds = tuple(known_methods())
    return _key_types(kinds)


@cache
def _key_types(kinds: tuple[str, ...]) -> dict[str, Any]:
    types: dict[str, Any] = {}
    for kind in kinds:
        for key, annotation in types_of_keys(experiment_of(kind)).items():
            known = types.setdefault(key, annotation)
            if known != annotation:  # of another method's key of that name
                types[key] = Union[known, annotation]  # noqa: UP007 - they are values
    return types


def parse_section(model: type[Section], values: Mapping[str, Any], source: str) -> Any:
    """Validate `values` as `model`. Raises :class:`ConfigError` that lists every problem, prefixed with `source`."""
    _check_utf8(values, source)
    try:
        return model.model_validate_json(json.dumps(as_typed(model, values)))
    except ValidationError as failure:
        raise ConfigError(source, complaints(failure, model)) from None


def _check_utf8(values: Mapping[str, Any], source: str) -> None:
    foreign = [f"{key}: {printable(text)!r} is not UTF-8; {NOT_UTF_8}" for key, text in _not_utf8(values)]
    if foreign:
        raise ConfigError(source, foreign)


NOT_UTF_8 = "name the file by a pattern (caf*.zip), by a link to it, or rename it"


def _not_utf8(values: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """(key, text) of each text in `values` whose bytes are not UTF-8, which JSON cannot hold."""
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


PLACES = ("path", "latents")
"""Keys of the data that say where they lie, and where their autoencoder does."""


def standing_by_itself(experiment: Experiment) -> str:
    """The configuration that a file of weights holds, as JSON: the same wherever the data lie and whoever looks on."""
    plain = as_plain(experiment)
    for place in PLACES:
        plain["data"].pop(place, None)
    for key in ("loggers", "sample_every", "sample_images"):  # what only looks on leaves no trace in the weights
        plain["train"].pop(key, None)
    return json.dumps(plain, sort_keys=True)


def _without_unset(values: dict[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, value in values.items():
        field = model.model_fields[key]
        section = section_of(field.annotation)
        if isinstance(value, dict) and section is not None:
            kept[key] = _without_unset(value, section)
        elif value is not None or field.default is not None:  # a None that is not the default has a meaning
            kept[key] = value
    return kept


def parse_experiment(values: Mapping[str, Any], source: str) -> Experiment:
    """A resolved experiment from a plain mapping; `source` (a file, an arm) opens every message."""
    try:
        chosen = _class_for(values)
    except ConfigError as error:
        raise ConfigError(source, [f"model.kind: {problem}" for problem in error.problems]) from error
    experiment = BaseModel.__new__(chosen)
    _fill(experiment, values, source)
    return experiment


def _class_for(values: Mapping[str, Any]) -> type[Experiment]:
    """The class of the kind that `values` name; for an unknown kind, which validation reports, the default one."""
    kind = _kind_in(values)
    try:
        method_of(kind)
    except ConfigError:
        kind = DEFAULT_KIND
    return experiment_of(kind)


def _fill(experiment: Experiment, values: Mapping[str, Any], source: str) -> None:
    """Validate `values` into the new `experiment`. Raises :class:`ConfigError` that lists every problem."""
    chosen = type(experiment)
    plain = {key: _given(value) for key, value in values.items()}
    plain = _without_nothing(plain, chosen)
    if chosen is experiment_of(DEFAULT_KIND) and _kind_in(plain) != DEFAULT_KIND:
        plain = _without_own_keys(plain)  # one message about the kind is enough
    _check_utf8(plain, source)
    try:
        text = json.dumps(as_typed(chosen, plain))
        chosen.__pydantic_validator__.validate_json(text, self_instance=experiment)
    except ValidationError as failure:
        kind = _kind_in(plain)
        raise ConfigError(source, complaints(failure, chosen, lambda key: _whose(key, kind))) from None
    except Exception as error:
        kind = _kind_in(plain)
        if isinstance(error, ConfigError) or source_of(kind) is None:
            raise
        raise ConfigError(source, [f"model.kind: {kind!r} fails to check its keys: {failure_of(error)}"]) from error


def _given(value: Any) -> Any:
    """`value` as a file would have it: a section becomes the mapping of the keys that were set."""
    return value.model_dump(mode="json", exclude_unset=True) if isinstance(value, BaseModel) else value


def _kind_in(values: Mapping[str, Any]) -> str:
    model = _given(values.get("model"))
    kind = model.get("kind", DEFAULT_KIND) if isinstance(model, Mapping) else DEFAULT_KIND
    return kind if isinstance(kind, str) else DEFAULT_KIND


def _whose(key: str, kind: str) -> str | None:
    """Why an experiment of `kind` has no `key`, if another method has it."""
    owners = owners_of(key)
    if not owners:
        return None
    have = f"a {owners[0]} model has it" if len(owners) == 1 else f"{', '.join(owners)} models have it"
    return f"only {have}, this one is {kind}; null leaves out a key that an arm inherits"


def _without_nothing(values: Mapping[str, Any], chosen: type[Experiment]) -> dict[str, Any]:
    """`values` without the keys of methods that are null where null has no meaning.

    So a grid can zip kinds with keys that only some of them have: null leaves a key out, both for a method without it
    and for one whose key takes no null.
    """

    def says_something(section: str, key: str, value: Any) -> bool:
        dotted = f"{section}.{key}"
        if value is not None or not owners_of(dotted):
            return True
        fields = types_of_keys(chosen)
        return dotted in fields and type(None) in options_of(fields[dotted])

    return {
        section: {key: value for key, value in content.items() if says_something(section, key, value)}
        if section in COMMON and isinstance(content, Mapping)
        else content
        for section, content in values.items()
    }


def _without_own_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` without the keys that only some methods have."""
    return {
        section: {key: value for key, value in content.items() if not owners_of(f"{section}.{key}")}
        if section in COMMON and isinstance(content, Mapping)
        else content
        for section, content in values.items()
    }
