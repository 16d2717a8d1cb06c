"""A trained network that a person names: its weights, the configuration that made them, and whether the two agree."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from harness.config.datasets import DATA_SETS
from harness.config.schema import (
    NO_TRAINING_ID,
    PLACES,
    Experiment,
    as_plain,
    is_named,
    parse_experiment,
    standing_by_itself,
)
from harness.dispatch.checks import check_data
from harness.dispatch.sweep import Sweep, is_sweep_file, load_experiment, load_sweep
from harness.errors import ConfigError, MissingDataError, StoreError
from harness.files import expanded, read_json
from harness.store.adopted import check_adoptable
from harness.store.identity import START_TRAINING, Identifier
from harness.store.needs import missing_need
from harness.store.store import Store, Target
from harness.wording import count_of

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS = "weights.safetensors"
MOVED = "--data says where they lie now"


@dataclass(frozen=True)
class Trained:
    """A network whose training has ended."""

    weights: Path
    training: str
    """The id of its training."""
    experiment: Experiment
    """What made it, with where its data lie now."""
    is_vouched_for: bool = True
    """Whether the weights say themselves what has made them; of others only a person's configuration does."""
    folder: TemporaryDirectory[str] | None = None
    """What holds `weights` that were marked with their training here: it goes with the last reference to it."""


def find_trained(named: str, store: Store, data: str | None, config: Path | None, arm: str | None) -> Trained:
    """The network that `named` means: ``training:ID`` of the results, a file of weights, or the folder of a training.

    `data` says where its data lie, if nothing else does; `config` what its configuration is, where the weights do not.
    A file of weights that nothing is told of at all, not even its training, is taken for that of `config`.
    Raises :class:`HarnessError` for what cannot be used: one clear message.
    """
    bare = _bare(named)
    if bare is not None:
        return _trained_of_bare(named, bare, store, data, config, arm)
    weights, facts = _weights(named, store)
    training = facts["training"]
    experiment = _experiment(named, _configuration(weights, facts, data, config, arm), data, weights)
    _check(weights, training, experiment)
    check_adoptable(store, training, weights)
    return Trained(weights, training, experiment)


def _experiment(named: str, plain: Mapping[str, Any], data: str | None, weights: Path) -> Experiment:
    """The experiment of a configuration, if its network can become dual-rate."""
    kind = (plain.get("model") or {}).get("kind")
    if kind != "single_rate":
        raise ConfigError(
            named, [f"is a {kind} network; what becomes dual-rate is a single_rate one, run whole at every step"]
        )
    return parse_experiment({**plain, "data": _located(plain.get("data") or {}, data, named)}, str(weights))


def _bare(named: str) -> dict[str, Tensor] | None:
    """The tensors of a file that says nothing of what has made it; None for anything else."""
    from harness.store.weights import load_bare

    path = expanded(named)
    is_weights = not named.startswith(START_TRAINING) and path.is_file() and path.suffix not in (".yaml", ".yml")
    return load_bare(path) if is_weights else None


def _trained_of_bare(
    named: str, tensors: dict[str, Tensor], store: Store, data: str | None, config: Path | None, arm: str | None
) -> Trained:
    """The network of weights that only `config` tells of: they are taken for those of its training."""
    from harness.store.weights import save_tensors

    path = expanded(named)
    if config is None:
        raise StoreError(
            f"{path}: says nothing of what has made it, for it was not written by this project; give the configuration "
            "of its network: --config FILE, with --arm where that is a sweep with several"
        )
    experiment = _experiment(named, as_plain(_one_of_file(config, arm, data)), data, path)
    _check_data(experiment)
    training = Identifier().training(experiment)
    folder = TemporaryDirectory(prefix="harness-adapt-")
    marked = Path(folder.name) / WEIGHTS
    facts = {"step": str(experiment.train.steps), "config": standing_by_itself(experiment), "origin": "not known"}
    save_tensors(marked, tensors, training, **facts)
    _check(marked, training, experiment, named=path)
    check_adoptable(store, training, marked, named=path)
    return Trained(marked, training, experiment, is_vouched_for=False, folder=folder)


