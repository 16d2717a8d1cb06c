"""Measuring a network on pairs of times: what a schedule is chosen by (:mod:`models.scheduling.table`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from models.method import RunNetwork, State, run_network
from models.noise import Stream, normal
from models.process import CosineSchedule, deterministic_step, diffuse, markov_step

LEVELS = 33
"""Times of a table, even in t from 1 to 0. A sampler's times that are even in t lie on them for 1, 2, 4 … 32 steps."""
CHAIN, RUN = 0, 1 << 20
"""Where the draws of the two measurements begin."""


@runtime_checkable
class Featured(Protocol):
    """A model that can tell what of its state carries the refresh's features."""

    def features(self, state: State) -> Tensor:
        """(B, D) of the state that a refresh has left."""


def level_times(levels: int = LEVELS) -> Tensor:
    """Float64 (levels,), falling from 1 to 0."""
    return torch.linspace(1, 0, levels, dtype=torch.float64)


@torch.no_grad()
def measure_pairs(
    model: Any,
    images: Tensor,
    labels: Tensor | None,
    places: Tensor,
    schedule: CosineSchedule,
    *,
    seed: int = 0,
    levels: int = LEVELS,
    clip: bool = True,
    progress: Callable[[int], None] = lambda done: None,
    run: RunNetwork = run_network,
) -> dict[str, Tensor]:
    """Losses and changes of images (B, C, H, W) in [−1, 1], each (B, levels (levels + 1)/2), float64 on the CPU.

    Each image has one Markov chain from the data to noise, so that any two of its states have the law of the pair. Its
    noise depends on the seed and its place, `places` (B,) int64, alone. Entries are those on and below the diagonal of
    :class:`models.scheduling.table.PairTable`, row by row. `clip` is the sampler's. The networks run `levels` times
    with a refresh and levels (levels − 1)/2 times without; `progress` is called with the levels done.
    """
    log_snrs = schedule.log_snr(level_times(levels)).to(images.device, images.dtype)
    chain = _chain(images, log_snrs, places, seed)
    fresh: list[Tensor] = []  # from the cleanest level on
    losses = torch.zeros(levels, levels, len(images), dtype=torch.float64)
    changes = torch.zeros_like(losses)

    def estimated(level: int, state: State) -> tuple[Tensor, State]:
        x, state = model.step(chain[level], log_snrs[level], labels, state, run)
        return (x.clamp(-1, 1) if clip else x), state

    for anchor in reversed(range(levels)):
        x, state = estimated(anchor, None)
        losses[anchor, anchor] = _distance(x, images)
        for level in range(anchor + 1, levels):
            later, _ = estimated(level, state)
            losses[level, anchor] = _distance(later, images)
            changes[level, anchor] = _distance(later, fresh[levels - 1 - level])
        fresh.append(x)
        progress(levels - anchor)
    rows, columns = torch.tril_indices(levels, levels)
    return {"losses": losses[rows, columns].T.contiguous(), "changes": changes[rows, columns].T.contiguous()}


def _chain(images: Tensor, log_snrs: Tensor, places: Tensor, seed: int) -> list[Tensor]:
    """z at each level, from the noisiest on: the cleanest from the image, each other from the one before it."""

    def noise(level: int) -> Tensor:
        return normal(seed, places, CHAIN + level, images.shape[1:], Stream.PAIRS).to(images.dtype)

    last = len(log_snrs) - 1
    z = diffuse(images, log_snrs[last], noise(last))
    chain = [z]
    for level in reversed(range(last)):
        z = markov_step(z, log_snrs[level + 1], log_snrs[level], noise(level))
        chain.append(z)
    return chain[::-1]


def _distance(estimate: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference per dimension, (B,)."""
    return (estimate - target).double().square().flatten(1).mean(1).cpu()


@torch.no_grad()
def measure_dissimilarity(
    model: Featured,
    shape: Sequence[int],
    labels: Tensor | None,
    places: Tensor,
    schedule: CosineSchedule,
    *,
    seed: int = 0,
    levels: int = LEVELS,
    clip: bool = True,
    run: RunNetwork = run_network,
) -> Tensor:
    """1 − cos of the features of refreshes at any two levels of one DDIM run that refreshes at each: (B, levels,
    levels), float64 on the CPU; what DDT chooses its schedule by [DDT]."""
    log_snrs = schedule.log_snr(level_times(levels))
    z = normal(seed, places, RUN, shape, Stream.PAIRS)
    features = []
    for level in range(levels):
        log_snr = log_snrs[level].to(z.device, z.dtype)
        x, state = model.step(z, log_snr, labels, None, run)  # type: ignore[attr-defined]
        features.append(F.normalize(model.features(state).float(), dim=1))
        if level + 1 < levels:
            z = deterministic_step(z, x.clamp(-1, 1) if clip else x, log_snr, log_snrs[level + 1].to(z.device, z.dtype))
    stacked = torch.stack(features, dim=1)
    return (1 - stacked @ stacked.mT).clamp(min=0).double().cpu()
