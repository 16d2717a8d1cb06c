"""Dual-Rate Diffusion [DR]: a heavy encoder at refreshes, a light denoiser at every step."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from models.limits import Pairing, check_pairs
from models.methods.base import (
    Configuration,
    ImageShape,
    Loss,
    Method,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Probability,
    Settings,
    StartNames,
)
from models.methods.uvit_settings import (
    DIFFUSERS,
    BackboneName,
    BlockCount,
    Channels,
    Factor,
    LevelKind,
    UViTSettings,
    UViTTraining,
    check_edm_keys,
    check_folder,
    check_noise_input,
    network_config,
)

if TYPE_CHECKING:
    from torch import Tensor

    from models.method import Model
    from models.process import CosineSchedule

REFRESHES: dict[Any, int | tuple[int, int]] = {"range": (4, 32), "grid": 8, "same": 1}
"""The default of ``train.refreshes`` for each of ``train.pairs``."""


class Networks(UViTSettings):
    """Of the section `model`: the encoder's keys are those of a single network, further ones are the denoiser's."""

    light_backbone: Literal["uvit", "ddpmpp", "ncsnpp", "adm", "dit"] | None = Field(
        None,
        description="the denoiser's architecture; the encoder's if unset, beside a diffusers network the U-ViT",
    )
    light_width: Factor = Field(0.5, description="the denoiser's channels relative to the encoder's")
    light_blocks: tuple[BlockCount, ...] | None = Field(
        None, description="the denoiser's blocks per level; the encoder's if unset"
    )
    light_levels: tuple[LevelKind, ...] | None = Field(
        None, description="the denoiser's kinds of levels; the encoder's if unset"
    )
    context_channels: Channels | None = Field(
        None, description="channels that the context is projected to, per level; the denoiser's own if unset"
    )
    context_levels: Literal["all", "last", "output"] = Field(
        "all",
        description="context: the features of every level, or of the last (highest resolution) only, or no features "
        "but the encoder's z_τ and x̂_τ as images beside z_t",
    )
    context_entry: Literal["level", "block"] = Field(
        "level", description="whether the context enters at the start of each level, or in each block"
    )
    preconditioning: Literal["conditional", "input", "anchor", "unscaled"] | None = Field(
        None,
        description="conditional: the denoiser predicts only what the Gaussian update of the encoder's x̂_τ by z_t "
        "leaves; its parts: the updated estimate as an input only, x̂_τ in place of it, its scale √p fixed to 1",
    )

    def light_architecture(self) -> BackboneName | None:
        """The denoiser's; None is the U-ViT."""
        if self.light_backbone is None:
            return None if self.backbone == DIFFUSERS else self.backbone
        return None if self.light_backbone == "uvit" else self.light_backbone

    def backbones(self) -> tuple[BackboneName | None, ...]:
        return (self.backbone, self.light_architecture())

    def kinds(self) -> tuple[tuple[LevelKind, ...], ...]:
        return (self.levels, self.light_levels or self.levels)

    def keys_of_kinds(self) -> tuple[str, ...]:
        return ("levels", "levels" if self.light_levels is None else "light_levels")

    def per_level(self) -> tuple[str, ...]:
        return (*super().per_level(), "light_blocks", "light_levels")

    def largest_scale(self) -> float:
        return max(1.0, self.light_width)


class Training(UViTTraining):
    """Of the section `train`."""

    context_dropout: Probability = Field(0.0, description="probability that all of an image's context is dropped")
    pairs: Pairing = Field("range", description="how the context's time τ is drawn given t")
    refreshes: tuple[PositiveInt, PositiveInt] | PositiveInt = Field(
        default_factory=lambda data: REFRESHES.get(data.get("pairs"), REFRESHES["range"]),
        description="pairs over a range take [fewest, most], [4, 32] if unset; on a grid the number, 8 if unset",
    )
    grid_steps: Annotated[int, Field(ge=1, le=100_000)] | None = Field(
        None,
        description="pairs on a grid: the steps of the sampling that they are drawn from, even in t, so that t, too, "
        "is one of its times; if unset it is anywhere",
    )
    denoiser_times: PositiveInt = Field(1, description="times the denoiser is trained at per pass of the encoder")
    states: Literal["bridge", "rollout"] | None = Field(
        None,
        description="what the denoiser is trained on: draws of the Markov process given an image (bridge, if unset) "
        "or its own DDIM steps from z_τ, for which the target is the encoder",
    )
    target: Literal["data", "encoder"] | None = Field(
        None, description="what the denoiser estimates: the data (if unset), or the encoder's own x̂ at z_t"
    )
    encoder_learning_rate: PositiveFloat | None = Field(
        None, description="learning rate of the encoder; learning_rate if unset"
    )
    encoder_loss: NonNegativeFloat | None = Field(
        None,
        description="weight of the loss of the encoder's own x̂_τ; if unset, 1 for an encoder that is trained and whose "
        "estimate is used, else 0",
    )

    start_denoiser: Literal["random", "encoder"] | None = Field(
        None,
        description="of a training that starts from a single network: what the denoiser begins with, random weights "
        "(if unset) or the first channels, heads and blocks of the encoder's [WS]; its head begins at zero, and what "
        "takes the context at random",
    )

    noise_refreshes: Literal["process", "own"] | None = Field(
        None,
        description="with a noise schedule that is trained: the refreshes of the pairs lie evenly in the process's "
        "time, and the objective stays what it is (process, if unset), or in the schedule's own, as sample.spacing: "
        "noise_schedule has them",
    )

    @field_validator("start_denoiser")
    @classmethod
    def _unset_is_random(cls, chosen: str | None) -> str | None:
        """One value for one meaning: a configuration's id does not depend on how it is written."""
        return None if chosen == "random" else chosen

    @model_validator(mode="after")
    def _check_pairs(self) -> Self:
        check_pairs(self.pairs, self.refreshes, self.denoiser_times, self.grid_steps)
        if self.states == "rollout":
            if self.target != "encoder":
                raise ValueError("states: a rollout belongs to no image; set train.target: encoder")
            if self.pairs == "same":
                raise ValueError("states: a rollout needs pairs of two times, not pairs: same")
        return self


