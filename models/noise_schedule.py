"""Noise schedules that a training finds: where in the process's range of log-SNR it draws its noise levels.

The process's own time s ∈ [0, 1] (:mod:`models.process`) is cut into K bins of equal width. A noise schedule gives
bin k the probability p_k; its own time t ∈ [0, 1] is the distribution function of the density K·p_k, a straight line in
each bin, and a training draws t uniformly:

    λ(t) = λ₀(s(t)),   ds/dt = 1/(K p_k),   dλ/dt = λ₀'(s)/(K p_k).

λ(t) falls strictly from the process's highest log-SNR to its lowest at any p: the ends are fixed. The weight of an
image in the objective takes dλ/dt in, so the expectation of the loss is that of the fixed schedule (for one network it
is an integral over λ [VDM, KG]), and only its variance depends on p:

    E[L²] = Σ_k m_k/(K² p_k),   m_k = the mean over bin k of E[ℓ²],   ℓ the fixed schedule's loss at s, L = ℓ/(K p_k),

least at p_k ∝ √m_k. :class:`LearnedNoise` descends its gradient, ∂E[L²]/∂p_k = −E[L² 1(s in k)]/p_k, which a training
step knows from the losses that it computes anyway. [VDM] differentiates the same expectation through the SNR; along a
broken line that estimate leaves out that the jumps of dλ/dt move with p, and for pairs of times it would also lower the
squared loss by moving to easier pairs, which lowers no variance. :class:`AdaptiveNoise` sets p_k ∝ E[ℓ], measured in a
running mean, as the adaptive schedule of [KG].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from models.limits import NOISE_KNOTS, NOISE_LEARNING_RATE

NAME = "noise_schedule"
"""The submodule of a model that its noise schedule is."""
FLOOR = 0.05
"""Share of the draws that is spread evenly over the process's time: no bin is starved, no weight above 1/FLOOR."""
ADAM = (0.9, 0.99)
MEMORY = 0.99
"""Decay of running means, which begin as plain means."""


class Drawn(NamedTuple):
    """Noise levels that a training step has drawn."""

    time: Tensor
    """Of the process, float64."""
    weight: Tensor | None
    """ds/dt, of the same shape: what makes the mean loss that of levels drawn evenly in the process's time; None for
    levels that are."""


class NoiseSchedule(nn.Module):
    """What both schedules share. Subclasses say :meth:`shares`, and how an iteration changes them.

    What defines the curve are buffers, and so part of the weights and of their average; what only going on needs is in
    :meth:`running`.
    """

    kind = ""

    def __init__(self, knots: int = NOISE_KNOTS) -> None:
        super().__init__()
        if knots < 1:
            raise ValueError(f"noise_knots: {knots} is less than 1")
        self.knots = knots
        self._seen: list[Tensor] = []
        self._running = {"moments": torch.zeros(3), "updates": torch.zeros(())}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> NoiseSchedule:
        """What moves the module moves what it remembers."""
        super()._apply(fn, recurse)
        self._running = {name: fn(value) for name, value in self._running.items()}
        return self

    def shares(self) -> Tensor:
        """p, float64 (K,): positive, of sum 1."""
        raise NotImplementedError

    def ends(self) -> Tensor:
        """The schedule's time at the ends of the bins, float64 (K + 1,), rising from exactly 0 to exactly 1."""
        rising = self.shares().cumsum(0)
        return torch.cat([rising.new_zeros(1), rising[:-1] / rising[-1], rising.new_ones(1)])

    def process_time(self, t: Tensor) -> Tensor:
        """s(t) in [0, 1], of t's shape, float64."""
        return self.drawn(t).time

    def own_time(self, s: Tensor) -> Tensor:
        """t(s), the inverse of :meth:`process_time`."""
        s, ends = s.double(), self.ends()
        place = (s * self.knots).clamp(0, self.knots)
        bin = place.floor().clamp(max=self.knots - 1).long()
        return torch.lerp(ends[bin], ends[bin + 1], place - bin)

    def drawn(self, t: Tensor) -> Drawn:
        """s(t) and ds/dt at the schedule's own times t."""
        t, ends = t.double(), self.ends()
        bin = (torch.searchsorted(ends, t.contiguous(), right=True) - 1).clamp(0, self.knots - 1)
        width = ends[bin + 1] - ends[bin]
        return Drawn((bin + (t - ends[bin]) / width) / self.knots, 1 / (self.knots * width))

    def weight_of(self, start: Tensor, end: Tensor) -> Tensor:
        """The mean of ds/dt over the draws between the process's times `start` < `end`: their share of the process's
        time over their share of the draws."""
        return (end - start).double() / (self.own_time(end) - self.own_time(start))

    @torch.no_grad()
    def observe(self, s: Tensor, losses: Tensor) -> None:
        """Note the weighted `losses` (N,) of images at the process's times s (N,), drawn by this schedule."""
        bin = (s * self.knots).floor().clamp(0, self.knots - 1).long()
        losses = losses.detach().double()
        rows = torch.stack([torch.ones_like(losses), losses, losses.square()])
        sums = rows.new_zeros(3, self.knots).index_add_(1, bin.to(rows.device), rows)
        self._seen.append(sums)

    def take_seen(self) -> Tensor:
        """What was noted since the last call, (3, K): per bin the number of images, and the sums of their losses and of
        their squares. Over ranks these are to be summed before :meth:`update`."""
        seen, self._seen = self._seen, []
        device = next(self.buffers()).device
        return torch.stack(seen).sum(0) if seen else torch.zeros(3, self.knots, dtype=torch.float64, device=device)

    @torch.no_grad()
    def update(self, sums: Tensor) -> None:
        """One iteration's step, from the sums that :meth:`take_seen` gives."""
        count, first, second = sums
        images = count.sum().clamp(min=1)
        at_process = (second * self.knots * self.shares()).sum()  # E[ℓ²] = E[L²·K p] over the same draws
        seen = torch.stack([first.sum(), second.sum(), at_process]) / images
        self._running["updates"] = self._running["updates"] + 1
        rate = torch.clamp(1 / self._running["updates"], min=1 - MEMORY)
        self._running["moments"] = torch.lerp(self._running["moments"], seen.float(), rate)
        self._move(count, first, second, images)

    def _move(self, count: Tensor, first: Tensor, second: Tensor, images: Tensor) -> None:
        raise NotImplementedError

    def variance(self) -> tuple[float, float]:
        """Of one image's loss: with this schedule, and with levels drawn evenly in the process's time; running means of
        the same draws."""
        mean, own, fixed = self._running["moments"].double().tolist()
        return own - mean * mean, fixed - mean * mean

    def running(self) -> dict[str, Tensor]:
        """What going on needs beside the buffers."""
        return dict(self._running)

    def go_on(self, running: dict[str, Tensor]) -> None:
        """Take over what :meth:`running` gave."""
        device = next(self.buffers()).device
        self._running = {name: running[name].clone().to(device) for name in self._running}


