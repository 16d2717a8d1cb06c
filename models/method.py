"""What a sampler needs of a method, and the hook by which its networks are compiled, timed and counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

State = Any
"""Tensors whose first dimension is the batch or 1, in any nesting of tuples, lists and dicts; opaque outside the model
that made it."""


class RunNetwork(Protocol):
    """Runs one network of a method: ``run(name, function, *inputs)`` returns ``function(*inputs)``.

    A method runs every network through the `run` that it is given. What compiles, times or counts networks
    passes its own `run`: it works for any method and modifies none.
    """

    def __call__(self, name: str, function: Callable[..., Any], *inputs: Any) -> Any:
        """The output of `function`, the network called `name`, for `inputs`."""


def run_network(name: str, function: Callable[..., Any], *inputs: Any) -> Any:
    """Run a network as it is."""
    return function(*inputs)


def names_beside(networks: Sequence[str], role: str) -> dict[str, str]:
    """What the networks of a model are called that has a `role` beside another model."""
    return {name: role if len(networks) == 1 else f"{role} {name}" for name in networks}


def run_as(run: RunNetwork, names: Mapping[str, str]) -> RunNetwork:
    """A `run` that calls networks by other `names`."""

    def renamed(name: str, function: Callable[..., Any], *inputs: Any) -> Any:
        return run(names[name], function, *inputs)

    return renamed


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


@runtime_checkable
class Remembering(Protocol):
    """A :class:`Model` that at a refresh still needs what the refresh before it has left."""

    def remember(self, state: State, earlier: State) -> State:
        """The `state` of a refresh, completed by the `earlier` refresh's; their batches may differ, see guidance."""
