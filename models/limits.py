"""What values the science takes, as plain Python: for whoever checks a configuration without importing torch."""

from __future__ import annotations

import math

SEEDS = 2**64
"""How many seeds there are: 0 to 2⁶⁴ − 1."""
LOG_SNR_LIMIT = 40.0
"""Largest |log-SNR| of a schedule: beyond e^±20 of noise per signal float32 keeps nothing of the weaker of the two."""
RHO_LIMITS = (1.0, 100.0)
"""Range of Karras's ρ."""


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
