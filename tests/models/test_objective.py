"""Losses: the Markov pair, the law of the times, the weights, and randomness that no split of the batch can move."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from models.denoise import Denoise
from models.dual_rate import DualRate
from models.dual_rate_loss import PairSettings, draw_pairs, dual_rate_loss, noisy_pair
from models.noise import ImageNoise, Stream
from models.noise_schedule import AdaptiveNoise
from models.objective import LossSettings, Randomness, edm_weight, loss
from models.parameterization import Preconditioning
from models.process import CosineSchedule, alpha_sigma, diffuse, noise_level
from models.refresh import schedule
from models.samplers import SAMPLERS
from models.single_rate import SingleRate
from models.spacing import time_steps
from tests.models.closed_forms import GAUSSIAN, TWO_GAUSSIANS, Mixture
from tests.models.networks import CLASSES, IMAGE, dual_rate, single_rate

SCHEDULE = CosineSchedule()


def randomness(count: int, step: int = 0, seed: int = 0, *, even: bool = False) -> Randomness:
    return Randomness(seed, step, torch.arange(count), count if even else None)


def images(count: int) -> Tensor:
    return torch.randn(count, *IMAGE, generator=torch.Generator().manual_seed(7)).clamp(-1, 1)


# --- pairs ------------------------------------------------------------------------------------------------


def markov_covariance_error(z_t: Tensor, z_tau: Tensor, x: Tensor, log_snr_t: float, log_snr_tau: float) -> float:
    """Largest deviation, in standard errors, of the moments of (z_t, z_τ) given x from those of the Markov process.

    The pair's covariance is ((σ_t², σ_t² α_τ/α_t), (·, σ_τ²)), its mean (α_t x, α_τ x).
    """
    (a_t, s_t), (a_tau, s_tau) = (alpha_sigma(torch.tensor(v).double()) for v in (log_snr_t, log_snr_tau))
    deviations = torch.stack([(z_t - a_t * x).flatten(), (z_tau - a_tau * x).flatten()]).double()
    cross = s_t**2 * a_tau / a_t
    expected = torch.stack([torch.stack([s_t**2, cross]), torch.stack([cross, s_tau**2])])
    count = deviations.shape[1]
    errors = (expected.diag()[:, None] * expected.diag() + expected**2).sqrt() / math.sqrt(count)
    covariance = ((deviations @ deviations.T / count - expected) / errors).abs().max()
    means = deviations.mean(1).abs() / (expected.diag() / count).sqrt()
    return max(covariance.item(), means.max().item())


TIMES = [(2.0, -1.0), (0.5, 0.2), (6.0, -6.0), (-2.0, -2.5)]
COUNT = 40_000
X = torch.linspace(-1, 1, COUNT).reshape(COUNT, 1, 1, 1)


@pytest.mark.parametrize(("t", "tau"), TIMES)
@pytest.mark.parametrize("times", [1, 3])
def test_pairs_are_those_of_the_markov_process(t: float, tau: float, times: int) -> None:
    """With several denoiser times the further ones come through the bridge: each pair has the same law."""
    later = [t, (t + tau) / 2, tau + 0.1][:times]
    log_snrs = [torch.full((COUNT,), value) for value in later]
    noisy, z_tau = noisy_pair(X, log_snrs, torch.full((COUNT,), tau), randomness(COUNT))
    assert len(noisy) == times
    for value, z_t in zip(later, noisy, strict=True):
        assert markov_covariance_error(z_t, z_tau, X, value, tau) < 4.5


@pytest.mark.parametrize(("t", "tau"), [(2.0, -1.0), (0.5, 0.2), (-2.0, -2.5)])
def test_independent_and_shared_noise_fail_the_same_test(t: float, tau: float) -> None:
    r = randomness(COUNT)
    one, other = r.normal(Stream.NOISE, (1, 1, 1)), r.normal(Stream.CONTEXT_NOISE, (1, 1, 1))
    z_t = diffuse(X, torch.tensor(t), one)
    for noise in (other, one):
        z_tau = diffuse(X, torch.tensor(tau), noise)
        assert markov_covariance_error(z_t, z_tau, X, t, tau) > 10


def test_further_times_are_not_copies_of_the_first() -> None:
    """Given z_τ and x the draws at two times are independent."""
    log_snrs = [torch.full((COUNT,), 1.0)] * 2
    (first, second), z_tau = noisy_pair(X, log_snrs, torch.full((COUNT,), -1.0), randomness(COUNT))
    left = [z - alpha_sigma(torch.tensor(1.0))[0] * X for z in (first, second)]
    given = z_tau - alpha_sigma(torch.tensor(-1.0))[0] * X
    gain = (left[0] * given).mean() / given.square().mean()
    assert (left[0] * left[1]).mean().item() == pytest.approx((gain**2 * given.square().mean()).item(), abs=0.01)


class Spy(DualRate):
    """Records what the loss asks of a dual-rate model."""

    def __init__(self) -> None:
        model = dual_rate(classes=None)
        super().__init__(model.encoder, model.denoiser)
        self.encoded: list[Any] = []
        self.denoised: list[tuple[Tensor, Tensor]] = []

    def encode(self, z: Tensor, log_snr: Tensor, labels: Any = None, keep: Any = None) -> Any:
        self.encoded.append((z, log_snr, labels, keep))
        return ()

    def denoise(self, z: Tensor, log_snr: Tensor, context: Any) -> Tensor:
        self.denoised.append((z, log_snr))
        return torch.zeros_like(z, requires_grad=True)


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize(("pairs", "refreshes"), [("grid", 4), ("range", (2, 16))])
def test_the_loss_gives_the_networks_markov_pairs(pairs: Any, refreshes: Any, times: int) -> None:
    """z_τ is what q(z_τ | z_t) says: z_τ − (α_τ/α_t) z_t is independent of z_t, with the right variance."""
    spy, x = Spy(), images(20_000)[:, :, :1, :2]
    settings = PairSettings(0.0, pairs, refreshes, times)
    dual_rate_loss(spy, x, None, randomness(len(x)), LossSettings(SCHEDULE), settings)
    ((z_tau, tau, _, keep),) = spy.encoded
    assert keep is None
    assert len(spy.denoised) == times
    for z_t, t in spy.denoised:
        assert (tau <= t).all()
        used = (t - tau > 1e-3) & (t < 12)
        (a_t, s_t), (a_tau, s_tau) = (alpha_sigma(v.double()[used, None, None, None]) for v in (t, tau))
        own = (z_t[used] - a_t * x[used]) / s_t
        added = z_tau[used] - a_tau / a_t * z_t[used]
        added = added / (s_tau**2 - (a_tau / a_t * s_t) ** 2).sqrt()
        bound = 4.5 / math.sqrt(own.numel())
        assert added.square().mean().item() == pytest.approx(1, abs=1.5 * bound)
        assert own.square().mean().item() == pytest.approx(1, abs=1.5 * bound)
        assert abs((own * added).mean().item()) < bound


# --- times ------------------------------------------------------------------------------------------------


def kolmogorov(values: Tensor) -> float:
    """Distance of the empirical law from the uniform one, in units of 1/√n."""
    ordered = values.double().sort().values
    ranks = (torch.arange(len(ordered)) + 0.5) / len(ordered)
    return float((ordered - ranks).abs().max() * math.sqrt(len(ordered)))


@pytest.mark.parametrize(("pairs", "refreshes"), [("grid", 6), ("range", (3, 20)), ("grid", 1), ("range", (5, 5))])
@pytest.mark.parametrize("times", [1, 3])
def test_times(pairs: Any, refreshes: Any, times: int) -> None:
    settings = PairSettings(0.0, pairs, refreshes, times)
    t, tau, *_ = draw_pairs(randomness(20_000), settings)
    assert t.shape == (times, 20_000)
    low, high = settings.refreshes_range
    assert ((t <= tau + 1e-9) & (t > tau - 1 / low - 1e-9) & (t >= 0) & (tau <= 1)).all()
    for row in t:
        assert kolmogorov(row) < 1.95, "every t is uniform"
    fits = torch.zeros(20_000, dtype=torch.bool)
    for count in range(low, high + 1):
        fits |= ((tau * count - (tau * count).round()).abs() < 1e-9) & (t > tau - 1 / count - 1e-9).all(0)
    assert fits.all(), "τ is on the grid of a number of refreshes, and every t in its last interval"


def test_grid_is_the_next_refresh_before_t() -> None:
    """Sampling runs from t = 1 down: the context in use at t was made at the smallest grid time that is not below t."""
    t, tau, *_ = draw_pairs(randomness(1000), PairSettings(0.0, "grid", 4, 1))
    assert torch.allclose(tau, torch.ceil(t[0] * 4) / 4)
    assert tau.unique().tolist() == [0.25, 0.5, 0.75, 1.0]


GRIDS = [(16, 4), (10, 4), (8, 8), (7, 1), (1, 1)]
"""Steps and refreshes, some of which are not spread evenly."""


class Heard(nn.Module):
    """Writes down the log-SNRs of each step of a sampler, and of the context that it is given."""

    networks = ("encoder", "denoiser")
    classes: int | None = None

    def __init__(self) -> None:
        super().__init__()
        self.pairs: list[tuple[float, float]] = []

    def step(self, z: Tensor, log_snr: Tensor, labels: Any = None, state: Any = None, run: Any = None) -> Any:
        state = log_snr if state is None else state
        self.pairs.append((log_snr.item(), state.item()))
        return torch.zeros_like(z), state


def sampled_pairs(steps: int, refreshes: int) -> list[tuple[float, float]]:
    """(λ_t, λ_τ) of each step of a sampling."""
    heard, times = Heard(), time_steps(steps)
    denoise = Denoise(heard, SCHEDULE, times, schedule(steps, refreshes=refreshes))
    SAMPLERS["ddim"](denoise, ImageNoise(0, [0], (1, 1, 1)), times, SCHEDULE)
    return heard.pairs


@pytest.mark.parametrize(("steps", "refreshes"), GRIDS)
@pytest.mark.parametrize("times", [1, 3])
def test_pairs_of_a_sampling_s_steps_are_those_it_meets_each_as_often(steps: int, refreshes: int, times: int) -> None:
    settings = PairSettings(0.0, "grid", refreshes, times, grid_steps=steps)
    count = 600 * steps
    t, tau, *weights = draw_pairs(randomness(count, even=True), settings)
    assert weights == [None, None] and t.shape == (times, count)
    met = Counter(sampled_pairs(steps, refreshes))
    assert len(met) == steps and set(met.values()) == {1}
    levels = SCHEDULE.log_snr(tau).float().tolist()
    for place, row in enumerate(SCHEDULE.log_snr(t).float().tolist()):
        drawn = Counter(zip(row, levels, strict=True))
        assert drawn.keys() == met.keys()
        if place == 0:  # even over the batch, so exact
            assert set(drawn.values()) == {600}
        assert max(abs(n - 600) for n in drawn.values()) < 5 * math.sqrt(600)


def test_further_times_are_drawn_anew_among_the_steps_of_one_refresh() -> None:
    """In 10 steps with 4 refreshes (at 0, 2, 5, 7): each pair of steps of a segment as often as two throws of a die."""
    settings = PairSettings(0.0, "grid", 4, 2, grid_steps=10)
    t, tau, *_ = draw_pairs(randomness(40_000), settings)
    first, second = (((1 - row) * 10).round().long() for row in t)
    drawn = Counter(zip(first.tolist(), second.tolist(), strict=True))
    segments = [range(0, 2), range(2, 5), range(5, 7), range(7, 10)]
    assert set(tau.tolist()) == {float(time_steps(10)[segment[0]]) for segment in segments}
    expected = {(i, j): 4000 / len(segment) for segment in segments for i in segment for j in segment}
    assert drawn.keys() == expected.keys()
    assert all(abs(drawn[pair] - n) < 5 * math.sqrt(n) for pair, n in expected.items())


def test_the_networks_see_the_pairs_of_a_sampling() -> None:
    """Through the loss: λ_t and λ_τ as a sampler hands them over, and z_τ = z_t in a step that refreshes."""
    spy, x = Spy(), images(512)
    settings = PairSettings(0.0, "grid", 4, 2, grid_steps=10)
    dual_rate_loss(spy, x, None, randomness(len(x), even=True), LossSettings(SCHEDULE), settings)
    ((z_tau, tau, *_),) = spy.encoded
    for z, log_snr in spy.denoised:
        assert set(zip(log_snr.tolist(), tau.tolist(), strict=True)) == set(sampled_pairs(10, 4))
        same = log_snr == tau
        assert 0.3 < same.double().mean() < 0.5 and torch.allclose(z[same], z_tau[same], atol=1e-6)
        assert (z[~same] - z_tau[~same]).abs().amax((1, 2, 3)).min() > 1e-2


def test_a_grid_of_steps_belongs_to_pairs_on_a_grid() -> None:
    for pairs, refreshes in (("range", (2, 4)), ("same", 1)):
        with pytest.raises(ValueError, match="grid_steps: only pairs: grid has them"):
            PairSettings(0.0, pairs, refreshes, 1, grid_steps=8)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="grid_steps: 3 steps have no 4 refreshes"):
        PairSettings(0.0, "grid", 4, 1, grid_steps=3)
    with pytest.raises(ValueError, match="grid_steps: a noise schedule finds a density"):
        draw_pairs(randomness(4), PairSettings(0.0, "grid", 2, 1, grid_steps=4), AdaptiveNoise(4))


def test_range_draws_refreshes_log_uniformly() -> None:
    """R = r with probability log((r + 1)/r)/log((most + 1)/fewest); the t with τ = 1 and R = r are (1 − 1/r, 1)."""
    settings = PairSettings(0.0, "range", (2, 4), 1)
    t, tau, *_ = draw_pairs(randomness(60_000), settings)
    shares = {r: math.log((r + 1) / r) / math.log(5 / 2) for r in (2, 3, 4)}
    for value, expected in ((1 / 2, shares[2] / 2 + shares[4] / 4), (1 / 3, shares[3] / 3), (1 / 4, shares[4] / 4)):
        assert (tau - value).abs().lt(1e-9).double().mean().item() == pytest.approx(expected, abs=0.01)
    assert kolmogorov(t[0]) < 1.95


def test_even_times_cover_the_batch_and_stay_uniform_for_each_image() -> None:
    ordered = randomness(64, even=True).time().sort().values
    assert torch.allclose(ordered.diff(), torch.full((63,), 1 / 64).double(), atol=1e-6)
    one_image = torch.stack([randomness(64, step, even=True).time()[11] for step in range(600)])
    assert kolmogorov(one_image) < 1.95


def test_even_times_do_not_depend_on_the_ranks() -> None:
    whole = randomness(64, 3, even=True).time()
    part = Randomness(0, 3, torch.arange(32, 48), 64).time()
    assert torch.equal(whole[32:48], part)


# --- weights ----------------------------------------------------------------------------------------------


class Fixed(nn.Module):
    """A method whose x̂ is x + f(λ): its loss has a closed form."""

    networks = ("network",)
    classes: int | None = None

    def __init__(self, x: Tensor, error: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.x, self.error = x, error
        self.log_snrs: list[Tensor] = []

    def step(
        self, z: Tensor, log_snr: Tensor, labels: Any = None, state: Any = None, run: Any = None
    ) -> tuple[Tensor, Any]:
        self.log_snrs.append(log_snr)
        return self.x + self.error(log_snr)[:, None, None, None], ()


@pytest.mark.parametrize("bias", [-3.0, -1.0, 0.5])
@pytest.mark.parametrize("shift", [0.0, -2.0])
def test_sigmoid_loss_is_the_integral_over_log_snr(bias: float, shift: float) -> None:
    """With ‖x − x̂‖² = σ² per dimension, ½∫ e^λ σ² w(λ) dλ = ½∫ sigmoid(λ) sigmoid(b − λ) dλ = ½ b/(1 − e^{−b}).

    It is the same for any schedule, which moves only where t falls.
    """
    x = images(4096)
    model = Fixed(x, lambda log_snr: alpha_sigma(log_snr)[1])
    settings = LossSettings(CosineSchedule(shift), bias=bias)
    value = loss(model, x, None, randomness(4096, even=True), settings).item()
    assert value == pytest.approx(bias / (1 - math.exp(-bias)) / 2, rel=0.01)


def test_edm_loss_weighs_what_the_network_must_add_evenly() -> None:
    """λ(σ) = 1/c_out²: an error of c_out counts 1 at every σ."""
    x, data = images(256), 0.5
    edm = Preconditioning(data)
    model = Fixed(x, lambda s: edm.estimate(torch.ones(len(s), 1, 1, 1), torch.zeros(len(s), 1, 1, 1), s).flatten())
    settings = LossSettings(SCHEDULE, weighting="edm", sigma_data=data)
    assert loss(model, x, None, randomness(256), settings).item() == pytest.approx(1, rel=1e-4)
    assert edm_weight(torch.tensor(0.0), data).item() == pytest.approx(1.25 / 0.25)


@pytest.mark.parametrize("even", [False, True])
def test_edm_noise_levels_are_log_normal(even: bool) -> None:
    x = images(10_000)[:, :, :1, :1]
    model = Fixed(x, torch.zeros_like)
    settings = LossSettings(SCHEDULE, weighting="edm", log_sigma_mean=-0.8, log_sigma_std=1.6)
    loss(model, x, None, randomness(len(x), even=even), settings)
    logs = noise_level(model.log_snrs[0]).log()
    assert (logs.mean().item(), logs.std().item()) == pytest.approx((-0.8, 1.6), abs=0.06)
    assert kolmogorov(torch.special.ndtr((logs + 0.8) / 1.6)) < 1.95


class Scaled(nn.Module):
    """The exact denoiser of known data, times a factor, plus an offset."""

    networks = ("network",)
    classes: int | None = None

    def __init__(self, data: Mixture) -> None:
        super().__init__()
        self.data = data
        self.factor = nn.Parameter(torch.ones((), dtype=torch.float64))
        self.offset = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def step(
        self, z: Tensor, log_snr: Tensor, labels: Any = None, state: Any = None, run: Any = None
    ) -> tuple[Tensor, Any]:
        exact = torch.cat([self.data.denoise(z[i : i + 1], log_snr[i]) for i in range(len(z))])
        return self.factor * exact + self.offset, ()


@pytest.mark.parametrize("data", [GAUSSIAN, TWO_GAUSSIANS], ids=["Gaussian", "mixture"])
def test_the_exact_denoiser_minimises_the_loss(data: Mixture) -> None:
    """E[x | z] is the minimum: the gradient there is zero to within its own standard error, and elsewhere it is not."""
    model, count = Scaled(data), 600
    value = loss(model, data.draw(count), None, randomness(count, even=True), LossSettings(SCHEDULE))
    at_minimum = torch.autograd.grad(value, [model.factor, model.offset])
    with torch.no_grad():
        model.factor.fill_(0.8)
        model.offset.fill_(0.1)
    value = loss(model, data.draw(count), None, randomness(count, even=True), LossSettings(SCHEDULE))
    elsewhere = torch.autograd.grad(value, [model.factor, model.offset])
    for here, there in zip(at_minimum, elsewhere, strict=True):
        assert abs(here.item()) < 0.2 * abs(there.item())


# --- what the loss is of the networks ---------------------------------------------------------------------

SETTINGS = LossSettings(SCHEDULE, label_dropout=0.3)
PAIRS = PairSettings(context_dropout=0.4, pairs="range", refreshes=(2, 8), denoiser_times=2)


class Case(NamedTuple):
    make: Callable[[], SingleRate | DualRate]
    loss: Callable[..., Tensor]


CASES = {
    "single_rate": Case(single_rate, partial(loss, settings=SETTINGS)),
    "dual_rate": Case(dual_rate, partial(dual_rate_loss, settings=SETTINGS, pairs=PAIRS)),
    "edm": Case(lambda: single_rate(Preconditioning()), partial(loss, settings=replace(SETTINGS, weighting="edm"))),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("even", [False, True])
def test_the_loss_is_the_mean_over_any_split_of_the_batch(case: Case, even: bool) -> None:
    model, x, labels = case.make(), images(12), torch.arange(12) % CLASSES
    batch = 12 if even else None
    whole = case.loss(model, x, labels, Randomness(1, 5, torch.arange(12), batch))
    parts = [
        case.loss(model, x[part], labels[part], Randomness(1, 5, part, batch))
        for part in (torch.tensor([7, 2, 9, 0]), torch.tensor([1, 3, 4, 5]), torch.tensor([6, 8, 10, 11]))
    ]
    assert torch.stack(parts).mean().item() == pytest.approx(whole.item(), rel=1e-4)
    other = case.loss(model, x, labels, Randomness(1, 6, torch.arange(12), batch))
    assert other.item() != pytest.approx(whole.item(), rel=1e-3), "the next step draws anew"


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_gradients_are_those_of_finite_differences(case: Case) -> None:
    model = case.make().double()
    x, labels = images(4).double(), torch.tensor([0, 1, 2, 0])

    def value() -> Tensor:
        return case.loss(model, x, labels, randomness(4))

    parameters = list(model.parameters())
    gradients = torch.autograd.grad(value(), parameters)
    generator = torch.Generator().manual_seed(0)
    direction = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]
    slope = sum((g * d).sum().item() for g, d in zip(gradients, direction, strict=True))
    ends = []
    for step in (1e-6, -2e-6):
        with torch.no_grad():
            for parameter, way in zip(parameters, direction, strict=True):
                parameter.add_(step * way)
            ends.append(value().item())
    assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(slope, rel=1e-4)


def test_every_parameter_of_both_networks_learns() -> None:
    model = dual_rate(context_entry="block")
    dual_rate_loss(model, images(16), torch.arange(16) % CLASSES, randomness(16), SETTINGS, PAIRS).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_where_all_context_is_dropped_the_encoder_learns_nothing_and_the_denoiser_still_does() -> None:
    model = dual_rate()
    pairs = replace(PAIRS, context_dropout=1.0)
    dual_rate_loss(model, images(8), torch.arange(8) % CLASSES, randomness(8), SETTINGS, pairs).backward()
    assert all(not p.grad.any() for p in model.encoder.parameters() if p.grad is not None)
    gradient = model.denoiser.get_parameter("levels.0.enter.weight").grad
    assert gradient is not None and gradient.abs().max() > 0


def test_dropping_is_keyed_per_image_and_moves_nothing_else() -> None:
    spies = []
    for dropout in (0.0, 0.5):
        spy = Spy()
        spy.classes = 10
        settings, pairs = LossSettings(SCHEDULE, label_dropout=dropout), PairSettings(dropout, "range", (4, 32), 1)
        dual_rate_loss(spy, images(2000), torch.full((2000,), 3), randomness(2000), settings, pairs)
        spies.append(spy)
    (z_tau, tau, labels, keep), (same_z_tau, same_tau, dropped, kept) = (spy.encoded[0] for spy in spies)
    assert torch.equal(z_tau, same_z_tau)
    assert torch.equal(tau, same_tau)
    assert keep is None
    assert (labels == 3).all()
    assert set(dropped.tolist()) == {3, 10}
    assert (dropped == 10).double().mean().item() == pytest.approx(0.5, abs=0.05)
    assert kept.double().mean().item() == pytest.approx(0.5, abs=0.05)
    both = ((dropped == 10) & ~kept).double().mean().item()
    assert both == pytest.approx(0.25, abs=0.05), "the two are dropped independently"


def test_labels_do_not_reach_a_model_without_classes() -> None:
    model = single_rate(classes=None)
    settings = LossSettings(SCHEDULE)
    with_labels = loss(model, images(4), torch.arange(4), randomness(4), settings)
    assert torch.equal(with_labels, loss(model, images(4), None, randomness(4), settings))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pairs": "all"}, "pairs: 'all' is not one of grid, range"),
        ({"pairs": "grid"}, "refreshes: pairs on a grid take one number"),
        ({"refreshes": 4}, r"refreshes: pairs over a range take \[fewest, most\]"),
        ({"refreshes": (8, 4)}, r"refreshes: pairs over a range take \[fewest, most\]"),
        ({"refreshes": (0, 4)}, "refreshes: .* at least 1"),
    ],
)
def test_refuses_pairs(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(PAIRS, **changes)


def test_refuses_an_unknown_weighting() -> None:
    with pytest.raises(ValueError, match="weighting: 'uniform' is not one of sigmoid, edm"):
        LossSettings(weighting="uniform")  # type: ignore[arg-type]


def test_a_dual_rate_has_the_sigmoid_weighting() -> None:
    with pytest.raises(ValueError, match="weighting"):
        dual_rate_loss(dual_rate(), images(2), None, randomness(2), LossSettings(weighting="edm"), PAIRS)
