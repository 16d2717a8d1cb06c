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
from typing import Annotated, Any

from pydantic import Field, field_validator

from harness.complaints import key_types
from harness.config import (
    DataConfig,
    Experiment,
    MeasureConfig,
    Section,
    Seed,
    distinct,
    nearest,
    parse_experiment,
    parse_section,
)
from harness.errors import ConfigError, MissingDataError
from harness.measure.known_weights import weights_identity
from harness.store import LOCAL, expanded, tried
from harness.values import ReadBy, as_typed, decoded, from_text
from harness.yamlfile import load_mapping

SCHEMA = 2
"""Part of every id: raise it when a change of the code changes figures of the same configuration."""
UNKNOWN_ID = "unknown-"
"""How an id begins that cannot be told, since the data it depends on are not there."""

NOT_IN_TRAINING_ID = {"checkpoint_every", "log_every", "workers"}
NOT_IN_DATA_ID = {"path", "label", "classes"}
"""Where the data lie, what they are called, and what is held against their content, which stands for all three."""
KEY_TYPES = key_types(Experiment)
KEYS = tuple(KEY_TYPES)
SECTIONS = frozenset(Experiment.model_fields) - {"seed"}
Seeds = tuple[Seed, ...]


def _read_keys(values: Any, prefix: str = "") -> Any:
    """Nested or dotted keys of an experiment, each value as its key means it."""
    if not isinstance(values, Mapping):
        return values
    return {
        key: as_typed(KEY_TYPES[prefix + key], value)
        if prefix + key in KEY_TYPES
        else _read_keys(value, f"{prefix}{key}.")
        for key, value in values.items()
    }


def _read_grid(grid: Any) -> Any:
    """The lists of values of a grid, each value as its key means it."""
    if not isinstance(grid, Mapping):
        return grid
    return {
        joined: [_read_point(_keys_of(joined), value) for value in values] if isinstance(values, list) else values
        for joined, values in grid.items()
    }


def _read_point(keys: list[str], value: Any) -> Any:
    types = [KEY_TYPES.get(key, Any) for key in keys]
    if len(keys) == 1:
        return as_typed(types[0], value)
    if not isinstance(value, list) or len(value) != len(keys):
        return value
    return [as_typed(kind, part) for kind, part in zip(types, value, strict=True)]


def _keys_of(joined: str) -> list[str]:
    """The keys that a grid's ``"a, b"`` varies together."""
    return [key.strip() for key in joined.split(",")]


def _read_cluster(values: Any) -> Any:
    from harness.slurm.settings import ClusterConfig

    return as_typed(ClusterConfig, values)


ExperimentKeys = Annotated[dict[str, Any], ReadBy(_read_keys)]


class ArmConfig(Section):
    """A named method: overrides on the base plus its own grid."""

    label: str | None = Field(None, description="name in tables and figures; the arm's key if unset")
    like: str | None = Field(None, description="another arm whose `set` and `grid` this one starts from")
    set: ExperimentKeys = Field(default_factory=dict)
    grid: Annotated[dict[str, list[Any]], ReadBy(_read_grid)] = Field(default_factory=dict)

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
    base_row: ExperimentKeys = Field(default_factory=dict, description="varied keys of that arm's row")
    subject: str | None = Field(None, description="the arm whose gain the headline states; 'dual-rate' if there is one")
    kinds: dict[str, str] = Field(default_factory=dict, description="label of each varied key in tables")


RESERVED_NAMES = ("runs", LOCAL, "reported.csv")
"""What lies beside the reports in the folder of results."""


class SweepConfig(Section):
    """A sweep file."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$")
    title: str = ""
    base: ExperimentKeys = Field(default_factory=dict)
    seeds: Seeds = Field((0,), min_length=1, description="seeds of the trainings")
    arms: dict[str, ArmConfig] = Field(min_length=1)
    report: ReportConfig = ReportConfig()
    cluster: Annotated[dict[str, Any], ReadBy(_read_cluster)] = Field(default_factory=dict)

    _distinct = field_validator("seeds")(distinct)

    @field_validator("name")
    @classmethod
    def _free(cls, name: str) -> str:
        if name in RESERVED_NAMES:
            raise ValueError(f"{name!r} is taken in the folder of results; choose another")
        return name


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
    Raises :class:`ConfigError` listing the problems of all arms, each once with the arms and cells that have it.
    """
    overrides = tuple(decoded(text, "--set") for text in overrides)
    config = _sweep_config(_inherit(path), path)
    fixed = parse_overrides(overrides)
    seeds = _checked_seeds(fixed.pop("seeds", config.seeds))
    if "seed" in fixed:
        seeds = (fixed.pop("seed"),)
    identify = Identifier(without_data=without_data)
    arms = _resolve_arms(config, path)
    trainings: dict[str, Training] = {}
    cells: dict[str, Cell] = {}
    found = Problems({name: len(points) for name, (_, points) in arms.items()})
    for name, (arm_set, points) in arms.items():
        for place, varied in enumerate(points):
            for seed in seeds:
                values = {**arm_set, **varied, **fixed, "seed": seed}
                try:
                    experiment = parse_experiment(nest(values), f"{path}: arm {name!r}")
                except ConfigError as error:
                    found.add(error.problems, name, place, varied)
                    continue
                training, cell = identify(experiment)
                trainings.setdefault(training, Training(training, experiment))
                held = cells.setdefault(cell, Cell(cell, training, experiment))
                row = (name, {key: value for key, value in varied.items() if key not in fixed})
                if row not in held.rows:  # what was varied may have been fixed since
                    held.rows.append(row)
    found.raise_if_any(path)
    _check_report(config, str(path))
    return Sweep(config, path, overrides, trainings, cells, tuple(identify.missing))


