"""A loaded sweep as an object: run it, read its report, draw from its networks, measure one cell."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console

from harness.cli import report as reporting
from harness.cli.hints import RESULTS
from harness.config.schema import as_plain
from harness.dispatch.local import run_inline, run_local
from harness.dispatch.plan import plan, without_damaged
from harness.dispatch.sweep import Cell, Sweep
from harness.dispatch.sweep import load_sweep as load
from harness.errors import ConfigError, HarnessError, StoreError
from harness.files import set_aside
from harness.report import ReportCell, ReportOptions, panels
from harness.report import load_report as load_cells
from harness.report.tables import main_table
from harness.report.write import base_row
from harness.shipped import path_of
from harness.store.folder import check_results_folder
from harness.store.needs import missing_need
from harness.store.store import REPORT_CELLS, Store
from harness.wording import count_of

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

PLACES = ("inline", "local")


class RunFailed(HarnessError):
    """Trainings or cells that have failed or are blocked; all others are done. `failures` has the reason of each."""

    def __init__(self, failures: Mapping[str, str]) -> None:
        self.failures = dict(failures)
        super().__init__("\n".join(f"{target}: {reason}" for target, reason in failures.items()))


def load_sweep(
    file: str | os.PathLike[str], *, set: Mapping[str, Any] | None = None, results: str | os.PathLike[str] | None = None
) -> Study:
    """Read and check a sweep: a file, or one that comes with the harness by its name, such as ``quickstart``.

    `set` changes keys everywhere, as ``--set`` does: ``{"train.steps": 100}``. `results` is the folder of the results;
    ``HARNESS_RESULTS``, else ``results`` in the working directory, if it is not given. Nothing is written.
    Raises :class:`harness.HarnessError` with every problem found.
    """
    root = Path(results or os.environ.get("HARNESS_RESULTS") or RESULTS).expanduser()
    check_results_folder(root)
    return Study(load(path_of(Path(file).expanduser()), _overrides(set or {})), Store(root))


def load_report(folder: str | os.PathLike[str]) -> pd.DataFrame:
    """The rows of a report that was written, such as ``results/quickstart``, from its ``cells.json`` alone.

    The columns are those of its ``table.csv``.
    """
    path = Path(folder).expanduser() / REPORT_CELLS
    if not path.exists():
        raise ConfigError(str(folder), [f"holds no {REPORT_CELLS}; it is not the folder of a report"])
    kept = load_cells(path)
    return _frame(kept.cells, kept.options)


@dataclass(frozen=True)
class Study:
    """A sweep and the folder of its results; :func:`harness.load_sweep` makes one."""

    sweep: Sweep
    store: Store

    def __repr__(self) -> str:
        arms = ", ".join(self.sweep.config.arms)
        cells = count_of(len(self.sweep.cells), "cell")
        return f"Study({self.sweep.config.name!r}, {cells}, arms: {arms}, in {self.store.root})"

    def cells(self) -> pd.DataFrame:
        """One line per arm and cell: ``arm``, its varied keys, training ``seed``, ids, and whether it is ``done``."""
        import pandas as pd

        finished = self.store.finished_cells()
        lines = [
            {
                "arm": arm,
                **varied,
                "seed": cell.experiment.seed,
                "cell": cell.id,
                "training": cell.training,
                "done": cell.id in finished,
            }
            for cell in self.sweep.cells.values()
            for arm, varied in cell.rows
        ]
        return pd.DataFrame(lines)

    def run(self, cluster: Literal["inline", "local"] = "inline", workers: int = 1, *, quiet: bool = False) -> Study:
        """Train, draw and measure what is missing, here one by one, or ``local`` in `workers` processes.

        Progress goes to stderr unless `quiet`. Returns itself. Raises :class:`harness.RunFailed` once all else is done,
        and :class:`harness.HarnessError` before anything runs for what can be told before. On a cluster,
        ``harness sweep --cluster slurm`` submits the same sweep.
        """
        if cluster not in PLACES:
            cure = "; harness sweep FILE --cluster slurm submits" if cluster == "slurm" else ""
            raise ConfigError("cluster", [f"{cluster!r} is not one of {', '.join(PLACES)}{cure}"])
        if workers < 1 or (workers > 1 and cluster != "local"):
            raise ConfigError("workers", [f"{workers}: from 1 on, and more than 1 with cluster='local' alone"])
        self._run(self.sweep, cluster, workers, quiet)
        return self

    def _run(self, sweep: Sweep, cluster: str, workers: int, quiet: bool) -> None:
        from harness.dispatch.checks import check_sweep

        planned, damaged = without_damaged(plan(sweep, self.store), self.store)
        for cell in damaged:
            set_aside(self.store.cell_path(cell))
        if not planned.targets():
            return
        check_sweep(planned, self.store)
        out = Console(stderr=True, quiet=quiet, soft_wrap=True, markup=False, emoji=False, highlight=False)
        if cluster == "local":
            outcome = run_local(planned, self.store, out, workers)
        else:
            outcome = run_inline(planned, self.store, out)
        if not outcome.is_complete:
            raise RunFailed({str(target): why for target, why in {**outcome.failed, **outcome.blocked}.items()})

    def report(self, metric: str | None = None) -> pd.DataFrame:
        """One line per configuration, means over seeds, from the results that are there; runs and writes nothing.

        The columns are those of the report's ``table.csv``: distances with their spread, GMACs (1e9 multiply-adds) and
        seconds per image, parameters, what training cost, the conditions. `metric` ranks by another measure than the
        sweep's own. A line without a result says why under ``status``.
        """
        options = ReportOptions(**reporting.options_of(self.sweep, self.store))
        return _frame(reporting.cells_of(self.sweep, self.store, {}), replace(options, metric=metric or options.metric))

    def write_report(self) -> Path:
        """Write what ``harness report`` writes: tables, figures and the page. Returns their folder."""
        return reporting.make(self.sweep, self.store, {}, again=True).folder

    def sample(
        self, arm: str | None = None, images: int = 64, *, settings: Mapping[str, Any] | None = None, seed: int = 0
    ) -> np.ndarray:
        """Images of a trained network, uint8 (images, height, width, channels); never trains.

        `arm` and `settings` (its varied keys, such as ``{"sample.steps": 8}``) choose the cell: the first that fits.
        `seed` is the sampling seed: image i depends on it and on i alone. Raises :class:`harness.HarnessError` where
        the network is not trained yet.
        """
        from harness.engine.cell import first_images, ready_generator

        if images < 1:
            raise ConfigError("images", [f"{images}: at least 1 is needed"])
        cell = self._cell(arm, settings or {})
        for need in cell.needs:
            if not self.store.is_done(need):
                raise StoreError(f"{missing_need(self.store, need)}; run() trains it, and measure() that one alone")
        drawn = first_images(ready_generator(self.store, cell.experiment), seed, images)
        array: np.ndarray = drawn.permute(0, 2, 3, 1).contiguous().numpy()
        return array

    def measure(
        self, arm: str | None = None, *, settings: Mapping[str, Any] | None = None, quiet: bool = False
    ) -> dict[str, Any]:
        """The record of one cell, as it lies on disk; draws and measures it, and trains its network, where that is not
        done.

        `arm` and `settings` choose the cell as in :meth:`sample`. The record has ``quality``, ``compute``, ``time``,
        ``config`` and ``provenance``.
        """
        cell = self._cell(arm, settings or {})
        self._run(replace(self.sweep, cells={cell.id: cell}), "inline", 1, quiet)
        return self.store.read_cell(cell.id).plain

    def config(self, arm: str | None = None, *, settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The resolved configuration of one cell, chosen as in :meth:`sample`."""
        return as_plain(self._cell(arm, settings or {}).experiment)

    def _cell(self, arm: str | None, settings: Mapping[str, Any]) -> Cell:
        choices = [name for name, one in self.sweep.config.arms.items() if one.cells]
        if arm is None and len(choices) == 1:
            arm = choices[0]
        if arm not in choices:
            raise ConfigError("arm", [f"{arm!r}: choices: {', '.join(choices)}"])
        points = [(cell, varied) for cell in self.sweep.cells.values() for name, varied in cell.rows if name == arm]
        for cell, varied in points:
            if all(key in varied and _same(varied[key], value) for key, value in settings.items()):
                return cell
        known = "; ".join(dict.fromkeys(json.dumps(varied) for _, varied in points))
        raise ConfigError("settings", [f"{dict(settings)}: in no cell of arm {arm!r}; its cells have {known}"])


def _same(one: Any, other: Any) -> bool:
    """Whether two settings are the same, a tuple being a list."""
    return bool(json.dumps(one) == json.dumps(other) or one == other)


def _overrides(values: Mapping[str, Any]) -> list[str]:
    """``key=value`` texts: text as it stands, any other value as JSON, which YAML reads."""
    return [f"{key}={value if isinstance(value, str) else _as_json(key, value)}" for key, value in values.items()]


def _as_json(key: str, value: Any) -> str:
    try:
        return json.dumps(value)
    except TypeError:
        raise ConfigError("set", [f"{key}: {value!r} is no plain value: text, a number, a list, None"]) from None


def _frame(cells: Iterable[ReportCell], options: ReportOptions) -> pd.DataFrame:
    """The numbers of the main table of each panel, one below the other."""
    import pandas as pd

    found = list(cells)
    reporting.check_metric(options.metric, found)
    grouped = panels(found, options.arms, options.metric)
    frames = [main_table(panel, base_row(panel, options), options.kinds).values for panel in grouped]
    return pd.concat(frames, ignore_index=True)
