"""From a sweep file to cells and trainings with their ids.

A sweep is a base experiment, named arms that override it, a grid per arm (keys joined by a comma are zipped: varied
together), seeds, and inheritance from another file (`extends`) or another arm (`like`).

`train.start: ARM` makes a training begin with the weights of that arm's training of the same seed, to any depth. In the
resolved experiment it says ``training:ID``, so that the configuration in a record stands by itself.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator

from harness.config.beside import SECTIONS, network_of
from harness.config.distilling import check_teacher
from harness.config.dotted import flatten, hint_of, load_kinds, nest
from harness.config.schema import (
    Experiment,
    Section,
    Seed,
    distinct,
    is_named,
    key_types,
    nearest,
    parse_experiment,
    parse_section,
)
from harness.config.stitching import check_stitched
from harness.config.values import ReadBy, as_typed, decoded, from_text
from harness.config.yamlfile import load_mapping
from harness.dispatch.graph import find_cycle, in_order
from harness.errors import ConfigError, StoreError, told_of
from harness.files import digest_of, expanded
from harness.metrics import DEFAULT, metric_of
from harness.store.identity import (
    START_TRAINING,
    UNKNOWN_ID,
    Identifier,
    cell_needs,
    cell_table,
    needs_of,
    start_table,
    start_training,
)
from harness.store.kinds import QUANTITIES, Quantity
from harness.store.store import LOCAL, Target
from harness.wording import count_of

Seeds = tuple[Seed, ...]


def _read_keys(values: Any, prefix: str = "") -> Any:
    """Nested or dotted keys of an experiment, each value as its key means it."""
    if not isinstance(values, Mapping):
        return values
    types = key_types()
    return {
        key: as_typed(types[prefix + key], value) if prefix + key in types else _read_keys(value, f"{prefix}{key}.")
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
    types = [key_types().get(key, Any) for key in keys]
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
    cells: bool = Field(
        True, description="false: only trained, for other arms to start from; it has no cells and no row in a report"
    )
    set: ExperimentKeys = Field(default_factory=dict, description="keys of the experiment that this arm changes")
    grid: Annotated[dict[str, list[Any]], ReadBy(_read_grid)] = Field(
        default_factory=dict,
        description="keys with the lists of values to combine; keys joined by a comma vary together, over lists",
    )

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

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$", description="of the report's folder")
    title: str = Field("", description="heads the report; the name if empty")
    base: ExperimentKeys = Field(default_factory=dict, description="keys of the experiment that every arm starts from")
    seeds: Seeds = Field((0,), min_length=1, description="seeds of the trainings")
    arms: dict[str, ArmConfig] = Field(min_length=1, description="the methods that are compared, by name")
    report: ReportConfig = ReportConfig()
    cluster: Annotated[dict[str, Any], ReadBy(_read_cluster)] = Field(
        default_factory=dict, description="where and how jobs run, ahead of the user's own file"
    )

    _distinct = field_validator("seeds")(distinct)

    @field_validator("name")
    @classmethod
    def _free(cls, name: str) -> str:
        if name in RESERVED_NAMES:
            raise ValueError(f"{name!r} is taken in the folder of results; choose another")
        return name


@dataclass
class Training:
    """What trains one network. One of several arms is trained once."""

    id: str
    experiment: Experiment
    arms: list[str] = field(default_factory=list)
    """The arms that ask for it; none where it is known from the store alone."""
    varied: dict[str, Any] = field(default_factory=dict)
    """The keys that the grid of the first of them varies and that change the network, with their values."""
    table: str | None = None
    """The id of the table that it needs of the weights it starts from, if it needs one."""
    encoding: str | None = None
    """The id of the latents that it runs on, if it does."""

    @classmethod
    def of(cls, id: str, experiment: Experiment, identify: Identifier, **further: Any) -> Training:
        """With the ids of what it needs beside other trainings, told by `identify`."""
        return cls(id, experiment, table=identify.table(experiment), encoding=identify.encoding(experiment), **further)

    @property
    def target(self) -> Target:
        return Target("training", self.id)

    @property
    def needs(self) -> tuple[Target, ...]:
        """The latents that it runs on, the training that it starts from, the table that it needs; if there are such."""
        return needs_of(self.target, self.experiment, self.table, self.encoding)


@dataclass
class Encoding:
    """What encodes the training images, once, for all trainings that run on their latents."""

    id: str
    experiment: Experiment
    """That of one of these: it says which images, and by which autoencoder."""

    @property
    def target(self) -> Target:
        return Target("encoding", self.id)

    @property
    def needs(self) -> tuple[Target, ...]:
        return ()


@dataclass
class Table:
    """What is measured of a trained network, once, for all trainings or cells that need it."""

    id: str
    experiment: Experiment
    """That of one of these: it says what is measured, of which start or network, on which data."""
    of_cell: bool = False
    """Whether cells need it, of the network that they sample."""

    @property
    def target(self) -> Target:
        return Target("table", self.id)

    @property
    def name(self) -> str:
        """What is measured."""
        return (cell_table(self.experiment) if self.of_cell else start_table(self.experiment)) or ""

    @property
    def needs(self) -> tuple[Target, ...]:
        """The training whose network is measured, unless that comes from a file."""
        return needs_of(self.target, self.experiment)


def encoding_of(training: Training) -> Encoding | None:
    """What encodes the images of `training`."""
    return None if training.encoding is None else Encoding(training.encoding, training.experiment)


def table_of(training: Training) -> Table | None:
    """The table that `training` needs."""
    return None if training.table is None else Table(training.table, training.experiment)


def table_of_cell(cell: Cell) -> Table | None:
    """The table that `cell` finds its schedule by."""
    return None if cell.table is None else Table(cell.table, cell.experiment, of_cell=True)


@dataclass
class Cell:
    """One experiment of a sweep: one row of its table. A cell of several arms is run once."""

    id: str
    training: str
    experiment: Experiment
    rows: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    """(arm, varied keys with their values) of each arm that holds this cell."""
    table: str | None = None
    """The id of the table that it finds its schedule by, if it needs one."""

    @property
    def target(self) -> Target:
        return Target("cell", self.id)

    @property
    def needs(self) -> tuple[Target, ...]:
        """Its training, that of the network which it is stitched to, and its table."""
        return cell_needs(self.training, self.experiment, self.table)


Node = Encoding | Training | Table
"""What cells need, directly or not."""


@dataclass(frozen=True)
class Sweep:
    """A sweep file with all its cells."""

    config: SweepConfig
    path: Path
    overrides: tuple[str, ...]
    trainings: dict[str, Training]
    cells: dict[str, Cell]
    missing: tuple[str, ...] = ()
    """Messages about missing data and weights, without which ids cannot be computed."""

    @property
    def report_name(self) -> str:
        """Folder of the report: the sweep's name, marked where `--set` made it another sweep."""
        if not self.overrides:
            return self.config.name
        return f"{self.config.name}-set-{digest_of(sorted(self.overrides))[:6]}"

    @cached_property
    def tables(self) -> dict[str, Table]:
        """The tables that its trainings and cells need."""
        found: dict[str, Table] = {}
        of_trainings = (table_of(training) for training in self.trainings.values())
        of_cells = (table_of_cell(cell) for cell in self.cells.values())
        for table in (*of_trainings, *of_cells):
            if table is not None:
                found.setdefault(table.id, table)
        return found

    @cached_property
    def encodings(self) -> dict[str, Encoding]:
        """The latents that its trainings run on."""
        found: dict[str, Encoding] = {}
        for training in self.trainings.values():
            if (encoding := encoding_of(training)) is not None:
                found.setdefault(encoding.id, encoding)
        return found

    @cached_property
    def before_cells(self) -> dict[Target, Node]:
        """All that it may have to make but its cells."""
        made: list[Node] = [*self.encodings.values(), *self.trainings.values(), *self.tables.values()]
        return {node.target: node for node in made}

    @cached_property
    def nodes(self) -> dict[Target, Node | Cell]:
        """All that the sweep may have to make: cells last, each after what it needs."""
        before = self.before_cells
        needs = {target: [need for need in node.needs if need in before] for target, node in before.items()}
        ordered = {target: before[target] for target in in_order(before, needs)}
        return {**ordered, **{cell.target: cell for cell in self.cells.values()}}

    def costed(self, target: Target) -> Experiment:
        """The experiment that tells what making `target` costs: of a table that of the network that is measured.

        Where that one is not known here, a training that needs the table has a network at least as large.
        """
        experiment = self.nodes[target].experiment
        if target.kind != "table" or self.tables[target.id].of_cell:
            return experiment
        start = self.trainings.get(start_training(experiment) or "")
        return experiment if start is None else start.experiment

    def quantity(self, target: Target) -> Quantity:
        """What :meth:`costed` is asked for."""
        if target.kind == "table" and self.tables[target.id].of_cell:
            return "pair_table_gmacs"
        return QUANTITIES[target.kind]

    @cached_property
    def needs(self) -> dict[Target, tuple[Target, ...]]:
        """The graph: of each target what must be done before it. Trainings that are no part of the sweep are left out;
        of those only the weights matter."""
        return {target: tuple(need for need in node.needs if need in self.nodes) for target, node in self.nodes.items()}


