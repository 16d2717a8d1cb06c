"""Where the steps lie."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from models.process import CosineSchedule, noise_level
from models.spacing import karras_steps, log_snr_steps, time_steps

SCHEDULE = CosineSchedule()


@pytest.mark.parametrize("steps", [1, 2, 7, 64])
def test_all_fall_strictly_to_zero(steps: int) -> None:
    for times in (time_steps(steps), karras_steps(steps, SCHEDULE), log_snr_steps(steps, SCHEDULE)):
        assert times.shape == (steps + 1,)
        assert times.dtype == torch.float64
        assert times[-1] == 0
        assert (times.diff() < 0).all()
        assert times[0] <= 1


def test_karras_steps_are_even_in_the_root_of_sigma() -> None:
    sigmas = noise_level(SCHEDULE.log_snr(karras_steps(18, SCHEDULE)))[:-1]
    assert (sigmas[0].item(), sigmas[-1].item()) == pytest.approx((80, 0.002))
    roots = sigmas ** (1 / 7)
    assert torch.allclose(roots.diff(), roots.diff().mean().expand(17))


def test_karras_takes_range_and_rho() -> None:
    sigmas = noise_level(SCHEDULE.log_snr(karras_steps(3, SCHEDULE, (0.1, 2.1), rho=1.0)))[:-1]
    assert sigmas.tolist() == pytest.approx([2.1, 1.1, 0.1])


def test_karras_is_cut_to_the_schedule_or_refused() -> None:
    narrow = CosineSchedule(log_snr_range=(-6.0, 6.0))
    assert karras_steps(4, narrow)[0].item() == pytest.approx(1)
    with pytest.raises(ValueError, match=r"sigma_range: \[0.002, 80\] is not inside"):
        karras_steps(4, narrow, (0.002, 80.0))


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 40])
def test_karras_runs_on_any_range(steps: int) -> None:
    """Down to the schedule's least noise where that is more than EDM's, the last step then standing at time 0."""
    for low, high in itertools.product(range(-20, 20, 3), repeat=2):
        if low >= high:
            continue
        schedule = CosineSchedule(log_snr_range=(low, high))
        times = karras_steps(steps, schedule)
        assert times[-1] == 0 and times[-2] >= 0 and (times[:-1].diff() < 0).all() and times[0] <= 1
        least = max(0.002, math.exp(-high / 2)) if math.exp(-low / 2) > 0.002 else math.exp(-high / 2)
        if steps > 1:
            assert noise_level(schedule.log_snr(times[-2])).item() == pytest.approx(least, rel=1e-6)


def test_log_snr_steps_are_even() -> None:
    log_snrs = SCHEDULE.log_snr(log_snr_steps(10, SCHEDULE))
    assert torch.allclose(log_snrs.diff(), torch.full((10,), 3.0, dtype=torch.float64))
