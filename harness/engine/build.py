"""From a configuration to the objects of `models/`: networks, schedule, steps, refreshes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from harness.config.methods import method_of
from harness.config.schema import DiffusionConfig, DistillConfig, Experiment, ModelConfig, SampleConfig, TrainConfig
from harness.errors import ConfigError
from harness.store.weights import load_tensors
from models import spacing
from models.diffusers_folder import FolderError
from models.guidance import Guidance
from models.limits import NOISE_KNOTS, NOISE_LEARNING_RATE
from models.method import Model
from models.methods import ImageShape, Method
from models.noise_schedule import NAME, AdaptiveNoise, LearnedNoise, NoiseSchedule
from models.process import CosineSchedule, resolution_shift
from models.samplers import SAMPLERS
from models.stitch import by_step


class ImageInfo(Protocol):
    """What a network must know of the data; harness.data.DataInfo has it."""

    @property
    def size(self) -> int: ...
    @property
    def channels(self) -> int: ...
    @property
    def classes(self) -> int | None: ...


def method_for(experiment: Experiment) -> Method:
    """The method that `experiment` is of."""
    return method_of(experiment.model.kind)


def build_model(experiment: Experiment, info: ImageInfo) -> nn.Module:
    """The networks of `experiment` for images of `info`, freshly initialised from torch's generator.

    They have the interface of :class:`models.method.Model`. Raises :class:`ConfigError` where they cannot be built.
    """
    classes = label_count(experiment.model, info)
    if experiment.model.class_conditional and classes is None:
        raise ConfigError("model.class_conditional", ["the data have no labels"])
    try:
        experiment.model.check_size(info.size)
    except ValueError as error:
        raise _model_error(error) from None
    try:
        model = method_for(experiment).build(experiment, ImageShape(info.size, info.channels, classes))
    except ValueError as error:
        raise _model_error(error) from None
    return _with_noise_schedule(_with_face(model, experiment.model.kind, classes), experiment)


def _model_error(error: ValueError) -> ConfigError:
    return ConfigError("model.folder" if isinstance(error, FolderError) else "model", [str(error)])


def build_noise_schedule(train: TrainConfig) -> NoiseSchedule | None:
    """The noise schedule that a training finds, at its start: even in the process's time. None for the fixed one."""
    knots = train.noise_knots or NOISE_KNOTS
    if train.noise_schedule == "learned":
        return LearnedNoise(knots, train.noise_learning_rate or NOISE_LEARNING_RATE)
    return AdaptiveNoise(knots) if train.noise_schedule == "adaptive" else None


def _with_noise_schedule(model: nn.Module, experiment: Experiment) -> nn.Module:
    """`model` with the noise schedule that is trained beside it, where there is one: a part of its weights."""
    schedule = build_noise_schedule(experiment.train)
    if schedule is not None:
        if hasattr(model, NAME):
            raise ConfigError(
                "train.noise_schedule",
                [f"{experiment.model.kind} builds {type(model).__name__}, which has a {NAME} of its own; leave it out"],
            )
        model.add_module(NAME, schedule)
    return model


def load_model(experiment: Experiment, info: ImageInfo, weights: Path, training: str | None) -> nn.Module:
    """The networks of `experiment` with the weights in the file `weights`, those of `training` if it is given.

    Raises :class:`StoreError` for a file that cannot be used, or of another training.
    """
    tensors, _ = load_tensors(weights, training)
    model = build_model(experiment, info)
    model.load_state_dict(tensors)
    return model


FACE = ("networks", "classes", "step")


def _with_face(model: Any, kind: str, classes: int | None) -> nn.Module:
    """`model`, checked to have what a sampler and a training need."""
    missing = [name for name in FACE if not hasattr(model, name)]
    if not isinstance(model, nn.Module):
        raise ConfigError("model.kind", [f"{kind} builds {type(model).__name__}, which is no torch.nn.Module"])
    if missing:
        raise ConfigError(
            "model.kind", [f"{kind} builds {type(model).__name__}, which has no {missing[0]}: see models.method.Model"]
        )
    if model.classes != classes:
        raise ConfigError("model.kind", [f"{kind} builds a network of {model.classes} classes for {classes}"])
    if next(model.parameters(), None) is None:
        raise ConfigError("model.kind", [f"{kind} builds {type(model).__name__}, which has no parameters to train"])
    return model


def sampled_model(experiment: Experiment, model: nn.Module) -> Model:
    """What a sampler steps: the trained model, or what the method puts around it in sampling."""
    return method_for(experiment).sampled(model, experiment)


def steps_of(sample: SampleConfig, own: Model, second: Model | None) -> tuple[Model, ...]:
    """The model of each step: the `second`'s are the first, or the last, where ``sample.stitch`` names one."""
    if second is None or sample.stitch_share is None:
        return (own,) * sample.steps
    return by_step(own, second, sample.steps, sample.stitch_share, sample.stitch_at or "first")


def label_count(model: ModelConfig, info: ImageInfo) -> int | None:
    """Classes that the networks know; None without labels."""
    return info.classes if model.class_conditional else None


def build_schedule(diffusion: DiffusionConfig, size: int) -> CosineSchedule:
    """The noise schedule for images of side `size`."""
    shift = resolution_shift(diffusion.base_resolution, size) if diffusion.base_resolution else 0.0
    return CosineSchedule(shift, diffusion.log_snr_range)


def build_guidance(section: SampleConfig | DistillConfig) -> Guidance | None:
    """Classifier-free guidance as a section says it, of sampling or of a teacher; or none."""
    return None if section.guidance is None else Guidance(section.guidance, section.guidance_interval)


def clips(experiment: Experiment) -> bool:
    """Whether x̂ is clipped to the range of the data: what the configuration says, or else the method."""
    clip = experiment.sample.clip
    return clips_unless_told(experiment) if clip is None else clip


def clips_unless_told(experiment: Experiment) -> bool:
    """Whether the method clips x̂ to the range of the data; latents have none."""
    return experiment.data.latents is None and method_for(experiment).clips(experiment)


def time_steps(sample: SampleConfig, schedule: CosineSchedule, noise: NoiseSchedule | None = None) -> Tensor:
    """The sampler's times, float64 (steps + 1,), falling to 0.

    `noise` is the noise schedule that was trained, for steps that lie evenly in its time. Before it is trained that is
    the process's.
    """
    if sample.times is not None:
        return torch.tensor([*sample.times, 0.0], dtype=torch.float64)
    kind = sample.spacing or SAMPLERS[sample.sampler].spacing
    if kind == "noise_schedule" and noise is not None:
        return spacing.noise_schedule_steps(sample.steps, noise)
    if kind in ("time", "noise_schedule"):
        return spacing.time_steps(sample.steps)
    if kind == "log_snr":
        return spacing.log_snr_steps(sample.steps, schedule)
    try:
        rho = {} if sample.rho is None else {"rho": sample.rho}
        return spacing.karras_steps(sample.steps, schedule, sample.sigma_range, **rho)
    except ValueError as error:
        raise ConfigError("sample", [str(error)]) from None


def sampler_options(sample: SampleConfig) -> dict[str, object]:
    """The options of the chosen sampler that are set."""
    return {key: value for key in SAMPLERS[sample.sampler].options if (value := getattr(sample, key)) is not None}
