"""The denoising error against closed form."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from models.denoising_error import LEAST_ERROR, LEVELS, measure_denoising_error
from models.process import CosineSchedule, alpha_sigma, per_image
from tests.models.networks import CLASSES, IMAGE, dual_rate, single_rate

SCHEDULE = CosineSchedule(log_snr_range=(-8.0, 9.0))
DEVIATION = 0.4
"""Of the Gaussian data."""


class Exact:
    """The posterior mean of data N(0, s²): α s² z / (α² s² + σ²)."""

    classes = None
    networks = ("exact",)

    def step(self, z: Tensor, log_snr: Tensor, labels: Any = None, state: Any = None, run: Any = None) -> Any:
        alpha, sigma = (per_image(value, z) for value in alpha_sigma(log_snr))
        return alpha * DEVIATION**2 * z / ((alpha * DEVIATION).square() + sigma.square()), ()


def closed_form(log_snr: Tensor) -> Tensor:
    """s²σ²/(α²s² + σ²)."""
    alpha, sigma = alpha_sigma(log_snr)
    return DEVIATION**2 * sigma**2 / (alpha**2 * DEVIATION**2 + sigma**2)


def images(count: int, *shape: int) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(3))


def test_gaussian_data_and_the_exact_network_have_the_error_of_the_closed_form() -> None:
    table = measure_denoising_error(Exact(), DEVIATION * images(300, 1, 8, 8), None, SCHEDULE)
    assert all(tensor.shape == (LEVELS,) and tensor.dtype == torch.float64 for tensor in table.values())
    assert table["log_snr"][[0, -1]].tolist() == [-8.0, 9.0]
    wanted = closed_form(table["log_snr"])
    away = (table["error"] - wanted) / table["standard_error"]
    assert away.abs().max() < 4 and 0.5 < away.square().mean() < 2
    # the error of an image is σ²-like: chi-squared of 64 dimensions, whose deviation is r √(2/64)
    torch.testing.assert_close(table["standard_error"], wanted * (2 / 64 / 300) ** 0.5, rtol=0.25, atol=0)


def test_an_image_s_noise_depends_on_no_batch() -> None:
    model, x = single_rate(), images(10, *IMAGE)
    labels = torch.arange(10) % CLASSES
    whole, split = (
        measure_denoising_error(model.eval(), x, labels, SCHEDULE, batch=batch, levels=3) for batch in (10, 3)
    )
    torch.testing.assert_close(whole["error"], split["error"])
    other = measure_denoising_error(model, x, labels, SCHEDULE, levels=3, seed=1)
    assert not torch.equal(other["error"], whole["error"])


def test_a_network_that_refreshes_is_measured_at_a_refresh_and_tells_of_each_level() -> None:
    told: list[tuple[int, int]] = []
    names: set[str] = set()

    def run(name: str, function: Any, *inputs: Any) -> Any:
        names.add(name)
        return function(*inputs)

    measure_denoising_error(
        dual_rate().eval(),
        images(4, *IMAGE),
        torch.zeros(4, dtype=torch.int64),
        SCHEDULE,
        levels=2,
        progress=lambda done, total: told.append((done, total)),
        run=run,
    )
    assert told == [(0, 2), (1, 2), (2, 2)] and names == {"encoder", "denoiser"}


def test_one_image_has_no_standard_error() -> None:
    with pytest.raises(ValueError, match="images: 1 are too few"):
        measure_denoising_error(Exact(), images(1, 1, 2, 2), None, SCHEDULE)


def test_an_error_below_rounding_still_has_a_logarithm() -> None:
    nothing = torch.zeros(2, 1, 2, 2)
    table = measure_denoising_error(Exact(), nothing, None, CosineSchedule(log_snr_range=(30.0, 40.0)), levels=2)
    assert table["error"].min() == LEAST_ERROR
