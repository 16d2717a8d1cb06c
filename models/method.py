"""What a method is to a sampler, and the seam at which its networks are compiled, timed and counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor

State = Any
"""Nested tuples of tensors whose first dimension is the batch or 1; opaque outside the model that made it."""


class RunNetwork(Protocol):
    """Runs one network of a method: ``run(name, function, *inputs)`` returns ``function(*inputs)``.

    A method runs every network through the `run` that it is given. Whoever compiles, times or counts networks gives
    one of its own, so that it serves any method and changes none.
    """

    def __call__(self, name: str, function: Callable[..., Any], *inputs: Any) -> Any:
        """What `function`, the network called `name`, answers to `inputs`."""


def run_network(name: str, function: Callable[..., Any], *inputs: Any) -> Any:
    """Run a network as it is."""
    return function(*inputs)


class Model(Protocol):
    """What a sampler's denoiser needs of a method."""

    @property
    def classes(self) -> int | None:
        """Number of classes, None for a model without labels."""

    @property
    def networks(self) -> tuple[str, ...]:
        """Names of its networks."""

    def step(
        self,
        z: Tensor,
        log_snr: Tensor,
        labels: Tensor | None = None,
        state: State = None,
        run: RunNetwork = run_network,
    ) -> tuple[Tensor, State]:
        """x̂ (B, C, H, W) and the state for the steps up to the next refresh. `state` None asks for a refresh."""
