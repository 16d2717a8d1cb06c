"""What the targets of a sweep are called: no two alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from harness.config.methods import method_of
from harness.config.schema import Experiment
from harness.dispatch.sweep import Cell, Sweep, Table, Training
from harness.store.identity import start_training
from harness.store.store import Target

SHOWN_ARMS = 2
SHOWN_ID = 8


def labels_of(sweep: Sweep) -> dict[Target, str]:
    """Every target of a sweep in words: the arm, what is varied, and the seed where it tells them apart.

    Where that would call two targets the same, each has the start of its id beside it.
    """
    words = _Words(sweep)
    labels = {target: words.of(target) for target in sweep.nodes}
    counts = Counter(labels.values())
    return {
        target: label if counts[label] == 1 else f"{label} ({target.id[:SHOWN_ID]})" for target, label in labels.items()
    }


class _Words:
    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        rows = [varied for cell in sweep.cells.values() for _, varied in cell.rows]
        told = [self._told(training) for training in sweep.trainings.values()]
        self.names = _names({key for varied in (*rows, *told) for key in varied})
        self.with_seed = len({cell.experiment.seed for cell in sweep.cells.values()}) > 1

    def of(self, target: Target) -> str:
        if target.kind == "cell":
            return self._of_cell(self.sweep.cells[target.id])
        if target.kind == "encoding":
            data = self.sweep.encodings[target.id].experiment.data
            return f"latents of {data.label or data.name} by {Path(data.latents or '').name}"
        if target.kind == "table":
            table = self.sweep.tables[target.id]
            if table.of_cell:
                return self._of_cell_table(table)
            of_seed = "" if start_training(table.experiment) is None else f"seed={table.experiment.seed}"
            return _joined(f"{table.name} of {self._start_of(table.experiment)}", of_seed)
        return self._of_training(self.sweep.trainings[target.id])

    def _of_cell(self, cell: Cell) -> str:
        arm, varied = cell.rows[0]
        return _joined(arm, self._settings(varied), f"seed={cell.experiment.seed}" if self.with_seed else "")

    def _of_cell_table(self, table: Table) -> str:
        arms = [cell.rows[0][0] for cell in self.sweep.cells.values() if cell.table == table.id]
        return _joined(f"{table.name} of {arms[0]}", f"seed={table.experiment.seed}")

    def _of_training(self, training: Training) -> str:
        experiment = training.experiment
        shown = ", ".join(training.arms[:SHOWN_ARMS]) + (", …" if len(training.arms) > SHOWN_ARMS else "")
        start = "" if experiment.train.start is None else f"from {self._start_of(experiment)}"
        told = self._settings(self._told(training))
        return _joined(f"training for {shown or 'what starts from it'}", told, start, f"seed={experiment.seed}")

    @staticmethod
    def _told(training: Training) -> dict[str, Any]:
        model = training.experiment.model
        return {f"model.{key}": getattr(model, key) for key in method_of(model.kind).telling_keys} | training.varied

    def _start_of(self, experiment: Experiment) -> str:
        """The arm, training or file whose weights a training starts from."""
        before = self.sweep.trainings.get(start_training(experiment) or "")
        return before.arms[0] if before is not None and before.arms else str(experiment.train.start)

    def _settings(self, varied: Mapping[str, Any]) -> str:
        return " ".join(f"{self.names[key]}={value}" for key, value in varied.items())


def _joined(*parts: str) -> str:
    return " ".join(part for part in parts if part)


def _names(keys: Iterable[str]) -> dict[str, str]:
    """Each dotted key as labels have it: its last part where that tells which, else all of it.

    Those of the training are always whole, as in a report's tables: a number of steps alone is one of sampling.
    """
    keys = sorted(keys)
    last = {key: key.rpartition(".")[2] for key in keys}
    counts = Counter(last.values())
    return {key: key if key.startswith("train.") or counts[last[key]] > 1 else last[key] for key in keys}
