"""T-Stitch [T-Stitch]: a second network runs the first, noisiest steps of a sampler, the model's own the rest; or the
other way round."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

from torch import Tensor, nn

from models.method import Model, RunNetwork, State, names_beside, run_as, run_network

Place = Literal["first", "last"]
STITCHED = "stitched"
"""What a second model's network is called beside those of the first."""


def stitched_names(networks: Sequence[str]) -> dict[str, str]:
    """What the networks of a second model are called beside those of the first."""
    return names_beside(networks, STITCHED)


class Stitched(nn.Module):
    """A model that is run beside another: its networks go by names of their own, nothing else is changed."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.names = stitched_names(model.networks)
        self.networks = tuple(self.names.values())
        self.classes = model.classes

    def step(
        self,
        z: Tensor,
        log_snr: Tensor,
        labels: Tensor | None = None,
        state: State = None,
        run: RunNetwork = run_network,
    ) -> tuple[Tensor, State]:
        """x̂ and the state, as the model itself gives them."""
        estimate: tuple[Tensor, State] = self.model.step(z, log_snr, labels, state, run_as(run, self.names))
        return estimate


def stitched_steps(steps: int, share: float) -> int:
    """How many of `steps` steps a second network runs: `share` of them, to the nearest whole number."""
    if not 0 <= share <= 1:
        raise ValueError(f"share: {share:g} is not between 0 and 1")
    return math.floor(share * steps + 0.5)


def by_step(own: Model, second: Model, steps: int, share: float, place: Place = "first") -> tuple[Model, ...]:
    """Of each step of a sampler, the model that runs it: the `second` the first `share` of them, or the last."""
    if place not in get_args(Place):
        raise ValueError(f"place: {place!r} is not one of {', '.join(get_args(Place))}")
    count = stitched_steps(steps, share)
    seconds, owns = (second,) * count, (own,) * (steps - count)
    return seconds + owns if place == "first" else owns + seconds
