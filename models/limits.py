"""Limits and defaults of the science, as plain Python: a configuration is checked without importing torch."""

from __future__ import annotations

import math
from typing import Literal, get_args

SEEDS = 2**64
"""How many seeds there are: 0 to 2⁶⁴ − 1."""
LOG_SNR_LIMIT = 40.0
"""Largest |log-SNR| of a schedule: beyond it the weaker of signal and noise is lost in float32."""
LOG_SNR_RANGE = (-15.0, 15.0)
"""Log-SNR at t = 1 and at t = 0 by default."""
RHO = 7.0
"""Default of Karras's ρ [EDM]."""
RHO_LIMITS = (1.0, 100.0)
"""Range of Karras's ρ."""
LOSS_BIAS = -1.0
"""Default bias of the sigmoid weight."""
SIGMA_DATA = 0.5
"""Standard deviation of the data, EDM's default [EDM]."""
LOG_SIGMA_MEAN, LOG_SIGMA_STD = -1.2, 1.2
"""Of EDM's noise levels in training [EDM]."""
NOISE_KNOTS = 32
"""Bins of a noise schedule that is trained."""
NOISE_LEARNING_RATE = 0.01
"""Of a learned noise schedule's increments."""
MEASURED_SCHEDULES = ("optimal", "ddt")
"""Schedules that are found by a table of the network's errors."""
Pairing = Literal["grid", "range", "same"]


def covered_sigmas(log_snr_range: tuple[float, float]) -> tuple[float, float]:
    """Least and most σ = e^{−λ/2} of a schedule."""
    low, high = log_snr_range
    return math.exp(-high / 2), math.exp(-low / 2)


def check_log_snr_range(log_snr_range: tuple[float, float]) -> None:
    """Raises ValueError unless it rises, inside ±:data:`LOG_SNR_LIMIT`."""
    low, high = log_snr_range
    if not low < high:
        raise ValueError(f"log_snr_range: {low:g} is not below {high:g}")
    if max(-low, high) > LOG_SNR_LIMIT:
        raise ValueError(f"log_snr_range: [{low:g}, {high:g}] is not inside [-{LOG_SNR_LIMIT:g}, {LOG_SNR_LIMIT:g}]")


def check_sigma_range(sigma_range: tuple[float, float], log_snr_range: tuple[float, float]) -> None:
    """Raises ValueError unless [σ_min, σ_max] rises inside what the schedule covers."""
    low, high = sigma_range
    lowest, highest = covered_sigmas(log_snr_range)
    if not lowest <= low < high <= highest:
        raise ValueError(
            f"sigma_range: [{low:g}, {high:g}] is not inside the schedule's [{lowest:.4g}, {highest:.4g}], "
            "which diffusion.log_snr_range sets"
        )


def check_pairs(
    pairs: Pairing, refreshes: int | tuple[int, int], denoiser_times: int = 1, grid_steps: int | None = None
) -> None:
    """Raises ValueError unless `refreshes` is a number for "grid", and (fewest, most) for "range"; "same" has none, and
    one denoiser time. Only a grid has `grid_steps`, at least as many as refreshes."""
    if pairs not in get_args(Pairing):
        raise ValueError(f"pairs: {pairs!r} is not one of {', '.join(get_args(Pairing))}")
    if pairs == "grid" and not isinstance(refreshes, int):
        raise ValueError("refreshes: pairs on a grid take one number of refreshes")
    if pairs == "range" and (isinstance(refreshes, int) or refreshes[0] > refreshes[1]):
        raise ValueError("refreshes: pairs over a range take [fewest, most]")
    if pairs == "same" and refreshes != 1:
        raise ValueError("refreshes: pairs of the same time have none; leave it out")
    if pairs == "same" and denoiser_times > 1:
        raise ValueError("denoiser_times: pairs of the same time have one; leave it out")
    if grid_steps is not None:
        if pairs != "grid" or not isinstance(refreshes, int):
            raise ValueError("grid_steps: only pairs: grid has them; leave it out")
        if grid_steps < refreshes:
            raise ValueError(f"grid_steps: {grid_steps} steps have no {refreshes} refreshes (refreshes)")
    if (refreshes if isinstance(refreshes, int) else refreshes[0]) < 1:
        raise ValueError(f"refreshes: {refreshes!r} must be at least 1")
