"""What a sweep needs: which trainings and cells, and which of them are done already."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from harness.dispatch.sweep import Cell, Sweep, Training
from harness.store.store import Store, Target

WRITERS = 16


@dataclass(frozen=True)
class Plan:
    """The trainings and cells of a sweep, in the sweep's order, split into done and missing."""

    sweep: Sweep
    done_cells: frozenset[str]
    done_trainings: frozenset[str]

    @property
    def missing_cells(self) -> list[Cell]:
        return [cell for cell in self.sweep.cells.values() if cell.id not in self.done_cells]

    @property
    def missing_trainings(self) -> list[Training]:
        """Trainings without weights that a missing cell needs."""
        needed = {cell.training for cell in self.missing_cells}
        return [t for t in self.sweep.trainings.values() if t.id in needed and t.id not in self.done_trainings]

    def targets(self) -> list[Target]:
        """What is missing, each training followed by its cells, so that first figures come early."""
        training = {t.id: Target("training", t.id) for t in self.missing_trainings}
        ordered: list[Target] = []
        by_training: dict[str, list[Cell]] = {}
        for cell in self.missing_cells:
            by_training.setdefault(cell.training, []).append(cell)
        for trained, cells in by_training.items():
            if trained in training:
                ordered.append(training[trained])
            ordered += [Target("cell", cell.id) for cell in cells]
        return ordered


def plan(sweep: Sweep, store: Store) -> Plan:
    """Compare `sweep` with what lies in `store`; reads names of files, not their content."""
    done = store.finished_cells()
    return Plan(
        sweep,
        frozenset(id for id in sweep.cells if id in done),
        frozenset(id for id in sweep.trainings if store.is_trained(id)),
    )


def without_damaged(plan: Plan, store: Store) -> tuple[Plan, dict[str, str]]:
    """(The plan that makes anew what has a damaged record, those cells with the reason); reads all records."""
    damaged = store.damaged_cells(plan.done_cells)
    return replace(plan, done_cells=plan.done_cells - damaged.keys()), damaged


def save_experiments(plan: Plan, store: Store, targets: Iterable[Target]) -> None:
    """Leave in the store what each job must know."""

    def save(target: Target) -> None:
        source = plan.sweep.trainings if target.kind == "training" else plan.sweep.cells
        store.save_experiment(target, source[target.id].experiment)

    with ThreadPoolExecutor(WRITERS) as writers:  # each write waits for the disk; together they wait once
        for _ in writers.map(save, targets):
            pass
