"""The cheap failures, before the dear work: data, extractor, disk, of every cell that is missing."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from harness.data import open_data
from harness.errors import DataError, StoreError
from harness.plan import Plan
from harness.store import Store

LEAST_FREE_BYTES = 64 * 2**20


def check_sweep(planned: Plan, store: Store) -> None:
    """Raise the first error that the missing cells would meet."""
    from harness.measure.features import check_extractor

    cells = planned.missing_cells
    for data in dict.fromkeys(cell.experiment.data for cell in cells):
        open_data(data)
    for data, measure in dict.fromkeys((cell.experiment.data, cell.experiment.measure) for cell in cells):
        reference = open_data(data, measure.reference)
        if reference.info.images < 2:
            raise DataError(f"{reference.info.name}: {reference.info.images} images are too few for statistics")
    measures = (cell.experiment.measure for cell in cells)
    for features, weights, logits in dict.fromkeys((m.features, m.weights, m.inception_score) for m in measures):
        check_extractor(features, weights, logits=logits)
    check_store(store)


def check_store(store: Store) -> None:
    """That results can be written."""
    check_folder(store.runs)
    free = shutil.disk_usage(store.runs).free
    if free < LEAST_FREE_BYTES:
        raise StoreError(
            f"{store.runs}: {free / 2**20:.0f} MiB free, at least {LEAST_FREE_BYTES / 2**20:.0f} are needed"
        )


def check_folder(folder: Path, source: str = "") -> None:
    """That files can be written into `folder`, which is made where there is none."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder, prefix=".probe."):
            pass
    except OSError as error:
        head = f"{source}: " if source else ""
        raise StoreError(f"{head}{folder}: cannot be written: {error.strerror}") from None