def load_experiment(path: Path, overrides: Iterable[str] = (), arm: str | None = None) -> Experiment:
    """One experiment: a file of an experiment's keys, or the first cell of `arm` in a sweep file."""
    overrides = tuple(decoded(text, "--set") for text in overrides)
    values = _inherit(path)
    fixed = parse_overrides(overrides)
    if _is_sweep(values):
        config = _sweep_config(values, path)
        if arm is None:
            raise ConfigError(str(path), [f"is a sweep; choose one with --arm; choices: {', '.join(config.arms)}"])
        if arm not in config.arms:
            raise ConfigError(str(path), [_no_arm(arm, config.arms)])
        arm_set, points = _resolve_arms(config, path)[arm]
        flat = {**arm_set, **points[0], "seed": _checked_seeds(fixed.pop("seeds", config.seeds))[0]}
    else:
        if arm is not None:
            raise ConfigError(str(path), [f"is one experiment and has no arms; leave out --arm {arm}"])
        if "seeds" in fixed:
            raise ConfigError("--set", ["seeds: is a sweep's; one experiment has a seed, as --set seed=3"])
        flat = flatten(values, str(path))
    return parse_experiment(nest({**flat, **fixed}), str(path))


def _is_sweep(values: Mapping[str, Any]) -> bool:
    """Whether the keys of a file are those of a sweep rather than of one experiment."""
    return any(key in SweepConfig.model_fields or key == "arm" for key in values)


def _sweep_config(values: dict[str, Any], path: Path) -> SweepConfig:
    if not _is_sweep(values) and any(key.partition(".")[0] in Experiment.model_fields for key in values):
        raise ConfigError(
            str(path),
            [
                "is one experiment, not a sweep, for it has no arms; harness train, sample and measure take it, and "
                "under base: beside name: and arms: its keys make a sweep"
            ],
        )
    config: SweepConfig = parse_section(SweepConfig, values, str(path))
    return config


def _checked_seeds(seeds: Any) -> tuple[int, ...]:
    """Seeds of the file, checked already, or of the command line."""
    if not isinstance(seeds, list | tuple) or not seeds:
        raise ConfigError("--set", [f"seeds: a list of whole numbers is needed, as [0, 1], not {seeds!r}"])
    if len({str(seed) for seed in seeds}) != len(seeds):
        raise ConfigError("--set", [f"seeds: {seeds!r} has a seed twice"])
    return tuple(seeds)


def parse_overrides(overrides: Iterable[str]) -> dict[str, Any]:
    """Dotted keys and values of ``key=value`` texts.

    A key that takes text gets the value as it stands, any other has it read as YAML.
    """
    values: dict[str, Any] = {}
    for text in overrides:
        key, equals, value = text.partition("=")
        if key != key.rstrip():  # key = value
            value = value.lstrip()
        key = key.strip()
        if not equals:
            raise ConfigError("--set", [f"{text!r} is not key=value"])
        if key not in (*KEYS, "seeds"):
            raise ConfigError("--set", [f"{key}: unknown key{nearest(key, list(KEYS))}"])
        values[key] = from_text(KEY_TYPES.get(key, Seeds), value, f"--set {key}")
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
    extended = path.parent / Path(parent).expanduser()
    if extended.resolve() in (*seen, path.resolve()):
        raise ConfigError(str(path), [f"extends: {parent} extends itself"])
    if not extended.exists():
        raise ConfigError(str(path), [f"extends: {extended}: no such file"])
    return _merged(_inherit(extended, (*seen, path.resolve())), values, str(path))


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


