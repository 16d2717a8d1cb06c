"""The training-free feature cache."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.cache import CachedSingleRate
from tests.models.networks import IMAGE, single_rate

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
            part.register_forward_hook(lambda *_, i=i: ran.append(i))  # type: ignore[union-attr]
    _, state = cache.step(noise(0), LOG_SNR, LABELS)
    assert sorted(ran) == [0, 0, 1, 1, 2, 2]
    ran.clear()
    cache.step(noise(1), LOG_SNR, LABELS, state)
    assert ran == [0, 0]


@pytest.mark.parametrize("from_level", [0, 3, -1])
def test_refuses_levels_that_cannot_be_cached(from_level: int) -> None:
    with pytest.raises(ValueError, match=f"from_level: {from_level} is not between 1 and 2"):
        CachedSingleRate(single_rate(**THREE_LEVELS), from_level)
