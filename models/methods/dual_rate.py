"""Dual-Rate Diffusion [DR]: a heavy encoder at refreshes, a light denoiser at every step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from models.limits import Pairing, check_pairs
from models.methods.base import Configuration, ImageShape, Loss, Method, PositiveInt, Probability
from models.methods.uvit_settings import (
    BlockCount,
    Channels,
    Factor,
    LevelKind,
    UViTSettings,
    UViTTraining,
    uvit_config,
)

if TYPE_CHECKING:
    from models.method import Model
    from models.process import CosineSchedule

REFRESHES: dict[Any, int | tuple[int, int]] = {"range": (4, 32), "grid": 8}
"""The default of ``train.refreshes`` for each of ``train.pairs``."""


class Networks(UViTSettings):
    """Of the section `model`: the encoder's keys are those of a single network, further ones are the denoiser's."""

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
    context_levels: Literal["all", "last"] = Field(
        "all", description="context: the features of every level, or of the last (highest resolution) only"
    )
    context_entry: Literal["level", "block"] = Field(
        "level", description="whether the context enters at the start of each level, or in each block"
    )

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
    denoiser_times: PositiveInt = Field(1, description="times the denoiser is trained at per pass of the encoder")

    @model_validator(mode="after")
    def _check_pairs(self) -> Self:
        check_pairs(self.pairs, self.refreshes)
        return self


class DualRateMethod(Method):
    """A Residual U-ViT as the encoder, a lighter one as the denoiser."""

    model_settings = Networks
    train_settings = Training
    telling_keys = ("light_width",)

    def check(self, config: Configuration) -> None:
        if config.diffusion.preconditioning == "edm":
            raise ValueError("diffusion.preconditioning: edm is a single_rate baseline")

    def build(self, config: Configuration, images: ImageShape) -> Model:
        from dataclasses import replace

        from models.dual_rate import DualRate
        from models.parameterization import parameterization_of
        from models.uvit import UViT

        model, recompute = config.model, config.train.checkpoint_activations
        encoder = uvit_config(model, images, recompute, out_channels=None)
        light = uvit_config(
            model,
            images,
            recompute,
            model.light_width,
            blocks=model.light_blocks or model.blocks,
            kinds=model.light_levels or model.levels,
            context_entry=model.context_entry,
        )
        channels = tuple(model.context_channels or width for width in light.widths)
        if model.context_levels == "last":
            channels = (channels[0], *(0,) * (len(channels) - 1))
        denoiser = replace(light, context_channels=channels)
        return DualRate(UViT(encoder), UViT(denoiser), parameterization_of(config.diffusion), model.context_levels)

    def loss(self, config: Configuration, schedule: CosineSchedule) -> Loss:
        from functools import partial

        from models.dual_rate_loss import PairSettings, dual_rate_loss

        train = config.train
        pairs = PairSettings(train.context_dropout, train.pairs, train.refreshes, train.denoiser_times)
        return partial(dual_rate_loss, settings=self.loss_settings(config, schedule), pairs=pairs)

    def runs_per_iteration(self, config: Configuration) -> Mapping[str, int]:
        return {"denoiser": config.train.denoiser_times}

    def recomputes_activations(self, config: Configuration) -> bool:
        return bool(config.train.checkpoint_activations)

    def may_leave_parameters_unused(self, config: Configuration) -> bool:
        """A context that is never dropped leaves the vector that stands in for it without a gradient."""
        return bool(config.train.context_dropout == 0)

    def needs_refreshes(self, config: Configuration) -> bool:
        return True
