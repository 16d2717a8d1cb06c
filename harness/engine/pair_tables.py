"""Tables of a network's errors on pairs of times: measured in batches that are kept, so that a kill loses one."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from harness.config.schema import Experiment
from harness.data import open_data
from harness.data.autoencoder import latent_info
from harness.engine.build import build_schedule, clips, load_model, sampled_model
from harness.engine.distributed import current_ranks, pick_device
from harness.engine.latents import measured_input
from harness.engine.progress import JobProgress, silent
from harness.engine.tables import chosen_images
from harness.errors import Stopped, StoreError
from harness.files import set_aside
from harness.store.identity import Identifier, cell_table
from harness.store.provenance import provenance
from harness.store.store import Store
from harness.store.weights import DamagedFile, keep_replaced, load_facts, load_tensors, save_tensors
from models.noise import Stream
from models.scheduling.measure import LEVELS, Featured, level_times, measure_dissimilarity, measure_pairs
from models.scheduling.table import PairTable

log = logging.getLogger("harness")

IMAGES = 256
"""Images that a table is measured on, or all where there are fewer."""
RUN_IMAGES = 32
"""Images of the sampling runs that the features of refreshes are compared on."""
BATCH = 64
SEED = 0
"""Of the images that are chosen and of their noise."""


def measure_pair_table(
    store: Store,
    table: str,
    experiment: Experiment,
    progress: JobProgress = silent,
    should_stop: Callable[[], bool] = lambda: False,
    weights: Path | None = None,
) -> None:
    """Measure the table that `experiment`'s cell needs of its network, and keep it.

    The first rank of a job does it. What is measured so far is kept, a file for each batch of images, and not measured
    again. `weights` are those of the training if they lie elsewhere than in `store`.
    """
    ranks = current_ranks()
    if ranks.is_first:
        _measure(store, table, experiment, progress, should_stop if ranks.world == 1 else lambda: False, weights)
    ranks.barrier()


def _measure(
    store: Store,
    table: str,
    experiment: Experiment,
    progress: JobProgress,
    should_stop: Callable[[], bool],
    weights: Path | None,
) -> None:
    training = Identifier().training(experiment)
    split, _ = Identifier().held_out(experiment.data)
    dataset, device = open_data(experiment.data, split), pick_device()
    info = latent_info(experiment.data, dataset.info)
    trained = load_model(experiment, info, weights or store.weights_path(training), training)
    model = sampled_model(experiment, trained.to(device).eval().requires_grad_(False))
    schedule = build_schedule(experiment.diffusion, info.size)
    images, labels = chosen_images(dataset, IMAGES, SEED, Stream.PAIRS)
    starts = range(0, len(images), BATCH)
    parts = [store.partial_folder(table) / f"from-{start:07d}.safetensors" for start in starts]
    clip = clips(experiment)
    for number, (start, path) in enumerate(zip(starts, parts, strict=True)):
        tell = _told(progress, LEVELS * number, LEVELS * len(starts))
        part = slice(start, min(start + BATCH, len(images)))
        if _is_whole(path, table, part.stop - part.start):
            tell(LEVELS)
            continue
        if should_stop():
            raise Stopped(f"table {table} stopped with {number} of {len(starts)} batches measured")
        began = time.monotonic()
        places = torch.arange(len(images), device=device)[part]
        given = labels[part].to(device) if experiment.model.class_conditional else None
        x = measured_input(experiment.data, images[part], device, SEED, places)
        found = measure_pairs(model, x, given, places, schedule, seed=SEED, clip=clip, progress=tell)
        if start < RUN_IMAGES and isinstance(model, Featured):
            _, *shape = x.shape
            found["dissimilarity"] = measure_dissimilarity(model, shape, given, places, schedule, seed=SEED, clip=clip)
        save_tensors(path, found, table, seconds=f"{time.monotonic() - began:.6g}")
    _join(store, table, experiment, split, schedule.log_snr(level_times()), parts)
    shutil.rmtree(store.partial_folder(table), ignore_errors=True)


def _told(progress: JobProgress, before: int, total: int) -> Callable[[int], None]:
    """What is told of the levels of one batch, where `before` are done of all."""
    return lambda done: progress(before + done, total)


def _join(store: Store, table: str, experiment: Experiment, split: str, log_snr: Tensor, parts: list[Path]) -> None:
    """One file of what was measured batch by batch."""
    loaded = [load_tensors(path, table) for path in parts]
    tensors = {name: torch.cat([part[name] for part, _ in loaded]) for name in ("losses", "changes")}
    apart = [part["dissimilarity"] for part, _ in loaded if "dissimilarity" in part]
    if apart:
        tensors["dissimilarity"] = torch.cat(apart)[:RUN_IMAGES].mean(0)
    PairTable.of({**tensors, "log_snr": log_snr})  # raises where it makes no sense
    path = store.table_path(table)
    keep_replaced(path)
    facts = {
        "table": str(cell_table(experiment)),
        "split": split,
        "seconds": f"{sum(float(told['seconds']) for _, told in loaded):.6g}",
        "provenance": json.dumps(provenance(), sort_keys=True),
    }
    save_tensors(path, {**tensors, "log_snr": log_snr}, table, **facts)


def _is_whole(path: Path, table: str, images: int) -> bool:
    """Whether a batch of so many images is kept in `path`. What is damaged, or of another size, is measured again."""
    if not path.exists():
        return False
    try:
        return len(load_tensors(path, table)[0]["losses"]) == images
    except DamagedFile as error:
        log.warning("%s; set aside as %s, and measured again", error, set_aside(path).name)
        return False


def load_pair_table(path: Path, table: str) -> PairTable:
    """The table in `path`. Raises :class:`StoreError` for a file that cannot be used."""
    tensors, _ = load_tensors(path, table)
    try:
        return PairTable.of({name: tensor.numpy() for name, tensor in tensors.items()})
    except (ValueError, KeyError) as error:
        raise StoreError(f"{path}: is no table of pairs ({error}); move it away, and it is measured again") from error


def split_of(path: Path, table: str) -> str:
    """The split that a table was measured on."""
    return load_facts(path, table)["split"]


def evaluations(images: int) -> tuple[int, int]:
    """How often a table runs its network with a refresh and without, counted in single images, where the data have
    `images` (0: not known)."""
    count = min(IMAGES, images or IMAGES)
    return LEVELS * (count + min(RUN_IMAGES, count)), LEVELS * (LEVELS - 1) // 2 * count
