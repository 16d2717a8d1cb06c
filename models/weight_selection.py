"""Weight selection [WS]: a network begins with a part of the weights of a larger one of the same architecture.

A tensor begins with the one of the same name, of which it takes the first channels, the first heads and, as names
count blocks from 0, the first blocks of a level. So all layers choose the same channels, and norms keep their groups.
What has no such tensor, or one that is smaller or of another kind, stays as it was initialised.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

Choice = Literal["all", "first", "shared"]
"""Along an axis: "all", where both have as many; the "first", of at least as many; "shared", those that both have."""


class Axis(NamedTuple):
    """An axis of a tensor, or a part of one."""

    size: int
    choice: Choice = "all"


ANEW = "begins anew"
"""Why a tensor that cannot be selected is not."""
Layout = Mapping[str, Sequence[Axis]]
"""Of each tensor that can be selected from, by its name: its axes, and those that it keeps in one axis apart."""


@runtime_checkable
class Selectable(Protocol):
    """A network that another can begin with, or that can begin with another. It is an ``nn.Module``."""

    def layout(self) -> Layout:
        """Those of its tensors that can."""


class Selection(NamedTuple):
    """What a network begins with."""

    selected: tuple[str, ...]
    """The tensors that begin, whole or in part, with those of the larger network."""
    left: Mapping[str, str]
    """Why each of the others does not, in words."""
    weights: int
    """How many numbers are selected."""
    of: int
    """How many the network has."""


def selection(source: Any, target: Any) -> Selection:
    """What of `target` would begin with weights of `source`, two :class:`Selectable` networks."""
    there, here = source.layout(), target.layout()
    parameters = dict(target.named_parameters())
    left = {name: _problem(name, there, here) for name in parameters}
    selected = tuple(name for name, problem in left.items() if not problem)
    return Selection(
        selected,
        {name: problem for name, problem in left.items() if problem},
        sum(_count(there[name], here[name]) for name in selected),
        sum(parameter.numel() for parameter in parameters.values()),
    )


@torch.no_grad()
def select_weights(source: Any, target: Any) -> Selection:
    """Begin `target` with weights of `source`, and say with which."""
    chosen = selection(source, target)
    there, here = source.layout(), target.layout()
    given, taking = dict(source.named_parameters()), dict(target.named_parameters())
    for name in chosen.selected:
        part = tuple(slice(size) for size in _sizes(there[name], here[name]))
        own, other = _parted(taking[name], here[name]), _parted(given[name], there[name])
        own[part].copy_(other[part])
    return chosen


def _parted(tensor: Tensor, axes: Sequence[Axis]) -> Tensor:
    return tensor.view([axis.size for axis in axes])


def _sizes(there: Sequence[Axis], here: Sequence[Axis]) -> list[int]:
    return [min(one.size, other.size) for one, other in zip(there, here, strict=True)]


def _count(there: Sequence[Axis], here: Sequence[Axis]) -> int:
    return int(torch.Size(_sizes(there, here)).numel())


def _problem(name: str, there: Layout, here: Layout) -> str:
    """Why the tensor called `name` here cannot begin with that there; empty if it can."""
    if name not in here:
        return ANEW
    if name not in there:
        return "is not there"
    if len(there[name]) == len(here[name]) and all(map(_fits, there[name], here[name])):
        return ""
    return f"is {_shape(there[name])} there and {_shape(here[name])} here"


def _fits(there: Axis, here: Axis) -> bool:
    if here.choice == "shared":
        return True
    return there.size == here.size or (here.choice == "first" and there.size > here.size)


def _shape(axes: Sequence[Axis]) -> str:
    return "×".join(str(axis.size) for axis in axes)
