"""Dual-Rate Diffusion [DR]: an encoder that runs at refreshes, a denoiser that runs at every step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from models.backbone import Backbone
from models.conditional import Anchor, Conditional, ErrorTable, update
from models.method import RunNetwork, State, run_network
from models.parameterization import Parameterization, Prediction
from models.process import per_image
from models.uvit import Conditioning, Output, Projection

ContextLevels = Literal["all", "last", "output"]


class Context(NamedTuple):
    """What the encoder hands the denoiser, with all work done that no step changes."""

    projection: Projection
    """Per level, the denoiser's projected context."""
    conditioning: Conditioning
    """The share of the denoiser's FiLM that depends on the context's time and on the class."""
    anchor: Anchor | None = None
    """z_τ and the encoder's own estimate, of an encoder that has one."""


class DualRate(nn.Module):
    """A heavy encoder, run at refreshes, and a light denoiser, run at every step with the newest context
    [DR].

    The last layer of each level of the encoder (`context_levels` "all") or of level 0 alone ("last") is
    normalised per pixel, projected to the channels that the denoiser takes, and concatenated into it at the
    matching level. With "output" no features are handed on: the denoiser sees z_τ and the encoder's estimate x̂_τ beside
    z_t [Morse].

    With `conditional` (:mod:`models.conditional`) the denoiser starts from the Gaussian update of x̂_τ by z_t, which it
    also sees, and `errors` holds r. An encoder with a head of its own has an estimate; both of these need one.

    With `tells_time` False the denoiser is not told τ.
    """

    networks = ("encoder", "denoiser")
    encoder: Any
    denoiser: Any
    """:class:`models.backbone.Backbone` both, of classes that only who built them knows."""

    def __init__(
        self,
        encoder: Backbone,
        denoiser: Backbone,
        parameterization: Parameterization | None = None,
        context_levels: ContextLevels = "all",
        *,
        conditional: Conditional | None = None,
        errors: ErrorTable | None = None,
        tells_time: bool = True,
    ) -> None:
        super().__init__()
        channels = _checked_channels(encoder, denoiser, context_levels, conditional)
        self.encoder, self.denoiser = encoder, denoiser
        self.parameterization = parameterization or Prediction()
        self.classes = denoiser.config.classes
        self.conditional, self.tells_time = conditional, tells_time
        self.sees_anchor = context_levels == "output"
        self.has_estimate = encoder.config.out_channels is not None
        self.errors = None if conditional is None else errors or ErrorTable()
        self.projections = nn.ModuleList(
            nn.Conv2d(width, to, 1, bias=False) for width, to in zip(encoder.config.widths, channels, strict=False)
        )

    def encode(self, z: Tensor, log_snr: Tensor, labels: Tensor | None = None, keep: Tensor | None = None) -> Context:
        """Run the encoder on z_τ (B, C, H, W) at λ_τ.

        `keep` (B,) bool: False drops all of an image's context: its features are zero and a learned vector
        stands in for its τ. A conditional denoiser still starts from x̂_τ.
        """
        output = self._encoder(z, log_snr, labels)
        features = [
            project(_normalised(feature)) for project, feature in zip(self.projections, output.features, strict=False)
        ]
        if keep is not None:
            features = [feature * per_image(keep, feature) for feature in features]
        told = log_snr if self.tells_time else None
        conditioning = self.denoiser.condition(labels, told, keep if self.tells_time else None)
        anchor = None
        if self.has_estimate:
            log_snr = log_snr.reshape(-1)
            x = self.parameterization.estimate(output.image, z, log_snr)
            variance = torch.zeros_like(log_snr) if self.errors is None else self.errors(log_snr)
            anchor = Anchor(z, x, log_snr, variance, keep)
        return Context(self.denoiser.project_context(features), conditioning, anchor)

    def estimate(self, z: Tensor, log_snr: Tensor, labels: Tensor | None = None) -> Tensor:
        """The encoder's own x̂ for z (B, C, H, W), of an encoder that has a head."""
        return self.parameterization.estimate(self._encoder(z, log_snr, labels).image, z, log_snr)

    def _encoder(self, z: Tensor, log_snr: Tensor, labels: Tensor | None) -> Output:
        """One evaluation of the encoder."""
        seen = self.parameterization.input(z, log_snr)
        output: Output = self.encoder(seen, log_snr, self.encoder.condition(labels))
        return output

    def denoise(self, z: Tensor, log_snr: Tensor, context: Context) -> Tensor:
        """x̂ for z_t (B, C, H, W) at λ_t. The class comes with the context."""
        seen = [self.parameterization.input(z, log_snr)]
        anchor = context.anchor
        if self.sees_anchor and anchor is not None:
            seen += [_kept(anchor.z, anchor.keep), _kept(anchor.x, anchor.keep)]
        if self.conditional is None or anchor is None:
            return self.parameterization.estimate(self._denoiser(seen, log_snr, context), z, log_snr)
        mean, variance = update(anchor, z, log_snr)
        if self.conditional == "anchor":
            mean = anchor.x
        output = self._denoiser([*seen, mean], log_snr, context)
        if self.conditional == "input":
            return self.parameterization.estimate(output, z, log_snr)
        scale = torch.ones_like(variance) if self.conditional == "unscaled" else variance.sqrt()
        return mean + per_image(scale, z) * output.to(z.dtype)

    def _denoiser(self, seen: Sequence[Tensor], log_snr: Tensor, context: Context) -> Tensor:
        """The denoiser's output for all that it sees of the images."""
        image = torch.cat(list(seen), dim=1) if len(seen) > 1 else seen[0]
        output: Tensor = self.denoiser(image, log_snr, context.conditioning, context.projection).image
        return output

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

    def features(self, state: Context) -> Tensor:
        """What the encoder hands on of each image, (B, D): the projected features, or the estimate where there are
        none."""
        parts = [part.flatten(1) for part in tree_leaves(state.projection) if isinstance(part, Tensor)]
        if not parts and state.anchor is not None:
            parts = [state.anchor.x.flatten(1)]
        return torch.cat(parts, dim=1)


