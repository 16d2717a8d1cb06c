"""Where a sampler's steps lie.

Times are float64, (steps + 1,), falling from the noisiest to exactly 0, where x̂ is returned. The last step stands at 0
too where it is the least noise that the schedule has.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.limits import RHO, check_sigma_range, covered_sigmas
from models.noise_schedule import NoiseSchedule
from models.process import CosineSchedule, log_snr_of

EDM_SIGMA_RANGE = (0.002, 80.0)


def time_steps(steps: int, device: torch.device | None = None) -> Tensor:
    """Even in t, from 1 to 0."""
    return torch.linspace(1, 0, steps + 1, dtype=torch.float64, device=device)


def noise_schedule_steps(steps: int, schedule: NoiseSchedule) -> Tensor:
    """Even in the own time of a noise schedule that was trained."""
    with torch.no_grad():
        times = schedule.process_time(time_steps(steps).to(next(schedule.buffers()).device)).cpu()
    return _ending_at_zero(times[:-1])


def karras_steps(
    steps: int, schedule: CosineSchedule, sigma_range: tuple[float, float] | None = None, rho: float = RHO
) -> Tensor:
    """σ_i = (σ_max^{1/ρ} + i/(N−1) (σ_min^{1/ρ} − σ_max^{1/ρ}))^ρ, then 0 [EDM, eq. 5].

    Unset, `sigma_range` is EDM's (0.002, 80), cut to what the schedule covers (all that it covers, where they do not
    meet). Raises ValueError where a given one exceeds it.
    """
    lowest, highest = covered_sigmas(schedule.log_snr_range)
    if sigma_range is None:
        low, high = max(EDM_SIGMA_RANGE[0], lowest), min(EDM_SIGMA_RANGE[1], highest)
        if low >= high:
            low, high = lowest, highest
    else:
        check_sigma_range(sigma_range, schedule.log_snr_range)
        low, high = sigma_range
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    sigmas = (high ** (1 / rho) + ramp * (low ** (1 / rho) - high ** (1 / rho))) ** rho
    return _ending_at_zero(schedule.time(log_snr_of(sigmas)))


def log_snr_steps(steps: int, schedule: CosineSchedule) -> Tensor:
    """Even in log-SNR, over the schedule's whole range."""
    log_snrs = torch.linspace(*schedule.log_snr_range, steps + 1, dtype=torch.float64)
    return _ending_at_zero(schedule.time(log_snrs)[:-1])


def _ending_at_zero(times: Tensor) -> Tensor:
    return torch.cat([times.clamp(0, 1), times.new_zeros(1)])
