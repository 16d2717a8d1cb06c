"""Conditional preconditioning: the light denoiser starts from the Gaussian update of the encoder's estimate by z_t.

At a refresh the encoder's own head gives x̂_τ = E[x | z_τ] with an error of variance r per dimension. Were x | z_τ
normal N(x̂_τ, r), then z_t, t ≤ τ, would tell of x by the bridge q(z_t | z_τ, x) = N(a z_τ + b x, s²), and the mean and
the variance of x | z_τ, z_t would be, with u = 1 − e^{λ_τ−λ_t},

    x̂_0 = x̂_τ + K (z_t − a z_τ − b x̂_τ),   a = e^{λ_τ−λ_t} α_t/α_τ,   b = u α_t,   K = α_t r/(σ_t² + u α_t² r),
    p = r σ_t²/(σ_t² + u α_t² r) = 1/(1/r + SNR_t − SNR_τ).

The denoiser F is left what this update cannot know: x̂ = x̂_0 + √p F. This is to the pair (z_t, z_τ) what EDM's
preconditioning is to one state: F has targets of unit variance, and with F = 0 there is a sampler already. At t = τ it
is the encoder's own estimate, and as t falls z_t takes over. This form of K and p is finite at t = τ, where b = s = 0.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from models.limits import LOG_SNR_RANGE, SIGMA_DATA
from models.process import alpha_sigma, per_image

Conditional = Literal["conditional", "input", "anchor", "unscaled"]
"""What of the update is used: all; x̂_0 as an input only; x̂_τ in place of x̂_0; √p fixed to 1."""


class Anchor(NamedTuple):
    """What a refresh leaves for the updates after it."""

    z: Tensor
    """z_τ (B, C, H, W)."""
    x: Tensor
    """x̂_τ (B, C, H, W)."""
    log_snr: Tensor
    """λ_τ (1,) or (B,)."""
    variance: Tensor
    """r, the mean squared error of x̂_τ per dimension, of λ_τ's shape; 0 where nobody asks for it."""
    keep: Tensor | None = None
    """(B,) bool: False where the context is dropped in training."""


class GaussianUpdate(NamedTuple):
    """The law of x given z_τ and z_t."""

    mean: Tensor
    """x̂_0 (B, C, H, W)."""
    variance: Tensor
    """p (1,) or (B,)."""


def update(anchor: Anchor, z: Tensor, log_snr: Tensor) -> GaussianUpdate:
    """x̂_0 and p for z_t (B, C, H, W) at log-SNR (), (1,) or (B,), λ_t ≥ λ_τ."""
    fall = (anchor.log_snr - log_snr).clamp(max=0)  # λ_τ − λ_t
    alpha, sigma = alpha_sigma(log_snr)
    alpha_tau, _ = alpha_sigma(anchor.log_snr)
    a, u = fall.exp() * alpha / alpha_tau, -torch.expm1(fall)
    noise = sigma.square()
    denominator = noise + u * alpha.square() * anchor.variance
    gain = alpha * anchor.variance / denominator
    innovation = z - per_image(a, z) * anchor.z - per_image(u * alpha, z) * anchor.x
    return GaussianUpdate(anchor.x + per_image(gain, z) * innovation, anchor.variance * noise / denominator)


def gaussian_error(log_snr: Tensor, sigma_data: float = SIGMA_DATA) -> Tensor:
    """r(λ) = 1/(1/s² + e^λ): the error of the best estimate of independent normal data of deviation s."""
    return 1 / (1 / sigma_data**2 + log_snr.exp())


class ErrorTable(nn.Module):
    """r(λ) of the encoder's estimate, interpolated linearly in log r over λ, constant beyond the ends.

    Until :meth:`fill` it is that of normal data of deviation `sigma_data`. It is part of the weights.
    """

    knots = 65
    log_error: Tensor

    def __init__(self, log_snr_range: tuple[float, float] = LOG_SNR_RANGE, sigma_data: float = SIGMA_DATA) -> None:
        super().__init__()
        self.low, self.high = log_snr_range
        self.register_buffer("log_error", gaussian_error(self._at_knots(), sigma_data).log().float())

    def _at_knots(self) -> Tensor:
        return torch.linspace(self.low, self.high, self.knots, dtype=torch.float64)

    @torch.no_grad()
    def fill(self, log_snr: Tensor, error: Tensor) -> None:
        """Take over a measured table: r = `error` (N,) at the rising `log_snr` (N,)."""
        if not bool((log_snr.diff() > 0).all()) or not bool((error > 0).all()):
            raise ValueError("error table: the log-SNRs must rise and the errors be above 0")
        log_errors = np.interp(
            self._at_knots().numpy(), log_snr.cpu().double().numpy(), error.cpu().double().log().numpy()
        )
        self.log_error.copy_(torch.from_numpy(log_errors))

    def forward(self, log_snr: Tensor) -> Tensor:
        """r at λ, of its shape."""
        place = ((log_snr - self.low) / (self.high - self.low) * (self.knots - 1)).clamp(0, self.knots - 1)
        before = place.floor().clamp(max=self.knots - 2)
        start, end = self.log_error[before.long()], self.log_error[before.long() + 1]
        return torch.lerp(start, end, (place - before).to(start.dtype)).exp()
