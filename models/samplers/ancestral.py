"""DDPM's ancestral sampling, the Markovian one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from models.samplers.base import Callback, Denoiser, Grid, Noise, Option, Sampler, last_step

if TYPE_CHECKING:
    from torch import Tensor

    from models.process import CosineSchedule


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
    return last_step(denoise, z, t[grid.last], grid.last, callback)


SAMPLER = Sampler(
    "ancestral", ancestral, {"variance": Option("0 posterior variance, 1 upper bound, in between", high=1.0)}
)