class EncoderAtRefresh(nn.Module):
    """A :class:`DualRate` whose encoder's own estimate is the x̂ of a refresh step: the denoiser runs between only."""

    networks = DualRate.networks

    def __init__(self, model: DualRate) -> None:
        super().__init__()
        if not model.has_estimate:
            raise ValueError("the encoder has no head, so it gives no estimate of its own")
        self.model, self.classes = model, model.classes

    def step(
        self,
        z: Tensor,
        log_snr: Tensor,
        labels: Tensor | None = None,
        state: State = None,
        run: RunNetwork = run_network,
    ) -> tuple[Tensor, State]:
        """x̂ and the context, which is recomputed where `state` is None."""
        if state is None:
            context = run("encoder", self.model.encode, z, log_snr, labels)
            return context.anchor.x, context
        return self.model.step(z, log_snr, labels, state, run)

    def features(self, state: Context) -> Tensor:
        """(B, D), of the model itself."""
        return self.model.features(state)


def _kept(image: Tensor, keep: Tensor | None) -> Tensor:
    return image if keep is None else image * per_image(keep, image)


def _normalised(feature: Tensor) -> Tensor:
    """Root mean square 1 over the channels of each pixel: the stream of a deep encoder has no scale of its own."""
    return F.normalize(feature, dim=1) * feature.shape[1] ** 0.5


def _checked_channels(
    encoder: Backbone, denoiser: Backbone, context_levels: ContextLevels, conditional: Conditional | None
) -> Sequence[int]:
    """Channels to project each level of the encoder to."""
    if context_levels not in get_args(ContextLevels):
        raise ValueError(f"context_levels: {context_levels!r} is not one of {', '.join(get_args(ContextLevels))}")
    if conditional not in (None, *get_args(Conditional)):
        raise ValueError(f"conditional: {conditional!r} is not one of {', '.join(get_args(Conditional))}")
    if encoder.config.sides != denoiser.config.sides:
        raise ValueError(
            f"the encoder's levels have sides {encoder.config.sides}, the denoiser's {denoiser.config.sides}"
        )
    if encoder.config.classes != denoiser.config.classes:
        raise ValueError(f"the encoder has {encoder.config.classes} classes, the denoiser {denoiser.config.classes}")
    output, images = context_levels == "output", 1 + images_beside(context_levels, conditional)
    if images > 1 and encoder.config.out_channels != encoder.config.channels:
        raise ValueError("out_channels: the encoder needs a head, for the denoiser sees or starts from its estimate")
    if denoiser.config.channels != images * encoder.config.channels:
        raise ValueError(f"channels: the denoiser takes {denoiser.config.channels}, but sees {images} images")
    channels = denoiser.config.context_channels
    wanted = {"all": len(channels or ()), "last": 1, "output": 0}[context_levels]
    if not channels or (not output and min(channels[:wanted]) < 1) or any(channels[wanted:]):
        raise ValueError(f"context_channels: {channels} does not take context at {context_levels} levels (0 elsewhere)")
    return channels[:wanted]


def images_beside(context_levels: ContextLevels, conditional: Conditional | None) -> int:
    """Images that the denoiser sees beside z_t: z_τ and x̂_τ as its context, and what the update starts from."""
    return 2 * (context_levels == "output") + (conditional is not None)
