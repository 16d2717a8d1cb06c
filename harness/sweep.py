"""From a sweep file to cells and trainings with their ids.

A sweep is a base experiment, named arms that override it, a grid per arm (keys joined by a comma are zipped: varied
together), seeds, and inheritance from another file (`extends`) or another arm (`like`).
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from harness.config import (
    DataConfig,
    Experiment,
    MeasureConfig,
    Section,
    Seed,
    known_keys,
    nearest,
    parse_experiment,
    parse_section,
)
from harness.errors import ConfigError, MissingDataError
from harness.measure.known_weights import weights_identity
from harness.store import expanded, tried
from harness.yamlfile import load_mapping, load_text

SCHEMA = 2
"""Part of every id: raise it when a change of the code changes figures of the same configuration."""
UNKNOWN_ID = "unknown-"
"""How an id begins that cannot be told, since the data it depends on are not there."""

NOT_IN_TRAINING_ID = {"checkpoint_every", "log_every", "workers"}
NOT_IN_DATA_ID = {"path", "label", "classes"}
"""Where the data lie, what they are called, and what is held against their content, which stands for all three."""
KEYS = tuple(known_keys())
SECTIONS = frozenset(Experiment.model_fields) - {"seed"}


class ArmConfig(Section):
    """A named method: overrides on the base plus its own grid."""

    label: str | None = Field(None, description="name in tables and figures; the arm's key if unset")
    like: str | None = Field(None, description="another arm whose `set` and `grid` this one starts from")
    set: dict[str, Any] = Field(default_factory=dict)
    grid: dict[str, list[Any]] = Field(default_factory=dict)

    @field_validator("grid")
    @classmethod
    def _filled(cls, grid: dict[str, list[Any]]) -> dict[str, list[Any]]:
        for key, values in grid.items():
            if not values:
                raise ValueError(f"{key}: has no values")
        return grid


class ReportConfig(Section):
    """What the report compares."""

    base: str | None = Field(None, description="the arm that speed-ups are relative to; the first if unset")
    base_row: dict[str, Any] = Field(default_factory=dict, description="varied keys of that arm's row")
    subject: str | None = Field(None, description="the arm whose gain the headline states; 'dual-rate' if there is one")
    kinds: dict[str, str] = Field(default_factory=dict, description="label of each varied key in tables")


class SweepConfig(Section):
    """A sweep file."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$")
    title: str = ""
    base: dict[str, Any] = Field(default_factory=dict)
    seeds: tuple[Seed, ...] = Field((0,), min_length=1, description="seeds of the trainings")
    arms: dict[str, ArmConfig] = Field(min_length=1)
    report: ReportConfig = ReportConfig()
    cluster: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True)
class Training:
    """What trains one network."""

    id: str
    experiment: Experiment


@dataclass
class Cell:
    """One experiment of a sweep: one row of its table. A cell of several arms is run once."""

    id: str
    training: str
    experiment: Experiment
    rows: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    """(arm, varied keys with their values) of each arm that holds this cell."""


@dataclass(frozen=True)
class Sweep:
    """A sweep file with all its cells."""

    config: SweepConfig
    path: Path
    overrides: tuple[str, ...]
    trainings: dict[str, Training]
    cells: dict[str, Cell]
    missing: tuple[str, ...] = ()
    """Messages of data and weights that are not there, without which ids cannot be told."""

    @property
    def report_name(self) -> str:
        """Folder of the report: the sweep's name, marked where `--set` made it another sweep."""
        if not self.overrides:
            return self.config.name
        return f"{self.config.name}-set-{_digest(sorted(self.overrides))[:6]}"


