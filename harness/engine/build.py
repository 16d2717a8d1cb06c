"""From a configuration to the objects of `models/`: networks, schedule, loss settings, steps, refreshes."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from harness.config.schema import DiffusionConfig, Experiment, ModelConfig, SampleConfig
from harness.errors import ConfigError
from models import refresh, spacing
from models.cache import CachedSingleRate
from models.dual_rate import DualRate, Parameterization, Preconditioning, Prediction, SingleRate
from models.guidance import Guidance
from models.method import Model
from models.objective import LossSettings
from models.process import CosineSchedule, resolution_shift
from models.samplers import SAMPLERS
from models.uvit import UViT, UViTConfig

WIDTH_STEP = 8
"""Widths are rounded to multiples of this."""


class ImageInfo(Protocol):
    """What a network must know of the data; harness.data.DataInfo has it."""

    @property
    def size(self) -> int: ...
    @property
    def channels(self) -> int: ...
    @property
    def classes(self) -> int | None: ...


def build_model(experiment: Experiment, info: ImageInfo) -> SingleRate | DualRate:
    """The networks of `experiment` for images of `info`, freshly initialised from torch's generator."""
    model = experiment.model
    classes = label_count(model, info)
    if model.class_conditional and classes is None:
        raise ConfigError("model.class_conditional", ["the data have no labels"])
    recompute = experiment.train.checkpoint_activations
    try:
        heavy = _network(model, info, classes, 1.0, recompute)
        parameterization = _parameterization(experiment.diffusion)
        if model.kind == "single_rate":
            return SingleRate(UViT(heavy), parameterization)
        light = _light_network(model, info, classes, recompute)
        return DualRate(UViT(heavy), UViT(light), parameterization, model.context_levels or "all")
    except ValueError as error:
        raise ConfigError("model", [str(error)]) from None


def build_stepper(model: SingleRate | DualRate, cache_from_level: int | None) -> Model:
    """What a sampler steps: the model, or a feature cache over a single_rate one."""
    if cache_from_level is not None and isinstance(model, SingleRate):
        return CachedSingleRate(model, cache_from_level)
    return model


def label_count(model: ModelConfig, info: ImageInfo) -> int | None:
    """Classes that the networks know; None without labels."""
    return info.classes if model.class_conditional else None


def _parameterization(diffusion: DiffusionConfig) -> Parameterization:
    if diffusion.preconditioning == "edm":
        return Preconditioning(diffusion.sigma_data)
    return Prediction(diffusion.prediction or "v")


def _network(
    model: ModelConfig,
    info: ImageInfo,
    classes: int | None,
    scale: float,
    recompute: bool,
    *,
    light: bool = False,
) -> UViTConfig:
    widths = tuple(rounded(model.width * multiplier * scale) for multiplier in model.multipliers)
    blocks, kinds = model.blocks, model.levels
    context: tuple[int, ...] | None = None
    if light:
        blocks, kinds = model.light_blocks or blocks, model.light_levels or kinds
        wanted = tuple(model.context_channels or width for width in widths)
        context = wanted if model.context_levels == "all" else (wanted[0], *(0,) * (len(widths) - 1))
    feeds_context = model.kind == "dual_rate" and not light
    return UViTConfig(
        size=info.size,
        channels=info.channels,
        out_channels=None if feeds_context else info.channels,
        patch=model.patch,
        widths=widths,
        blocks=blocks,
        kinds=kinds,
        head_width=model.head_width,
        mlp_ratio=model.mlp_ratio,
        embedding=rounded((model.embedding or 4 * model.width) * scale),
        dropout=model.dropout,
        classes=classes,
        context_channels=context,
        context_entry=model.context_entry or "level",
        checkpoint_activations=recompute,
    )


def _light_network(model: ModelConfig, info: ImageInfo, classes: int | None, recompute: bool) -> UViTConfig:
    if model.light_width is None:
        raise ConfigError("model.light_width", ["is missing: a dual_rate model needs it"])
    return _network(model, info, classes, model.light_width, recompute, light=True)


def rounded(width: float) -> int:
    """`width` to the nearest multiple of :data:`WIDTH_STEP`, and at least that."""
    return max(WIDTH_STEP, round(width / WIDTH_STEP) * WIDTH_STEP)


def build_schedule(diffusion: DiffusionConfig, size: int) -> CosineSchedule:
    """The noise schedule for images of side `size`."""
    shift = resolution_shift(diffusion.base_resolution, size) if diffusion.base_resolution else 0.0
    return CosineSchedule(shift, diffusion.log_snr_range)


def build_loss_settings(experiment: Experiment, size: int) -> LossSettings:
    """What training minimises."""
    diffusion, train = experiment.diffusion, experiment.train
    common: dict[str, Any] = {
        "schedule": build_schedule(diffusion, size),
        "weighting": "edm" if diffusion.preconditioning == "edm" else "sigmoid",
        "bias": diffusion.loss_bias,
        "sigma_data": diffusion.sigma_data,
        "log_sigma_mean": diffusion.log_sigma_mean,
        "log_sigma_std": diffusion.log_sigma_std,
        "label_dropout": train.label_dropout,
    }
    if experiment.model.kind == "dual_rate":
        common |= {
            "context_dropout": train.context_dropout or 0.0,
            "pairs": train.pairs,
            "refreshes": train.refreshes,
            "denoiser_times": train.denoiser_times or 1,
        }
    return LossSettings(**common)


def build_guidance(sample: SampleConfig) -> Guidance | None:
    """Classifier-free guidance, or none."""
    return None if sample.guidance is None else Guidance(sample.guidance, sample.guidance_interval)


def clips(experiment: Experiment) -> bool:
    """Whether x̂ is clipped to the range of the data: by default for all but EDM's network, as in EDM's own sampler."""
    clip = experiment.sample.clip
    return experiment.diffusion.preconditioning != "edm" if clip is None else clip


def time_steps(sample: SampleConfig, schedule: CosineSchedule) -> Tensor:
    """The sampler's times, float64 (steps + 1,), falling to 0."""
    kind = sample.spacing or SAMPLERS[sample.sampler].spacing
    if kind == "time":
        return spacing.time_steps(sample.steps)
    if kind == "log_snr":
        return spacing.log_snr_steps(sample.steps, schedule)
    try:
        return spacing.karras_steps(
            sample.steps, schedule, sample.sigma_range, 7.0 if sample.rho is None else sample.rho
        )
    except ValueError as error:
        raise ConfigError("sample", [str(error)]) from None


def refresh_mask(sample: SampleConfig) -> refresh.Refreshes | None:
    """Which steps refresh; None for a network with nothing to refresh."""
    if sample.refresh_interval is not None:
        return refresh.every(sample.refresh_interval, sample.steps)
    if sample.refreshes is not None:
        return refresh.evenly(sample.refreshes, sample.steps)
    if sample.refresh_steps is not None:
        return refresh.explicit(sample.refresh_steps, sample.steps)
    return None


def sampler_options(sample: SampleConfig) -> dict[str, object]:
    """The options of the chosen sampler that are set."""
    return {key: value for key in SAMPLERS[sample.sampler].options if (value := getattr(sample, key)) is not None}