class Sampling(Settings):
    """Of the section `sample`."""

    denoise_at_refresh: bool | None = Field(
        None,
        description="false: at a refresh x̂ is the encoder's own estimate and the denoiser does not run; true if unset",
    )


class DualRateMethod(Method):
    """A Residual U-ViT as the encoder, a lighter one as the denoiser."""

    model_settings = Networks
    train_settings = Training
    sample_settings = Sampling
    telling_keys = ("light_width",)
    freezable = ("encoder",)
    loss_keys = ("context_dropout", "pairs", "refreshes", "grid_steps", "denoiser_times", "states", "encoder_loss")

    def check(self, config: Configuration) -> None:
        frozen, train, model = is_frozen(config), config.train, config.model
        if model.context_levels == "output" and model.context_channels is not None:
            raise ValueError(
                "model.context_channels: with model.context_levels: output no features are projected; leave it out"
            )
        check_edm_keys(config)
        check_noise_input(config)
        if config.sample.denoise_at_refresh is False and not has_head(config):
            raise ValueError(
                "sample.denoise_at_refresh: false needs an encoder with an estimate of its own; set "
                "model.preconditioning, model.context_levels: output or train.target: encoder"
            )
        if train.encoder_loss and (frozen or not has_head(config)):
            reason = "the encoder is frozen" if frozen else "the encoder has no estimate of its own"
            raise ValueError(f"train.encoder_loss: {reason}; leave it out")
        if train.noise_schedule is not None and train.states == "rollout":
            raise ValueError(
                "train.noise_schedule: the later times of a rollout (train.states) depend on one another, so that no "
                "weight of one keeps the objective; leave one of the two out"
            )
        if train.start_denoiser is not None:
            if train.start is None:
                raise ValueError("train.start_denoiser: needs train.start, or what it begins with are random weights")
            if model.backbones() != (None, None):
                raise ValueError(
                    "train.start_denoiser: only a U-ViT begins with a part of another's weights; leave it out, or "
                    "leave out model.backbone and model.light_backbone"
                )
        if train.noise_schedule is not None and train.grid_steps is not None:
            raise ValueError(
                "train.noise_schedule: finds a density of times, and with train.grid_steps these are on a grid; leave "
                "one of the two out"
            )
        if train.noise_refreshes is not None and train.noise_schedule is None:
            raise ValueError("train.noise_refreshes: needs train.noise_schedule; leave it out")
        if train.noise_refreshes is not None and train.pairs == "same":
            raise ValueError("train.noise_refreshes: pairs of the same time have no refreshes; leave it out")
        if train.encoder_learning_rate is not None and frozen:
            raise ValueError("train.encoder_learning_rate: the encoder is frozen (train.freeze); leave it out")

    def check_images(self, config: Configuration, images: ImageShape) -> None:
        check_folder(config, images)

    def build(self, config: Configuration, images: ImageShape) -> Model:
        from dataclasses import replace

        from models.conditional import ErrorTable
        from models.dual_rate import DualRate, images_beside
        from models.parameterization import parameterization_of

        check_folder(config, images)
        model, recompute = config.model, config.train.checkpoint_activations
        head = images.channels if has_head(config) else None
        encoder = network_config(
            model, images, recompute, backbone=model.backbone, out_channels=head, noise=model.noise_input
        )
        light = network_config(
            model,
            images,
            recompute,
            model.light_width,
            backbone=model.light_architecture(),
            blocks=model.light_blocks or model.blocks,
            kinds=model.light_levels or model.levels,
            context_entry=model.context_entry,
            channels=images.channels * (1 + images_beside(model.context_levels, model.preconditioning)),
        )
        channels = tuple(model.context_channels or width for width in light.widths)
        taking = {"all": len(channels), "last": 1, "output": 0}[model.context_levels]
        channels = (*channels[:taking], *(0,) * (len(channels) - taking))
        errors = None
        if model.preconditioning is not None:
            errors = ErrorTable(config.diffusion.log_snr_range, config.diffusion.sigma_data)
        return DualRate(
            encoder.build(),
            replace(light, context_channels=channels).build(),
            parameterization_of(config.diffusion),
            model.context_levels,
            conditional=model.preconditioning,
            errors=errors,
            tells_time=config.train.pairs != "same",
        )

    def start_names(self, config: Configuration, start: Collection[str]) -> StartNames:
        """A single network is the encoder; denoiser and projections then begin at random."""
        if not start or not all(name.startswith("network.") for name in start):
            if start and config.train.start_denoiser is not None:
                raise ValueError(
                    "train.start_denoiser: what train.start names has a denoiser of its own, which this one begins "
                    "with; leave it out"
                )
            return StartNames(fresh=() if "errors.log_error" in start else ("errors.",))
        head = frozenset() if has_head(config) else frozenset(n for n in start if n.startswith("network.head."))
        renamed = {name: f"encoder.{name.removeprefix('network.')}" for name in start if name not in head}
        return StartNames(renamed, head, ("denoiser.", "projections.", "errors."))

    def start_parts(self, config: Configuration) -> Mapping[str, str]:
        return {} if config.train.start_denoiser is None else {"denoiser": "encoder"}

    def start_table(self, config: Configuration) -> str | None:
        """The error of the estimate that the denoiser starts from."""
        return None if config.model.preconditioning is None else "denoising_error"

    def load_table(self, model: Any, tensors: Mapping[str, Tensor]) -> None:
        model.errors.fill(tensors["log_snr"], tensors["error"])

    def learning_rates(self, config: Configuration) -> Mapping[str, float]:
        rate = config.train.encoder_learning_rate
        return {} if rate is None else {"encoder": rate}

    def sampled(self, model: Any, config: Configuration) -> Model:
        from models.dual_rate import EncoderAtRefresh

        if config.sample.denoise_at_refresh is False:
            return EncoderAtRefresh(model)
        return super().sampled(model, config)

    def loss(self, config: Configuration, schedule: CosineSchedule) -> Loss:
        from dataclasses import replace
        from functools import partial

        from models.dual_rate_loss import PairSettings, dual_rate_loss

        train = config.train
        pairs = PairSettings(
            train.context_dropout,
            train.pairs,
            train.refreshes,
            train.denoiser_times,
            train.states or "bridge",
            train.target or "data",
            encoder_weight(config),
            train.noise_refreshes or "process",
            train.grid_steps,
        )
        # pairs are drawn over the schedule, whatever the encoder's preconditioning was trained with
        settings = replace(self.loss_settings(config, schedule), weighting="sigmoid")
        return partial(dual_rate_loss, settings=settings, pairs=pairs)

    def runs_per_iteration(self, config: Configuration) -> Mapping[str, int]:
        return {"denoiser": config.train.denoiser_times}

    def forward_runs_per_iteration(self, config: Configuration) -> Mapping[str, int]:
        train = config.train
        return {"encoder": train.denoiser_times} if train.target == "encoder" else {}

    def recomputes_activations(self, config: Configuration) -> bool:
        return bool(config.train.checkpoint_activations)

    def may_leave_parameters_unused(self, config: Configuration) -> bool:
        """A context that is never dropped leaves the vector that stands in for its time without a gradient, one whose
        time is not told what would tell it, and an estimate that nothing is asked of its head."""
        train = config.train
        has_idle_head = has_head(config) and encoder_weight(config) == 0 and not is_frozen(config)
        return bool(train.context_dropout == 0 or train.pairs == "same" or has_idle_head)

    def needs_refreshes(self, config: Configuration) -> bool:
        return True

    def draws_by_noise_schedule(self, config: Configuration) -> bool:
        return True


def is_frozen(config: Configuration) -> bool:
    """Whether the encoder keeps the weights it starts with."""
    return "encoder" in (config.train.freeze or ())


def has_head(config: Configuration) -> bool:
    """Whether the encoder has a head, and so an estimate x̂_τ of its own."""
    model, train = config.model, config.train
    return model.preconditioning is not None or model.context_levels == "output" or train.target == "encoder"


def encoder_weight(config: Configuration) -> float:
    """Weight of the loss of the encoder's own estimate."""
    train = config.train
    if train.encoder_loss is not None:
        return float(train.encoder_loss)
    return 1.0 if has_head(config) and not is_frozen(config) else 0.0
