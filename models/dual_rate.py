"""Dual-Rate Diffusion [DR]: an encoder that runs at refreshes, a denoiser that runs at every step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from models.method import RunNetwork, State, run_network
from models.parameterization import Parameterization, Prediction
from models.process import per_image
from models.uvit import Conditioning, Projection, UViT

ContextLevels = Literal["all", "last"]


class Context(NamedTuple):
    """What the encoder hands the denoiser, with all work done that no step changes."""

    projection: Projection
    """Per level, the denoiser's projected context."""
    conditioning: Conditioning
    """The share of the denoiser's FiLM that depends on the context's time and on the class."""


class DualRate(nn.Module):
    """A heavy encoder, run at refreshes, and a light denoiser, run at every step with the newest context
    [DR].

    The last layer of each level of the encoder (`context_levels` "all") or of level 0 alone ("last") is
    normalised per pixel, projected to the channels that the denoiser takes, and concatenated into it at the
    matching level.
    """

    networks = ("encoder", "denoiser")

    def __init__(
        self,
        encoder: UViT,
        denoiser: UViT,
        parameterization: Parameterization | None = None,
        context_levels: ContextLevels = "all",
    ) -> None:
        super().__init__()
        channels = _checked_channels(encoder, denoiser, context_levels)
        self.encoder, self.denoiser = encoder, denoiser
        self.parameterization = parameterization or Prediction()
        self.classes = denoiser.config.classes
        self.projections = nn.ModuleList(
            nn.Conv2d(width, to, 1, bias=False) for width, to in zip(encoder.config.widths, channels, strict=False)
        )

    def encode(self, z: Tensor, log_snr: Tensor, labels: Tensor | None = None, keep: Tensor | None = None) -> Context:
        """Run the encoder on z_τ (B, C, H, W) at λ_τ.

        `keep` (B,) bool: False drops all of an image's context: its features are zero and a learned vector
        stands in for its τ.
        """
        output = self.encoder(self.parameterization.input(z, log_snr), log_snr, self.encoder.condition(labels))
        features = [
            project(_normalised(feature)) for project, feature in zip(self.projections, output.features, strict=False)
        ]
        if keep is not None:
            features = [feature * per_image(keep, feature) for feature in features]
        return Context(self.denoiser.project_context(features), self.denoiser.condition(labels, log_snr, keep))

    def denoise(self, z: Tensor, log_snr: Tensor, context: Context) -> Tensor:
        """x̂ for z_t (B, C, H, W) at λ_t. The class comes with the context."""
        seen = self.parameterization.input(z, log_snr)
        output = self.denoiser(seen, log_snr, context.conditioning, context.projection)
        return self.parameterization.estimate(output.image, z, log_snr)

    def step(
        self,
        z: Tensor,
        log_snr: Tensor,
        labels: Tensor | None = None,
        state: State = None,
        run: RunNetwork = run_network,
    ) -> tuple[Tensor, State]:
        """x̂ and the context, which is recomputed where `state` is None."""
        context = run("encoder", self.encode, z, log_snr, labels) if state is None else state
        return run("denoiser", self.denoise, z, log_snr, context), context


def _normalised(feature: Tensor) -> Tensor:
    """Root mean square 1 over the channels of each pixel: the stream of a deep encoder has no scale of its own."""
    return F.normalize(feature, dim=1) * feature.shape[1] ** 0.5


def _checked_channels(encoder: UViT, denoiser: UViT, context_levels: ContextLevels) -> Sequence[int]:
    """Channels to project each level of the encoder to."""
    if context_levels not in get_args(ContextLevels):
        raise ValueError(f"context_levels: {context_levels!r} is not one of {', '.join(get_args(ContextLevels))}")
    if encoder.config.sides != denoiser.config.sides:
        raise ValueError(
            f"the encoder's levels have sides {encoder.config.sides}, the denoiser's {denoiser.config.sides}"
        )
    if encoder.config.classes != denoiser.config.classes:
        raise ValueError(f"the encoder has {encoder.config.classes} classes, the denoiser {denoiser.config.classes}")
    channels = denoiser.config.context_channels or ()
    wanted = len(channels) if context_levels == "all" else 1
    if not channels or min(channels[:wanted]) < 1 or any(channels[wanted:]):
        raise ValueError(f"context_channels: {channels} does not take context at {context_levels} levels (0 elsewhere)")
    return channels[:wanted]