def _one_of_file(config: Path, arm: str | None, data: str | None) -> Experiment:
    """The one experiment of `config` whose training weights without a mark may be."""
    overrides = _located_overrides(data)
    if not is_sweep_file(config):
        return load_experiment(config, overrides, arm)
    first = load_experiment(config, overrides, arm)  # names the choices, where there is no such arm
    trainings = [one for one in _sweep_of(config, overrides).trainings.values() if arm in one.arms]
    if len(trainings) > 1:
        raise ConfigError(
            str(config),
            [
                f"arm {arm!r} has {count_of(len(trainings), 'training')}, and the weights do not say of which they "
                "are; give a file with the keys of one experiment, its seed included"
            ],
        )
    return first


def _weights(named: str, store: Store) -> tuple[Path, Mapping[str, str]]:
    """(The file of weights, what it says of itself)."""
    from harness.store.weights import load_facts

    if named.startswith(START_TRAINING):
        if not is_named(named):
            raise ConfigError("WEIGHTS", [f"{named!r} {NO_TRAINING_ID}"])
        training = named.removeprefix(START_TRAINING)
        if not store.is_trained(training):
            known = store.training_folder(training).exists()
            reason = missing_need(store, Target("training", training)) if known else f"{store.runs} has no {named}"
            raise StoreError(f"{reason}; --results names other results, and the path of its weights does, too")
        path = store.weights_path(training)
        return path, load_facts(path, training)
    path = expanded(named)
    if path.is_dir():
        if not (path / WEIGHTS).exists():
            started = next(path.glob("checkpoint-*.safetensors"), None)
            reason = "holds a training that has not finished" if started else f"holds no {WEIGHTS}"
            raise StoreError(f"{path}: {reason}; give the folder of one that has, or a file of weights")
        path = path / WEIGHTS
    if path.suffix in (".yaml", ".yml"):
        raise ConfigError(
            "WEIGHTS",
            [f"{named} is a configuration; give the weights that it has made, and --config {named} if need be"],
        )
    facts = load_facts(path)
    if "table" in facts:
        raise StoreError(f"{path}: is a table, {facts['table']}, of a network; give the {WEIGHTS} of its training")
    if "rounded_to" in facts:
        raise StoreError(
            f"{path}: was rounded to {facts['rounded_to']}, so that what is measured of it is not what training "
            f"{facts['training']} has; give that training's own {WEIGHTS}"
        )
    if path.name.startswith("checkpoint-") or facts.get("step") is None:
        raise StoreError(
            f"{path}: is a checkpoint of training {facts['training']}; give the {WEIGHTS} that it leaves when it ends"
        )
    return path, facts


def _configuration(
    weights: Path, facts: Mapping[str, str], data: str | None, config: Path | None, arm: str | None
) -> dict[str, Any]:
    """The configuration in plain values: of `config`, else of the weights, else of the folder that they lie in."""
    if config is not None:
        return as_plain(_of_file(config, arm, data, facts["training"]))
    if arm is not None:
        raise ConfigError("--arm", ["names an arm of the sweep that --config gives; that is missing"])
    beside = weights.parent / "config.json"
    lying = read_json(beside) if beside.exists() else None
    told = facts.get("config")
    if told is None:
        if not isinstance(lying, dict):
            sweep = weights.parent / "sweep.yaml"
            file = sweep if sweep.exists() else "FILE, with --arm where that is a sweep with several"
            raise StoreError(
                f"{weights}: has no configuration in it, for an earlier version of the harness wrote it; give the file "
                f"that trained it (--config {file}), or train it again"
            )
        return lying
    plain: dict[str, Any] = json.loads(told)
    if isinstance(lying, dict):  # where its data lie is not in the weights
        there = lying.get("data") or {}
        plain["data"] = {**plain.get("data", {}), **{key: there[key] for key in PLACES if there.get(key) is not None}}
    return plain


