"""From a sweep file to cells and trainings with their ids.

A sweep is a base experiment, named arms that override it, a grid per arm (keys joined by a comma are zipped: varied
together), seeds, and inheritance from another file (`extends`) or another arm (`like`).
"""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator

from harness.config.dotted import KEY_TYPES, KEYS, flatten, hint_of, nest
from harness.config.schema import (
    Experiment,
    Section,
    Seed,
    distinct,
    nearest,
    parse_experiment,
    parse_section,
)
from harness.config.values import ReadBy, as_typed, decoded, from_text
from harness.config.yamlfile import load_mapping
from harness.errors import ConfigError
from harness.metrics import DEFAULT, metric_of
from harness.store.identity import Identifier, _digest
from harness.store.store import LOCAL

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
    from harness.dispatch.slurm.settings import ClusterConfig

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
    metric: str = Field(
        DEFAULT, description="the measure that rows are ranked and compared by, such as kernel or inception_score"
    )
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
    _check_metric(config.report.metric, cells.values(), str(path))
    return Sweep(config, path, overrides, trainings, cells, tuple(identify.missing))


def _check_metric(metric: str, cells: Iterable[Cell], source: str) -> None:
    """Raise ConfigError for a measure that the report is to rank by and that no cell takes."""
    names = {name for cell in cells for name in cell.experiment.measure.metric_names}
    known = sorted(measure.name for name in names for measure in metric_of(name).measures)
    if known and metric not in known:
        problem = (
            f"report.metric: {metric!r} is measured in no cell; choices: {', '.join(known)}{nearest(metric, known)}"
        )
        raise ConfigError(source, [f"{problem}; measure.metrics adds others"])


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
        problems += [f"grid: {key}: unknown key{hint_of(key)}" for key in keys if key not in KEYS]
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
        unknown = [f"report.{key}: {name}: unknown key{hint_of(name)}" for name in named if name not in KEYS]
        if unknown:
            raise ConfigError(source, unknown)
