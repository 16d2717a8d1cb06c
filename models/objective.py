"""Training losses. All randomness is keyed by (seed, training step, position in the global batch), and by
purpose.

So a loss is the same at any number of ranks and micro-batches, and after any resume, and dropping labels
moves no noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from models.dual_rate import DualRate
from models.method import Model, RunNetwork, run_network
from models.noise import Stream, normal, uniform
from models.process import (
    CosineSchedule,
    bridge,
    diffuse,
    markov_step,
    noise_level,
    sigmoid_weight,
)

Pairing = Literal["grid", "range"]
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
        context_dropout: probability that an image's context is dropped whole [DR].
        pairs: how τ is drawn given t: "grid", the times of one number of refreshes; "range", of a number
            drawn per image.
        refreshes: for "grid" one number; for "range" (fewest, most), log-uniform over the integers.
        denoiser_times: denoiser's times per encoder pass.
    """

    schedule: CosineSchedule = field(default_factory=CosineSchedule)
    weighting: Weighting = "sigmoid"
    bias: float = -1.0
    sigma_data: float = 0.5
    log_sigma_mean: float = -1.2
    log_sigma_std: float = 1.2
    label_dropout: float = 0.0
    context_dropout: float = 0.0
    pairs: Pairing = "range"
    refreshes: int | tuple[int, int] = (4, 32)
    denoiser_times: int = 1

    def __post_init__(self) -> None:
        if self.weighting not in get_args(Weighting):
            raise ValueError(f"weighting: {self.weighting!r} is not one of {', '.join(get_args(Weighting))}")
        if self.pairs not in get_args(Pairing):
            raise ValueError(f"pairs: {self.pairs!r} is not one of {', '.join(get_args(Pairing))}")
        if (self.pairs == "grid") != isinstance(self.refreshes, int):
            raise ValueError(f"refreshes: {self.refreshes!r} does not fit pairs {self.pairs!r}")
        low, high = self.refreshes_range
        if not 1 <= low <= high:
            raise ValueError(f"refreshes: {self.refreshes!r} must be at least 1, and fewest before most")

    @property
    def refreshes_range(self) -> tuple[int, int]:
        """(fewest, most)."""
        return (self.refreshes, self.refreshes) if isinstance(self.refreshes, int) else self.refreshes


class Pairs(NamedTuple):
    """Times of the denoiser and of the context it is given, t ≤ τ."""

    t: Tensor
    """float64 (denoiser_times, B); each is uniform on (0, 1)."""
    tau: Tensor
    """float64 (B,)."""


def draw_pairs(randomness: Randomness, settings: LossSettings) -> Pairs:
    """t ~ U(0, 1) and τ = ⌈t·R⌉/R for R refreshes.

    Further t's are uniform between τ − 1/R and τ, so that each has t's law.
    """
    t = randomness.time()
    low, high = settings.refreshes_range
    refreshes = torch.full_like(t, low)
    if high > low:
        draw = randomness.uniform(Stream.REFRESHES).double()
        refreshes = (low * torch.exp(draw * math.log((high + 1) / low))).floor().clamp(low, high)
    tau = (t * refreshes).ceil() / refreshes
    later = randomness.uniform(Stream.LATER_TIME, (settings.denoiser_times - 1,)).double().T
    return Pairs(torch.cat([t[None], tau - later / refreshes]).clamp(min=0), tau)


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
    labels = _dropped(labels, model, randomness, settings.label_dropout)
    if isinstance(model, DualRate):
        if settings.weighting != "sigmoid":
            raise ValueError(
                f"weighting: {settings.weighting!r} is for one network; a DualRate has the sigmoid weighting"
            )
        return _dual_rate_loss(model, x, labels, randomness, settings, run)
    if settings.weighting == "edm":
        deviations = torch.special.ndtri(randomness.time())
        log_snr = (-2 * (settings.log_sigma_mean + settings.log_sigma_std * deviations)).to(x.dtype)
        weight = edm_weight(log_snr, settings.sigma_data)
    else:
        log_snr, weight = _weighted(randomness.time(), settings, x)
    z = diffuse(x, log_snr, randomness.normal(Stream.NOISE, x.shape[1:]))
    return _error(model.step(z, log_snr, labels, None, run)[0], x, weight)


def _dual_rate_loss(
    model: DualRate,
    x: Tensor,
    labels: Tensor | None,
    randomness: Randomness,
    settings: LossSettings,
    run: RunNetwork,
) -> Tensor:
    pairs = draw_pairs(randomness, settings)
    log_snr_tau = settings.schedule.log_snr(pairs.tau).to(x.dtype)
    levels = [_weighted(t, settings, x) for t in pairs.t]
    noisy, z_tau = noisy_pair(x, [log_snr for log_snr, _ in levels], log_snr_tau, randomness)
    keep = None
    if settings.context_dropout > 0:
        keep = randomness.uniform(Stream.CONTEXT_DROPOUT) >= settings.context_dropout
    context = run("encoder", model.encode, z_tau, log_snr_tau, labels, keep)
    errors = [
        _error(run("denoiser", model.denoise, z, log_snr, context), x, weight)
        for z, (log_snr, weight) in zip(noisy, levels, strict=True)
    ]
    return torch.stack(errors).mean()


def noisy_pair(
    x: Tensor, log_snrs: Sequence[Tensor], log_snr_tau: Tensor, randomness: Randomness
) -> tuple[list[Tensor], Tensor]:
    """z_t of each log-SNR (B,), and z_τ of `log_snr_tau` (B,): each (z_t, z_τ) has the law of the Markov
    process given x.

    The first z_t comes from x and z_τ from it; further ones from the bridge q(z_t | z_τ, x), so that they
    share one z_τ.
    """
    noise = randomness.normal(Stream.NOISE, (len(log_snrs), *x.shape[1:])).to(x.dtype)
    first = diffuse(x, log_snrs[0], noise[:, 0])
    onward = randomness.normal(Stream.CONTEXT_NOISE, x.shape[1:]).to(x.dtype)
    z_tau = markov_step(first, log_snrs[0], log_snr_tau, onward)
    later = [bridge(z_tau, x, log_snr_tau, log_snrs[i], noise[:, i]) for i in range(1, len(log_snrs))]
    return [first, *later], z_tau


def edm_weight(log_snr: Tensor, sigma_data: float) -> Tensor:
    """EDM's λ(σ) = (σ² + σ_data²)/(σ σ_data)² [EDM]."""
    sigma = noise_level(log_snr)
    return (sigma.square() + sigma_data**2) / (sigma * sigma_data).square()


def _weighted(t: Tensor, settings: LossSettings, x: Tensor) -> tuple[Tensor, Tensor]:
    """λ_t and ½·(−dλ/dt)·e^λ·w(λ), in x's dtype."""
    log_snr = settings.schedule.log_snr(t)
    weight = -settings.schedule.dlog_snr_dt(t) / 2 * log_snr.exp() * sigmoid_weight(log_snr, settings.bias)
    return log_snr.to(x.dtype), weight.to(x.dtype)


def _error(estimate: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    return ((estimate - x).square().flatten(1).mean(1) * weight).mean()


def _dropped(labels: Tensor | None, model: Model, randomness: Randomness, probability: float) -> Tensor | None:
    if labels is None or model.classes is None:
        return None
    if probability == 0:
        return labels
    return torch.where(randomness.uniform(Stream.LABEL_DROPOUT) < probability, model.classes, labels)
