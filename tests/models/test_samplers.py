"""Samplers against data whose denoiser is known in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache, partial
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from models.process import CosineSchedule, alpha_sigma, log_snr_of, noise_level
from models.samplers import SAMPLERS
from models.samplers.ancestral import ancestral
from models.samplers.ddim import ddim
from models.samplers.dpmpp_2m import dpmpp_2m
from models.samplers.heun import heun
from models.spacing import karras_steps, log_snr_steps, time_steps
from tests.models.closed_forms import (
    GAUSSIAN,
    SHAPE,
    TWO_GAUSSIANS,
    BasisNoise,
    DoubleNoise,
    Mixture,
    order,
)

SCHEDULE = CosineSchedule()
VARIANTS: dict[str, Callable[..., Tensor]] = {
    "ancestral": ancestral,
    "ancestral, upper variance": partial(ancestral, variance=1.0),
    "ancestral, between": partial(ancestral, variance=0.3),
    "ddim": ddim,
    "ddim, eta 0.5": partial(ddim, eta=0.5),
    "ddim, eta 1": partial(ddim, eta=1.0),
    "heun": heun,
    "heun, churn": partial(heun, churn=20.0),
    "heun, churn in a range": partial(heun, churn=40.0, churn_range=(0.05, 10.0)),
    "dpmpp_2m": dpmpp_2m,
}
Spacing = Callable[[int, CosineSchedule], Tensor]
SECOND_ORDER = ("heun", "dpmpp_2m")


def covariance_error(name: str, steps: int) -> float:
    """Largest error of the covariance of a Gaussian's samples, exact: no Monte Carlo error (see BasisNoise)."""
    noise = BasisNoise(steps)
    times = karras_steps(steps, SCHEDULE)
    mean, covariance = noise.moments(VARIANTS[name](GAUSSIAN.denoiser(SCHEDULE), noise, times, SCHEDULE))
    assert torch.allclose(mean, GAUSSIAN.mean, atol=5e-3), "the start leaves out α·mean at σ = 80"
    return float((covariance - GAUSSIAN.covariance).abs().max())


@pytest.mark.parametrize("name", VARIANTS)
def test_reaches_a_gaussian(name: str) -> None:
    errors = [covariance_error(name, steps) for steps in (32, 64, 128)]
    assert errors[-1] < (0.03 if name not in SECOND_ORDER else 0.001)
    assert errors[1] < 0.65 * errors[0], "half the step, about half the error or less"
    assert errors[2] < 0.65 * errors[1]


@pytest.mark.parametrize("name", VARIANTS)
def test_reaches_a_mixture_of_two_gaussians(name: str) -> None:
    count = 6_000
    noise = DoubleNoise(0, range(count), SHAPE)
    times = karras_steps(64 if name in SECOND_ORDER else 192, SCHEDULE)
    images = VARIANTS[name](TWO_GAUSSIANS.denoiser(SCHEDULE), noise, times, SCHEDULE).flatten(1)
    error = (images.mean(0) - TWO_GAUSSIANS.mean).abs()
    deviation = TWO_GAUSSIANS.covariance.diag().sqrt()
    assert (error < 4.5 * deviation / math.sqrt(count) + 0.003).all()
    relative = (images.T.cov() - TWO_GAUSSIANS.covariance) / torch.outer(deviation, deviation)
    assert relative.abs().max() < 4.5 * math.sqrt(2 / count) + (0.005 if name in SECOND_ORDER else 0.05)
    upper = TWO_GAUSSIANS.means[:, 0].mean()  # between the two modes
    share, expected = (
        (points[:, 0] > upper).double().mean().item() for points in (images, TWO_GAUSSIANS.draw(400_000).flatten(1))
    )
    assert share == pytest.approx(expected, abs=4 * math.sqrt(0.25 / count) + 0.003), "both modes, in their shares"


@lru_cache
def finely_sampled(data: Mixture, spacing: Spacing) -> Tensor:
    """The end of the probability flow, to well below the errors that are measured."""
    noise = DoubleNoise(0, range(16), SHAPE)
    return heun(data.denoiser(SCHEDULE), noise, spacing(1024, SCHEDULE), SCHEDULE)


def uneven_steps(steps: int, schedule: CosineSchedule) -> Tensor:
    """Steps in log-SNR that are by turns short and long, 3 : 7."""
    even = schedule.log_snr(log_snr_steps(steps, schedule))
    even[1:-1:2] -= 0.4 * (even[1:-1:2] - even[:-2:2])
    return torch.cat([schedule.time(even)[:-1], even.new_zeros(1)])