Arms = Mapping[str, tuple[dict[str, Any], list[dict[str, Any]]]]
"""By name, the keys that hold in all of an arm's cells, and the points of its grid."""


STITCH, TEACHER = "sample.stitch", "distill.teacher"
WEIGHTS = "model.weights"
BESIDE = {STITCH: "stitched", TEACHER: "teacher"}
"""The keys that name a second network, and where an experiment holds that one's configuration."""
METHOD = "distill.method"
OF_TRAINING = ("train.start", TEACHER)
NAMING_KEYS = (*OF_TRAINING, STITCH)
"""The keys whose values may be arms; those of them that a training depends on."""


def _without(values: Mapping[str, Any], left_out: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != left_out}


def _unstitched(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if not key.startswith("sample.stitch")}


def parse_with_beside(values: Mapping[str, Any], source: str) -> Experiment:
    """The experiment of dotted `values`, with the configurations of the networks that it names beside its own.

    That of a file of weights is in the file. Raises :class:`ConfigError`.
    """
    values = dict(values)
    for key, place in BESIDE.items():
        named = values.get(key)
        if not isinstance(named, str) or values.get(place) is not None:
            continue
        if not named.startswith(START_TRAINING):
            values[place] = _network_in(key, named, source)
        elif not named.startswith(START_TRAINING + UNKNOWN_ID) and place not in values and is_named(named):
            cure = "name the arm that makes it, or the path of its weights.safetensors"
            raise ConfigError(source, [f"{key}: {named} is of no arm, so that its network is not known; {cure}"])
    experiment = parse_experiment(nest(values), source)
    check_stitched(experiment, source)
    check_teacher(experiment, source)
    return experiment