def _floored(shares: Tensor) -> Tensor:
    return FLOOR / len(shares) + (1 - FLOOR) * shares / shares.sum()


class LearnedNoise(NoiseSchedule):
    """p from softplus increments, moved by Adam down the gradient of the loss's second moment [VDM's aim]."""

    kind = "learned"
    increments: Tensor

    def __init__(self, knots: int = NOISE_KNOTS, learning_rate: float = NOISE_LEARNING_RATE) -> None:
        super().__init__(knots)
        self.learning_rate = learning_rate
        self.register_buffer("increments", torch.full((knots,), math.log(math.e - 1)))  # softplus of it is 1
        self._running |= {"mean": torch.zeros(knots), "square": torch.zeros(knots)}

    def shares(self) -> Tensor:
        return _floored(nn.functional.softplus(self.increments.double()))

    def gradient(self, sums: Tensor) -> Tensor:
        """The estimate of ∂E[L²]/∂increments, float64 (K,), from :meth:`take_seen`'s sums."""
        raw = self.increments.double()
        positive = nn.functional.softplus(raw)
        by_share = -sums[2] / sums[0].sum().clamp(min=1) / self.shares()
        around = (by_share * positive).sum() / positive.sum()  # all shares have one sum
        return (1 - FLOOR) * raw.sigmoid() / positive.sum() * (by_share - around)

    def _move(self, count: Tensor, first: Tensor, second: Tensor, images: Tensor) -> None:
        gradient = self.gradient(torch.stack([count, first, second])).float()
        running, (slow, slower) = self._running, ADAM
        running["mean"] = torch.lerp(running["mean"], gradient, 1 - slow)
        running["square"] = torch.lerp(running["square"], gradient.square(), 1 - slower)
        mean = running["mean"] / (1 - slow ** running["updates"])
        square = running["square"] / (1 - slower ** running["updates"])
        # relative to the largest: what the loss is measured in changes nothing, and a loss of 0 moves nothing
        step = mean / (square.sqrt() + 1e-8 * square.max().sqrt() + torch.finfo(torch.float32).tiny)
        self.increments.sub_(self.learning_rate * step)


class AdaptiveNoise(NoiseSchedule):
    """p in proportion to the running mean of the loss in each bin [KG, adaptive]; a bin not yet seen has the mean of
    the others."""

    kind = "adaptive"
    losses: Tensor
    seen: Tensor

    def __init__(self, knots: int = NOISE_KNOTS) -> None:
        super().__init__(knots)
        self.register_buffer("losses", torch.ones(knots))
        self.register_buffer("seen", torch.zeros(knots, dtype=torch.int64))

    def shares(self) -> Tensor:
        known, losses = self.seen > 0, self.losses.double()
        mean = torch.where(known, losses, 0.0).sum() / known.sum().clamp(min=1)
        shares = torch.where(known, losses, mean)
        return _floored(torch.where(shares.sum() > 0, shares, 1.0))

    def _move(self, count: Tensor, first: Tensor, second: Tensor, images: Tensor) -> None:
        here = count > 0
        loss = first / count.clamp(min=1) * self.knots * self.shares()  # ℓ = L·K p
        self.seen.add_(here)
        rate = torch.where(here, (1 / self.seen.clamp(min=1)).clamp(min=1 - MEMORY), 0.0)
        self.losses.copy_(torch.lerp(self.losses.double(), loss, rate.double()))


def noise_schedule_of(model: Any) -> NoiseSchedule | None:
    """The noise schedule that is trained beside `model`; None for the fixed one."""
    found = getattr(model, NAME, None)
    return found if isinstance(found, NoiseSchedule) else None


def draw(schedule: NoiseSchedule | None, t: Tensor) -> Drawn:
    """Noise levels at the `schedule`'s own times t; evenly in the process's time where there is none."""
    return Drawn(t, None) if schedule is None else schedule.drawn(t)
