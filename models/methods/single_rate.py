"""One network at every step: the base, the shrunk network and, with EDM's preconditioning, EDM's.

With ``sample.cache_from_level`` its trained network is sampled through a training-free feature cache [DeepCache], with
``sample.cache_order`` 1 through one that forecasts [TaylorSeer].
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from models.limits import MEASURED_SCHEDULES
from models.methods.base import Configuration, ImageShape, Method, PositiveInt, Settings
from models.methods.uvit_settings import (
    UViTSettings,
    UViTTraining,
    check_edm_keys,
    check_folder,
    check_noise_input,
    network_config,
)
from models.refresh import KEYS as REFRESH_KEYS

if TYPE_CHECKING:
    from models.method import Model


class Sampling(Settings):
    """Of the section `sample`."""

    cache_from_level: PositiveInt | None = Field(
        None, description="levels from this one down run at refresh steps only (training-free feature cache)"
    )
    cache_order: Literal[0, 1] | None = Field(
        None,
        description="between refreshes those levels' output is reused (0, as if unset) or extrapolated from the last "
        "two refreshes (1)",
    )

    @field_validator("cache_order")
    @classmethod
    def _unset_is_zero(cls, order: Literal[0, 1] | None) -> Literal[0, 1] | None:
        """One value for one meaning: a configuration's id does not depend on how it is written."""
        return order or None


class SingleRateMethod(Method):
    """One network, optionally cached in sampling."""

    model_settings = UViTSettings
    train_settings = UViTTraining
    sample_settings = Sampling

    def check(self, config: Configuration) -> None:
        sample, levels = config.sample, len(config.model.levels)
        check_edm_keys(config)
        check_noise_input(config)
        refreshing = [key for key in (*REFRESH_KEYS, "schedule") if getattr(sample, key, None) is not None]
        if sample.cache_from_level is None:
            if sample.cache_order is not None:
                raise ValueError(
                    f"sample.cache_order: {sample.cache_order} is of a feature cache; set sample.cache_from_level"
                )
            if refreshing:
                raise ValueError(
                    f"sample.{refreshing[0]}: a single_rate model refreshes nothing; "
                    "set model.kind: dual_rate, or sample.cache_from_level for a feature cache"
                )
        elif not refreshing:
            raise ValueError(
                f"sample.{REFRESH_KEYS[0]}: missing; set one of {', '.join(REFRESH_KEYS)} for a feature cache"
            )
        elif sample.cache_order and sample.schedule in MEASURED_SCHEDULES:
            raise ValueError(
                f"sample.schedule: {sample.schedule} needs errors that depend on the last refresh alone, but "
                "sample.cache_order: 1 forecasts from the last two; leave one of them out"
            )
        elif sample.cache_from_level >= levels:
            raise ValueError(
                f"sample.cache_from_level: {sample.cache_from_level} is no level; "
                f"the model has levels 0 to {levels - 1}"
            )

    def check_images(self, config: Configuration, images: ImageShape) -> None:
        check_folder(config, images)

    def build(self, config: Configuration, images: ImageShape) -> Model:
        from models.parameterization import parameterization_of
        from models.single_rate import SingleRate

        check_folder(config, images)
        model = config.model
        shape = network_config(
            model, images, config.train.checkpoint_activations, backbone=model.backbone, noise=model.noise_input
        )
        return SingleRate(shape.build(), parameterization_of(config.diffusion))

    def sampled(self, model: Any, config: Configuration) -> Model:
        from models.cache import CachedSingleRate

        if config.sample.cache_from_level is None:
            return super().sampled(model, config)
        return CachedSingleRate(model, config.sample.cache_from_level, config.sample.cache_order or 0)

    def recomputes_activations(self, config: Configuration) -> bool:
        return bool(config.train.checkpoint_activations)

    def may_leave_parameters_unused(self, config: Configuration) -> bool:
        return False

    def needs_refreshes(self, config: Configuration) -> bool:
        return config.sample.cache_from_level is not None
