"""Training-free feature cache of one network [DeepCache]: the rival of Dual-Rate that needs no second network."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from models.dual_rate import SingleRate, State
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

    evaluations = ("network", "shallow")

    def __init__(self, model: SingleRate, from_level: int) -> None:
        super().__init__()
        levels = len(model.network.config.widths)
        if not 1 <= from_level < levels:
            raise ValueError(f"from_level: {from_level} is not between 1 and {levels - 1}, the lowest level")
        self.model, self.from_level = model, from_level
        self.classes = model.classes

    def step(
        self, z: Tensor, log_snr: Tensor, labels: Tensor | None = None, state: State = None
    ) -> tuple[Tensor, State]:
        """x̂ and the cache, made anew where `state` is None."""
        network, parameterization = self.model.network, self.model.parameterization
        residual, conditioning = (None, network.condition(labels)) if state is None else state
        seen = parameterization.input(z, log_snr)
        output = network(seen, log_snr, conditioning, from_level=self.from_level, residual=residual)
        return parameterization.estimate(output.image, z, log_snr), Cached(output.residual, conditioning)

    def evaluated(self, refresh: bool) -> tuple[str, ...]:
        return self.evaluations[:1] if refresh else self.evaluations[1:]
