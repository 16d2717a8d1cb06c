"""The process against its definition: schedule, round trips, and conditioning of joint Gaussians."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from models.process import (
    KINDS,
    CosineSchedule,
    Kind,
    alpha_sigma,
    bridge,
    diffuse,
    log_snr_of,
    markov_step,
    noise_level,
    posterior,
    resolution_shift,
    sigmoid_weight,
    to_x,
)

LOG_SNRS = torch.tensor([-15.0, -4.0, -0.3, 0.0, 2.0, 9.0, 15.0], dtype=torch.float64)
SCHEDULES = [CosineSchedule(), CosineSchedule(-2.8, (-12.0, 10.0)), CosineSchedule(1.4)]


def images(count: int, seed: int) -> Tensor:
    return torch.randn(count, 1, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedule_spans_its_range_and_inverts(schedule: CosineSchedule) -> None:
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    log_snr = schedule.log_snr(t)
    assert (log_snr[0].item(), log_snr[-1].item()) == pytest.approx(schedule.log_snr_range[::-1])
    assert (log_snr.diff() < 0).all()
    assert torch.allclose(schedule.time(log_snr), t, atol=1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedule_derivative(schedule: CosineSchedule) -> None:
    t = torch.linspace(0.01, 0.99, 33, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(schedule.log_snr(t).sum(), t)
    assert torch.allclose(schedule.dlog_snr_dt(t), slope)


def test_schedule_is_the_cosine_schedule() -> None:
    """α = cos(πt/2), σ = sin(πt/2), but for the cut at the ends."""
    t = torch.linspace(0.02, 0.98, 25, dtype=torch.float64)
    alpha, sigma = alpha_sigma(CosineSchedule(log_snr_range=(-40.0, 40.0)).log_snr(t))
    assert torch.allclose(alpha, torch.cos(math.pi * t / 2), atol=1e-8)
    assert torch.allclose(sigma, torch.sin(math.pi * t / 2), atol=1e-8)


def test_resolution_shift_moves_the_log_snr() -> None:
    """At twice the resolution the noise must be twice as strong to hide as much [SiD]."""
    t = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
    wide = (-40.0, 40.0)
    shifted = CosineSchedule(resolution_shift(32, 64), wide).log_snr(t)
    plain = CosineSchedule(0.0, wide).log_snr(t)
    assert torch.allclose(noise_level(shifted), 2 * noise_level(plain), rtol=1e-6)


def test_schedule_refuses_an_empty_range() -> None:
    with pytest.raises(ValueError, match="log_snr_range"):
        CosineSchedule(log_snr_range=(3.0, 3.0))


def test_alpha_sigma_preserve_variance_and_agree_with_the_noise_level() -> None:
    alpha, sigma = alpha_sigma(LOG_SNRS)
    assert torch.allclose(alpha**2 + sigma**2, torch.ones_like(alpha))
    assert torch.allclose(sigma / alpha, noise_level(LOG_SNRS))
    assert torch.allclose(log_snr_of(noise_level(LOG_SNRS)), LOG_SNRS)


def target(x: Tensor, noise: Tensor, log_snr: Tensor, kind: Kind) -> Tensor:
    """What a network of `kind` should predict for z = αx + σε."""
    alpha, sigma = (value[:, None, None, None] if value.ndim else value for value in alpha_sigma(log_snr))
    return {"x": x, "epsilon": noise, "v": alpha * noise - sigma * x}[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_round_trip(kind: Kind) -> None:
    x, noise = images(len(LOG_SNRS), 0), images(len(LOG_SNRS), 1)
    z = diffuse(x, LOG_SNRS, noise)
    assert torch.allclose(to_x(target(x, noise, LOG_SNRS, kind), z, LOG_SNRS, kind), x, atol=1e-8)


def test_v_is_the_velocity() -> None:
    """v = dz/dφ with α = cos φ, σ = sin φ."""
    x, noise = images(1, 0), images(1, 1)
    angle = torch.tensor(0.7, dtype=torch.float64)
    log_snr = -2 * torch.log(torch.tan(angle))
    v = -torch.sin(angle) * x + torch.cos(angle) * noise
    assert torch.allclose(target(x, noise, log_snr, "v"), v)


def test_unknown_kinds_are_refused() -> None:
    x = images(1, 0)
    with pytest.raises(ValueError, match="'eps' is not one of v, x, epsilon"):
        to_x(x, x, LOG_SNRS[:1], "eps")  # type: ignore[arg-type]


def test_markov_step_keeps_the_marginal() -> None:
    """z_τ made through z_t is a draw of q(z_τ | x): its coefficients of x, ε and ε' say so."""
    t, tau = torch.tensor([2.0]).double(), torch.tensor([-1.5]).double()
    one, zero = torch.ones(1, 1, 1, 1).double(), torch.zeros(1, 1, 1, 1).double()
    of_x = markov_step(diffuse(one, t, zero), t, tau, zero).item()
    of_noise = markov_step(diffuse(zero, t, one), t, tau, zero).item()
    of_fresh = markov_step(zero, t, tau, one).item()
    alpha, sigma = (value.item() for value in alpha_sigma(tau))
    assert of_x == pytest.approx(alpha)
    assert math.hypot(of_noise, of_fresh) == pytest.approx(sigma)


