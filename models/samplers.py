"""Samplers: pure functions from a denoiser and noise to images. They know no network, no refresh, no label.

All share one signature, ``sampler(denoise, noise, times, schedule, *, callback=None, **options) -> images``:

- ``denoise(z, t, step) -> x̂`` estimates the data, z being (B, C, H, W) on the variance preserving scale and
  t a 0-dim tensor on z's device;
- ``noise.initial()`` is what sampling starts from, and ``noise(step)`` fresh standard normal noise for a
  step;
- ``times`` is float64, (steps + 1,), falling to 0 (see :mod:`models.spacing`); the last step returns its x̂, and may
  itself stand at time 0;
- ``callback(step, z, x̂)`` sees every step, with the x̂ of its first evaluation.

Every coefficient is computed ahead, in float64 on the host, so that nothing in a loop waits for the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from models.process import CosineSchedule, log_snr_of


class Denoiser(Protocol):
    """What answers a sampler."""

    def __call__(self, z: Tensor, t: Tensor, step: int) -> Tensor:
        """x̂ for z_t at a step of the sampler."""


class Noise(Protocol):
    """What a sampler draws from."""

    def initial(self) -> Tensor:
        """Standard normal start."""

    def __call__(self, step: int) -> Tensor:
        """Standard normal noise of a step."""


Callback = Callable[[int, Tensor, Tensor], None]


@dataclass(frozen=True)
class Grid:
    """The levels of a run as host floats: t, α, σ_t and λ at each of the steps + 1 times."""

    t: list[float]
    alpha: list[float]
    sigma: list[float]
    log_snr: list[float]

    @classmethod
    def of(cls, times: Tensor, schedule: CosineSchedule) -> Grid:
        """Raises ValueError unless `times` are at least two and end at 0, the steps' own falling strictly."""
        host = times.detach().to("cpu", torch.float64)
        steps = host[:-1]
        if host.ndim != 1 or len(host) < 2 or host[-1] != 0 or steps[-1] < 0 or not bool((steps.diff() < 0).all()):
            raise ValueError(f"times: must fall strictly to 0, not {host.tolist()}")
        log_snr = schedule.log_snr(host)
        alpha, sigma = torch.sigmoid(log_snr).sqrt(), torch.sigmoid(-log_snr).sqrt()
        return cls(host.tolist(), alpha.tolist(), sigma.tolist(), log_snr.tolist())

    @property
    def last(self) -> int:
        """The last step."""
        return len(self.t) - 2


def ancestral(
    denoise: Denoiser,
    noise: Noise,
    times: Tensor,
    schedule: CosineSchedule,
    *,
    callback: Callback | None = None,
    variance: float = 0.0,
) -> Tensor:
    """DDPM's ancestral sampling: z_s ~ N(posterior mean at x̂, lower^{1−v} · upper^v).

    `variance` v in [0, 1] goes from the posterior's variance σ_s²(1−e^{λ_t−λ_s}) to the upper bound
    σ_t²(1−e^{λ_t−λ_s}) [SiD2].
    """
    grid = Grid.of(times, schedule)
    z = noise.initial() * grid.sigma[0]
    t = times.to(z.device)
    for i in range(grid.last):
        x = denoise(z, t[i], i)
        if callback is not None:
            callback(i, z, x)
        removed = -math.expm1(grid.log_snr[i] - grid.log_snr[i + 1])  # 1 − e^{λ_t−λ_s}
        z_coef, x_coef = (1 - removed) * grid.alpha[i + 1] / grid.alpha[i], removed * grid.alpha[i + 1]
        noise_std = math.sqrt(removed) * grid.sigma[i + 1] ** (1 - variance) * grid.sigma[i] ** variance
        z = z_coef * z + x_coef * x
        if noise_std > 0:
            z = z + noise_std * noise(i).to(z.dtype)
    return _last(denoise, z, t, grid, callback)


def ddim(
    denoise: Denoiser,
    noise: Noise,
    times: Tensor,
    schedule: CosineSchedule,
    *,
    callback: Callback | None = None,
    eta: float = 0.0,
) -> Tensor:
    """z_s = α_s x̂ + √(σ_s² − η²v) ε̂ + η√v ε, v being the posterior's variance [DDIM].

    η = 0 is deterministic, 1 is :func:`ancestral` with that variance.
    """
    grid = Grid.of(times, schedule)
    z = noise.initial() * grid.sigma[0]
    t = times.to(z.device)
    for i in range(grid.last):
        x = denoise(z, t[i], i)
        if callback is not None:
            callback(i, z, x)
        share = -(eta**2) * math.expm1(grid.log_snr[i] - grid.log_snr[i + 1])  # η²v/σ_s²
        z_coef = grid.sigma[i + 1] * math.sqrt(1 - share) / grid.sigma[i]
        x_coef = grid.alpha[i + 1] - z_coef * grid.alpha[i]
        noise_std = grid.sigma[i + 1] * math.sqrt(share)
        z = z_coef * z + x_coef * x
        if noise_std > 0:
            z = z + noise_std * noise(i).to(z.dtype)
    return _last(denoise, z, t, grid, callback)


