"""Tables: measuring one of a trained network, and handing one to a training."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from harness.config.schema import Experiment, as_plain, parse_experiment
from harness.data import Dataset, open_data
from harness.data.autoencoder import latent_info
from harness.engine.build import build_schedule, load_model, method_for
from harness.engine.distributed import current_ranks, pick_device
from harness.engine.latents import measured_input
from harness.engine.progress import JobProgress
from harness.errors import ConfigError, Stopped, StoreError
from harness.store.identity import start_table, start_training, start_weights
from harness.store.provenance import provenance
from harness.store.store import Store, Target
from harness.store.weights import keep_replaced, load_facts, load_tensors, save_tensors
from models.denoising_error import LEVELS, measure_denoising_error
from models.noise import Stream, uniform

log = logging.getLogger("harness")

IMAGES = 512
"""Training images that a table is measured on, or all where there are fewer."""
BATCH = 64
SEED = 0
"""Of the images that are chosen and of their noise. A table is the same for all trainings that need it."""


def measured_experiment(store: Store, experiment: Experiment) -> Experiment:
    """That of the network which `experiment`'s training starts from, with the data and measures of `experiment`.

    It stands in its weights, and beside those of a training. Raises :class:`StoreError` where it stands nowhere.
    """
    path, training = start_weights(store, experiment), start_training(experiment)
    assert path is not None
    told = load_facts(path, training).get("config") if path.exists() or training is None else None
    if told is not None:
        here = {key: as_plain(experiment).get(key, {}) for key in ("data", "measure")}
        return parse_experiment({**json.loads(told), **here}, str(path))
    if training is not None:
        return store.load_experiment(Target("training", training))
    raise StoreError(
        f"{path} has no configuration in it, for it was written by an earlier version of the harness; "
        f"{experiment.model.kind} needs the {start_table(experiment)} of its network, so name the training itself "
        "(train.start: training:ID, in the results that it lies in), or train it again"
    )


def measure_table(
    store: Store,
    table: str,
    experiment: Experiment,
    progress: JobProgress,
    should_stop: Callable[[], bool] = lambda: False,
) -> None:
    """Measure the table that `experiment`'s training needs of the weights it starts from, and keep it.

    The first rank of a job does it; told to stop it ends with :class:`Stopped` and leaves nothing, but not where others
    wait for it.
    """
    ranks, name = current_ranks(), start_table(experiment)
    assert name is not None
    if ranks.is_first:
        path = store.table_path(table)

        def tell(done: int, total: int) -> None:
            progress(done, total)
            if ranks.world == 1 and done < total and should_stop():
                raise Stopped(f"table {table} stopped; it is measured in one go")

        began = time.monotonic()
        tensors = MEASURED[name](store, experiment, tell)
        seconds = f"{time.monotonic() - began:.6g}"
        keep_replaced(path)
        start, made = str(experiment.train.start), json.dumps(provenance(), sort_keys=True)
        save_tensors(path, tensors, table, table=name, start=start, seconds=seconds, provenance=made)
    ranks.barrier()


def seconds_of_table(store: Store, table: str) -> float | None:
    """What measuring it has taken; None where it is not there, or an earlier version measured it."""
    try:
        told = load_facts(store.table_path(table), table).get("seconds")
    except StoreError:
        return None
    return None if told is None else float(told)


def _denoising_error(store: Store, experiment: Experiment, progress: Callable[[int, int], None]) -> dict[str, Tensor]:
    network, dataset = measured_experiment(store, experiment), open_data(experiment.data)
    info = latent_info(experiment.data, dataset.info)
    weights = start_weights(store, experiment)
    assert weights is not None
    device = pick_device()
    model = load_model(network, info, weights, start_training(experiment))
    model.to(device).eval().requires_grad_(False)
    images, labels = chosen_images(dataset, IMAGES, SEED, Stream.TABLE)
    return measure_denoising_error(
        model,
        measured_input(experiment.data, images, device, SEED, torch.arange(len(images))),
        labels.to(device) if network.model.class_conditional else None,
        build_schedule(network.diffusion, info.size),
        seed=SEED,
        batch=BATCH,
        progress=progress,
    )


def chosen_images(dataset: Dataset, count: int, seed: int, stream: Stream) -> tuple[Tensor, Tensor]:
    """Images, uint8, and labels of the first `count` of the data set, or of all, in a random order that is the same for
    a seed and stream."""
    order = uniform(seed, torch.arange(len(dataset)), 0, (), stream).argsort(stable=True)
    return dataset.load(order[:count])


MEASURED = {"denoising_error": _denoising_error}
"""By the name of a table, how it is measured."""


def evaluations(images: int) -> int:
    """How often a table runs its network, counted in single images, where the data have `images` (0: not known)."""
    return LEVELS * min(IMAGES, images or IMAGES)


def load_table(model: nn.Module, experiment: Experiment, path: Path) -> None:
    """Put the table in `path` into `model`, as its method does."""
    tensors, _ = load_tensors(path, path.stem)
    try:
        method_for(experiment).load_table(model, tensors)
    except ValueError as error:
        raise ConfigError("model.kind", [f"{experiment.model.kind!r} cannot use the table {path}: {error}"]) from error