@pytest.mark.parametrize(
    ("data", "spacing"),
    [(GAUSSIAN, karras_steps), (GAUSSIAN, log_snr_steps), (GAUSSIAN, uneven_steps), (TWO_GAUSSIANS, karras_steps)],
    ids=["Gaussian", "even in log-SNR", "uneven", "mixture"],
)
@pytest.mark.parametrize(("name", "expected"), [("ddim", 1), ("heun", 2), ("dpmpp_2m", 2)])
def test_order_of_convergence(data: Mixture, spacing: Spacing, name: str, expected: int) -> None:
    noise, denoise = DoubleNoise(0, range(16), SHAPE), data.denoiser(SCHEDULE)
    errors = [
        float((VARIANTS[name](denoise, noise, spacing(steps, SCHEDULE), SCHEDULE) - exact).abs().mean())
        for exact in [finely_sampled(data, spacing)]
        for steps in (32, 64, 128)
    ]
    assert order(errors[:2]) == pytest.approx(expected, abs=0.25)
    assert order(errors) == pytest.approx(expected, abs=0.12)


def test_deterministic_paths_end_where_the_ode_does() -> None:
    """For a Gaussian along a principal axis the probability flow is y(σ) ∝ √(s² + σ²) [EDM]."""
    variances, axes = torch.linalg.eigh(GAUSSIAN.covariance)
    start = DoubleNoise(0, range(16), SHAPE)
    times = karras_steps(384, SCHEDULE)
    highest = noise_level(SCHEDULE.log_snr(times[0]))
    along = (start.initial().flatten(1) * highest - GAUSSIAN.mean) @ axes
    expected = GAUSSIAN.mean + (along * (variances / (variances + highest**2)).sqrt()) @ axes.T
    for sampler in (heun, dpmpp_2m):
        images = sampler(GAUSSIAN.denoiser(SCHEDULE), start, times, SCHEDULE).flatten(1)
        assert torch.allclose(images, expected, atol=2e-4)


@pytest.mark.parametrize("variance", [0.0, 0.4, 1.0])
def test_ancestral_step_by_hand(variance: float) -> None:
    """One step and the last, from the formulas: posterior mean, and variance between its two bounds."""
    times = torch.tensor([0.8, 0.5, 0.0], dtype=torch.float64)
    noise, denoise = DoubleNoise(3, range(5), SHAPE), GAUSSIAN.denoiser(SCHEDULE)
    (l_t, l_s), z = SCHEDULE.log_snr(times[:2]), noise.initial()
    (a_t, s_t), (a_s, s_s) = alpha_sigma(l_t), alpha_sigma(l_s)
    z = z * s_t
    x = denoise(z, times[0], 0)
    fresh = 1 - torch.exp(l_t - l_s)
    lower, upper = s_s**2 * fresh, s_t**2 * fresh
    z = torch.exp(l_t - l_s) * a_s / a_t * z + fresh * a_s * x
    z = z + (lower ** (1 - variance) * upper**variance).sqrt() * noise(0)
    assert torch.allclose(ancestral(denoise, noise, times, SCHEDULE, variance=variance), denoise(z, times[1], 1))


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_step_by_hand(eta: float) -> None:
    """z_s keeps the variance σ_s² of its noise: η² of the posterior's is fresh, the rest is ε̂'s [DDIM, eq. 12]."""
    times = torch.tensor([0.8, 0.5, 0.0], dtype=torch.float64)
    noise, denoise = DoubleNoise(3, range(5), SHAPE), GAUSSIAN.denoiser(SCHEDULE)
    (l_t, l_s), z = SCHEDULE.log_snr(times[:2]), noise.initial()
    (a_t, s_t), (a_s, s_s) = alpha_sigma(l_t), alpha_sigma(l_s)
    z = z * s_t
    x = denoise(z, times[0], 0)
    fresh = eta**2 * s_s**2 * (1 - torch.exp(l_t - l_s))
    z = a_s * x + (s_s**2 - fresh).sqrt() * (z - a_t * x) / s_t + fresh.sqrt() * noise(0)
    assert torch.allclose(ddim(denoise, noise, times, SCHEDULE, eta=eta), denoise(z, times[1], 1))


def test_ddim_with_eta_1_is_ancestral() -> None:
    noise, denoise, times = DoubleNoise(0, range(4), SHAPE), TWO_GAUSSIANS.denoiser(SCHEDULE), time_steps(12)
    assert torch.allclose(
        ddim(denoise, noise, times, SCHEDULE, eta=1.0), ancestral(denoise, noise, times, SCHEDULE), atol=1e-9
    )


def test_dpmpp_2m_step_by_hand() -> None:
    """z_s/σ_s = z_t/σ_t + ∫ e^ℓ x̂ dℓ over ℓ = λ/2, x̂ held at its linear extrapolation to the middle of the step."""
    times = torch.tensor([0.9, 0.8, 0.3, 0.0], dtype=torch.float64)
    noise, denoise = DoubleNoise(3, range(5), SHAPE), GAUSSIAN.denoiser(SCHEDULE)
    half = SCHEDULE.log_snr(times) / 2
    _, sigma = alpha_sigma(2 * half)
    z, before = noise.initial() * sigma[0], None
    for i in range(2):
        x = middle = denoise(z, times[i], i)
        if before is not None:
            middle = x + (x - before) / (half[i] - half[i - 1]) * (half[i + 1] - half[i]) / 2
        z = sigma[i + 1] * (z / sigma[i] + (half[i + 1].exp() - half[i].exp()) * middle)
        before = x
    assert torch.allclose(dpmpp_2m(denoise, noise, times, SCHEDULE), denoise(z, times[2], 2))


