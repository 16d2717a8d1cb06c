"""Preflight checks of what is missing: data, extractor, disk, the weights that trainings start from."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from harness.config.distilling import teacher_experiment
from harness.config.methods import method_of
from harness.config.schema import Experiment, ModelConfig
from harness.dispatch.plan import Plan
from harness.dispatch.sweep import Training, table_of
from harness.errors import ConfigError, DataError, StoreError, told_of
from harness.store.identity import start_file, start_training, teacher_file, teacher_training
from harness.store.store import Store
from models.diffusers_folder import FolderError
from models.methods import ImageShape

if TYPE_CHECKING:
    from harness.data import Dataset

LEAST_FREE_BYTES = 64 * 2**20


def check_sweep(planned: Plan, store: Store) -> None:
    """Raise the first error that the missing cells would meet."""
    with told_of(planned.sweep.path):
        _check(planned, store)


def _check(planned: Plan, store: Store) -> None:
    cells = [cell.experiment for cell in planned.missing_cells]
    check_data([*(training.experiment for training in planned.missing_trainings), *cells])
    check_loggers(training.experiment for training in planned.missing_trainings)
    check_sizes(planned)
    check_measures([*cells, *measured_in_training(training.experiment for training in planned.missing_trainings)])
    _check_schedules_of(planned)
    check_store(store)
    check_starts(planned, store)


def check_sizes(planned: Plan) -> None:
    """Raise :class:`ConfigError` with all arms whose networks cannot take the images that the data have."""
    from harness.data import network_info

    problems: dict[str, None] = {}  # those of several seeds once
    for training in planned.missing_trainings:
        try:
            training.experiment.model.check_size(network_info(training.experiment.data).size)
        except ValueError as error:
            key = "model.folder: " if isinstance(error, FolderError) else "model."
            problems[f"arm {' and '.join(map(repr, training.arms))}: {key}{error}"] = None
    for cell in planned.missing_cells:
        experiment = cell.experiment
        info = network_info(experiment.data)
        classes = info.classes if experiment.model.class_conditional else None
        try:
            images = ImageShape(info.size, info.channels, classes)
            method_of(experiment.model.kind).check_images(experiment, images)
        except ValueError as error:
            arms = " and ".join(repr(arm) for arm in dict.fromkeys(arm for arm, _ in cell.rows))
            problems[f"arm {arms}: {error}"] = None
    if problems:
        raise ConfigError(str(planned.sweep.path), list(problems))


def _check_schedules_of(planned: Plan) -> None:
    """Raise :class:`ConfigError` with all arms whose schedules cannot be found."""
    problems: dict[str, None] = {}  # those of several seeds once
    for cell in planned.missing_cells:
        try:
            check_schedules([cell.experiment])
        except ConfigError as error:
            arms = " and ".join(repr(arm) for arm in dict.fromkeys(arm for arm, _ in cell.rows))
            problems |= dict.fromkeys(f"arm {arms}: {error.source}: {problem}" for problem in error.problems)
    if problems:
        raise ConfigError(str(planned.sweep.path), list(problems))


def check_starts(planned: Plan, store: Store) -> None:
    """Raise :class:`ConfigError` with all that keeps a missing training from starting with the weights it asks for."""
    problems: dict[str, None] = {}  # those of several seeds once
    for training in planned.missing_trainings:
        if training.experiment.model.weights is not None:
            from harness.engine.given import given_problem

            given_problem(training.experiment)
        if (reason := start_problem(training, planned.sweep.trainings, store)) is not None:
            arms = f"arm {' and '.join(map(repr, training.arms))}" if training.arms else str(training.target)
            problems[f"{arms}: {reason}"] = None
    if problems:
        raise ConfigError(str(planned.sweep.path), list(problems))


def start_problem(training: Training, known: Mapping[str, Training], store: Store) -> str | None:
    """Why `training` cannot start with the weights that it asks for; None if it can.

    These may still have to be trained: of the `known` trainings the shapes follow from their configurations.
    """
    experiment = training.experiment
    if (reason := teacher_problem(training, known, store)) is not None:
        return reason
    id, path = start_training(experiment), start_file(experiment)
    if id is None and path is None:
        return None
    from harness.engine.start import misfit, network_shapes, part_problem, without_noise_schedule

    try:
        shapes = without_noise_schedule(_shapes_of("train.start", id, path, known, store))
    except StoreError as error:
        return str(error)
    try:
        names = method_of(experiment.model.kind).start_names(experiment, shapes.keys())
    except ValueError as error:
        return str(error)
    reason = misfit(without_noise_schedule(network_shapes(experiment)), shapes, names)
    arms = known[id].arms if id is not None and id in known else []
    if reason is not None:
        return f"train.start: {arms[0] if arms else experiment.train.start} {reason}"
    if (reason := part_problem(experiment)) is not None:
        return reason
    return table_problem(training, known, store)


def teacher_problem(training: Training, known: Mapping[str, Training], store: Store) -> str | None:
    """Why the network that `training` names as its teacher cannot teach; None if it can, or none is named."""
    experiment = training.experiment
    id, teacher = teacher_training(experiment), teacher_experiment(experiment)
    if teacher is None or id in known:
        return None
    from harness.engine.start import misfit, network_shapes

    try:
        shapes = _shapes_of("distill.teacher", id, teacher_file(experiment), known, store)
    except StoreError as error:
        return str(error)
    reason = misfit(network_shapes(teacher), shapes)
    return None if reason is None else f"distill.teacher: {experiment.distill.teacher} {reason}"


def _shapes_of(
    key: str, id: str | None, path: Path | None, known: Mapping[str, Training], store: Store
) -> Mapping[str, tuple[int, ...]]:
    """The shape of each of the weights that the configuration's `key` names by a training's `id` or by a `path`.

    Of the `known` trainings that are still to run they follow from the configuration. Raises :class:`StoreError`.
    """
    from harness.engine.start import network_shapes
    from harness.store.weights import tensor_shapes

    if id is not None and not store.is_trained(id):
        if id not in known:
            raise StoreError(f"{key}: {store.runs} holds neither the weights nor the configuration of training {id}")
        return network_shapes(known[id].experiment)
    try:
        return tensor_shapes(path or store.weights_path(id or ""), id)
    except StoreError as error:
        raise StoreError(f"{key}: {error}") from None


def table_problem(training: Training, known: Mapping[str, Training], store: Store) -> str | None:
    """Why the table that `training` needs cannot be measured; None if it can, is measured already, or none is needed.

    The network that it is measured of must be known, not only its weights.
    """
    table, start = table_of(training), start_training(training.experiment)
    if table is None or start in known or store.is_done(table.target):
        return None
    from harness.engine.tables import measured_experiment

    try:
        measured_experiment(store, training.experiment)
    except (StoreError, ConfigError) as error:
        return f"train.start: {error}"
    return None


def check_data(experiments: Iterable[Experiment]) -> None:
    """Raise the first error that trainings would meet in the data."""
    from harness.data import open_data

    for data, model in dict.fromkeys((e.data, e.model) for e in experiments):
        dataset = open_data(data)
        _check_labels(dataset, model)
        if data.latents is not None:
            from harness.data.autoencoder import latent_info
            from harness.data.latents import check_autoencoder

            latent_info(data, dataset.info)
            check_autoencoder(data.latents)


def check_loggers(trainings: Iterable[Experiment]) -> None:
    """Raise :class:`ConfigError` for a logger of a training whose package is not installed."""
    asked = [experiment for experiment in trainings if experiment.train.loggers]
    if asked:
        from harness.engine import loggers

        loggers.check_loggers(asked)


def measured_in_training(trainings: Iterable[Experiment]) -> list[Experiment]:
    """Those of the trainings that draw and measure images on their way."""
    return [experiment for experiment in trainings if experiment.train.sample_every is not None]


def check_measures(experiments: Iterable[Experiment]) -> None:
    """Raise the first error that measuring would meet in the reference or the extractor."""
    from harness.data import open_data
    from harness.measure.features import check_extractor
    from harness.measure.pair import check_torchvision

    chosen = list(experiments)
    if chosen:
        check_torchvision()
    for data, measure in dict.fromkeys((e.data, e.measure) for e in chosen):
        reference = open_data(data, measure.reference)
        least, purpose = measure.least_images
        reference.require(least, f"in a reference, for {purpose}")
    measures = (e.measure for e in chosen)
    for features, weights, logits in dict.fromkeys((m.features, m.weights, m.needs_logits) for m in measures):
        check_extractor(features, weights, logits=logits)


def check_schedules(experiments: Iterable[Experiment]) -> None:
    """Raise :class:`ConfigError` for a schedule that cannot be found whatever is measured: one that costs more than its
    budget at its shortest, or by features that the method does not tell."""
    wanted = [one for one in experiments if one.sample.budget is not None or one.sample.schedule == "ddt"]
    if not wanted:
        return
    from harness.engine.schedules import check_budget, check_features

    for experiment in wanted:
        if experiment.sample.budget is not None:
            check_budget(experiment)
        else:
            check_features(experiment)


def check_compiler(trainings: Iterable[Experiment], cells: Iterable[Experiment]) -> None:
    """That what is to be compiled can be, where it runs on this machine's CPU: torch needs a C++ compiler for it."""
    keys = ["train.compile"] if any(e.train.compile for e in trainings) else []
    keys += ["sample.compile"] if any(e.sample.compile for e in cells) else []
    if not keys:
        return
    import torch

    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if not torch.cuda.is_available() and shutil.which(compiler) is None:
        without = " ".join(f"--set {key}=false" for key in keys)
        raise ConfigError(
            keys[0],
            [
                f"true needs a C++ compiler on a CPU, and there is no {compiler} here; install one (apt install g++), "
                f"name it in the variable CXX, or leave it out: {without}"
            ],
        )


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
