"""`harness time`: the seconds of finished cells, measured anew."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.cli.console import console, print_json
from harness.dispatch.plan import plan, without_damaged
from harness.dispatch.sweep import load_sweep
from harness.store.records import NewerRecord
from harness.store.store import Store
from harness.wording import count_of


def run(file: Path, overrides: Sequence[str], results: Path, json_output: bool) -> None:
    """Time every finished cell of the sweep again on this machine, then make the report again."""
    from harness.cli import report as reporting
    from harness.cli.experiment import bar
    from harness.dispatch.checks import check_store
    from harness.engine.cell import time_again

    sweep, store, out = load_sweep(file, overrides), Store(results), console(json_output)
    check_store(store)
    planned, damaged = without_damaged(plan(sweep, store), store)
    for reason in damaged.values():
        out.print(f"{reason}: left out; harness sweep measures the cell again")
    cells = sorted(planned.done_cells)
    times, newer = {}, list[str]()
    with bar(out, "timing", "cells") as progress:
        for number, cell in enumerate(cells):
            try:
                times[cell] = time_again(store, cell).plain["time"]
            except NewerRecord as error:
                newer.append(str(error))
            progress(number + 1, len(cells))
    if newer:
        out.print(f"{count_of(len(newer), 'cell')} left as they are: {newer[0]}")
    made = reporting.make(sweep, store, {})
    if json_output:
        print_json({"cells": times, **made.summary})
    else:
        reporting.show(made, out)
