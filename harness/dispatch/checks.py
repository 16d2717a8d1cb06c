"""Preflight checks of every cell that is missing: data, extractor, disk."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from harness.config.schema import Experiment, ModelConfig
from harness.dispatch.plan import Plan
from harness.errors import DataError, StoreError
from harness.store.store import Store

if TYPE_CHECKING:
    from harness.data import Dataset

LEAST_FREE_BYTES = 64 * 2**20


def check_sweep(planned: Plan, store: Store) -> None:
    """Raise the first error that the missing cells would meet."""
    experiments = [cell.experiment for cell in planned.missing_cells]
    check_data(experiments)
    check_measures(experiments)
    check_store(store)


def check_data(experiments: Iterable[Experiment]) -> None:
    """Raise the first error that trainings would meet in the data."""
    from harness.data import open_data

    for data, model in dict.fromkeys((e.data, e.model) for e in experiments):
        _check_labels(open_data(data), model)


def check_measures(experiments: Iterable[Experiment]) -> None:
    """Raise the first error that measuring would meet in the reference or the extractor."""
    from harness.data import open_data
    from harness.measure.features import check_extractor

    chosen = list(experiments)
    for data, measure in dict.fromkeys((e.data, e.measure) for e in chosen):
        reference = open_data(data, measure.reference)
        least, purpose = measure.least_images
        reference.require(least, f"in a reference, for {purpose}")
    measures = (e.measure for e in chosen)
    for features, weights, logits in dict.fromkeys((m.features, m.weights, m.needs_logits) for m in measures):
        check_extractor(features, weights, logits=logits)


def _check_labels(dataset: Dataset, model: ModelConfig) -> None:
    if model.class_conditional and dataset.info.classes is None:
        raise DataError(
            f"{dataset.info.name}: its images have no labels, which model.class_conditional needs: sort them into "
            "folders of their classes, add a dataset.json, or set model.class_conditional: false"
        )


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
