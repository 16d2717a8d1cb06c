"""Errors on pairs of times: measured, interpolated and summed to bounds, on Gaussian data where all is closed form."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from models.cache import CachedSingleRate
from models.dual_rate import DualRate, EncoderAtRefresh
from models.process import CosineSchedule, alpha_sigma, diffuse, markov_step, posterior
from models.refresh import evenly
from models.scheduling.measure import level_times, measure_dissimilarity, measure_pairs
from models.scheduling.objectives import OBJECTIVES
from models.scheduling.solvers import best_refreshes, bound_of
from models.scheduling.table import PairTable, interpolated
from models.uvit import UViT
from tests.models import networks

SCHEDULE = CosineSchedule(log_snr_range=(-8.0, 8.0))
DEVIATION, KEPT = 0.7, 0.6
SHAPE = (1, 2, 2)
LEVELS = 17


class Toy:
    """x̂ = κ E[x | z_t] + (1 − κ) E[x | z_τ] for x ~ N(0, s²): the posterior mean where the context is fresh."""

    classes = None
    networks = ("network",)

    def step(self, z: Tensor, log_snr: Tensor, labels: Any = None, state: Any = None, run: Any = None) -> Any:
        mean = _gain(log_snr) * z
        kept = mean if state is None else state
        return KEPT * mean + (1 - KEPT) * kept, kept

    def features(self, state: Tensor) -> Tensor:
        return state.flatten(1)


def _gain(log_snr: Tensor) -> Tensor:
    """E[x | z] / z."""
    alpha, sigma = alpha_sigma(log_snr)
    return alpha * DEVIATION**2 / (alpha**2 * DEVIATION**2 + sigma**2)


def exact(log_snr: np.ndarray) -> np.ndarray:
    """ℓ(t, τ) (N, N): E[x | z_τ] is E[x | z_t] and noise of the difference of their variances, v_τ − v_t, so that
    ℓ = v_t + (1 − κ)² (v_τ − v_t)."""
    variance = 1 / (1 / DEVIATION**2 + np.exp(log_snr))
    return np.tril(variance[:, None] + (1 - KEPT) ** 2 * (variance[None, :] - variance[:, None]))


def measured(images: int = 4000, levels: int = LEVELS, schedule: CosineSchedule = SCHEDULE) -> PairTable:
    x = DEVIATION * torch.randn(images, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    return PairTable.of(
        measure_pairs(Toy(), x, None, torch.arange(images), schedule, levels=levels, clip=False)
        | {"log_snr": schedule.log_snr(level_times(levels))}
    )


@pytest.fixture(scope="module")
def table() -> PairTable:
    return measured()


LOWER = np.tril_indices(LEVELS, -1)


def test_measured_losses_are_those_of_the_closed_form(table: PairTable) -> None:
    """Within 4.5 standard errors of each of 153 entries."""
    away = (table.loss - exact(table.log_snr)) / table.loss_error.clip(1e-30)
    assert np.abs(away[np.tril_indices(LEVELS)]).max() < 4.5


def test_both_ways_to_the_excess_agree(table: PairTable) -> None:
    away = (table.excess - table.change) / np.hypot(table.excess_error, table.change_error).clip(1e-30)
    assert np.abs(away[LOWER]).max() < 4.5
    closed = exact(table.log_snr)
    closed = closed - np.diagonal(closed)[:, None]
    assert table.change[LOWER] == pytest.approx(closed[LOWER], rel=0.1, abs=1e-9)
    assert (table.change_error[LOWER] < table.excess_error[LOWER]).mean() > 0.9  # which is why it is measured


def test_an_image_s_noise_depends_on_its_place_alone() -> None:
    x = torch.randn(6, *SHAPE)
    whole = measure_pairs(Toy(), x, None, torch.arange(6), SCHEDULE, levels=5)
    part = measure_pairs(Toy(), x[4:], None, torch.arange(4, 6), SCHEDULE, levels=5)
    assert torch.equal(whole["losses"][4:], part["losses"]) and torch.equal(whole["changes"][4:], part["changes"])
    assert whole["losses"].shape == (6, 15)


def test_clipping_is_the_sampler_s() -> None:
    x = torch.full((8, *SHAPE), 1.0)
    clipped, free = (
        measure_pairs(_Far(), x, None, torch.arange(8), SCHEDULE, levels=3, clip=clip)["losses"]
        for clip in (True, False)
    )
    assert bool((clipped == 0).all()) and bool((free == 4).all())


class _Far(Toy):
    def step(self, z: Tensor, *arguments: Any) -> Any:
        return torch.full_like(z, 3.0), ()


def test_the_predicted_bound_is_the_one_measured_by_sampling_s_own_terms(table: PairTable) -> None:
    """Σ KL(q(z_s | z_t, x) ‖ p(z_s | z_t)) over the steps of ancestral sampling, with the context of each segment."""
    steps, anchors = 16, (0, 3, 4, 9)
    times = level_times(steps + 1)
    log_snr = SCHEDULE.log_snr(times)
    host = log_snr.numpy()
    predicted = bound_of(OBJECTIVES["elbo"].weights(host, 0.0), exact(host)[:-1, :-1], tuple(range(steps)), anchors)
    x = DEVIATION * torch.randn(20_000, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    chain = {steps: diffuse(x, log_snr[-1], torch.randn_like(x))}
    for i in reversed(range(steps)):
        chain[i] = markov_step(chain[i + 1], log_snr[i + 1], log_snr[i], torch.randn_like(x))
    toy, state, total = Toy(), None, torch.zeros(len(x), dtype=torch.float64)
    for i in range(steps):
        estimate, state = toy.step(chain[i], log_snr[i], None, None if i in anchors else state)
        wanted, variance = posterior(chain[i], x, log_snr[i], log_snr[i + 1])
        got, _ = posterior(chain[i], estimate, log_snr[i], log_snr[i + 1])
        total += (wanted - got).square().flatten(1).mean(1) / (2 * variance)
    assert float(total.mean()) == pytest.approx(predicted, abs=4 * float(total.std()) / len(x) ** 0.5)
    of_steps = np.array([max(a for a in anchors if a <= i) for i in range(steps)])
    told = table.bound("elbo", 0.0, host, host[of_steps])
    assert told.value == pytest.approx(predicted, abs=4 * told.standard_error)
    assert told.standard_error < 0.05 * predicted


def test_a_bound_is_the_sum_that_solvers_minimise_and_so_is_its_gain(table: PairTable) -> None:
    """Off the table's levels too, where it is interpolated."""
    log_snr = np.linspace(-7.5, 7.9, 12)
    weights, errors = OBJECTIVES["sigmoid"].weights(log_snr, -1.0), table.errors("loss", log_snr[:-1])
    found = best_refreshes(weights, errors, 4)[3]
    even = tuple(i for i, refresh in enumerate(evenly(4, 11)) if refresh)
    told = {}
    for anchors in (found.refreshes, even):
        of_steps = np.array([max(a for a in anchors if a <= i) for i in range(11)])
        told[anchors] = log_snr[of_steps]
        value = table.bound("sigmoid", -1.0, log_snr, log_snr[of_steps]).value
        assert value == pytest.approx(bound_of(weights, errors, tuple(range(11)), anchors), rel=1e-9)
    values = [table.bounds("sigmoid", -1.0, log_snr, told[anchors]) for anchors in (even, found.refreshes)]
    gain = table.bound("sigmoid", -1.0, log_snr, told[found.refreshes], over=values[0])
    assert gain.value == pytest.approx(float((values[0] - values[1]).mean())) and gain.value > 0