def load_sweep(path: Path, overrides: Iterable[str] = (), *, without_data: bool = False) -> Sweep:
    """Read, resolve and check the sweep at `path`; `overrides` are ``key=value`` that hold in every cell.

    With `without_data`, data that are not there leave its ids unknown, see :class:`Identifier`.
    Raises :class:`ConfigError` listing the problems of all arms.
    """
    overrides = tuple(overrides)
    config = parse_section(SweepConfig, _inherit(path), str(path))
    fixed = parse_overrides(overrides)
    seeds = fixed.pop("seeds", config.seeds)
    if "seed" in fixed:
        seeds = (fixed.pop("seed"),)
    base = flatten(config.base, f"{path}: base")
    identify = Identifier(without_data=without_data)
    trainings: dict[str, Training] = {}
    cells: dict[str, Cell] = {}
    problems: list[str] = []
    for name in config.arms:
        arm_source = f"{path}: arm {name!r}"
        arm_set, grid = _resolve_arm(config.arms, name, arm_source)
        for varied in _points(grid, arm_source):
            for seed in seeds:
                values = {**base, **arm_set, **varied, **fixed, "seed": seed}
                try:
                    experiment = parse_experiment(nest(values), arm_source)
                except ConfigError as error:
                    at = ", ".join(f"{k}={v}" for k, v in varied.items())
                    problems += [f"arm {name!r}{f' at {at}' if at else ''}: {p}" for p in error.problems]
                    continue
                training, cell = identify(experiment)
                trainings.setdefault(training, Training(training, experiment))
                held = cells.setdefault(cell, Cell(cell, training, experiment))
                held.rows.append((name, {key: value for key, value in varied.items() if key not in fixed}))
    if problems:
        raise ConfigError(str(path), _shortened(list(dict.fromkeys(problems))))
    _check_report(config, str(path))
    return Sweep(config, path, overrides, trainings, cells, tuple(identify.missing))


def load_experiment(path: Path, overrides: Iterable[str] = (), arm: str | None = None) -> Experiment:
    """One experiment: a file of an experiment's keys, or the first cell of `arm` in a sweep file."""
    values = _inherit(path)
    if "arms" in values:
        config = parse_section(SweepConfig, values, str(path))
        if arm is None:
            raise ConfigError(str(path), [f"is a sweep; choose one with --arm; choices: {', '.join(config.arms)}"])
        if arm not in config.arms:
            raise ConfigError(str(path), [_no_arm(arm, config.arms)])
        arm_set, grid = _resolve_arm(config.arms, arm, f"{path}: arm {arm!r}")
        first = next(iter(_points(grid, f"{path}: arm {arm!r}")))
        flat = {**flatten(config.base, f"{path}: base"), **arm_set, **first, "seed": config.seeds[0]}
    else:
        if arm is not None:
            raise ConfigError(str(path), ["is one experiment and has no arms"])
        flat = flatten(values, str(path))
    return parse_experiment(nest({**flat, **parse_overrides(overrides)}), str(path))


def parse_overrides(overrides: Iterable[str]) -> dict[str, Any]:
    """Dotted keys and values of ``key=value`` texts; values are read as YAML."""
    values: dict[str, Any] = {}
    for text in overrides:
        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals:
            raise ConfigError("--set", [f"{text!r} is not key=value"])
        if key not in (*KEYS, "seeds"):
            raise ConfigError("--set", [f"{key}: unknown key{nearest(key, list(KEYS))}"])
        values[key] = load_text(value, f"--set {key}")
    if "seeds" in values and not (isinstance(values["seeds"], list) and values["seeds"]):
        raise ConfigError("--set", [f"seeds: a list of whole numbers is needed, not {values['seeds']!r}"])
    return values


def identify(experiment: Experiment) -> tuple[str, str]:
    """(training id, cell id): hashes of all that changes the weights, and of all that changes the figures."""
    return Identifier()(experiment)