def _resolve_arms(config: SweepConfig, path: Path) -> dict[str, tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Of each arm the keys that hold in all its cells, and the points of its grid."""
    problems: list[str] = []
    try:
        base = _without_seed(flatten(config.base, "base"), "base")
    except ConfigError as error:
        problems += [f"base: {problem}" for problem in error.problems]
    found = Problems(dict.fromkeys(config.arms, 1))
    arms = {}
    for name in config.arms:
        try:
            arm_set, grid = _resolve_arm(config.arms, name, str(path))
            points = _points(grid, str(path))
        except ConfigError as error:
            found.add(error.problems, name, 0, {})
            continue
        if not problems:
            arms[name] = {**base, **arm_set}, points
    found.raise_if_any(path, problems)
    return arms


def _resolve_arm(
    arms: Mapping[str, ArmConfig], name: str, source: str, seen: tuple[str, ...] = ()
) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    arm = arms[name]
    own = _without_seed(flatten(arm.set, source), source)
    if arm.like is None:
        return own, dict(arm.grid)
    if arm.like not in arms:
        raise ConfigError(source, [f"like: {_no_arm(arm.like, arms)}"])
    if arm.like in (*seen, name):
        raise ConfigError(source, [f"like: {arm.like!r} is like itself"])
    inherited, grid = _resolve_arm(arms, arm.like, source, (*seen, name))
    return {**inherited, **own}, {**grid, **arm.grid}


NO_SEED = "the seeds of a sweep's trainings stand at its top, as seeds: [0, 1]"


def _without_seed(flat: dict[str, Any], source: str) -> dict[str, Any]:
    if "seed" in flat:
        raise ConfigError(source, [f"seed: {NO_SEED}"])
    return flat


def _points(grid: Mapping[str, list[Any]], source: str) -> list[dict[str, Any]]:
    """Every combination of the grid's values; ``"a, b"`` are zipped keys whose values are lists of pairs."""
    axes: list[list[dict[str, Any]]] = []
    problems: list[str] = []
    taken: set[str] = set()
    for joined, values in grid.items():
        keys = _keys_of(joined)
        problems += [f"grid: {key}: unknown key{_hint(key)}" for key in keys if key not in KEYS]
        problems += [f"grid: seed: {NO_SEED}" for key in keys if key == "seed"]
        problems += [f"grid: {key}: appears twice" for key in keys if key in taken]
        taken.update(keys)
        problems += [f"grid: {joined}: {value!r} appears twice" for value in _repeated(values)]
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


def _repeated(values: list[Any]) -> list[Any]:
    texts = [json.dumps(value, sort_keys=True) for value in values]
    return [value for place, value in enumerate(values) if texts.index(texts[place]) < place]


class Problems:
    """Problems of a sweep's cells: each is told once, with the arms and the varied keys of the cells that have it."""

    def __init__(self, points: Mapping[str, int]) -> None:
        self.points = points
        self._places: dict[str, dict[str, dict[int, dict[str, Any]]]] = {}

    def add(self, problems: Iterable[str], arm: str, place: int, varied: dict[str, Any]) -> None:
        """The point `place` of `arm`'s grid, where `varied` holds, has these `problems`."""
        for problem in problems:
            self._places.setdefault(problem, {}).setdefault(arm, {})[place] = varied

    def raise_if_any(self, path: Path, before: Iterable[str] = ()) -> None:
        """Raise :class:`ConfigError` with the problems `before` and those added."""
        told = [*before, *(f"{self._where(places)}: {problem}" for problem, places in self._places.items())]
        if told:
            raise ConfigError(str(path), _shortened(told))

    def _where(self, places: Mapping[str, Mapping[int, dict[str, Any]]]) -> str:
        names = [repr(arm) for arm in places]
        shown = names if len(names) <= MOST_ARMS else [*names[:MOST_ARMS], f"{len(names) - MOST_ARMS} more"]
        whole = all(len(places[arm]) == self.points[arm] for arm in places)
        if whole and len(names) == len(self.points) > 1:
            return "every arm"
        arms = f"{'arm' if len(names) == 1 else 'arms'} {', '.join(shown)}"
        return arms if whole else f"{arms} at {_common([v for at in places.values() for v in at.values()])}"


MOST_ARMS = 4
"""Arms that a message names."""


def _common(points: list[dict[str, Any]]) -> str:
    """What all `points` have in common; if nothing, the first of them."""
    first, *rest = points
    common = {key: value for key, value in first.items() if all(key in at and at[key] == value for at in rest)}
    text = ", ".join(f"{key}={value}" for key, value in (common or first).items())
    return text if common else f"{text} and {len(rest)} more"


def _shortened(problems: list[str], most: int = 12) -> list[str]:
    rest = len(problems) - most
    return problems if rest <= 0 else [*problems[:most], f"and {rest} more problems"]


def _check_report(config: SweepConfig, source: str) -> None:
    choices = list(config.arms)
    for key in ("base", "subject"):
        arm = getattr(config.report, key)
        if arm is not None and arm not in config.arms:
            raise ConfigError(
                source, [f"report.{key}: no arm {arm!r}{nearest(arm, choices)}; choices: {', '.join(choices)}"]
            )
    for key, named in (("base_row", config.report.base_row), ("kinds", config.report.kinds)):
        unknown = [f"report.{key}: {name}: unknown key{_hint(name)}" for name in named if name not in KEYS]
        if unknown:
            raise ConfigError(source, unknown)
