"""The variance preserving process z_t = α_t x + σ_t ε, with α² + σ² = 1 and log-SNR λ = log(α²/σ²).

Everywhere, times t are in [0, 1] with t = 1 noise, log-SNRs are tensors of shape (), (1,) or (B,), and images
are (B, C, H, W).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from models.limits import LOG_SNR_RANGE, check_log_snr_range

Kind = Literal["v", "x", "epsilon"]
KINDS: tuple[str, ...] = get_args(Kind)


def per_image(value: Tensor, images: Tensor) -> Tensor:
    """`value` of shape (), (1,) or (B,), in the type of `images` and shaped to broadcast against them."""
    value = value.to(images.dtype)
    return value.reshape(-1, *(1,) * (images.ndim - 1)) if value.ndim else value


def resolution_shift(base: int, resolution: int) -> float:
    """Shift of the log-SNR, 2·log(base / resolution), that keeps the noise seen at `base` at any resolution [SiD]."""
    return 2 * math.log(base / resolution)


@dataclass(frozen=True)
class CosineSchedule:
    """λ(t) = −2 log tan(u) + shift, u linear in t, ends at the two ends of `log_snr_range` exactly [SiD].

    Between the ends it is the cosine schedule, smooth and strictly falling: the range bounds t's angle, it
    does not flatten λ. The ends are of the shifted λ, whatever the resolution; SiD clips before it shifts, so that its
    ends move with the shift. Compute in float64: near the ends tan amplifies rounding.
    """

    shift: float = 0.0
    log_snr_range: tuple[float, float] = LOG_SNR_RANGE
    _angle: tuple[float, float] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_log_snr_range(self.log_snr_range)
        low, high = self.log_snr_range
        first, last = (math.atan(math.exp((self.shift - end) / 2)) for end in (high, low))
        object.__setattr__(self, "_angle", (first, last - first))

    def _u(self, t: Tensor) -> Tensor:
        start, span = self._angle
        return start + span * t

    def log_snr(self, t: Tensor) -> Tensor:
        """λ(t), of t's shape and dtype."""
        return self.shift - 2 * torch.log(torch.tan(self._u(t)))

    def dlog_snr_dt(self, t: Tensor) -> Tensor:
        """dλ/dt, negative everywhere."""
        return -4 * self._angle[1] / torch.sin(2 * self._u(t))

    def time(self, log_snr: Tensor) -> Tensor:
        """t(λ), the inverse of :meth:`log_snr`; outside [0, 1] for λ outside the range."""
        start, span = self._angle
        return (torch.atan(torch.exp((self.shift - log_snr) / 2)) - start) / span


def alpha_sigma(log_snr: Tensor) -> tuple[Tensor, Tensor]:
    """α = √sigmoid(λ) and σ = √sigmoid(−λ)."""
    return torch.sigmoid(log_snr).sqrt(), torch.sigmoid(-log_snr).sqrt()


def noise_level(log_snr: Tensor) -> Tensor:
    """EDM's σ = σ_t/α_t = exp(−λ/2): noise per unit of signal [EDM]."""
    return torch.exp(-log_snr / 2)


def log_snr_of(noise_level: Tensor) -> Tensor:
    """λ = −2 log σ, the inverse of :func:`noise_level`."""
    return -2 * torch.log(noise_level)


def diffuse(x: Tensor, log_snr: Tensor, noise: Tensor) -> Tensor:
    """A draw of q(z_t | x): α_t x + σ_t ε."""
    alpha, sigma = alpha_sigma(log_snr)
    return per_image(alpha, x) * x + per_image(sigma, x) * noise


def markov_step(z_t: Tensor, log_snr_t: Tensor, log_snr_tau: Tensor, noise: Tensor) -> Tensor:
    """A draw of q(z_τ | z_t), τ ≥ t: α_{τ|t} z_t + σ_{τ|t} ε', σ²_{τ|t} = σ_τ² (1 − e^{λ_τ−λ_t}) [DR]."""
    alpha_t, _ = alpha_sigma(log_snr_t)
    alpha_tau, sigma_tau = alpha_sigma(log_snr_tau)
    noise_std = sigma_tau * torch.sqrt(-torch.expm1((log_snr_tau - log_snr_t).clamp(max=0)))
    return per_image(alpha_tau / alpha_t, z_t) * z_t + per_image(noise_std, z_t) * noise


def posterior(z_t: Tensor, x: Tensor, log_snr_t: Tensor, log_snr_s: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (B, C, H, W) and variance (shape of the log-SNRs) of q(z_s | z_t, x), s ≤ t [MMD's ancestral step]."""
    alpha_t, _ = alpha_sigma(log_snr_t)
    alpha_s, sigma_s = alpha_sigma(log_snr_s)
    drop = (log_snr_t - log_snr_s).clamp(max=0)
    snr_ratio, removed = torch.exp(drop), -torch.expm1(drop)  # e^{λ_t−λ_s} and 1 − e^{λ_t−λ_s}
    mean = per_image(snr_ratio * alpha_s / alpha_t, z_t) * z_t + per_image(removed * alpha_s, x) * x
    return mean, sigma_s.square() * removed


def deterministic_step(z: Tensor, x: Tensor, log_snr_t: Tensor, log_snr_s: Tensor) -> Tensor:
    """DDIM's step: z_s = (σ_s/σ_t) z_t + (α_s − α_t σ_s/σ_t) x̂ [DDIM]; log-SNRs (B,)."""
    alpha_t, sigma_t = alpha_sigma(log_snr_t)
    alpha_s, sigma_s = alpha_sigma(log_snr_s)
    z_coef = sigma_s / sigma_t
    return per_image(z_coef, z) * z + per_image(alpha_s - alpha_t * z_coef, z) * x


def bridge(z_tau: Tensor, x: Tensor, log_snr_tau: Tensor, log_snr_t: Tensor, noise: Tensor) -> Tensor:
    """A draw of q(z_t | z_τ, x), t ≤ τ: with z_τ ~ q(z_τ | x) the pair has the law of the Markov pair."""
    mean, variance = posterior(z_tau, x, log_snr_tau, log_snr_t)
    return mean + per_image(variance.sqrt(), mean) * noise


def to_x(prediction: Tensor, z: Tensor, log_snr: Tensor, kind: Kind) -> Tensor:
    """x̂ from a prediction of `kind`, v = αε − σx."""
    if kind == "x":
        return prediction
    alpha, sigma = (per_image(value, z) for value in alpha_sigma(log_snr))
    if kind == "v":
        return alpha * z - sigma * prediction
    if kind == "epsilon":
        return (z - sigma * prediction) / alpha
    raise ValueError(f"kind: {kind!r} is not one of {', '.join(KINDS)}")


def sigmoid_weight(log_snr: Tensor, bias: float) -> Tensor:
    """w(λ) = sigmoid(b − λ), the weight of the ε-loss per unit of λ [KG, SiD2]."""
    return torch.sigmoid(bias - log_snr)