def joint_covariance(log_snr_t: float, log_snr_tau: float) -> Tensor:
    """Covariance of (z_t, z_τ) given x, from z_τ = (α_τ/α_t) z_t + independent noise."""
    (a_t, s_t), (a_tau, s_tau) = (
        (math.sqrt(1 / (1 + math.exp(-v))), math.sqrt(1 / (1 + math.exp(v)))) for v in (log_snr_t, log_snr_tau)
    )
    cross = a_tau / a_t * s_t**2
    return torch.tensor([[s_t**2, cross], [cross, s_tau**2]], dtype=torch.float64)


@pytest.mark.parametrize(("t", "s"), [(-3.0, 1.0), (0.5, 0.6), (-15.0, 4.0), (1.0, 15.0)])
def test_posterior_is_bayes(t: float, s: float) -> None:
    """q(z_s | z_t, x) by conditioning the joint Gaussian of (z_s, z_t)."""
    joint = joint_covariance(s, t)
    gain = joint[0, 1] / joint[1, 1]
    z_t, x = images(1, 2), images(1, 3)
    alpha_s, alpha_t = (alpha_sigma(torch.tensor(v).double())[0] for v in (s, t))
    mean, variance = posterior(z_t, x, torch.tensor([t]).double(), torch.tensor([s]).double())
    assert torch.allclose(mean, alpha_s * x + gain * (z_t - alpha_t * x), atol=1e-9)
    assert variance.item() == pytest.approx((joint[0, 0] - gain * joint[0, 1]).item(), rel=1e-6)


def test_bridge_draws_the_posterior() -> None:
    tau, t = torch.tensor([-2.0]).double(), torch.tensor([1.0]).double()
    z_tau, x, noise = images(1, 0), images(1, 1), images(1, 2)
    mean, variance = posterior(z_tau, x, tau, t)
    assert torch.allclose(bridge(z_tau, x, tau, t, noise), mean + variance.sqrt() * noise)


def test_a_step_of_no_length_changes_nothing() -> None:
    z, x, noise = images(3, 0), images(3, 1), images(3, 2)
    same = torch.tensor([-4.0, 0.0, 3.0]).double()
    assert torch.allclose(markov_step(z, same, same, noise), z)
    assert torch.allclose(markov_step(z, same, same + 1e-15, noise), z), "rounding must not make the variance negative"
    assert torch.allclose(bridge(z, x, same, same, noise), z)


def test_sigmoid_weight() -> None:
    assert sigmoid_weight(torch.tensor(-1.0), -1.0).item() == pytest.approx(0.5)
    assert sigmoid_weight(torch.tensor(-1.0), 2.0).item() == pytest.approx(1 / (1 + math.exp(-3)))


def test_a_shared_log_snr_broadcasts() -> None:
    x, noise = images(4, 0), images(4, 1)
    value = torch.tensor(0.4, dtype=torch.float64)
    for shared in (value, value[None]):
        assert torch.equal(diffuse(x, shared, noise), diffuse(x, value.expand(4), noise))
