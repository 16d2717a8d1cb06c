"""A training-free feature cache of one network [DeepCache]: Dual-Rate's competitor that needs no second network."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from models.method import RunNetwork, State, run_network
from models.single_rate import SingleRate
from models.uvit import Conditioning


class Cached(NamedTuple):
    """What a refresh leaves for the steps after it."""

    residual: Tensor
    """(B, width, side, side): what the deep levels added to the level above them."""
    conditioning: Conditioning


class CachedSingleRate(nn.Module):
    """A trained :class:`SingleRate` whose levels from `from_level` (≥ 1) down run at refreshes only.

    Between refreshes the upsampled residual of the deep levels is that of the last refresh, and the levels
    above it run as ever.
    """

    networks = ("network", "shallow")

    def __init__(self, model: SingleRate, from_level: int) -> None:
        super().__init__()
        levels = len(model.network.config.widths)
        if not 1 <= from_level < levels:
            raise ValueError(f"from_level: {from_level} is not between 1 and {levels - 1}, the lowest level")
        self.model, self.from_level = model, from_level
        self.classes = model.classes

    def refresh(self, z: Tensor, log_snr: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Cached]:
        """x̂ of the whole network, and the cache."""
        return self._evaluate(z, log_snr, self.model.network.condition(labels), None)

    def reuse(self, z: Tensor, log_snr: Tensor, cached: Cached) -> Tensor:
        """x̂ of the upper levels alone."""
        return self._evaluate(z, log_snr, cached.conditioning, cached.residual)[0]

    def _evaluate(
        self, z: Tensor, log_snr: Tensor, conditioning: Conditioning, residual: Tensor | None
    ) -> tuple[Tensor, Cached]:
        network, parameterization = self.model.network, self.model.parameterization
        seen = parameterization.input(z, log_snr)
        output = network(seen, log_snr, conditioning, from_level=self.from_level, residual=residual)
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
            x, state = run("network", self.refresh, z, log_snr, labels)
            return x, state
        return run("shallow", self.reuse, z, log_snr, state), state