def heun(
    denoise: Denoiser,
    noise: Noise,
    times: Tensor,
    schedule: CosineSchedule,
    *,
    callback: Callback | None = None,
    churn: float = 0.0,
    churn_range: tuple[float, float] = (0.0, math.inf),
    churn_noise: float = 1.0,
) -> Tensor:
    """Heun's second-order method for dy/dσ = (y − x̂)/σ, y = z/α, σ = σ_t/α_t [EDM, algorithm 2].

    Two evaluations a step, both with the step's own number, and one at the last. `churn` is S_churn: where σ
    is inside `churn_range`, fresh noise first raises it to σ̂ = σ(1 + min(churn/steps, √2 − 1)), scaled by
    `churn_noise` (S_noise).
    """
    grid = Grid.of(times, schedule)
    sigmas = [s / a for s, a in zip(grid.sigma, grid.alpha, strict=True)]
    raised = [_raised(s, churn / (grid.last + 1), churn_range) for s in sigmas[:-1]]
    alphas = [1 / math.sqrt(1 + s * s) for s in raised]
    start = noise.initial()
    t = times.to(start.device)
    t_raised = schedule.time(log_snr_of(torch.tensor(raised, dtype=torch.float64))).to(t)
    y = start * sigmas[0]
    for i in range(grid.last):
        sigma, following = raised[i], sigmas[i + 1]
        if sigma > sigmas[i]:
            y = y + churn_noise * math.sqrt(sigma**2 - sigmas[i] ** 2) * noise(i).to(y.dtype)
        z = y * alphas[i]
        x = denoise(z, t_raised[i] if sigma > sigmas[i] else t[i], i)
        if callback is not None:
            callback(i, z, x)
        slope = (y - x) / sigma
        trial = y + (following - sigma) * slope
        corrected = denoise(trial * grid.alpha[i + 1], t[i + 1], i)
        y = y + (following - sigma) / 2 * (slope + (trial - corrected) / following)
    if raised[-1] > sigmas[-2]:
        y = y + churn_noise * math.sqrt(raised[-1] ** 2 - sigmas[-2] ** 2) * noise(grid.last).to(y.dtype)
        t = torch.cat([t[:-2], t_raised[-1:], t[-1:]])
    return _last(denoise, y * alphas[-1], t, grid, callback)


def _raised(sigma: float, share: float, churn_range: tuple[float, float]) -> float:
    low, high = churn_range
    return sigma * (1 + min(share, math.sqrt(2) - 1)) if low <= sigma <= high else sigma


def dpmpp_2m(
    denoise: Denoiser,
    noise: Noise,
    times: Tensor,
    schedule: CosineSchedule,
    *,
    callback: Callback | None = None,
) -> Tensor:
    """DPM-Solver++(2M): multistep, second order, one evaluation a step [DPM++, algorithm 2].

    z_s = (σ_s/σ_t) z_t + α_s (1 − e^{−h}) D with D = x̂ + (x̂ − x̂_before)/(2r), h = (λ_s − λ_t)/2 and r =
    h_before/h.
    """
    grid = Grid.of(times, schedule)
    z = noise.initial() * grid.sigma[0]
    t = times.to(z.device)
    before, h_before = z, math.inf
    for i in range(grid.last):
        x = denoise(z, t[i], i)
        if callback is not None:
            callback(i, z, x)
        h = (grid.log_snr[i + 1] - grid.log_snr[i]) / 2
        ahead = h / (2 * h_before)  # 1/(2r)
        estimate = x if i == 0 else (1 + ahead) * x - ahead * before
        z = grid.sigma[i + 1] / grid.sigma[i] * z - grid.alpha[i + 1] * math.expm1(-h) * estimate
        before, h_before = x, h
    return _last(denoise, z, t, grid, callback)


def _last(denoise: Denoiser, z: Tensor, t: Tensor, grid: Grid, callback: Callback | None) -> Tensor:
    """The last step: its x̂ is the image."""
    x = denoise(z, t[grid.last], grid.last)
    if callback is not None:
        callback(grid.last, z, x)
    return x


SAMPLERS: dict[str, Callable[..., Tensor]] = {
    "ancestral": ancestral,
    "ddim": ddim,
    "heun": heun,
    "dpmpp_2m": dpmpp_2m,
}