def test_interpolation_is_exact_at_the_levels_and_its_error_is_stated(table: PairTable) -> None:
    lower = np.tril_indices(LEVELS)
    assert interpolated(table.log_snr, table.loss, table.log_snr)[lower] == pytest.approx(table.loss[lower])
    closed = PairTable(table.log_snr, np.repeat(exact(table.log_snr)[None], 2, 0), np.zeros((2, LEVELS, LEVELS)))
    mean, largest = closed.interpolation_error()
    between = np.sort(np.random.default_rng(0).uniform(-8, 8, 50))
    found, wanted = closed.errors("loss", between), exact(between)
    relative = np.abs(found / wanted.clip(1e-12) - 1)[np.tril_indices(50)]
    assert 0 < relative.mean() < mean and relative.max() < largest
    finer = PairTable(
        fine := np.linspace(-8, 8, 65), np.repeat(exact(fine)[None], 2, 0), np.zeros((2, 65, 65))
    ).interpolation_error()
    assert finer[1] < largest / 4


def test_a_table_that_makes_no_sense_is_refused() -> None:
    good = np.zeros((2, 3, 3))
    with pytest.raises(ValueError, match="log-SNRs must rise"):
        PairTable(np.array([0.0, 2.0, 1.0]), good, good)
    with pytest.raises(ValueError, match="an error for each pair"):
        PairTable(np.array([0.0, 1.0]), good, good)
    with pytest.raises(ValueError, match="not finite"):
        PairTable(np.arange(3.0), good + np.nan, good)
    with pytest.raises(ValueError, match="was not compared"):
        PairTable(np.arange(3.0), good, good).errors("dissimilarity", np.arange(2.0))


def test_dissimilarity_is_of_what_a_refresh_leaves() -> None:
    found = measure_dissimilarity(Toy(), SHAPE, None, torch.arange(3), SCHEDULE, levels=4)
    assert found.shape == (3, 4, 4) and torch.equal(found, found.mT)
    assert found.diagonal(dim1=1, dim2=2).abs().max() < 1e-6
    # x̂ of a linear network in a deterministic run keeps its direction
    assert found.max() < 1e-6


@pytest.mark.parametrize("kind", ["dual_rate", "encoder_at_refresh", "cached"])
def test_every_network_that_refreshes_is_measured_through_one_interface(kind: str) -> None:
    model: Any = networks.dual_rate(classes=None)
    if kind == "encoder_at_refresh":
        light = networks.config(widths=(8, 8), kinds=("conv", "conv"), context_channels=(6, 5), classes=None)
        model = EncoderAtRefresh(
            networks.randomised(lambda: DualRate(UViT(networks.config(classes=None)), UViT(light)))
        )
    elif kind == "cached":
        model = CachedSingleRate(networks.single_rate(classes=None), 1)
    images = torch.rand(3, *networks.IMAGE) * 2 - 1
    counts: dict[str, int] = {}

    def counted(name: str, function: Any, *inputs: Any) -> Any:
        counts[name] = counts.get(name, 0) + 1
        return function(*inputs)

    found = measure_pairs(model, images, None, torch.arange(3), SCHEDULE, levels=4, run=counted)
    assert found["losses"].shape == (3, 10) and bool(torch.isfinite(found["losses"]).all())
    assert (
        counts
        == {
            "dual_rate": {"encoder": 4, "denoiser": 10},
            "encoder_at_refresh": {"encoder": 4, "denoiser": 6},
            "cached": {"network": 4, "shallow": 6},
        }[kind]
    )
    apart = measure_dissimilarity(model, networks.IMAGE, None, torch.arange(2), SCHEDULE, levels=4)
    assert apart.shape == (2, 4, 4) and bool((apart[:, 3, 0] > 1e-6).all())
