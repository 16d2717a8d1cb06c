"""Noise schedules that a training finds: the curve at any parameters, what they leave unchanged, and what they lower.

The data are normal, so that the exact estimate, its error and the loss's variance at every noise level are known.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from models.conditional import gaussian_error
from models.dual_rate_loss import PairSettings, draw_pairs
from models.method import RunNetwork, State, run_network
from models.noise_schedule import FLOOR, AdaptiveNoise, LearnedNoise, NoiseSchedule, draw
from models.objective import LossSettings, Randomness, loss, sigmoid_weighted
from models.process import CosineSchedule, alpha_sigma, per_image
from models.spacing import noise_schedule_steps, time_steps

PROCESS = CosineSchedule(log_snr_range=(-12.0, 12.0))
SIGMA = 0.5
"""Standard deviation of the data, which have mean 0."""
SHAPE = (1, 2, 4)
DIMENSIONS = math.prod(SHAPE)

increments = st.lists(st.floats(-40, 40), min_size=1, max_size=40)


def learned(values: list[float]) -> LearnedNoise:
    noise = LearnedNoise(len(values))
    noise.increments.copy_(torch.tensor(values))
    return noise


def bent(knots: int = 8) -> LearnedNoise:
    """One that is far from even."""
    return learned([3.0 * math.sin(2.5 * k) for k in range(knots)])


def adaptive(values: list[float]) -> AdaptiveNoise:
    noise = AdaptiveNoise(len(values))
    noise.losses.copy_(torch.tensor(values))
    noise.seen.fill_(3)
    return noise


class Exact(nn.Module):
    """E[x | z] of the normal data, as a method: nothing to train but where its noise levels lie."""

    networks = ("network",)
    classes = None

    def __init__(self, noise: NoiseSchedule | None = None) -> None:
        super().__init__()
        if noise is not None:
            self.noise_schedule = noise

    def step(
        self, z: Tensor, log_snr: Tensor, labels: Any = None, state: State = None, run: RunNetwork = run_network
    ) -> tuple[Tensor, State]:
        alpha, _ = (per_image(value, z) for value in alpha_sigma(log_snr))
        return z / alpha * per_image(SIGMA**2 / (SIGMA**2 + torch.exp(-log_snr)), z), ()


def data(count: int, seed: int = 0) -> Tensor:
    return SIGMA * torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def randomness(count: int, step: int = 0, batch: int | None = None) -> Randomness:
    return Randomness(0, step, torch.arange(count), batch)


def expected(s: Tensor, bias: float) -> Tensor:
    """E[ℓ] of the fixed schedule at the process's times s."""
    log_snr, weight = sigmoid_weighted(s, LossSettings(PROCESS, bias=bias), s)
    return weight * gaussian_error(log_snr, SIGMA)


def bin_means(knots: int, power: int, bias: float) -> Tensor:
    """The mean over each bin of E[ℓ]^power, by the midpoint rule."""
    s = (torch.arange(knots * 400, dtype=torch.float64) + 0.5) / (knots * 400)
    return expected(s, bias).pow(power).reshape(knots, -1).mean(1)


def second_moments(knots: int, bias: float) -> Tensor:
    """m_k: the squared error is r χ²_d/d, whose square has the mean r² (1 + 2/d)."""
    return bin_means(knots, 2, bias) * (1 + 2 / DIMENSIONS)


@given(increments)
@settings(max_examples=40, deadline=None)
def test_at_any_parameters_it_falls_between_fixed_ends_and_has_its_inverse_and_derivative(values: list[float]) -> None:
    noise = learned(values)
    t = torch.linspace(0, 1, 201, dtype=torch.float64, requires_grad=True)
    s = noise.process_time(t)
    log_snr = PROCESS.log_snr(s)
    assert s[0] == 0 and s[-1] == 1
    assert log_snr[[-1, 0]].tolist() == pytest.approx(PROCESS.log_snr_range)
    assert (s.diff() > 0).all() and (log_snr.diff() < 0).all()
    weight = noise.drawn(t).weight
    assert weight is not None and weight.min() > 0 and weight.max() <= 1 / FLOOR * (1 + 1e-9)
    (slope,) = torch.autograd.grad(log_snr.sum(), t)
    torch.testing.assert_close((weight * PROCESS.dlog_snr_dt(s))[1:-1], slope[1:-1])
    torch.testing.assert_close(noise.own_time(s), t, rtol=0, atol=1e-9)
    assert noise.shares().sum().item() == pytest.approx(1)