def _check_two_networks(experiment: Experiment, identify: Identifier, source: str) -> None:
    """Raise :class:`ConfigError` for a network that is stitched to itself: the two would draw as the one alone."""
    second = experiment.sample.stitch
    if second is None:
        return
    own = identify.training(experiment)
    if second == START_TRAINING + own or (_looks_like_a_file(second) and _training_in(second) == own):
        raise ConfigError(
            source,
            [
                f"{STITCH}: it is this very network, so that nothing changes; name the training of another, or leave "
                "it out"
            ],
        )


def _training_in(path: str) -> str | None:
    """The training that has left a file of weights; None where none says so."""
    from harness.store.weights import training_of

    with contextlib.suppress(StoreError):
        return training_of(expanded(path))
    return None


def _network_in(key: str, path: str, source: str) -> dict[str, Any] | None:
    """The configuration in a file of weights; None where there is no file, which its id complains of."""
    from harness.store.weights import load_facts

    place = expanded(path)
    if not place.exists():
        return None
    if place.is_dir():
        raise ConfigError(source, [f"{key}: {path} is a folder; give the path of the file of weights"])
    try:
        told = load_facts(place).get("config")
    except StoreError as error:
        raise ConfigError(source, [f"{key}: {error}"]) from None
    if told is None:
        raise ConfigError(
            source,
            [
                f"{key}: {path} has no configuration in it, for an earlier version of the harness wrote it; "
                "name the arm that trains it, or train it again"
            ],
        )
    plain = json.loads(told)
    return {section: plain[section] for section in SECTIONS if section in plain}


