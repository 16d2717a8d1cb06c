"""Results on disk: atomic writes, content-addressed folders, files that people can read."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from harness.config.schema import Experiment, as_plain, parse_experiment
from harness.errors import StoreError
from harness.files import read_json, write_json
from harness.store.kinds import Kind
from harness.store.records import (
    CURE,
    CellRecord,
    DamagedRecord,
    NewerRecord,
    TrainingRecord,
    parse_cell,
    parse_training,
)

LOCAL = "local"
"""Folder of a sweep's own reports where published ones have their names."""
REPORT_CELLS, REPORT_SAMPLES = "cells.json", "samples.npz"
REPORT_ROWS = ', "rows": ['
"""What ends the first line of a report's cells: all before it is small and can be read by itself."""


def report_head(path: Path) -> dict[str, Any]:
    """All but the rows of a report's ``cells.json``, from its first line; empty where it is missing or damaged."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            head = json.loads(f"{file.readline().rstrip(chr(10)).removesuffix(REPORT_ROWS)}}}")
    except (OSError, ValueError):
        return {}
    return head if isinstance(head, dict) else {}


def is_published(folder: Path) -> bool:
    """Whether a published report stands in `folder`."""
    options = report_head(folder / REPORT_CELLS).get("options")
    return isinstance(options, dict) and options.get("published") is True


@dataclass(frozen=True)
class Target:
    """What a job makes, by its kind and id."""

    kind: Kind
    id: str

    def __str__(self) -> str:
        return f"{self.kind} {self.id}"


@dataclass(frozen=True)
class Store:
    """The folder of results. Only this class knows where things lie in it.

    ``runs/trainings/<id>/`` config.json, log.jsonl, checkpoints, weights.safetensors, done.json;
    ``runs/tables/<id>.safetensors`` what was measured of a training's weights, for others to use;
    ``runs/latents/<key>/`` a data set's images as an autoencoder encodes them, in parts;
    ``runs/cells/<id>.json`` the record of a cell, ``<id>.npz`` its first images;
    ``<name>/`` the report of a sweep, ``local/<name>/`` where a published one stands there;
    ``runs/partial/<id>/`` what a cell has drawn so far; ``runs/state/`` progress, failures and leases.
    """

    root: Path

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    def training_folder(self, training: str) -> Path:
        return self.runs / "trainings" / training

    def weights_path(self, training: str) -> Path:
        return self.training_folder(training) / "weights.safetensors"

    def checkpoints(self, training: str) -> list[Path]:
        """Where its steps are saved while it is trained."""
        return list(self.training_folder(training).glob("checkpoint-*.safetensors"))

    def done_path(self, training: str) -> Path:
        return self.training_folder(training) / "done.json"

    def table_path(self, table: str) -> Path:
        return self.runs / "tables" / f"{table}.safetensors"

    def latents_folder(self, key: str) -> Path:
        return self.runs / "latents" / key

    def latents_facts(self, key: str) -> Path:
        """Written once all parts are there."""
        return self.latents_folder(key) / "facts.json"

    def latents_lease(self, key: str) -> Path:
        """Held by the one job that encodes them."""
        return self.runs / "state" / "latents" / f"{key}.lease"

    def cell_path(self, cell: str) -> Path:
        return self.runs / "cells" / f"{cell}.json"

    def samples_path(self, cell: str) -> Path:
        return self.runs / "cells" / f"{cell}.npz"

    def partial_folder(self, cell: str) -> Path:
        return self.runs / "partial" / cell

    def state_path(self, target: Target) -> Path:
        return self.runs / "state" / f"{target.kind}s" / f"{target.id}.json"

    def lease_path(self, target: Target) -> Path:
        return self.runs / "state" / f"{target.kind}s" / f"{target.id}.lease"

    def experiment_path(self, target: Target) -> Path:
        if target.kind == "training":
            return self.training_folder(target.id) / "config.json"
        return self.runs / "state" / f"{target.kind}s" / f"{target.id}.config.json"

    def published_folder(self, name: str) -> Path:
        """Of the report for others, which is under version control."""
        return self.root / name

    def report_folder(self, name: str) -> Path:
        """Of a sweep's own report. It never takes the place of a published one: where one has its name it goes aside,
        into a folder that git ignores."""
        published = self.published_folder(name)
        return self.root / LOCAL / name if is_published(published) else published

    def finished_cells(self) -> set[str]:
        """Ids of all cells that have a record."""
        return {name.removesuffix(".json") for name in _names(self.runs / "cells") if name.endswith(".json")}

    def is_trained(self, training: str) -> bool:
        """Whether the training has finished and its weights are still whole (by size).

        Raises :class:`StoreError` for a record of a newer version.
        """
        weights = self.weights_path(training)
        try:
            done = self.read_training(training)
            return weights.stat().st_size == done.weights_bytes
        except (DamagedRecord, FileNotFoundError):  # none yet, or damaged: the training runs
            return False

    def read_training(self, training: str) -> TrainingRecord:
        """The record of a training that has ended. Raises :class:`DamagedRecord` where there is none or no whole one,
        :class:`StoreError` for a newer version's."""
        path = self.done_path(training)
        record = parse_training(_read(path), str(path))
        if record.training != training:
            raise DamagedRecord(f"{path}: is not the record of training {training}; {CURE}")
        return record

    def is_measured(self, table: str) -> bool:
        """Whether the table is there and whole: by its header and size."""
        with contextlib.suppress(OSError, SafetensorError), safe_open(self.table_path(table), framework="np"):
            return True
        return False

    def is_encoded(self, key: str) -> bool:
        """Whether all parts of the latents are there and whole: by their sizes."""
        try:
            parts = read_json(self.latents_facts(key))["parts"]
            return all((self.latents_folder(key) / name).stat().st_size == size for name, size in parts.items())
        except (StoreError, OSError, KeyError, TypeError, AttributeError):
            return False

    def is_done(self, target: Target) -> bool:
        match target.kind:
            case "encoding":
                return self.is_encoded(target.id)
            case "training":
                return self.is_trained(target.id)
            case "table":
                return self.is_measured(target.id)
            case "cell":
                return self.cell_path(target.id).exists()

    def read_cell(self, cell: str) -> CellRecord:
        """The record of `cell`. Raises :class:`DamagedRecord`, or :class:`StoreError` for a newer version's."""
        path = self.cell_path(cell)
        record = parse_cell(_read(path), str(path))
        if record.id != cell:
            raise DamagedRecord(f"{path}: is not the record of cell {cell}; {CURE}")
        return record

    def write_cell(self, record: CellRecord) -> None:
        write_json(self.cell_path(record.id), record.plain)

    def damaged_cells(self, cells: Iterable[str]) -> dict[str, str]:
        """Those of the finished `cells` whose record cannot be used, with the reason."""
        damaged = {}
        for cell in cells:
            try:
                self.read_cell(cell)
            except NewerRecord:  # whole, and nothing to measure again
                continue
            except DamagedRecord as error:
                damaged[cell] = str(error).partition("; move it away")[0]
        return damaged

    def save_experiment(self, target: Target, experiment: Experiment) -> None:
        """Keep what a job needs to know, where the job finds it.

        The same target has the same experiment, but for what changes no figure, such as where its data lie: that is
        kept as it was told last.
        """
        path, plain = self.experiment_path(target), as_plain(experiment)
        with contextlib.suppress(StoreError):  # none yet, or damaged
            if read_json(path) == plain:
                return
        write_json(path, plain)

    def load_experiment(self, target: Target) -> Experiment:
        path = self.experiment_path(target)
        return parse_experiment(read_json(path), str(path))

    def state(self, target: Target) -> dict[str, Any]:
        """The last state of the job that makes `target`; empty where none has run."""
        try:
            value = read_json(self.state_path(target))
        except StoreError:
            return {}
        return value if isinstance(value, dict) else {}

    def set_state(self, target: Target, **changes: Any) -> None:
        """Change entries of the target's state. Only the holder of its lease calls this."""
        write_json(self.state_path(target), {**self.state(target), **changes, "updated": time.time()})

    def forget_failure(self, target: Target) -> None:
        """Let a failed or cancelled target run again."""
        if self.state(target).get("state") in ("failed", "cancelled", "blocked"):
            self.set_state(target, state="waiting", error=None, traceback=None)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DamagedRecord(f"{path}: no such file") from None
    except OSError as error:
        raise DamagedRecord(f"{path}: cannot be read ({error}); {CURE}") from None


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208 - names alone, quicker for many thousands
    except FileNotFoundError:
        return []