@pytest.mark.parametrize("noise", [LearnedNoise(7), AdaptiveNoise(7)])
def test_it_starts_as_the_fixed_schedule(noise: NoiseSchedule) -> None:
    t = torch.linspace(0, 1, 50, dtype=torch.float64)
    drawn = noise.drawn(t)
    torch.testing.assert_close(drawn.time, t, rtol=0, atol=1e-12)
    torch.testing.assert_close(drawn.weight, torch.ones_like(t), rtol=0, atol=1e-12)
    assert draw(None, t).time is t and draw(None, t).weight is None


@given(increments)
@settings(max_examples=30, deadline=None)
def test_the_bound_of_one_network_does_not_depend_on_the_schedule_between_its_ends(values: list[float]) -> None:
    """½∫ e^λ r(λ) dλ with r = 1/(1/σ² + e^λ) is ½ log of the ratio of 1/σ² + e^λ at the ends."""
    noise = learned(values)
    within = 40_000 // noise.knots
    nodes = (torch.arange(within, dtype=torch.float64) + 0.5) / within
    ends = noise.ends()
    t = (ends[:-1, None] + nodes * ends.diff()[:, None]).flatten()
    drawn = noise.drawn(t)
    assert drawn.weight is not None
    values_at = expected(drawn.time, bias=60.0) * drawn.weight  # so large a bias leaves the ELBO's weight 1
    integral = (values_at.reshape(-1, within).mean(1) * ends.diff()).sum()
    low, high = PROCESS.log_snr_range
    bound = 0.5 * math.log((SIGMA**-2 + math.exp(high)) / (SIGMA**-2 + math.exp(low)))
    assert integral.item() == pytest.approx(bound, rel=2e-4)


