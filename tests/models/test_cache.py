"""The training-free feature cache."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.cache import Cached, CachedSingleRate, Order
from models.denoise import Denoise
from models.guidance import Guidance
from models.noise import ImageNoise
from models.process import CosineSchedule
from models.refresh import Refreshes, every, explicit
from models.samplers import SAMPLERS
from models.single_rate import SingleRate
from models.spacing import karras_steps
from models.uvit import Conditioning
from tests.models.networks import IMAGE, cached, single_rate

SCHEDULE = CosineSchedule()
LOG_SNR = torch.tensor(0.4)
LABELS = torch.tensor([0, 2])
THREE_LEVELS: dict[str, Any] = {
    "widths": (8, 8, 16),
    "blocks": (1, 2, 1),
    "kinds": ("conv", "transformer", "transformer"),
}


def noise(seed: int) -> Tensor:
    return torch.randn(2, *IMAGE, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("from_level", [1, 2])
def test_refreshed_at_every_step_it_is_the_network(from_level: int) -> None:
    model = single_rate(**THREE_LEVELS)
    cache = CachedSingleRate(model, from_level)
    for seed in range(3):
        expected, _ = model.step(noise(seed), LOG_SNR, LABELS)
        assert torch.equal(cache.step(noise(seed), LOG_SNR, LABELS)[0], expected)


@pytest.mark.parametrize("from_level", [1, 2])
def test_reuse_is_exact_where_nothing_has_changed(from_level: int) -> None:
    cache = CachedSingleRate(single_rate(**THREE_LEVELS), from_level)
    x, state = cache.step(noise(0), LOG_SNR, LABELS)
    again, _ = cache.step(noise(0), LOG_SNR, LABELS, state)
    assert torch.allclose(again, x, atol=1e-6)


@pytest.mark.parametrize("from_level", [1, 2])
def test_shallow_levels_are_fresh_and_deep_ones_are_not(from_level: int) -> None:
    """A reused step is the network with the lower part's residual replaced by the cached one."""
    model = single_rate(**THREE_LEVELS)
    cache = CachedSingleRate(model, from_level)
    _, state = cache.step(noise(0), LOG_SNR, LABELS)
    reused, kept = cache.step(noise(1), torch.tensor(1.0), LABELS, state)
    fresh, _ = cache.step(noise(1), torch.tensor(1.0), LABELS)
    assert (reused - fresh).abs().max() > 1e-3
    leave = model.network.levels[from_level].leave
    assert isinstance(leave, nn.Module)
    handle = leave.register_forward_hook(lambda *_: state.residual)
    swapped, _ = model.step(noise(1), torch.tensor(1.0), LABELS)
    handle.remove()
    assert torch.allclose(reused, swapped, atol=1e-6)
    assert kept.residual is state.residual


def test_deep_levels_run_at_refreshes_only() -> None:
    model = single_rate(**THREE_LEVELS)
    cache = CachedSingleRate(model, 1)
    ran: list[int] = []
    for i, level in enumerate(model.network.levels):
        for part in (level.enter, level.film):
            part.register_forward_hook(lambda *_, i=i: ran.append(i))
    _, state = cache.step(noise(0), LOG_SNR, LABELS)
    assert sorted(ran) == [0, 0, 1, 1, 2, 2]
    ran.clear()
    cache.step(noise(1), LOG_SNR, LABELS, state)
    assert ran == [0, 0]


@pytest.mark.parametrize("from_level", [0, 3, -1])
def test_refuses_levels_that_cannot_be_cached(from_level: int) -> None:
    with pytest.raises(ValueError, match=f"from_level: {from_level} is not between 1 and 2"):
        CachedSingleRate(single_rate(**THREE_LEVELS), from_level)


# The forecast of order 1.

GRIDS = {
    "time": torch.linspace(1, 0, 8, dtype=torch.float64),
    "karras": karras_steps(7, SCHEDULE),
}


class Linear(CachedSingleRate):
    """A cache whose deep levels add what is linear in the log-SNR, whatever they see; each evaluation's is kept."""

    def __init__(self, model: SingleRate, order: Order) -> None:
        super().__init__(model, 1, order)
        self.added: list[tuple[Tensor, Tensor]] = []
        """(what the lower levels added, what is right) of each evaluation."""

    def right(self, log_snr: Tensor, images: int) -> Tensor:
        """(B, 8, 8, 8), other values for each image of the batch."""
        ramp = torch.arange(1, images + 1).reshape(-1, 1, 1, 1) * torch.linspace(-1, 1, 512).reshape(8, 8, 8)
        return ramp * (0.3 + 0.7 * log_snr.reshape(-1, 1, 1, 1))

    def _evaluate(
        self, z: Tensor, log_snr: Tensor, conditioning: Conditioning, residual: Tensor | None
    ) -> tuple[Tensor, Cached]:
        right = self.right(log_snr, len(z))
        self.added.append((right if residual is None else residual, right))
        x, _ = super()._evaluate(z, log_snr, conditioning, right if residual is None else residual)
        return x, Cached(right if residual is None else residual, conditioning)


