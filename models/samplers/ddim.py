"""DDIM, deterministic or in between."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from models.samplers.base import Callback, Denoiser, Grid, Noise, Option, Sampler, last_step

if TYPE_CHECKING:
    from torch import Tensor

    from models.process import CosineSchedule


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
    return last_step(denoise, z, t[grid.last], grid.last, callback)


SAMPLER = Sampler("ddim", ddim, {"eta": Option("0 deterministic, 1 ancestral", high=1.0)})
