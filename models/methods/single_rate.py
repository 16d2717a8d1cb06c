"""One network at every step: the base, the shrunk network and, with EDM's preconditioning, EDM's.

With ``sample.cache_from_level`` its trained network is sampled through a training-free feature cache [DeepCache].
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from models.methods.base import Configuration, ImageShape, Method, PositiveInt, Settings
from models.methods.uvit_settings import UViTSettings, UViTTraining, uvit_config
from models.refresh import KEYS as REFRESH_KEYS

if TYPE_CHECKING:
    from models.method import Model


class Sampling(Settings):
    """Of the section `sample`."""

    cache_from_level: PositiveInt | None = Field(
        None, description="levels from this one down run at refresh steps only (training-free feature cache)"
    )


class SingleRateMethod(Method):
    """One Residual U-ViT, optionally cached in sampling."""

    model_settings = UViTSettings
    train_settings = UViTTraining
    sample_settings = Sampling

    def check(self, config: Configuration) -> None:
        sample, levels = config.sample, len(config.model.levels)
        refreshing = [key for key in REFRESH_KEYS if getattr(sample, key) is not None]
        if sample.cache_from_level is None:
            if refreshing:
                raise ValueError(
                    f"sample.{refreshing[0]}: a single_rate model refreshes nothing; "
                    "set model.kind: dual_rate, or sample.cache_from_level for a feature cache"
                )
        elif not refreshing:
            raise ValueError(
                f"sample.{REFRESH_KEYS[0]}: missing; set one of {', '.join(REFRESH_KEYS)} for a feature cache"
            )
        elif sample.cache_from_level >= levels:
            raise ValueError(
                f"sample.cache_from_level: {sample.cache_from_level} is no level; "
                f"the model has levels 0 to {levels - 1}"
            )

    def build(self, config: Configuration, images: ImageShape) -> Model:
        from models.parameterization import parameterization_of
        from models.single_rate import SingleRate
        from models.uvit import UViT

        network = UViT(uvit_config(config.model, images, config.train.checkpoint_activations))
        return SingleRate(network, parameterization_of(config.diffusion))

    def sampled(self, model: Any, config: Configuration) -> Model:
        from models.cache import CachedSingleRate

        if config.sample.cache_from_level is None:
            return super().sampled(model, config)
        return CachedSingleRate(model, config.sample.cache_from_level)

    def recomputes_activations(self, config: Configuration) -> bool:
        return bool(config.train.checkpoint_activations)

    def may_leave_parameters_unused(self, config: Configuration) -> bool:
        return False

    def needs_refreshes(self, config: Configuration) -> bool:
        return config.sample.cache_from_level is not None