class Identifier:
    """Tells the ids of many experiments, looking at each file that they depend on once.

    With `without_data` the ids of experiments whose data or weights are not there are made up: they begin with
    :data:`UNKNOWN_ID` and tell the experiments apart, but match no result.
    """

    def __init__(self, *, without_data: bool = False) -> None:
        self.missing: list[str] = []
        """What was not there, each message once."""
        self._without_data = without_data
        self._content: dict[tuple[DataConfig, str] | str, str | None] = {}
        self._trainings: dict[tuple[Any, ...], str] = {}
        self._measures: dict[tuple[MeasureConfig, DataConfig], dict[str, Any]] = {}

    def __call__(self, experiment: Experiment) -> tuple[str, str]:
        """(training id, cell id) of `experiment`. Raises :class:`HarnessError` where files it depends on are bad."""
        data, train, seed = experiment.data, experiment.train, experiment.seed
        sections = data, experiment.model, experiment.diffusion, train, seed
        training = self._trainings.get(sections)
        if training is None:
            training = self._trainings[sections] = self._training_id(*sections)
        measured = self._measures.get((experiment.measure, data))
        if measured is None:
            measured = self._measures[experiment.measure, data] = self._measure_identity(experiment.measure, data)
        cell = _digest([training, _dump(experiment.sample), measured])
        known = not training.startswith(UNKNOWN_ID) and None not in measured.values()
        return training, cell if known else UNKNOWN_ID + cell

    def _training_id(self, data: DataConfig, model: Section, diffusion: Section, train: Section, seed: int) -> str:
        from harness.data.pixels import PIXEL_RULES

        content = self._fingerprint(data, "train")
        identity = {
            "schema": SCHEMA,
            "data": {**_dump(data, NOT_IN_DATA_ID), "fingerprint": content, "pixel_rules": PIXEL_RULES},
            "model": _dump(model),
            "diffusion": _dump(diffusion),
            "train": _dump(train, NOT_IN_TRAINING_ID),
            "seed": seed,
        }
        return _digest(identity) if content is not None else UNKNOWN_ID + _digest(identity)

    def _measure_identity(self, measure: MeasureConfig, data: DataConfig) -> dict[str, Any]:
        """What a cell's figures depend on beside its images; None stands for what is not there."""
        identity = _dump(measure, {"weights", "batch"})
        if measure.reference == "test":
            identity["reference_fingerprint"] = self._fingerprint(data, "test")
        digest = None if measure.weights is None else self._file_digest(measure.weights)
        if measure.weights is not None and digest is None:
            return {**identity, "extractor_weights": None}
        return {**identity, "extractor_weights": weights_identity(measure.features, digest) or "unknown"}

    def _fingerprint(self, data: DataConfig, split: str) -> str | None:
        from harness.data import fingerprint

        return self._told((data, split), lambda: fingerprint(data, split))

    def _file_digest(self, path: str) -> str | None:
        return self._told(path, lambda: _weights_digest(path))

    def _told(self, key: tuple[DataConfig, str] | str, tell: Callable[[], str]) -> str | None:
        if key not in self._content:
            try:
                self._content[key] = tell()
            except MissingDataError as missing:
                if not self._without_data:
                    raise
                self.missing += [str(missing)] if str(missing) not in self.missing else []
                self._content[key] = None
        return self._content[key]


def _weights_digest(path: str) -> str:
    from harness.data.checksums import file_digest

    place = expanded(path)
    try:
        return file_digest(place)
    except FileNotFoundError:
        raise MissingDataError(f"measure.weights: {path} does not exist{tried(place)}") from None
    except IsADirectoryError:
        raise ConfigError("measure.weights", [f"{path} is a folder; give the path of the file of weights"]) from None
    except OSError as error:
        raise ConfigError("measure.weights", [f"{path} cannot be read: {error.strerror}"]) from None


@lru_cache(maxsize=4096)
def _dump_all(section: Section) -> str:
    return section.model_dump_json(exclude_none=True)