def drawn(model: CachedSingleRate, sampler: str, times: Tensor, refreshes: Refreshes, **settings: Any) -> Tensor:
    denoise = Denoise(model, SCHEDULE, times, refreshes, labels=LABELS, **settings)
    with torch.inference_mode():
        return SAMPLERS[sampler](denoise, ImageNoise(0, [0, 1], IMAGE), times, SCHEDULE)


@pytest.mark.parametrize("guidance", [None, Guidance(2.0)], ids=["plain", "guided"])
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_what_is_linear_in_the_log_snr_is_forecast_exactly(sampler: str, grid: str, guidance: Guidance | None) -> None:
    """Uneven steps, uneven refreshes, and Heun's second evaluation at another time included."""
    refreshes = explicit([0, 2, 3, 6], 7)
    cache = Linear(single_rate(), 1)
    drawn(cache, sampler, GRIDS[grid], refreshes, guidance=guidance)
    per_step = 2 if sampler == "heun" else 1
    first, later = cache.added[: 2 * per_step], cache.added[2 * per_step :]
    assert all(torch.equal(added, first[0][1]) for added, _ in first), "one refresh only: it is reused"
    assert len(later) == 5 * per_step - (sampler == "heun")
    for added, right in later:
        torch.testing.assert_close(added, right, rtol=1e-4, atol=1e-4)


def test_what_is_reused_misses_what_is_linear() -> None:
    """The test above can fail."""
    cache = Linear(single_rate(), 0)
    drawn(cache, "ddim", GRIDS["time"], explicit([0, 2, 3, 6], 7))
    assert (cache.added[5][0] - cache.added[5][1]).abs().max() > 0.1


@pytest.mark.parametrize("sampler", sorted(SAMPLERS.keys() - {"heun"}))
def test_a_forecast_that_is_refreshed_at_every_step_is_the_network(sampler: str) -> None:
    network = Denoise(single_rate(), SCHEDULE, GRIDS["time"], labels=LABELS)
    with torch.inference_mode():
        expected = SAMPLERS[sampler](network, ImageNoise(0, [0, 1], IMAGE), GRIDS["time"], SCHEDULE)
    refreshed = (True,) * 7
    assert torch.equal(drawn(cached(order=1), sampler, GRIDS["time"], refreshed), expected)
    assert not torch.equal(drawn(cached(order=1), sampler, GRIDS["time"], every(2, 7)), expected)


def test_orders_differ_from_the_second_refresh_on() -> None:
    one, other = (drawn(cached(order=order), "ddim", GRIDS["time"], (True, *(False,) * 6)) for order in (0, 1))
    assert torch.equal(one, other)
    one, other = (drawn(cached(order=order), "ddim", GRIDS["time"], every(3, 7)) for order in (0, 1))
    assert (one - other).abs().max() > 1e-3


def test_a_forecast_runs_no_network() -> None:
    runs = []
    for order in (0, 1):
        denoise = Denoise(cached(order=order), SCHEDULE, GRIDS["time"], every(3, 7), labels=LABELS)
        with torch.inference_mode():
            SAMPLERS["heun"](denoise, ImageNoise(0, [0, 1], IMAGE), GRIDS["time"], SCHEDULE)
        runs.append(denoise.networks_run)
    assert runs[0] == runs[1] == {"network": 3, "shallow": 10}


@pytest.mark.parametrize("interval", [(0.1, 1.0), (1.0, 100.0)], ids=["begins", "ends"])
def test_guidance_that_begins_or_ends_between_two_refreshes(interval: tuple[float, float]) -> None:
    """An image's trend goes on where the batch is doubled or no longer is; the half that is new has none, so that its
    residual is reused until the next refresh."""
    times, refreshes = torch.linspace(1, 0, 13, dtype=torch.float64), every(2, 12)
    cache = Linear(single_rate(), 1)
    drawn(cache, "ddim", times, refreshes, guidance=Guidance(2.0, interval))
    sizes = [len(added) for added, _ in cache.added]
    assert {2, 4} == set(sizes)
    refreshed_size, known = 0, 0
    for step, (added, right) in enumerate(cache.added):
        if refreshes[step]:
            known = min(refreshed_size or len(added), len(added)) if step else 0
            refreshed_size, last = len(added), added
        exact = slice(0, known)
        torch.testing.assert_close(added[exact], right[exact], rtol=1e-4, atol=1e-4)
        if not refreshes[step]:
            assert torch.equal(added[known:], last[known : len(added)])
    assert known >= 2


def test_no_trend_is_known_where_no_time_has_passed() -> None:
    cache = cached(order=1)
    _, earlier = cache.step(noise(0), LOG_SNR, LABELS)
    _, same = cache.step(noise(1), LOG_SNR, LABELS)
    remembered = cache.remember(same, earlier)
    assert remembered.trend is not None and not remembered.trend.slope.any()


def test_refuses_an_order_that_there_is_not() -> None:
    with pytest.raises(ValueError, match="order: 2 is not one of 0, 1"):
        CachedSingleRate(single_rate(), 1, 2)  # type: ignore[arg-type]
