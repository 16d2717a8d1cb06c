"""The weights that a training starts from: whether they fit its network, and loading them."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from harness.config.schema import Experiment
from harness.data import known_info
from harness.engine.build import build_model, method_for
from harness.errors import ConfigError
from harness.store.records import SelectedWeights
from harness.store.weights import load_tensors
from harness.wording import count_of
from models.methods import StartNames
from models.noise_schedule import NAME
from models.weight_selection import ANEW, Selection, select_weights, selection

log = logging.getLogger("harness")

Value = TypeVar("Value")
Shapes = Mapping[str, tuple[int, ...]]
SHOWN_TENSORS = 3


def network_shapes(experiment: Experiment) -> dict[str, tuple[int, ...]]:
    """The shape of every weight of `experiment`'s network, which is built without allocating any."""
    return _shapes(_without_weights(experiment).state_dict())


def _without_weights(experiment: Experiment) -> nn.Module:
    """The network of `experiment` without a weight allocated."""
    info = known_info(experiment.data, labelled=experiment.model.class_conditional)
    with torch.device("meta"):
        return build_model(experiment, info)


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def misfit(network: Shapes, start: Shapes, names: StartNames | None = None) -> str | None:
    """Why weights with the shapes of `start` cannot be those of `network`, in one sentence; None if they can."""
    names = names or StartNames()
    there = names.places(start)
    wanted = {name: shape for name, shape in network.items() if not name.startswith(names.fresh)}

    def called(name: str) -> str:
        return name if there[name] == name else f"{there[name]}, as {name},"

    problems = [
        f"{called(name)} is {_size(start[there[name]])} there and {_size(wanted[name])} here"
        for name in wanted
        if name in there and start[there[name]] != wanted[name]
    ]
    problems += [f"{name} is not there" for name in wanted if name not in there]
    problems += [f"{called(name)} is not here" for name in there if name not in wanted]
    if not problems:
        return None
    rest = len(problems) - SHOWN_TENSORS
    more = f", and {count_of(rest, 'more tensor')}" if rest > 0 else ""
    return f"does not fit: {', '.join(problems[:SHOWN_TENSORS])}{more}; {_what_fits(network, start)}"


def _size(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) if shape else "a number"


def _what_fits(network: Shapes, start: Shapes) -> str:
    """Which part of the start would fit which part of the network, whatever the parts are called."""
    best: tuple[int, str] = (0, "")
    for there, given in _parts(start).items():
        for here, wanted in _parts(network).items():
            count = sum(wanted.get(name) == shape for name, shape in given.items())
            if count > best[0]:
                whole = "all" if count == len(wanted) else f"{count} of {len(wanted)}"
                best = count, f"its {there} would fit as {here}: {whole} tensors" + _all_but(wanted, given)
    return best[1] or "no part of it would fit"


def _all_but(wanted: Shapes, given: Shapes) -> str:
    lacking = [name for name, shape in wanted.items() if given.get(name) != shape]
    return f", all but {', '.join(lacking)}" if 0 < len(lacking) <= SHOWN_TENSORS else ""


def _parts(shapes: Shapes) -> dict[str, dict[str, tuple[int, ...]]]:
    """The tensors of each network, by their names inside it."""
    parts: dict[str, dict[str, tuple[int, ...]]] = defaultdict(dict)
    for name, shape in shapes.items():
        part, _, inside = name.partition(".")
        parts[part][inside] = shape
    return parts


def without_noise_schedule(tensors: Mapping[str, Value]) -> dict[str, Value]:
    """`tensors` without those of a noise schedule: one that is trained begins anew, whatever a training starts from."""
    return {name: value for name, value in tensors.items() if not name.startswith(f"{NAME}.")}


def load_start(model: nn.Module, path: Path, training: str | None, experiment: Experiment) -> None:
    """Put the weights in `path` into `model`; those of `training`, if it is given.

    What the method of `experiment` lets begin at random stays as it is, and networks that begin with a part of
    another's weights do so.
    Raises :class:`StoreError` for a file that cannot be used, :class:`ConfigError` for one that does not fit.
    """
    tensors = without_noise_schedule(load_tensors(path, training)[0])
    try:
        names = method_for(experiment).start_names(experiment, tensors.keys())
    except ValueError as error:
        raise ConfigError(str(path), [str(error)]) from None
    reason = misfit(without_noise_schedule(_shapes(model.state_dict())), _shapes(tensors), names)
    if reason is not None:
        raise ConfigError("train.start", [f"{path} {reason}"])
    used = {name: tensors[there] for name, there in names.places(tensors).items()}
    model.load_state_dict({**model.state_dict(), **used})
    if (reason := part_problem(experiment, model)) is not None:
        raise ConfigError(str(path), [reason])
    for name, source, chosen in _parts_of(experiment, model, select_weights):
        shown = ", ".join(sorted({_place(tensor) for tensor in chosen.selected}))
        share = f"{chosen.weights:,} of its {chosen.of:,} weights"
        log.info("the %s begins with a part of the %s's weights, %s: %s", name, source, share, shown)


def _place(tensor: str) -> str:
    """Where a tensor is, for a person: the level, or the layer."""
    parts = tensor.split(".")
    return ".".join(parts[:3] if parts[0] == "levels" else parts[:1])


def _parts_of(
    experiment: Experiment, model: nn.Module, act: Callable[[nn.Module, nn.Module], Selection] = selection
) -> Iterator[tuple[str, str, Selection]]:
    """(Network, whose weights it begins with a part of, which) of each that begins so; `act` tells the last."""
    networks = dict(model.named_children())
    for name, source in method_for(experiment).start_parts(experiment).items():
        yield name, source, act(networks[source], networks[name])


def selected_weights(experiment: Experiment, model: nn.Module) -> dict[str, SelectedWeights]:
    """Of each network of `model` that begins with a part of another's weights: with how much of them."""
    return {
        name: SelectedWeights(source=source, tensors=len(chosen.selected), weights=chosen.weights, of=chosen.of)
        for name, source, chosen in _parts_of(experiment, model)
    }


def part_problem(experiment: Experiment, model: nn.Module | None = None) -> str | None:
    """Why a network of `experiment` cannot begin with a part of another's weights, in one sentence; None if all can.

    `model` is its network, if it is built already.
    """
    if not method_for(experiment).start_parts(experiment):
        return None
    built = model or _without_weights(experiment)
    for name, source, chosen in _parts_of(experiment, built):
        if all(built.get_parameter(f"{name}.{tensor}").ndim < 2 for tensor in chosen.selected):
            problems = [f"{tensor} {why}" for tensor, why in chosen.left.items() if why != ANEW]
            rest = len(problems) - SHOWN_TENSORS
            more = f", and {count_of(rest, 'more tensor')}" if rest > 0 else ""
            return (
                f"train.start_{name}: no tensor of the {name} fits into one of the {source}: "
                f"{', '.join(problems[:SHOWN_TENSORS])}{more}; the {name} can begin with channels, heads and blocks "
                f"that the {source} has at least as many of"
            )
    return None