def _dump(section: Section, without: set[str] | frozenset[str] = frozenset()) -> dict[str, Any]:
    return {key: value for key, value in json.loads(_dump_all(section)).items() if key not in without}


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def flatten(values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Nested or dotted keys to dotted ones. Raises :class:`ConfigError` for a key that no experiment has."""
    flat: dict[str, Any] = {}
    problems: list[str] = []

    def visit(prefix: str, items: Mapping[str, Any]) -> None:
        for key, value in items.items():
            dotted = f"{prefix}{key}"
            if dotted in KEYS:
                if dotted in flat:
                    problems.append(f"{dotted}: appears twice")
                flat[dotted] = value
            elif isinstance(value, Mapping) and any(k.startswith(f"{dotted}.") for k in KEYS):
                visit(f"{dotted}.", value)
            elif any(k.startswith(f"{dotted}.") for k in KEYS):
                problems.append(f"{dotted}: is a section of keys, not {value!r}")
            else:
                problems.append(f"{dotted}: unknown key{_hint(dotted)}")

    visit("", values)
    if problems:
        raise ConfigError(source, problems)
    return flat


def _hint(dotted: str) -> str:
    siblings = [k for k in KEYS if k.rpartition(".")[0] == dotted.rpartition(".")[0]]
    first = nearest(dotted, siblings) if "." in dotted else nearest(dotted, sorted(SECTIONS))
    hint = first or nearest(dotted, list(KEYS))
    listed = [k.rpartition(".")[2] for k in siblings] if "." in dotted else sorted(SECTIONS)
    return f"{hint}; choices: {', '.join(listed)}" if listed else hint


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys to nested mappings."""
    nested: dict[str, Any] = {}
    for dotted, value in flat.items():
        *parents, last = dotted.split(".")
        level = nested
        for parent in parents:
            level = level.setdefault(parent, {})
        level[last] = value
    return nested


def _inherit(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The mapping of `path` merged over the file that it extends."""
    values = load_mapping(path)
    parent = values.pop("extends", None)
    if parent is None:
        return values
    if not isinstance(parent, str):
        raise ConfigError(str(path), [f"extends: the path of a sweep file is needed, not {parent!r}"])
    resolved = (path.parent / parent).resolve()
    if resolved in (*seen, path.resolve()):
        raise ConfigError(str(path), [f"extends: {parent} extends itself"])
    return _merged(_inherit(path.parent / parent, (*seen, path.resolve())), values, str(path))


def _merged(parent: dict[str, Any], child: dict[str, Any], source: str) -> dict[str, Any]:
    merged = {**parent, **child}
    if isinstance(parent.get("base"), dict) and isinstance(child.get("base"), dict):
        merged["base"] = {
            **flatten(parent["base"], f"{source}: base (inherited)"),
            **flatten(child["base"], f"{source}: base"),
        }
    if isinstance(parent.get("arms"), dict) and isinstance(child.get("arms"), dict):
        arms = copy.deepcopy(parent["arms"])
        for name, arm in child["arms"].items():  # what an arm does not set anew stays as in the parent
            inherits = isinstance(arms.get(name), dict) and isinstance(arm, dict)
            arms[name] = {**arms[name], **arm} if inherits else arm
        merged["arms"] = {name: arm for name, arm in arms.items() if arm is not None}
    return merged


def _no_arm(name: str, arms: Iterable[str]) -> str:
    choices = list(arms)
    return f"no arm {name!r}{nearest(name, choices)}; choices: {', '.join(choices)}"


def _resolve_arm(
    arms: Mapping[str, ArmConfig], name: str, source: str, seen: tuple[str, ...] = ()
) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    arm = arms[name]
    if arm.like is None:
        return flatten(arm.set, source), dict(arm.grid)
    if arm.like not in arms:
        raise ConfigError(source, [f"like: {_no_arm(arm.like, arms)}"])
    if arm.like in (*seen, name):
        raise ConfigError(source, [f"like: {arm.like!r} is like itself"])
    inherited, grid = _resolve_arm(arms, arm.like, source, (*seen, name))
    return {**inherited, **flatten(arm.set, source)}, {**grid, **arm.grid}


def _points(grid: Mapping[str, list[Any]], source: str) -> Iterable[dict[str, Any]]:
    """Every combination of the grid's values; ``"a, b"`` are zipped keys whose values are lists of pairs."""
    axes: list[list[dict[str, Any]]] = []
    problems: list[str] = []
    taken: set[str] = set()
    for joined, values in grid.items():
        keys = [key.strip() for key in joined.split(",")]
        problems += [f"grid: {key}: unknown key{_hint(key)}" for key in keys if key not in KEYS]
        problems += [f"grid: {key}: appears twice" for key in keys if key in taken]
        taken.update(keys)
        if len(keys) == 1:
            axes.append([{keys[0]: value} for value in values])
            continue
        wrong = [v for v in values if not isinstance(v, list) or len(v) != len(keys)]
        if wrong:
            problems.append(f"grid: {joined}: {wrong[0]!r} is not a list of {len(keys)} values")
            continue
        axes.append([dict(zip(keys, value, strict=True)) for value in values])
    if problems:
        raise ConfigError(source, problems)
    return [{k: v for part in point for k, v in part.items()} for point in itertools.product(*axes)]


def _shortened(problems: list[str], most: int = 12) -> list[str]:
    rest = len(problems) - most
    return problems if rest <= 0 else [*problems[:most], f"and {rest} more problems like these"]


def _check_report(config: SweepConfig, source: str) -> None:
    choices = list(config.arms)
    for key in ("base", "subject"):
        arm = getattr(config.report, key)
        if arm is not None and arm not in config.arms:
            raise ConfigError(
                source, [f"report.{key}: no arm {arm!r}{nearest(arm, choices)}; choices: {', '.join(choices)}"]
            )
