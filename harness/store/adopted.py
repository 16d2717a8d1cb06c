"""A trained network that lies elsewhere becomes a training of the results, as if it had been trained there."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from harness.config.schema import Experiment
from harness.errors import StoreError
from harness.files import atomic_path, file_sha256, write_json
from harness.store.lease import LeaseHeld, lease
from harness.store.records import TRAINING_SCHEMA, TrainingRecord, training_record_in
from harness.store.store import Store, Target
from harness.store.weights import load_facts

ADOPTING_SECONDS = 2.0
"""How long to wait for another process that adopts the same network."""


@dataclass(frozen=True)
class StoreWith(Store):
    """The results as they will be once the network in `weights` is adopted: for a plan that changes nothing."""

    training: str = ""
    weights: Path = Path()

    def is_trained(self, training: str) -> bool:
        return training == self.training or super().is_trained(training)

    def weights_path(self, training: str) -> Path:
        return self.weights if training == self.training else super().weights_path(training)


def check_adoptable(store: Store, training: str, weights: Path, named: Path | None = None) -> None:
    """Raise :class:`StoreError` where `weights`, which a person has `named`, cannot be those of `training` in the
    results."""
    digest = file_sha256(weights)
    record = training_record_in(weights.parent, training)
    if record is not None and record.weights_sha256 not in (None, digest):
        raise StoreError(f"{weights}: is not what training {training} wrote (its record beside it says so): damaged?")
    if not store.is_trained(training) or _is_its_own(store, training, weights):
        return
    if file_sha256(store.weights_path(training)) != digest:
        raise StoreError(
            f"{named or weights}: {store.root} has training {training} already, with other weights; take those "
            f"(harness adapt training:{training}), or keep these apart with --results FOLDER"
        )


def adopt(
    store: Store, training: str, weights: Path, experiment: Experiment, known: TrainingRecord | None = None
) -> bool:
    """Copy `weights` of the finished `training`, with what is known of it, into the results; False if it is there.

    `known` tells of the training where its own record does not lie beside the weights. Raises :class:`StoreError` while
    a job trains it.
    """
    if store.is_trained(training):
        return False
    target = Target("training", training)
    try:
        with lease(store.lease_path(target), ADOPTING_SECONDS):
            if store.is_trained(training):  # another process has adopted it meanwhile
                return False
            store.save_experiment(target, experiment)
            with atomic_path(store.weights_path(training)) as temporary:
                shutil.copyfile(weights, temporary)
            record = training_record_in(weights.parent, training) or known or _new_record(training, weights, experiment)
            write_json(store.done_path(training), record.plain)  # last: from here on it is done
    except LeaseHeld as error:
        raise StoreError(
            f"training {training} is being made in {store.root} ({error}); once it has ended: "
            f"harness adapt training:{training}"
        ) from None
    return True


def _is_its_own(store: Store, training: str, weights: Path) -> bool:
    own = store.weights_path(training)
    return own.exists() and own.samefile(weights)


def _new_record(training: str, weights: Path, experiment: Experiment) -> TrainingRecord:
    """What the weights and the configuration tell; where, and in what time, is not known."""
    return TrainingRecord(
        schema_=TRAINING_SCHEMA,
        training=training,
        steps=int(load_facts(weights).get("step", experiment.train.steps)),
        weights_bytes=weights.stat().st_size,
        weights_sha256=file_sha256(weights),
        precision=experiment.train.precision,
    )