@pytest.mark.parametrize("noise", [None, bent(), adaptive([0.1, 4.0, 1.0, 1.0, 0.2])])
def test_the_loss_has_the_expectation_of_the_objective_and_the_variance_of_the_formula(
    noise: NoiseSchedule | None,
) -> None:
    count, bias = 40_000, 2.0
    model = Exact(noise)
    chosen = LossSettings(PROCESS, bias=bias)
    losses = torch.stack([loss(model, data(1000, k), None, randomness(1000, k), chosen) for k in range(count // 1000)])
    knots = 1 if noise is None else noise.knots
    mean = bin_means(knots, 1, bias).mean().item()
    shares = torch.ones(1, dtype=torch.float64) if noise is None else noise.shares()
    second = second_moment(shares, bias)
    error = math.sqrt((second - mean**2) / count)
    assert losses.mean().item() == pytest.approx(mean, abs=4.5 * error)
    if noise is not None:
        sums = noise.take_seen()
        assert sums[0].sum() == count
        assert (sums[2].sum() / count).item() == pytest.approx(second, rel=0.05)
        noise.update(sums)
        own, fixed = noise.variance()
        at_process = second_moments(knots, bias).mean().item()
        assert own == pytest.approx(second - mean**2, rel=0.1)
        assert fixed == pytest.approx(at_process - mean**2, rel=0.1)


def exact_sums(noise: NoiseSchedule, bias: float, images: int = 1000) -> Tensor:
    """What :meth:`take_seen` gives on average."""
    shares = noise.shares()
    of_fixed = torch.stack([bin_means(noise.knots, 1, bias), second_moments(noise.knots, bias)])
    scale = noise.knots * shares
    return images * shares * torch.stack([torch.ones_like(shares), of_fixed[0] / scale, of_fixed[1] / scale.square()])


def test_the_gradient_is_that_of_the_second_moment() -> None:
    noise, bias = bent(), 1.0
    raw = noise.increments.double().requires_grad_()
    positive = nn.functional.softplus(raw)
    shares = FLOOR / noise.knots + (1 - FLOOR) * positive / positive.sum()
    moment = (second_moments(noise.knots, bias) / (noise.knots**2 * shares)).sum()
    (expected_gradient,) = torch.autograd.grad(moment, raw)
    torch.testing.assert_close(noise.gradient(exact_sums(noise, bias)), expected_gradient)


def test_along_a_broken_line_the_derivative_of_the_squared_loss_at_fixed_t_is_another() -> None:
    """Why the gradient is not taken through λ(t): a constant ℓ = 1 has E[L²] = Σ 1/(K² p_k), and the derivative of L²
    at fixed t, which does not see the knots move, is twice that of it."""
    noise = bent()
    count = noise.knots
    shares = noise.shares()
    sums = 1000 * torch.stack([shares, torch.full_like(shares, 1 / count), 1 / (count**2 * shares)])
    raw = noise.increments.double().requires_grad_()
    positive = nn.functional.softplus(raw)
    moved = FLOOR / count + (1 - FLOOR) * positive / positive.sum()
    at_fixed_t = (shares * (1 / (count * moved)).square()).sum()
    (pathwise,) = torch.autograd.grad(at_fixed_t, raw)
    torch.testing.assert_close(pathwise, 2 * noise.gradient(sums))


def best_shares(knots: int, bias: float) -> Tensor:
    """p of the least second moment with the floor, by descending the convex problem in p itself."""
    root = second_moments(knots, bias).sqrt()
    floor, level = FLOOR / knots, root / root.sum()
    for _ in range(200):  # bins at the floor stay there, the others share the rest
        low = level <= floor
        free = torch.where(low, 0.0, root)
        level = torch.where(low, floor, free / free.sum() * (1 - floor * low.sum()))
    return level


def trained(noise: NoiseSchedule, steps: int, bias: float, batch: int = 128) -> NoiseSchedule:
    model, chosen = Exact(noise), LossSettings(PROCESS, bias=bias)
    for step in range(steps):
        loss(model, data(batch, step), None, randomness(batch, step, batch), chosen)
        noise.update(noise.take_seen())
    return noise


def second_moment(shares: Tensor, bias: float) -> float:
    return (second_moments(len(shares), bias) / (len(shares) ** 2 * shares)).sum().item()


def test_the_learned_schedule_approaches_the_one_of_least_variance() -> None:
    knots, bias = 8, 4.0
    noise = trained(LearnedNoise(knots, learning_rate=0.05), 250, bias)
    mean = bin_means(knots, 1, bias).mean().item()
    even, best, found = (
        second_moment(shares, bias) - mean**2
        for shares in (torch.full((knots,), 1 / knots, dtype=torch.float64), best_shares(knots, bias), noise.shares())
    )
    assert best < 0.8 * even
    assert found < best + 0.1 * (even - best)
    torch.testing.assert_close(noise.shares(), best_shares(knots, bias), rtol=0.2, atol=0.01)


def test_the_adaptive_schedule_approaches_the_loss() -> None:
    knots, bias = 8, 4.0
    noise = trained(AdaptiveNoise(knots), 150, bias)
    mean = bin_means(knots, 1, bias)
    wanted = FLOOR / knots + (1 - FLOOR) * mean / mean.sum()
    torch.testing.assert_close(noise.shares(), wanted, rtol=0.1, atol=0.002)
    assert second_moment(noise.shares(), bias) < second_moment(torch.full((knots,), 1 / knots).double(), bias)
    own, fixed = noise.variance()
    assert own < fixed


def test_a_bin_that_was_not_seen_has_the_mean_of_the_others() -> None:
    noise = AdaptiveNoise(4)
    noise.observe(torch.tensor([0.1, 0.3]), torch.tensor([1.0, 3.0]))
    noise.update(noise.take_seen())
    assert noise.shares().tolist() == pytest.approx([FLOOR / 4 + (1 - FLOOR) * share / 8 for share in (1, 3, 2, 2)])


def test_no_loss_and_no_images_move_nothing() -> None:
    for noise in (LearnedNoise(4), AdaptiveNoise(4)):
        before = noise.shares()
        noise.update(noise.take_seen())
        noise.observe(torch.tensor([0.1, 0.9]), torch.zeros(2))
        noise.update(noise.take_seen())
        assert noise.shares().isfinite().all()
        if isinstance(noise, LearnedNoise):
            assert torch.equal(noise.shares(), before)


def pairs(kind: str = "grid", **changes: Any) -> PairSettings:
    refreshes: Any = {"grid": 5, "range": (2, 9), "same": 1}[kind]
    return PairSettings(0.0, kind, refreshes, **{"denoiser_times": 1 if kind == "same" else 3, **changes})  # type: ignore[arg-type]


def h(t: Tensor, tau: Tensor) -> Tensor:
    return torch.sin(3 * t) + t * tau.square() + (tau - t).sqrt()


@pytest.mark.parametrize("kind", ["grid", "range", "same"])
@pytest.mark.parametrize("noise", [bent(), adaptive([0.1, 4.0, 1.0, 1.0, 0.2])])
def test_the_law_of_the_pairs_is_that_of_the_fixed_schedule(kind: str, noise: NoiseSchedule) -> None:
    """Any function of (t, τ), weighted, has the mean that it has for pairs without a schedule."""
    count = 100_000
    plain = draw_pairs(randomness(count, 1), pairs(kind))
    drawn = draw_pairs(randomness(count, 2), pairs(kind), noise)
    assert drawn.weight is not None and drawn.weight_tau is not None and plain.weight is None
    assert (drawn.t <= drawn.tau).all() and (drawn.t >= 0).all()
    for i in range(len(drawn.t)):
        fixed, own = h(plain.t[i], plain.tau), drawn.weight[i] * h(drawn.t[i], drawn.tau)
        error = math.sqrt((fixed.var() + own.var()).item() / count)
        assert own.mean().item() == pytest.approx(fixed.mean().item(), abs=4.5 * error)
    fixed, own = plain.tau.exp(), drawn.weight_tau * drawn.tau.exp()
    error = math.sqrt((fixed.var() + own.var()).item() / count)
    assert own.mean().item() == pytest.approx(fixed.mean().item(), abs=4.5 * error)


def test_refreshes_of_a_schedules_own_are_those_that_sampling_by_it_meets() -> None:
    noise, refreshes, count = bent(), 5, 100_000
    drawn = draw_pairs(randomness(count), pairs("grid", refresh_grid="own"), noise)
    grid = noise.process_time(torch.arange(1, refreshes + 1, dtype=torch.float64) / refreshes)
    assert drawn.tau.unique().tolist() == pytest.approx(grid.tolist())
    assert noise_schedule_steps(refreshes, noise)[:-1].flip(0).tolist() == pytest.approx(grid.tolist())
    before = torch.cat([grid.new_zeros(1), grid[:-1]])[torch.searchsorted(grid, drawn.tau)]
    assert ((drawn.t <= drawn.tau) & (drawn.t >= before - 1e-12)).all()
    assert drawn.weight is not None and drawn.weight_tau is not None
    for t, weight in zip(drawn.t, drawn.weight, strict=True):  # each t still counts evenly in the process's time
        values = weight * torch.cos(2 * t)
        error = math.sqrt(values.var().item() / count)
        assert values.mean().item() == pytest.approx(math.sin(2) / 2, abs=4.5 * error)
    assert drawn.weight_tau.mean().item() == pytest.approx(1, abs=0.02)


def test_steps_of_a_schedule_fall_to_zero_and_are_even_before_it_is_trained() -> None:
    torch.testing.assert_close(noise_schedule_steps(9, LearnedNoise(5)), time_steps(9), rtol=0, atol=1e-12)
    steps = noise_schedule_steps(9, bent())
    assert steps[0] == 1 and steps[-1] == 0 and (steps.diff() < 0).all()


def test_a_schedule_has_no_place_where_levels_are_drawn_otherwise() -> None:
    with pytest.raises(ValueError, match="takes no noise schedule"):
        loss(Exact(bent()), data(2), None, randomness(2), LossSettings(PROCESS, weighting="edm"))
    with pytest.raises(ValueError, match="noise_knots"):
        LearnedNoise(0)


@pytest.mark.parametrize("make", [lambda: LearnedNoise(6), lambda: AdaptiveNoise(6)])
def test_it_goes_on_bit_for_bit(make: Any) -> None:
    whole = trained(make(), 6, 1.0, batch=16)
    first = trained(make(), 3, 1.0, batch=16)
    going = make()
    going.load_state_dict(first.state_dict())
    going.go_on(first.running())
    model, chosen = Exact(going), LossSettings(PROCESS, bias=1.0)
    for step in range(3, 6):
        loss(model, data(16, step), None, randomness(16, step, 16), chosen)
        going.update(going.take_seen())
    assert torch.equal(going.shares(), whole.shares())
    assert all(torch.equal(value, whole.running()[name]) for name, value in going.running().items())
