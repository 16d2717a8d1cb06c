"""A training-free feature cache of one network: Dual-Rate's competitor that needs no second network.

Between refreshes the deep levels' residual is reused [DeepCache] (order 0), or forecast from the last two refreshes
[TaylorSeer] (order 1).
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from models.method import RunNetwork, State, run_network
from models.single_rate import SingleRate
from models.uvit import Conditioning, Output

Order = Literal[0, 1]


class Trend(NamedTuple):
    """How the residual changes from one refresh to the next, per unit of log-SNR."""

    log_snr: Tensor
    """(1 or B, 1, 1, 1), of the refresh."""
    slope: Tensor
    """(B, width, side, side); zero where only one refresh is known."""


class Cached(NamedTuple):
    """What a refresh leaves for the steps after it."""

    residual: Tensor
    """(B, width, side, side): what the deep levels added to the level above them."""
    conditioning: Conditioning
    trend: Trend | None = None
    """Of order 1."""


class CachedSingleRate(nn.Module):
    """A trained :class:`SingleRate` whose levels from `from_level` (≥ 1) down run at refreshes only.

    Between refreshes the levels above run as ever. To them is added, upsampled, the residual of the deep levels: with
    `order` 0 that of the last refresh; with `order` 1 that of the line through the last two refreshes, r at λ_r and r'
    at λ_r' before it: r + (λ − λ_r)·(r − r')/(λ_r − λ_r') [TaylorSeer, order 1]. As long as there was one refresh only,
    it is reused.

    TaylorSeer's variable is the number of the step, which says when only where the steps are even in time, and which
    Heun's two evaluations of a step share although the second is at the next one's time. Here it is the log-SNR λ: what
    the network itself is told, the same on every grid of steps. On the digits' base network, the error of the residual
    relative to it, the mean over a DDIM run of 16 steps that refreshes at every second one: steps even in time 0.29 by
    reuse, 0.20 by a line in the step's number, in the angle arctan(σ_t/α_t) and in λ alike; Karras' steps 0.42 by
    reuse, 0.43 in the number, 0.58 in the angle, 0.50 in λ. With fresh noise in each step (ancestral) reuse was the
    better one everywhere: 0.43 against 0.51 to 0.53 on steps even in time.
    """

    networks = ("network", "shallow")

    def __init__(self, model: SingleRate, from_level: int, order: Order = 0) -> None:
        super().__init__()
        levels = len(model.network.config.widths)
        if not 1 <= from_level < levels:
            raise ValueError(f"from_level: {from_level} is not between 1 and {levels - 1}, the lowest level")
        if order not in get_args(Order):
            raise ValueError(f"order: {order} is not one of {', '.join(map(str, get_args(Order)))}")
        self.model, self.from_level, self.order = model, from_level, order
        self.classes = model.classes

    def refresh(self, z: Tensor, log_snr: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Cached]:
        """x̂ of the whole network, and the cache."""
        return self._evaluate(z, log_snr, self.model.network.condition(labels), None)

    def reuse(self, z: Tensor, log_snr: Tensor, cached: Cached) -> Tensor:
        """x̂ of the upper levels alone."""
        residual, trend = cached.residual, cached.trend
        if trend is not None:
            residual = residual + (log_snr.reshape(-1, 1, 1, 1) - trend.log_snr) * trend.slope
        return self._evaluate(z, log_snr, cached.conditioning, residual)[0]

    def remember(self, state: Cached, earlier: Cached) -> Cached:
        """The cache of a refresh with the trend since the `earlier` refresh's; with order 0 as it is.

        Of an image that only one of the two had (guidance may double the batch from one refresh to the next) no trend
        is known. Nor is one where no time has passed between the two, which fresh noise in the steps can make so.
        """
        if state.trend is None or earlier.trend is None:
            return state
        both = min(len(state.residual), len(earlier.residual))
        passed = state.trend.log_snr[:both] - earlier.trend.log_snr[:both]
        changed = state.residual[:both] - earlier.residual[:both]
        slope = torch.where(passed > 0, changed / passed, 0.0)
        if both < len(state.residual):
            slope = torch.cat([slope, state.trend.slope[both:]])
        return state._replace(trend=state.trend._replace(slope=slope))

    def features(self, state: Cached) -> Tensor:
        """What the deep levels have added at the refresh, (B, D)."""
        return state.residual.flatten(1)

    def _evaluate(
        self, z: Tensor, log_snr: Tensor, conditioning: Conditioning, residual: Tensor | None
    ) -> tuple[Tensor, Cached]:
        network, parameterization = self.model.network, self.model.parameterization
        seen = parameterization.input(z, log_snr)
        output: Output = network(seen, log_snr, conditioning, from_level=self.from_level, residual=residual)
        assert output.residual is not None  # a level to reuse was named
        return parameterization.estimate(output.image, z, log_snr), Cached(output.residual, conditioning)

    def step(
        self,
        z: Tensor,
        log_snr: Tensor,
        labels: Tensor | None = None,
        state: State = None,
        run: RunNetwork = run_network,
    ) -> tuple[Tensor, State]:
        """x̂ and the cache, which is recomputed where `state` is None."""
        if state is None:
            x, cached = run("network", self.refresh, z, log_snr, labels)
            if self.order:
                cached = cached._replace(trend=Trend(log_snr.reshape(-1, 1, 1, 1), torch.zeros_like(cached.residual)))
            return x, cached
        return run("shallow", self.reuse, z, log_snr, state), state
