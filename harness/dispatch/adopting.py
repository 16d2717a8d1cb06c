"""What was published of a sweep becomes part of its results: it goes on from there, and runs only the rest."""

from __future__ import annotations

from pathlib import Path

from harness.dispatch.sweep import Sweep, Training
from harness.errors import ConfigError, StoreError
from harness.files import file_sha256, write_atomically
from harness.report.cells_file import load_report
from harness.report.samples import pack, unpack
from harness.store.adopted import adopt, check_adoptable
from harness.store.records import TRAINING_SCHEMA, InheritedCost, TrainingRecord
from harness.store.store import REPORT_CELLS, REPORT_SAMPLES, Store


def adopt_for(sweep: Sweep, store: Store, weights: Path) -> tuple[Training, bool]:
    """Make the file `weights` of this project the training of `sweep` that it says it is of, as if it had run here.
    Returns that training, and whether it is new: False where the results had it.

    What the training took is known where the record of its run lies beside the file (``done.json``), or a report that
    measured these very weights (``cells.json``). Raises :class:`ConfigError` where no training of the sweep is this
    one, :class:`StoreError` for a damaged file, or for other weights of the same training in the results.
    """
    from harness.store.weights import load_facts

    id = load_facts(weights)["training"]
    training = sweep.trainings.get(id)
    if training is None:
        known = ", ".join(f"{one.id} ({', '.join(one.arms)})" for one in sweep.trainings.values())
        raise ConfigError(
            str(weights),
            [f"is of training {id}, which {sweep.path} has not; its trainings are {known}: data or keys differ"],
        )
    check_adoptable(store, id, weights)
    if store.is_trained(id):
        return training, False
    return training, adopt(store, id, weights, training.experiment, _record_of_report(weights, training))


def adopt_cells(sweep: Sweep, store: Store, report: Path) -> list[str]:
    """Make the records in the report's folder those of the cells of `sweep` that they are of, as far as the results
    have none; the ids of these cells.

    Their images are what the report shows of them, if it shows any. Raises :class:`StoreError` for what is no report.
    """
    shown = unpack(report / REPORT_SAMPLES)
    adopted = []
    for cell in load_report(report / REPORT_CELLS).cells:
        record = cell.record
        if record is None or record.id not in sweep.cells or store.cell_path(record.id).exists():
            continue
        if record.id in shown:
            write_atomically(store.samples_path(record.id), pack({"images": shown[record.id]}))
        store.write_cell(record)
        adopted.append(record.id)
    return adopted


def _record_of_report(weights: Path, training: Training) -> TrainingRecord | None:
    """What the report beside `weights` tells of their training; None where it tells nothing of these very weights."""
    path = weights.parent / REPORT_CELLS
    try:
        cells = load_report(path).cells if path.exists() else ()
    except StoreError:  # of a newer version, or damaged: the weights are whole all the same
        return None
    digest = file_sha256(weights)
    for cell in cells:
        record = cell.record
        if record is None or record.training != training.id or record.provenance.weights_sha256 != digest:
            continue
        told = record.provenance
        return TrainingRecord(
            schema_=TRAINING_SCHEMA,
            training=training.id,
            steps=training.experiment.train.steps,
            data=record.data.name,
            weights_bytes=weights.stat().st_size,
            weights_sha256=digest,
            ranks=told.ranks or 1,
            device=told.training_device,
            precision=training.experiment.train.precision,
            seconds=told.training_seconds,
            others_share=told.training_others_share,
            inherited=InheritedCost(
                gmacs=record.compute.training_gmacs_inherited,
                seconds=told.training_seconds_inherited,
                trainings=told.training_chain,
            ),
            images_per_second=told.training_images_per_second,
        )
    return None