def test_heun_is_edm_algorithm_2() -> None:
    """Against the algorithm written in EDM's own coordinates, with churn."""
    steps, churn, (low, high), inflation = 9, 6.0, (0.1, 20.0), 1.05
    times = karras_steps(steps, SCHEDULE)
    noise = DoubleNoise(1, range(6), SHAPE)
    sigmas = [*torch.exp(-SCHEDULE.log_snr(times) / 2)[:-1].tolist(), 0.0]

    def estimate(y: Tensor, sigma: float) -> Tensor:
        log_snr = log_snr_of(torch.tensor(sigma, dtype=torch.float64))
        return GAUSSIAN.denoise(y / math.sqrt(1 + sigma**2), log_snr)

    y = noise.initial() * sigmas[0]
    for i, (sigma, following) in enumerate(pairwise(sigmas)):
        gamma = min(churn / steps, math.sqrt(2) - 1) if low <= sigma <= high else 0
        raised = sigma * (1 + gamma)
        y = y + math.sqrt(raised**2 - sigma**2) * inflation * noise(i)
        slope = (y - estimate(y, raised)) / raised
        moved = y + (following - raised) * slope
        if following > 0:
            slope = (slope + (moved - estimate(moved, following)) / following) / 2
            moved = y + (following - raised) * slope
        y = moved
    images = heun(
        GAUSSIAN.denoiser(SCHEDULE), noise, times, SCHEDULE,
        churn=churn, churn_range=(low, high), churn_noise=inflation,
    )  # fmt: skip
    assert torch.allclose(images, y, atol=1e-8)


@pytest.mark.parametrize(("name", "expected"), [("ancestral", 7), ("ddim", 7), ("heun", 13), ("dpmpp_2m", 7)])
def test_evaluations_and_callbacks(name: str, expected: int) -> None:
    calls: list[tuple[float, int]] = []
    seen: list[int] = []

    def denoise(z: Tensor, t: Tensor, step: int) -> Tensor:
        assert t.ndim == 0
        calls.append((t.item(), step))
        return z * 0.5

    times = time_steps(7)
    images = SAMPLERS[name](
        denoise,
        DoubleNoise(0, range(2), SHAPE),
        times,
        SCHEDULE,
        callback=lambda step, z, x: seen.append(step),
    )
    assert images.shape == (2, *SHAPE)
    assert len(calls) == expected
    assert seen == list(range(7))
    assert [step for _, step in calls] == sorted(step for _, step in calls)
    firsts = {step: t for t, step in reversed(calls)}
    assert firsts == pytest.approx(dict(enumerate(times[:-1].tolist())))
    assert min(t for t, _ in calls) > 0, "the network is never asked at t = 0"


@pytest.mark.parametrize("name", VARIANTS)
def test_one_step_returns_the_estimate(name: str) -> None:
    noise, denoise = DoubleNoise(0, range(3), SHAPE), GAUSSIAN.denoiser(SCHEDULE)
    times = torch.tensor([1.0, 0.0], dtype=torch.float64)
    images = VARIANTS[name](denoise, noise, times, SCHEDULE)
    assert torch.allclose(
        images, denoise(noise.initial() * alpha_sigma(SCHEDULE.log_snr(times[0]))[1], times[0], 0), atol=1e-3
    )


@pytest.mark.parametrize("name", VARIANTS)
def test_the_same_twice(name: str) -> None:
    runs = [
        VARIANTS[name](TWO_GAUSSIANS.denoiser(SCHEDULE), DoubleNoise(5, range(4), SHAPE), time_steps(6), SCHEDULE)
        for _ in range(2)
    ]
    assert torch.equal(*runs)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_last_step_may_stand_at_the_schedules_least_noise(name: str) -> None:
    """A grid down to time 0 itself: x̂ is returned there, and all before is as on any grid."""
    schedule, noise = CosineSchedule(log_snr_range=(-15.0, 11.0)), BasisNoise(64)
    times = karras_steps(64, schedule)
    assert times[-2] == 0
    mean, covariance = noise.moments(VARIANTS[name](GAUSSIAN.denoiser(schedule), noise, times, schedule))
    torch.testing.assert_close(mean, GAUSSIAN.mean, atol=5e-3, rtol=0)
    torch.testing.assert_close(covariance, GAUSSIAN.covariance, atol=0.05, rtol=0)


@pytest.mark.parametrize("times", [[1.0], [1.0, 0.5], [0.5, 0.7, 0.0], [1.0, 1.0, 0.0]])
@pytest.mark.parametrize("sampler", SAMPLERS.values())
def test_refuses_times_that_do_not_fall_to_zero(sampler: Callable[..., Tensor], times: list[float]) -> None:
    with pytest.raises(ValueError, match="times: must fall strictly to 0"):
        sampler(GAUSSIAN.denoiser(SCHEDULE), DoubleNoise(0, [0], SHAPE), torch.tensor(times), SCHEDULE)