class Starts:
    """Finds the training that each `train.start`, `distill.teacher` and `sample.stitch` of a sweep names."""

    def __init__(self, path: Path, arms: Arms, fixed: Mapping[str, Any], identify: Identifier) -> None:
        self.path, self.arms, self.fixed, self.identify = path, arms, fixed, identify
        self.trainings: dict[str, Training] = {}
        """All trainings that were looked up, each after the one that it starts from."""
        self.broken: ConfigError | None = None
        """The problems of an arm that another starts from."""
        self._of_arm: dict[tuple[str, int], str] = {}
        named = {name: [arm for key in OF_TRAINING for arm in self._named_by(name, key)] for name in arms}
        if cycle := find_cycle(named):
            raise ConfigError(str(path), [self._circle(cycle)])

    def _circle(self, cycle: Sequence[str]) -> str:
        """A message of arms whose trainings need each other."""
        keys = [
            next(key for key in OF_TRAINING if needed in self._named_by(name, key))
            for name, needed in itertools.pairwise(cycle)
        ]
        key, is_long = keys[0], len(cycle) > 2
        if TEACHER not in keys:
            what = "arms start from each other in a circle" if is_long else "an arm starts from itself"
        elif "train.start" not in keys:
            what = "arms teach each other in a circle" if is_long else "an arm is taught by itself"
        else:
            key, what = " and ".join(dict.fromkeys(keys)), "arms start from or are taught by each other in a circle"
        cure = f"leave {key} out of one of them" if is_long else f"leave {key} out of it, or name another"
        if TEACHER in keys:
            cure = "name another in one of them" if is_long else "name another"
        return f"{key}: {what}: {' → '.join(cycle)}; {cure}"

    def named_arms(self) -> set[str]:
        """The arms that others start from, are taught by or are stitched to."""
        return {named for name in self.arms for key in NAMING_KEYS for named in self._named_by(name, key)}

    def _named_by(self, name: str, key: str) -> list[str]:
        """The arms that arm `name` has as its `key`."""
        arm_set, points = self.arms[name]
        named = [self._held({**arm_set, **point}).get(key) for point in points]
        return list(dict.fromkeys(arm for arm in named if isinstance(arm, str) and arm in self.arms))

    def experiment(self, name: str, point: Mapping[str, Any], seed: int) -> Experiment:
        """Arm `name` at one point of its grid. Raises :class:`ConfigError`."""
        values = {**self._held({**self.arms[name][0], **point}), "seed": seed}
        source = f"{self.path}: arm {name!r}"
        self._resolve_beside(STITCH, values, seed, source)
        experiment = self._parsed(values, seed, source)
        _check_two_networks(experiment, self.identify, source)
        return experiment

    @cached_property
    def _gives_weights(self) -> bool:
        """Whether an arm names finished weights."""
        points = ({**own, **point} for own, grid in self.arms.values() for point in grid)
        return any(point.get(WEIGHTS) is not None for point in points)

    def _held(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """`values` with what holds in every cell; a teacher in those that are distilled alone, weights in those that
        are given some."""
        held = {**values, **self.fixed}
        if WEIGHTS in self.fixed and values.get(WEIGHTS) is None and self._gives_weights:
            held = {**_without(held, WEIGHTS), **({WEIGHTS: None} if WEIGHTS in values else {})}
        return held if held.get(METHOD) is not None or TEACHER in values else _without(held, TEACHER)

    def _parsed(self, values: dict[str, Any], seed: int, source: str) -> Experiment:
        start = values.get("train.start")
        if isinstance(start, str):
            values["train.start"] = self._resolved("train.start", start, seed, source)
        self._resolve_beside(TEACHER, values, seed, source)
        return parse_with_beside(values, source)

    def _resolve_beside(self, key: str, values: dict[str, Any], seed: int, source: str) -> None:
        """Put the training that `key` names into `values`, and the configuration of its network."""
        second = values.get(key)
        if isinstance(second, str) and (named := self._resolved(key, second, seed, source)) != second:
            trained = self.trainings.get(named.removeprefix(START_TRAINING))
            values |= {key: named, BESIDE[key]: None if trained is None else network_of(trained.experiment)}

    def _resolved(self, key: str, named: str, seed: int, source: str) -> str:
        """``training:ID`` for the name of an arm; a path, or what is resolved already, as it is."""
        if named in self.arms:
            return START_TRAINING + self._training_of(key, named, seed, source)
        if not named.startswith(START_TRAINING) and not _looks_like_a_file(named):
            raise ConfigError(source, [f"{key}: {_no_arm(named, self.arms)}; nor is there a file {named}"])
        return named

    def _training_of(self, key: str, name: str, seed: int, source: str) -> str:
        """The id of the one training of arm `name` with `seed`; a placeholder where the arm has problems of its own."""
        if (name, seed) not in self._of_arm:
            arm_set, points = self.arms[name]
            own = [{**self._held({**arm_set, **point}), "seed": seed} for point in points]
            try:  # what it is stitched to is no part of its training, and may be the very arm that asks
                experiments = [self._parsed(_unstitched(values), seed, f"{self.path}: arm {name!r}") for values in own]
            except ConfigError as error:
                self.broken = self.broken or error
                return f"{UNKNOWN_ID}{'0' * 16}"
            found: dict[str, Experiment] = {}
            for experiment in experiments:
                found.setdefault(self.identify(experiment)[0], experiment)
            if len(found) > 1:
                raise ConfigError(source, [_several_trainings(key, name, len(found), points)])
            ((id, experiment),) = found.items()
            self._of_arm[name, seed] = id
            self.trainings.setdefault(id, Training.of(id, experiment, self.identify, arms=[name]))
        return self._of_arm[name, seed]


def _looks_like_a_file(start: str) -> bool:
    return "/" in start or start.endswith(".safetensors") or expanded(start).exists()


def _changes_the_network(key: str) -> bool:
    return key.partition(".")[0] not in ("sample", "measure")


def _several_trainings(key: str, name: str, count: int, points: Sequence[Mapping[str, Any]]) -> str:
    of_training = [varied for varied in points[0] if _changes_the_network(varied)]
    keys = [varied for varied in of_training if len(_distinct(point[varied] for point in points)) > 1]
    cure = "start from" if key == "train.start" else "name"
    return (
        f"{key}: arm {name!r} has {count_of(count, 'training')} per seed, for its grid varies "
        f"{' and '.join(keys)}; {cure} an arm that has one"
    )


def _distinct(values: Iterable[Any]) -> set[str]:
    return {json.dumps(value, sort_keys=True) for value in values}


def load_sweep(path: Path, overrides: Iterable[str] = (), *, without_data: bool = False) -> Sweep:
    """Read, resolve and check the sweep at `path`; `overrides` are ``key=value`` that hold in every cell.

    With `without_data`, missing data leave its ids unknown, see :class:`Identifier`.
    Raises :class:`ConfigError` listing the problems of all arms, each once with the arms and cells that have it.
    """
    overrides = tuple(decoded(text, "--set") for text in overrides)
    load_kinds(_as_mapping(overrides), "--set")
    config = _sweep_config(_inherit(path), path)
    fixed = parse_overrides(overrides)
    seeds = _checked_seeds(fixed.pop("seeds", config.seeds))
    if "seed" in fixed:
        seeds = (fixed.pop("seed"),)
    identify = Identifier(without_data=without_data)
    arms = _resolve_arms(config, path)
    starts = Starts(path, arms, fixed, identify)
    trainings: dict[str, Training] = {}
    cells: dict[str, Cell] = {}
    problems = Problems({name: len(points) for name, (_, points) in arms.items()})
    for name, (_, points) in arms.items():
        for place, varied in enumerate(points):
            for seed in seeds:
                try:
                    with told_of(path):
                        experiment = starts.experiment(name, varied, seed)
                        training, cell = identify(experiment)
                except ConfigError as error:
                    problems.add(error.problems, name, place, varied)
                    continue
                own = {key: value for key, value in varied.items() if key not in fixed}
                of_network = {key: value for key, value in own.items() if _changes_the_network(key)}
                known = trainings.get(training) or Training.of(training, experiment, identify, varied=of_network)
                asked = trainings.setdefault(training, known)
                asked.arms += [name] if name not in asked.arms else []
                if not config.arms[name].cells:
                    continue
                own_table = identify.cell_table(experiment)
                shared = cells.setdefault(cell, Cell(cell, training, experiment, table=own_table))
                row = name, own
                if row not in shared.rows:  # what was varied may have been fixed since
                    shared.rows.append(row)
    problems.raise_if_any(path, _arms_for_nothing(config, starts))
    _check_report(config, str(path))
    _check_metric(config.report.metric, cells.values(), str(path))
    return Sweep(config, path, overrides, trainings, cells, tuple(identify.missing))


def _arms_for_nothing(config: SweepConfig, starts: Starts) -> list[str]:
    """Problems of arms without cells."""
    without = [name for name, arm in config.arms.items() if not arm.cells]
    if len(without) == len(config.arms):
        return ["arms: none of them has cells; leave out cells: false"]
    used = starts.named_arms()
    return [
        f"arm {name!r}: cells: false, and no arm starts from it or is taught by it"
        for name in without
        if name not in used
    ]


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
    return load_with_starts(path, overrides, arm, without_data=True)[0]


def load_with_starts(
    path: Path, overrides: Iterable[str] = (), arm: str | None = None, *, without_data: bool = False
) -> tuple[Experiment, list[Training]]:
    """(One experiment, the trainings of other arms that its own starts from, each after the one that it starts from).

    The experiment is that of a file of an experiment's keys, or the first cell of `arm` in a sweep file.
    """
    with told_of(path):
        return _load_with_starts(path, overrides, arm, without_data)


def _load_with_starts(
    path: Path, overrides: Iterable[str], arm: str | None, without_data: bool
) -> tuple[Experiment, list[Training]]:
    overrides = tuple(decoded(text, "--set") for text in overrides)
    load_kinds(_as_mapping(overrides), "--set")
    values = _inherit(path)
    fixed = parse_overrides(overrides)
    if _is_sweep(values):
        config = _sweep_config(values, path)
        if arm is None:
            raise ConfigError(str(path), [f"is a sweep; choose one with --arm; choices: {', '.join(config.arms)}"])
        if arm not in config.arms:
            raise ConfigError(str(path), [_no_arm(arm, config.arms)])
        seed = _checked_seeds(fixed.pop("seeds", config.seeds))[0]
        seed = fixed.pop("seed", seed)
        arms = _resolve_arms(config, path)
        starts = Starts(path, arms, fixed, Identifier(without_data=without_data))
        experiment = starts.experiment(arm, arms[arm][1][0], seed)
        if starts.broken is not None:
            raise starts.broken
        return experiment, list(starts.trainings.values())
    if arm is not None:
        raise ConfigError(str(path), [f"is one experiment and has no arms; leave out --arm {arm}"])
    if "seeds" in fixed:
        raise ConfigError("--set", ["seeds: is a sweep's; one experiment has a seed, as --set seed=3"])
    flat = {**flatten(values, str(path)), **fixed}
    for key in NAMING_KEYS:
        named = flat.get(key)
        if isinstance(named, str) and not named.startswith(START_TRAINING) and not _looks_like_a_file(named):
            raise ConfigError(str(path), [_no_file(key, named)])
    experiment = parse_with_beside(flat, str(path))
    _check_two_networks(experiment, Identifier(without_data=True), str(path))
    return experiment, []


def names_a_start(path: Path, overrides: Iterable[str], arm: str | None = None) -> bool:
    """Whether the experiment of `path`, or of `arm` in it, says what its training starts from."""
    if "train.start" in _as_mapping(overrides):
        return True
    values = _inherit(path)
    if not _is_sweep(values):
        return "train.start" in flatten(values, str(path))
    arms = _resolve_arms(_sweep_config(values, path), path)
    return arm in arms and any("train.start" in {**arms[arm][0], **point} for point in arms[arm][1])


def is_sweep_file(path: Path) -> bool:
    """Whether a file is a sweep, not one experiment."""
    return _is_sweep(_inherit(path))


def _no_file(key: str, named: str) -> str:
    return (
        f"{key}: there is no file {named}; give the path of a weights file, or training:ID. The name of an arm stands "
        "for its training in a sweep's file alone"
    )


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


def _as_mapping(overrides: Iterable[str]) -> dict[str, str]:
    """The texts of ``key=value`` by key, as they stand."""
    pairs = (text.partition("=") for text in overrides)
    return {key.strip(): value.strip() for key, _, value in pairs}


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
        known = key_types()
        if key not in (*known, "seeds"):
            raise ConfigError("--set", [f"{key}: unknown key{nearest(key, list(known))}"])
        values[key] = from_text(known.get(key, Seeds), value, f"--set {key}")
    return values


def _inherit(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The mapping of `path` merged over the file that it extends: `base` and each arm's `set` key by key."""
    values = load_mapping(path)
    load_kinds(values, str(path))
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
            arms[name] = _merged_arm(arms[name], arm, f"{source}: arm {name!r}") if inherits else arm
        merged["arms"] = {name: arm for name, arm in arms.items() if arm is not None}
    return merged


def _merged_arm(parent: dict[str, Any], child: dict[str, Any], source: str) -> dict[str, Any]:
    """The arm of the parent with what the child's of that name says: its `set` key by key, anything else whole."""
    merged = {**parent, **child}
    if isinstance(parent.get("set"), dict) and isinstance(child.get("set"), dict):
        inherited = flatten(parent["set"], f"{source}: set (inherited)")
        merged["set"] = {**inherited, **flatten(child["set"], f"{source}: set")}
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
    by_arm = Problems(dict.fromkeys(config.arms, 1))
    arms = {}
    for name in config.arms:
        try:
            arm_set, grid = _resolve_arm(config.arms, name, str(path))
            points = grid_points(grid, str(path))
        except ConfigError as error:
            by_arm.add(error.problems, name, 0, {})
            continue
        if not problems:
            arms[name] = {**base, **arm_set}, points
    by_arm.raise_if_any(path, problems)
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
        circle = " → ".join([*seen[seen.index(arm.like) :], name, arm.like] if arm.like in seen else [name, name])
        raise ConfigError(source, [f"like: {circle} goes round in a circle"])
    inherited, grid = _resolve_arm(arms, arm.like, source, (*seen, name))
    return {**inherited, **own}, {**grid, **arm.grid}


NO_SEED = "the seeds of a sweep's trainings stand at its top, as seeds: [0, 1]"


def _without_seed(flat: dict[str, Any], source: str) -> dict[str, Any]:
    if "seed" in flat:
        raise ConfigError(source, [f"seed: {NO_SEED}"])
    return flat


def grid_points(grid: Mapping[str, list[Any]], source: str) -> list[dict[str, Any]]:
    """Every combination of the grid's values; ``"a, b"`` are zipped keys whose values are lists of pairs."""
    axes: list[list[dict[str, Any]]] = []
    problems: list[str] = []
    taken: set[str] = set()
    for joined, values in grid.items():
        keys = _keys_of(joined)
        problems += [f"grid: {key}: unknown key{hint_of(key)}" for key in keys if key not in key_types()]
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
    """Problems of a sweep's cells, each listed once with the arms and the varied keys of the cells that have it."""

    def __init__(self, points: Mapping[str, int]) -> None:
        self.points = points
        self._places: dict[str, dict[str, dict[int, dict[str, Any]]]] = {}

    def add(self, problems: Iterable[str], arm: str, place: int, varied: dict[str, Any]) -> None:
        """The point `place` of `arm`'s grid, where `varied` holds, has these `problems`."""
        for problem in problems:
            self._places.setdefault(problem, {}).setdefault(arm, {})[place] = varied

    def raise_if_any(self, path: Path, before: Iterable[str] = ()) -> None:
        """Raise :class:`ConfigError` with the problems `before` and those added."""
        problems = [*before, *(f"{self._arms_of(places)}: {problem}" for problem, places in self._places.items())]
        if problems:
            raise ConfigError(str(path), _shortened(problems))

    def _arms_of(self, places: Mapping[str, Mapping[int, dict[str, Any]]]) -> str:
        names = [repr(arm) for arm in places]
        shown = names if len(names) <= MOST_ARMS else [*names[:MOST_ARMS], count_of(len(names) - MOST_ARMS, "more arm")]
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
    return text if common else f"{text} and {count_of(len(rest), 'more point')} of the grid"


def _shortened(problems: list[str], most: int = 12) -> list[str]:
    rest = len(problems) - most
    return problems if rest <= 0 else [*problems[:most], f"and {count_of(rest, 'more problem')}"]


def _check_report(config: SweepConfig, source: str) -> None:
    choices = list(config.arms)
    for key in ("base", "subject"):
        arm = getattr(config.report, key)
        if arm is not None and arm not in config.arms:
            raise ConfigError(source, [f"report.{key}: {_no_arm(arm, choices)}"])
        if arm is not None and not config.arms[arm].cells:
            raise ConfigError(source, [f"report.{key}: arm {arm!r} has no cells (cells: false)"])
    for key, named in (("base_row", config.report.base_row), ("kinds", config.report.kinds)):
        unknown = [f"report.{key}: {name}: unknown key{hint_of(name)}" for name in named if name not in key_types()]
        if unknown:
            raise ConfigError(source, unknown)
