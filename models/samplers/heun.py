"""EDM's sampler: Heun's method in σ, optionally with churn."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from models.samplers.base import Callback, Denoiser, Grid, Noise, Option, Sampler, last_step

if TYPE_CHECKING:
    from torch import Tensor

    from models.process import CosineSchedule


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
    t_raised = schedule.time(-2 * times.new_tensor(raised).double().log().cpu()).to(t)  # λ = −2 log σ
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
    t_last = t[grid.last]
    if raised[-1] > sigmas[-2]:
        y = y + churn_noise * math.sqrt(raised[-1] ** 2 - sigmas[-2] ** 2) * noise(grid.last).to(y.dtype)
        t_last = t_raised[-1]
    return last_step(denoise, y * alphas[-1], t_last, grid.last, callback)


def _raised(sigma: float, share: float, churn_range: tuple[float, float]) -> float:
    low, high = churn_range
    return sigma * (1 + min(share, math.sqrt(2) - 1)) if low <= sigma <= high else sigma


SAMPLER = Sampler(
    "heun",
    heun,
    {
        "churn": Option("S_churn"),
        "churn_range": Option("[S_min, S_max] of σ", is_range=True),
        "churn_noise": Option("S_noise", above_low=True),
    },
    spacing="karras",
)
