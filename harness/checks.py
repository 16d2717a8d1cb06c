"""The cheap failures, before the dear work: data, extractor, disk, of every cell that is missing."""

from __future__ import annotations

import shutil

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
    try:
        store.runs.mkdir(parents=True, exist_ok=True)
        probe = store.runs / ".probe"
        probe.touch()
        probe.unlink()
        free = shutil.disk_usage(store.runs).free
    except OSError as error:
        raise StoreError(f"{store.runs}: cannot be written: {error.strerror}") from None
    if free < LEAST_FREE_BYTES:
        raise StoreError(
            f"{store.runs}: {free / 2**20:.0f} MiB free, at least {LEAST_FREE_BYTES / 2**20:.0f} are needed"
        )
