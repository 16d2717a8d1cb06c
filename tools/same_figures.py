"""Do a report's figures come back? Holds one that was made here against the one that is under version control.

    harness sweep sweeps/quickstart.yaml && python tools/same_figures.py results/local/quickstart

Multiply-adds must be equal; distances may differ by --tolerance, relative to the larger (a training amplifies the last
bit, in which two kinds of CPU, numbers of threads or versions of torch differ). Exit status 1 if they do not agree.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from harness.cli.console import console, main_of
from harness.errors import ConfigError
from harness.metrics import DEFAULT
from harness.report import load_rows
from harness.store.records import CellRecord
from harness.store.store import LOCAL
from harness.store.store import REPORT_CELLS as CELLS
from harness.wording import count_of


@dataclass(frozen=True)
class Agreement:
    """Two reports, cell by cell: those that both have, and how far their figures lie apart."""

    cells: int
    lacking: int
    """Cells that one of the two lacks."""
    identical: int
    worst: float
    """Largest relative difference of a cell's mean distance."""
    worst_cell: str
    other_compute: tuple[str, ...]
    """Cells whose multiply-adds differ."""

    def holds(self, tolerance: float) -> bool:
        return self.cells > 0 and not self.lacking and not self.other_compute and self.worst <= tolerance


def compare(mine: Path, other: Path) -> Agreement:
    """Hold the cells of two ``cells.json`` against each other. Raises StoreError for what is no such file."""
    here, there = _records(mine), _records(other)
    both = [name for name in here if name in there]
    apart = {name: _apart(fmean(_distances(here[name])), fmean(_distances(there[name]))) for name in both}
    worst = max(both, key=apart.__getitem__, default="")
    return Agreement(
        cells=len(both),
        lacking=len(here.keys() ^ there.keys()),
        identical=sum(_distances(here[name]) == _distances(there[name]) for name in both),
        worst=apart.get(worst, 0.0),
        worst_cell=worst,
        other_compute=tuple(name for name in both if _gmacs(here[name]) != _gmacs(there[name])),
    )


def _records(path: Path) -> dict[str, CellRecord]:
    """Records by arm, what is varied, and seed: names that hold from one version of the data's files to another."""
    named = {}
    for cell in load_rows(path):
        if cell.record is not None:
            varied = " ".join(f"{key.rpartition('.')[2]}={value}" for key, value in sorted(cell.varied.items()))
            named[f"{cell.arm} {varied} seed={cell.record.seed}"] = cell.record
    return named


def _distances(record: CellRecord) -> list[float]:
    return [value for seed in record.quality.per_seed if (value := seed.values[DEFAULT]) is not None]


def _gmacs(record: CellRecord) -> float:
    return round(record.compute.gmacs_per_image or 0.0, 9)


def _apart(one: float, two: float) -> float:
    largest = max(abs(one), abs(two))
    return abs(one - two) / largest if largest else 0.0


def published(folder: Path) -> Path:
    """Where the published report lies that goes with a report's folder."""
    return folder.parent.parent / folder.name if folder.parent.name == LOCAL else folder


def committed(folder: Path, revision: str, target: Path) -> Path:
    """The report's ``cells.json`` at `revision`, written into `target`."""
    path = f"{revision}:./{folder.name}/{CELLS}"
    done = subprocess.run(["git", "show", path], cwd=folder.parent, capture_output=True, check=False)
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().splitlines()
        raise ConfigError(str(folder), [f"has no {CELLS} at {revision} ({reason[-1] if reason else 'git failed'})"])
    file = target / CELLS
    file.write_bytes(done.stdout)
    return file


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a report's folder, made again")
    parser.add_argument("--against", default="HEAD", metavar="REVISION|FOLDER")
    parser.add_argument("--tolerance", type=float, default=0.1, help="relative difference of distances")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        kept = Path(given.against) / CELLS
        other = kept if kept.exists() else committed(published(given.folder), given.against, Path(name))
        found = compare(given.folder / CELLS, other)
    out = console()
    out.print(
        f"{given.folder} against {given.against}: {count_of(found.cells, 'cell')} in both, "
        f"{found.lacking} in one alone; "
        f"{found.identical} with the very same distances, the others at most {found.worst:.1%} apart"
        f"{f' ({found.worst_cell})' if found.worst else ''}; "
        f"multiply-adds {'equal' if not found.other_compute else 'differ: ' + ', '.join(found.other_compute)}",
        highlight=False,
        markup=False,
    )
    if not found.holds(given.tolerance):
        out.print(f"they do not agree to {given.tolerance:.0%}", highlight=False)
        sys.exit(1)


if __name__ == "__main__":
    main_of(main, sys.argv[1:])
