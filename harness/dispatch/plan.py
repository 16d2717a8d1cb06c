"""What a sweep needs: which of its targets are wanted, which are done already, and in which order the rest is made."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property

from harness.dispatch.graph import in_order, with_dependents
from harness.dispatch.sweep import Cell, Node, Sweep, Training, encoding_of, table_of
from harness.errors import ConfigError, DataError, StoreError
from harness.store.identity import UNKNOWN_ID, Identifier
from harness.store.store import Store, Target

WRITERS = 16


@dataclass(frozen=True)
class Plan:
    """The targets of a sweep, split into done and missing.

    What is missing are its cells (or the `goals`, if they are given) and all that they need, to any depth, up to what
    is done: a training whose cells are all measured is not trained again, nor is what it started from.
    """

    sweep: Sweep
    done: frozenset[Target]
    goals: frozenset[Target] | None = None

    @property
    def done_cells(self) -> frozenset[str]:
        return frozenset(target.id for target in self.done if target.kind == "cell")

    @property
    def done_trainings(self) -> frozenset[str]:
        return frozenset(target.id for target in self.done if target.kind == "training")

    @property
    def missing_cells(self) -> list[Cell]:
        wanted = frozenset(self.targets())
        return [cell for cell in self.sweep.cells.values() if cell.target in wanted]

    @property
    def missing_trainings(self) -> list[Training]:
        """Trainings without weights that something missing needs."""
        wanted = frozenset(self.targets())
        return [training for training in self.sweep.trainings.values() if training.target in wanted]

    def needs(self, target: Target) -> tuple[Target, ...]:
        """What `target` needs that is not done."""
        return tuple(need for need in self.sweep.needs[target] if need not in self.done)

    def waits_for(self, target: Target) -> tuple[Target, ...]:
        """Of what `target` needs, that which comes last: what something else that it needs waits for goes without
        saying."""
        needs = self.needs(target)
        if len(needs) < 2:
            return needs
        implied = set(in_order((deeper for need in needs for deeper in self.needs(need)), self.sweep.needs))
        return tuple(need for need in needs if need not in implied)

    def targets(self) -> list[Target]:
        """What is missing, each after what it needs; what needs the same stays together, so that first figures come
        early."""
        return list(self._targets)

    @cached_property
    def _targets(self) -> tuple[Target, ...]:
        goals = [cell.target for cell in self.sweep.cells.values()]
        if self.goals is not None:
            goals = [target for target in self.sweep.nodes if target in self.goals]
        groups: dict[tuple[Target, ...], list[Target]] = {}
        for target in goals:
            if target not in self.done:
                groups.setdefault(self.needs(target), []).append(target)
        needs = {target: self.needs(target) for target in self.sweep.nodes}
        return tuple(in_order((target for group in groups.values() for target in group), needs))

    def only(self, targets: Collection[Target]) -> Plan:
        """The plan that makes `targets`, what they need and what needs them."""
        return replace(self, goals=frozenset(with_dependents(targets, self.sweep.needs)))


def plan(sweep: Sweep, store: Store) -> Plan:
    """Compare `sweep` with what lies in `store`; reads names of files, not their content."""
    sweep = _with_known_starts(sweep, store)
    cells = store.finished_cells()
    done = {cell.target for cell in sweep.cells.values() if cell.id in cells}
    done |= {target for target in sweep.before_cells if store.is_done(target)}
    return Plan(sweep, frozenset(done))


def _with_known_starts(sweep: Sweep, store: Store) -> Sweep:
    """The sweep, with the unfinished trainings of the store that it starts from by their ids (``training:ID``)."""
    known = dict(sweep.trainings)
    waiting = list(known.values())
    while waiting:
        for need in waiting.pop().needs:
            if need.kind != "training" or need.id in known or need.id.startswith(UNKNOWN_ID) or store.is_done(need):
                continue
            if (found := known_training(need.id, store)) is not None:
                known[need.id] = found
                waiting.append(found)
    return sweep if len(known) == len(sweep.trainings) else replace(sweep, trainings=known)


def known_training(id: str, store: Store) -> Training | None:
    """A training of which the store has the configuration; None without, or of an earlier version of the harness."""
    with contextlib.suppress(StoreError, ConfigError, DataError):
        experiment = store.load_experiment(Target("training", id))
        identify = Identifier()
        if identify(experiment)[0] == id:
            return Training.of(id, experiment, identify)
    return None


def nodes_to_run(trainings: Iterable[Training], store: Store) -> list[Node]:
    """`trainings`, each after the latents and the table that it needs unless these are there."""
    nodes: dict[Target, Node] = {}
    for training in trainings:
        for need in (encoding_of(training), table_of(training)):
            if need is not None and not store.is_done(need.target):
                nodes.setdefault(need.target, need)
        nodes[training.target] = training
    return list(nodes.values())


def trainings_to_run(wanted: Training, known: Iterable[Training], store: Store) -> list[Training]:
    """`wanted` and the trainings that it needs as far as these are not done, from `known` or the store, in the order to
    run."""
    by_id = {training.id: training for training in known}
    ordered: dict[str, Training] = {}

    def add(training: Training) -> None:
        for need in training.needs:
            if need.kind == "training" and need.id not in ordered and not store.is_trained(need.id):
                found = by_id.get(need.id) or known_training(need.id, store)
                if found is not None:
                    add(found)
        ordered[training.id] = training

    add(wanted)
    return list(ordered.values())


def without_damaged(plan: Plan, store: Store) -> tuple[Plan, dict[str, str]]:
    """(The plan that makes anew what has a damaged record, those cells with the reason); reads all records."""
    damaged = store.damaged_cells(plan.done_cells)
    return replace(plan, done=plan.done - {Target("cell", id) for id in damaged}), damaged


def save_experiments(plan: Plan, store: Store, targets: Iterable[Target]) -> None:
    """Leave in the store what each job must know."""

    def save(target: Target) -> None:
        store.save_experiment(target, plan.sweep.nodes[target].experiment)

    with ThreadPoolExecutor(WRITERS) as writers:  # each write waits for the disk; together they wait once
        for _ in writers.map(save, targets):
            pass
