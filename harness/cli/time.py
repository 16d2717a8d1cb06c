"""`harness time`: the seconds of finished cells, measured anew."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from harness.cli.console import console, print_json
from harness.dispatch.plan import plan, without_damaged
from harness.dispatch.sweep import load_sweep
from harness.report.rows import mistrust
from harness.report.timing import slower_than_others
from harness.store.records import NewerRecord
from harness.store.store import Store
from harness.wording import count_of


def run(file: Path, overrides: Sequence[str], results: Path, untrusted: bool, json_output: bool) -> None:
    """Time the finished cells of the sweep again on this machine, then make the report again.

    With `untrusted` only those whose times are not to be trusted, by their own records or beside the other cells.
    """
    from harness.cli import report as reporting
    from harness.cli.experiment import bar
    from harness.dispatch.checks import check_store
    from harness.engine.cell import time_again

    sweep, store, out = load_sweep(file, overrides), Store(results), console(json_output)
    check_store(store)
    planned, damaged = without_damaged(plan(sweep, store), store)
    for reason in damaged.values():
        out.print(f"{reason}: left out; harness sweep measures the cell again")
    cells = sorted(_doubted(store, planned.done_cells) if untrusted else planned.done_cells)
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


def _doubted(store: Store, cells: Iterable[str]) -> set[str]:
    """The cells whose times are not to be trusted."""
    records = []
    for cell in cells:
        with contextlib.suppress(NewerRecord):  # it is left as it is
            records.append(store.read_cell(cell))
    stated = {record.id for record in records if record.time is not None and mistrust(record.time)}
    return stated | slower_than_others(records).keys()
