"""What a training inherits: multiply-adds and seconds of those that its weights have come from, to any depth."""

from __future__ import annotations

import logging
from pathlib import Path

from harness.config.schema import Experiment, parse_experiment
from harness.errors import HarnessError
from harness.files import file_sha256, read_json
from harness.store.identity import (
    start_file,
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
    """What the training of `experiment` inherits from the one that it starts from, and of a distillation from that of
    the teacher; nothing where it starts from random weights. What no record tells is None.

    A file of weights is known by the record of the training that wrote it, beside it or in the store, if it is still
    what that training wrote.
    """
    start = _cost_of_named(store, start_training(experiment), start_file(experiment))
    teacher = _cost_of_named(store, teacher_training(experiment), teacher_file(experiment))
    return _together(store, start, teacher)


def cost_beside(store: Store, experiment: Experiment, inherited: InheritedCost) -> InheritedCost:
    """`inherited` and what the training of the network that ``sample.stitch`` names took, which a stitched sampling
    needs as much as its own."""
    second = _cost_of_named(store, stitched_training(experiment), stitched_file(experiment))
    return _together(store, inherited, second)


def _together(store: Store, one: InheritedCost, other: InheritedCost) -> InheritedCost:
    """The cost of both, each training counted once."""
    further = [training for training in other.trainings if training not in one.trainings]
    if len(further) < len(other.trainings):  # some have been counted: of the others each by itself
        own = [_own_cost(store.training_folder(training), training) for training in further]
        other = NOTHING_INHERITED
        for cost in own:
            other = InheritedCost(gmacs=_sum(cost.gmacs, other.gmacs), seconds=_sum(cost.seconds, other.seconds))
    return InheritedCost(
        gmacs=_sum(one.gmacs, other.gmacs),
        seconds=_sum(one.seconds, other.seconds),
        trainings=(*one.trainings, *further),
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
    own, record = _own_cost(folder, training), training_record_in(folder, training)
    if record is not None and record.inherited is not None:  # told when it was made, whatever has gone since
        before = record.inherited
    else:
        try:
            before = inherited_cost(store, _experiment_in(folder))
        except HarnessError:
            before = UNKNOWN
    return InheritedCost(
        gmacs=_sum(own.gmacs, before.gmacs),
        seconds=_sum(own.seconds, before.seconds),
        trainings=(training, *before.trainings),
    )


def _own_cost(folder: Path, training: str) -> InheritedCost:
    """What the training in `folder` has cost by itself."""
    from harness.engine.estimate import training_gmacs  # what counts networks is slow to import, and most start anew

    record = training_record_in(folder, training)
    try:
        gmacs: float | None = training_gmacs(_experiment_in(folder))
    except HarnessError as error:
        log.warning("what training %s has cost cannot be told: %s", training, error)
        gmacs = None
    return InheritedCost(gmacs=gmacs, seconds=None if record is None else record.seconds)


def _experiment_in(folder: Path) -> Experiment:
    path = folder / "config.json"
    return parse_experiment(read_json(path), str(path))


def _sum(own: float | None, before: float | None) -> float | None:
    return None if own is None or before is None else own + before
