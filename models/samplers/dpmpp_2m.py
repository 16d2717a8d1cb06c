"""DPM-Solver++(2M)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from models.samplers.base import Callback, Denoiser, Grid, Noise, Sampler, last_step

if TYPE_CHECKING:
    from torch import Tensor

    from models.process import CosineSchedule


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
    return last_step(denoise, z, t[grid.last], grid.last, callback)


SAMPLER = Sampler("dpmpp_2m", dpmpp_2m)
