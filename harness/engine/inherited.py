"""What a training inherits: multiply-adds and seconds of those that its weights have come from, to any depth."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from harness.config.schema import Experiment, parse_experiment
from harness.errors import HarnessError
from harness.files import file_sha256, read_json
from harness.store.identity import (
    Identifier,
    start_file,
    start_table,
    start_training,
    stitched_file,
    stitched_training,
    teacher_file,
    teacher_training,
)
from harness.store.records import NOTHING_INHERITED, InheritedCost, training_record_in
from harness.store.store import Store
from harness.store.weights import training_of

log = logging.getLogger("harness")

UNKNOWN = InheritedCost()


def inherited_cost(store: Store, experiment: Experiment) -> InheritedCost:
    """What the training of `experiment` inherits from the one that it starts from, and from that of a teacher; nothing
    where it starts from random weights. What no record tells is None. Where it needs a table that is measured of what
    it starts from, this is paid for, too.

    A file of weights is known by the record of the training that wrote it, beside it or in the store, if it is still
    what that training wrote.
    """
    start = _cost_of_named(store, start_training(experiment), start_file(experiment))
    if start_table(experiment) is not None:
        gmacs, seconds = _cost_of_table(store, experiment)
        start = start.model_copy(update={"gmacs": _sum(start.gmacs, gmacs), "seconds": _sum(start.seconds, seconds)})
    teacher = _cost_of_named(store, teacher_training(experiment), teacher_file(experiment))
    return _together(store, start, teacher, start.trainings)


def _cost_of_table(store: Store, experiment: Experiment) -> tuple[float | None, float | None]:
    """(GMACs, seconds) of measuring the table that the training of `experiment` needs, as far as they are known."""
    from harness.engine.estimate import table_gmacs
    from harness.engine.tables import measured_experiment, seconds_of_table

    try:
        gmacs: float | None = table_gmacs(measured_experiment(store, experiment))
    except HarnessError as error:
        log.warning("what the table of %s has cost cannot be told: %s", experiment.train.start, error)
        gmacs = None
    table = Identifier(without_data=True).table(experiment)
    return gmacs, None if table is None else seconds_of_table(store, table)


def cost_beside(store: Store, experiment: Experiment, training: str, inherited: InheritedCost) -> InheritedCost:
    """`inherited` by `training`, the experiment's own, and what the training of the network that ``sample.stitch``
    names took, which a stitched sampling needs as much. What both have come from is counted once."""
    second = _cost_of_named(store, stitched_training(experiment), stitched_file(experiment))
    return _together(store, inherited, second, (training, *inherited.trainings))


def _together(store: Store, first: InheritedCost, second: InheritedCost, paid: Sequence[str]) -> InheritedCost:
    """Both costs, where the trainings `paid` are in the first already: what the two have in common is counted once."""
    shared = next((one for one in second.trainings if one in paid), None)
    if shared is not None and shared == second.trainings[0]:
        return first
    if shared is not None:  # the second's chain goes on from there as the first one's does
        common = _cost_of(store, store.training_folder(shared), shared)
        second = second.model_copy(
            update={
                "gmacs": _difference(second.gmacs, common.gmacs),
                "seconds": _difference(second.seconds, common.seconds),
            }
        )
    return InheritedCost(
        gmacs=_sum(first.gmacs, second.gmacs),
        seconds=_sum(first.seconds, second.seconds),
        trainings=tuple(dict.fromkeys((*first.trainings, *second.trainings))),
    )


def _cost_of_named(store: Store, training: str | None, file: Path | None) -> InheritedCost:
    """What the training named by its id or by a file of its weights has cost; nothing where none is named."""
    if training is not None:
        return _cost_of(store, store.training_folder(training), training)
    if file is None:
        return NOTHING_INHERITED
    try:
        training, digest = training_of(file), file_sha256(file)
    except (HarnessError, OSError):
        return UNKNOWN
    for folder in (file.parent, store.training_folder(training)):
        record = training_record_in(folder, training)
        if record is not None and record.weights_sha256 == digest:
            return _cost_of(store, folder, training)
    return UNKNOWN


def _cost_of(store: Store, folder: Path, training: str) -> InheritedCost:
    """What the training in `folder` has cost, with what it has inherited itself."""
    from harness.engine.estimate import training_gmacs  # what counts networks is slow to import, and most start anew

    record, path = training_record_in(folder, training), folder / "config.json"
    try:
        experiment = parse_experiment(read_json(path), str(path))
        # what weights have cost that somebody else has trained is not known
        own: float | None = None if experiment.model.weights is not None else training_gmacs(experiment)
        before = inherited_cost(store, experiment)
    except HarnessError as error:
        log.warning("what training %s has cost cannot be told: %s", training, error)
        own, before = None, UNKNOWN
    if record is not None and record.inherited is not None:  # told when it was made, whatever has gone since
        before = record.inherited
    return InheritedCost(
        gmacs=_sum(own, before.gmacs),
        seconds=_sum(record.seconds if record is not None else None, before.seconds),
        trainings=(training, *before.trainings),
    )


def _difference(whole: float | None, part: float | None) -> float | None:
    return None if whole is None or part is None else max(whole - part, 0.0)


def _sum(own: float | None, before: float | None) -> float | None:
    return None if own is None or before is None else own + before
