"""The training loss of one x̂, and the randomness of training.

All randomness is keyed by seed, training step, position in the global batch and purpose. So a loss is the same at any
number of ranks and micro-batches and after any resume, and dropping labels changes no noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from models.limits import LOG_SIGMA_MEAN, LOG_SIGMA_STD, LOSS_BIAS, SIGMA_DATA
from models.method import Model, RunNetwork, run_network
from models.noise import Stream, normal, uniform
from models.noise_schedule import Drawn, NoiseSchedule, draw, noise_schedule_of
from models.process import CosineSchedule, diffuse, noise_level, sigmoid_weight

Weighting = Literal["sigmoid", "edm"]


@dataclass(frozen=True)
class Randomness:
    """What one training step draws.

    Attributes:
        seed: of the training.
        step: of the training.
        positions: (B,) int64, positions in the global batch, on the images' device.
        batch: size of the global batch, to spread the times evenly over it: position i gets frac(u +
            i/batch), with one u per step, still uniform for each image (lower variance, the same at any
            number of ranks). None draws them independently.
    """

    seed: int
    step: int
    positions: Tensor
    batch: int | None = None

    def uniform(self, stream: Stream, shape: Sequence[int] = ()) -> Tensor:
        """Uniform float32 in (0, 1), (B, *shape)."""
        return uniform(self.seed, self.positions, self.step, shape, stream)

    def normal(self, stream: Stream, shape: Sequence[int]) -> Tensor:
        """Standard normal float32, (B, *shape)."""
        return normal(self.seed, self.positions, self.step, shape, stream)

    def time(self) -> Tensor:
        """Uniform float64 in (0, 1), (B,)."""
        if self.batch is None:
            return self.uniform(Stream.TIME).double()
        start = uniform(self.seed, torch.zeros_like(self.positions[:1]), self.step, (), Stream.TIME).double()
        return (start + self.positions / self.batch).frac().clamp(2.0**-24, 1 - 2.0**-24)


@dataclass(frozen=True)
class LossSettings:
    """What is minimised.

    Attributes:
        schedule: of the process.
        weighting: "sigmoid": t ~ U(0, 1) and w(λ) = sigmoid(bias − λ) [KG, SiD2]; "edm": ln σ ~
            N(log_sigma_mean, log_sigma_std²) and EDM's weight [EDM].
        bias: b of the sigmoid weight.
        sigma_data, log_sigma_mean, log_sigma_std: of EDM.
        label_dropout: probability that an image's label is the null label.
    """

    schedule: CosineSchedule = field(default_factory=CosineSchedule)
    weighting: Weighting = "sigmoid"
    bias: float = LOSS_BIAS
    sigma_data: float = SIGMA_DATA
    log_sigma_mean: float = LOG_SIGMA_MEAN
    log_sigma_std: float = LOG_SIGMA_STD
    label_dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.weighting not in get_args(Weighting):
            raise ValueError(f"weighting: {self.weighting!r} is not one of {', '.join(get_args(Weighting))}")


def loss(
    model: Model,
    x: Tensor,
    labels: Tensor | None,
    randomness: Randomness,
    settings: LossSettings,
    run: RunNetwork = run_network,
) -> Tensor:
    """Scalar: the mean over images, times and dimensions of the weighted squared error of x̂.

    x is (B, C, H, W) in [−1, 1]; labels (B,) int64 or None. With the sigmoid weighting this estimates
    ½ E[−dλ/dt e^λ w(λ) ‖x − x̂‖²] / (C·H·W) [DR, KG]. `run` runs the networks.
    """
    labels = drop_labels(labels, model, randomness, settings.label_dropout)
    noise = noise_schedule_of(model)
    levels = draw(noise, randomness.time())
    if settings.weighting == "edm":
        if noise is not None:
            raise ValueError("weighting: 'edm' has its own law of noise levels, and takes no noise schedule")
        deviations = torch.special.ndtri(levels.time)
        log_snr = (-2 * (settings.log_sigma_mean + settings.log_sigma_std * deviations)).to(x.dtype)
        weight = edm_weight(log_snr, settings.sigma_data)
    else:
        log_snr, weight = weighted_level(levels, settings, x)
    z = diffuse(x, log_snr, randomness.normal(Stream.NOISE, x.shape[1:]))
    return observed_error(model.step(z, log_snr, labels, None, run)[0], x, weight, noise, levels.time)


def edm_weight(log_snr: Tensor, sigma_data: float) -> Tensor:
    """EDM's λ(σ) = (σ² + σ_data²)/(σ σ_data)² [EDM]."""
    sigma = noise_level(log_snr)
    return (sigma.square() + sigma_data**2) / (sigma * sigma_data).square()


def sigmoid_weighted(t: Tensor, settings: LossSettings, x: Tensor) -> tuple[Tensor, Tensor]:
    """λ_t and ½·(−dλ/dt)·e^λ·w(λ), in x's dtype."""
    log_snr = settings.schedule.log_snr(t)
    weight = -settings.schedule.dlog_snr_dt(t) / 2 * log_snr.exp() * sigmoid_weight(log_snr, settings.bias)
    return log_snr.to(x.dtype), weight.to(x.dtype)


def weighted_level(levels: Drawn, settings: LossSettings, x: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`sigmoid_weighted` at times that were drawn, whose density is taken out of the weight."""
    log_snr, weight = sigmoid_weighted(levels.time, settings, x)
    return log_snr, weight if levels.weight is None else weight * levels.weight.to(x.dtype)


def observed_error(estimate: Tensor, x: Tensor, weight: Tensor, noise: NoiseSchedule | None, time: Tensor) -> Tensor:
    """:func:`weighted_error`, of which a `noise` schedule that is trained learns, at the process's times (B,)."""
    losses = weighted_errors(estimate, x, weight)
    if noise is not None:
        noise.observe(time, losses)
    return losses.mean()


def weighted_error(estimate: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """The mean over images of :func:`weighted_errors`."""
    return weighted_errors(estimate, x, weight).mean()


def weighted_errors(estimate: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Of each image, weight (B,) times the squared error per dimension."""
    return (estimate - x).square().flatten(1).mean(1) * weight


def drop_labels(labels: Tensor | None, model: Model, randomness: Randomness, probability: float) -> Tensor | None:
    """Labels (B,) of which each is the null label with `probability`; None for a model without classes."""
    if labels is None or model.classes is None:
        return None
    if probability == 0:
        return labels
    return torch.where(randomness.uniform(Stream.LABEL_DROPOUT) < probability, model.classes, labels)