def _of_file(config: Path, arm: str | None, data: str | None, training: str) -> Experiment:
    """The experiment of `config` that is `training`; of a sweep that of an arm and a seed."""
    overrides = _located_overrides(data)
    if not is_sweep_file(config):
        return load_experiment(config, overrides, arm)
    sweep = _sweep_of(config, overrides)
    if arm is not None and arm not in sweep.config.arms:
        load_experiment(config, overrides, arm)  # names the choices
    found = sweep.trainings.get(training)
    if found is None or (arm is not None and arm not in found.arms):
        where = f"arm {arm!r}" if arm is not None else "no arm"
        has = f"{where} has another training than" if arm is not None else f"{where} has the training"
        raise ConfigError(
            str(config), [f"{has} {training} that wrote the weights, with these data and this version of the harness"]
        )
    return found.experiment


def _located_overrides(data: str | None) -> list[str]:
    return [] if data is None or data in DATA_SETS else [f"data.path={data}"]


def _sweep_of(config: Path, overrides: list[str]) -> Sweep:
    try:
        return load_sweep(config, overrides)
    except MissingDataError as error:
        raise MissingDataError(f"{error}; of data, {MOVED}") from None


def _located(data: Mapping[str, Any], given: str | None, named: str) -> dict[str, Any]:
    """The section `data` with where its images lie."""
    name = data.get("name", "digits")
    facts = DATA_SETS.get(name)
    if facts is None or given == name:
        given = None
    elif given in DATA_SETS:
        raise ConfigError("--data", [f"{given}: the network was trained on {name}, not on {given}"])
    elif given is not None and not facts.needs_path:
        raise ConfigError("--data", [f"{given}: the network was trained on {name}, which need no path; leave it out"])
    if given is not None:
        return {**data, "path": given}
    if facts is not None and facts.needs_path and not data.get("path"):
        raise MissingDataError(
            f"{named}: was trained on {data.get('label') or name}, and where they lie is not in the weights; "
            "say it: --data PATH (a folder, a zip, or a pattern of zips)"
        )
    return dict(data)


def _check_data(experiment: Experiment) -> None:
    """That its data are there and fit its network."""
    try:
        check_data([experiment])
    except MissingDataError as error:
        raise MissingDataError(f"{error}; {MOVED}") from None


def _check(weights: Path, training: str, experiment: Experiment, named: Path | None = None) -> None:
    """That the weights, which a person has `named`, are the ones which the configuration makes of these data."""
    from harness.data import open_data
    from harness.engine.start import misfit, network_shapes
    from harness.store.weights import tensor_shapes

    shown = named or weights
    _check_data(experiment)
    own = Identifier().training(experiment)
    if (damage := _damage(weights)) is not None:
        raise StoreError(f"{shown}: {damage}, so it is not what a training of this project has left")
    if (problem := misfit(network_shapes(experiment), tensor_shapes(weights))) is not None:
        legend = "there: in the file; here: in the network of its configuration for these data"
        raise ConfigError(str(shown), [f"{problem} ({legend})"])
    if own != training:
        info = open_data(experiment.data).info
        place = "" if experiment.data.path is None else f" at {experiment.data.path}"
        raise ConfigError(
            str(weights),
            [
                f"is of training {training}, but its configuration with {info.name} ({info.images:,} images{place}) is "
                f"training {own}: these are not the data that it was trained on, or another version of the harness "
                "trained it. Give its own data (--data), or train it again; in a sweep of your own, train.start: FILE "
                "begins with the weights as they are"
            ],
        )


def _damage(weights: Path) -> str | None:
    """What is wrong with the numbers of a file of weights, which are float32 and finite."""
    from harness.store.weights import load_tensors

    for name, tensor in load_tensors(weights)[0].items():
        if tensor.is_floating_point() and str(tensor.dtype) != "torch.float32":
            return f"{name} is {str(tensor.dtype).removeprefix('torch.')}, not float32"
        if not bool(tensor.isfinite().all()):
            return f"{name} has numbers that are not finite"
    return None
