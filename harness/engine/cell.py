"""Measuring a cell: draw its images in resumable shards, then quality, compute and time, then one record."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.config.schema import Experiment, as_plain, parse_experiment
from harness.config.stitching import stitched_experiment
from harness.data import Dataset, network_info, open_data
from harness.engine.build import load_model
from harness.engine.costs import measure_sampling, sampling_cost
from harness.engine.distributed import current_ranks, pick_device
from harness.engine.inherited import cost_beside, inherited_cost
from harness.engine.progress import JobProgress, silent
from harness.engine.reconstruction import reconstruction
from harness.engine.sampling import ImageGenerator
from harness.engine.schedules import scheduled_of
from harness.errors import Blocked, Stopped
from harness.files import atomic_path, set_aside
from harness.measure.fidelity import QualityMeter, quality_meter, to_uint8
from harness.measure.reference import Reference
from harness.store.identity import identify, stitched_training, stitched_weights
from harness.store.lease import lease
from harness.store.needs import missing_need
from harness.store.provenance import method_provenance, provenance
from harness.store.records import (
    CELL_SCHEMA,
    CellRecord,
    ComputeRecord,
    DataRecord,
    InheritedCost,
    LatentsRecord,
    Provenance,
    QualityRecord,
    ReconstructionRecord,
    SeedRecord,
    TimeRecord,
    TrainingRecord,
    refreshing,
)
from harness.store.store import Store, Target
from harness.store.weights import DamagedFile, load_tensors, save_tensors
from harness.wording import count_of

SHOWN_IMAGES = 64


def load_generator(
    experiment: Experiment, weights: Path, device: torch.device | None = None, second: Path | None = None
) -> ImageGenerator:
    """The network in `weights`, ready to draw as `experiment` says; `second` are those that ``sample.stitch`` names.

    Raises StoreError for another training's file.
    """
    if experiment.sample.schedule is not None:
        raise RuntimeError("a generator is handed a schedule that is found: harness.engine.schedules.scheduled_of")
    info = network_info(experiment.data)
    model = load_model(experiment, info, weights, identify(experiment)[0])
    other = stitched_experiment(experiment)
    partner = None
    if other is not None and second is not None:
        partner = load_model(other, info, second, stitched_training(experiment))
    return ImageGenerator(experiment, model, info, device or pick_device(), partner)


def ready_generator(
    store: Store, experiment: Experiment, weights: Path | None = None, device: torch.device | None = None
) -> ImageGenerator:
    """What draws the images of `experiment`'s cell: with the schedule that it asks for, found by its table where it
    needs one, and stitched to the network that it names.

    `weights` are those of its training where they lie elsewhere than in `store`. Raises :class:`Blocked` for a table
    that is not there, :class:`StoreError` for weights that cannot be used.
    """
    found = scheduled_of(store, experiment)
    weights = weights or store.weights_path(identify(experiment)[0])
    return load_generator(found, weights, device, stitched_weights(store, experiment))


def first_images(
    generator: ImageGenerator, seed: int, images: int, progress: Callable[[int, int], None] = lambda done, total: None
) -> Tensor:
    """The first `images` of a seed as a cell with the same settings draws them, uint8 (N, C, H, W) on the CPU."""
    parts = []
    for indices in torch.arange(images).split(generator.experiment.sample.batch):
        parts.append(to_uint8(generator.draw(seed, indices)).cpu())
        progress(int(indices[-1]) + 1, images)
    return torch.cat(parts)


def measure_cell(
    store: Store,
    cell: str,
    experiment: Experiment,
    progress: JobProgress = silent,
    should_stop: Callable[[], bool] = lambda: False,
) -> None:
    """Write the record of `cell`. Shards that an earlier run has drawn are used as they are."""
    started = time.time()
    ranks = current_ranks()
    training, _ = identify(experiment)
    if not store.is_trained(training):
        raise Blocked(missing_need(store, Target("training", training)))
    dataset = open_data(experiment.data)
    generator = ready_generator(store, experiment, device=pick_device(ranks))
    shards = Shards(store.partial_folder(cell), cell, experiment)
    total = experiment.measure.images * len(experiment.sample.seeds)
    finished = shards.images_drawn()
    missing = shards.missing()[ranks.rank :: ranks.world]
    ranks.barrier()  # all ranks look before any draws: their shares must be parts of the same list
    progress(finished, total)
    for seed, start, stop in missing:
        if should_stop():
            raise Stopped(f"cell {cell} stopped at {finished} of {count_of(total, 'image')}")
        images = to_uint8(generator.draw(seed, torch.arange(start, stop))).cpu()
        shards.save(seed, start, images, generator.networks_run)
        finished += (stop - start) * ranks.world
        progress(min(finished, total), total)
    ranks.barrier()
    if ranks.is_first:
        record = _record(store, cell, training, experiment, dataset, generator, shards, progress)
        finished_at = time.time()
        took = {
            "started": started,
            "finished": finished_at,
            "seconds": round(finished_at - started, 3),
            "ranks": ranks.world,
        }
        store.write_cell(record.model_copy(update={"provenance": record.provenance.model_copy(update=took)}))
        shutil.rmtree(shards.folder, ignore_errors=True)
    ranks.barrier()


def time_again(store: Store, cell: str) -> CellRecord:
    """Time the sampling of a finished cell anew, here and now, and put it into its record; quality stays untouched.

    Returns the record. Raises StoreError where the training's weights are gone.
    """
    target = Target("cell", cell)
    with lease(store.lease_path(target)):
        record = store.read_cell(cell)
        experiment = parse_experiment(record.config, str(store.cell_path(cell)))
        generator = ready_generator(store, experiment, store.weights_path(record.training))
        timed = TimeRecord.model_validate(measure_sampling(generator, experiment.measure.latency))
        made = record.provenance.model_copy(update={"timed": {**provenance(), "at": time.time()}})
        record = record.model_copy(update={"time": timed, "provenance": made})
        store.write_cell(record)
    return record


class Shards:
    """The images of a cell as they are drawn: one file per seed and batch, so that a kill loses one batch at most."""

    def __init__(self, folder: Path, cell: str, experiment: Experiment) -> None:
        self.folder, self.cell = folder, cell
        self.seeds = experiment.sample.seeds
        count, batch = experiment.measure.images, experiment.sample.batch
        self.ranges = [(start, min(start + batch, count)) for start in range(0, count, batch)]

    def _path(self, seed: int, start: int) -> Path:
        return self.folder / f"seed-{seed}-from-{start:07d}.safetensors"

    def missing(self) -> list[tuple[int, int, int]]:
        """(seed, start, stop) of what has still to be drawn."""
        return [
            (seed, start, stop)
            for seed in self.seeds
            for start, stop in self.ranges
            if not self._path(seed, start).exists()
        ]

    def images_drawn(self) -> int:
        absent = sum(stop - start for _, start, stop in self.missing())
        return len(self.seeds) * self.ranges[-1][1] - absent

    def save(self, seed: int, start: int, images: Tensor, evaluations: dict[str, int]) -> None:
        counts = json.dumps(dict(evaluations))
        save_tensors(self._path(seed, start), {"images": images}, self.cell, evaluations=counts)

    def load(self, seed: int) -> tuple[Tensor, dict[str, int]]:
        """(uint8 images of `seed` in order, evaluations per image). A damaged shard is set aside and raises."""
        parts: list[Tensor] = []
        counts: list[str] = []
        for start, _ in self.ranges:
            path = self._path(seed, start)
            try:
                tensors, metadata = load_tensors(path, self.cell)
            except DamagedFile:
                set_aside(path)
                raise
            parts.append(tensors["images"])
            counts.append(metadata["evaluations"])
        if len(set(counts)) != 1:
            raise RuntimeError(f"cell {self.cell}: batches differ in their evaluations: {sorted(set(counts))}")
        return torch.cat(parts), json.loads(counts[0])


def _record(
    store: Store,
    cell: str,
    training: str,
    experiment: Experiment,
    dataset: Dataset,
    generator: ImageGenerator,
    shards: Shards,
    progress: JobProgress,
) -> CellRecord:
    quality, evaluations = _measure_quality(store, cell, experiment, dataset, generator, shards, progress)
    progress(0, 0, "counting")
    refreshes, interval = refreshing(generator.experiment.sample.model_dump())
    done = store.read_training(training)  # whole: the cell would be blocked else
    inherited = done.inherited or inherited_cost(store, experiment)  # older records do not tell
    inherited = cost_beside(store, experiment, training, inherited)
    compute = {
        **sampling_cost(generator, evaluations),
        "refreshes": refreshes,
        "refresh_interval": interval,
        **_schedule_found(experiment, generator),
        "training_gmacs_inherited": inherited.gmacs,
    }
    timed = measure_sampling(
        generator, experiment.measure.latency, progress=lambda done, total: progress(done, total, "timing")
    )
    info = dataset.info
    return CellRecord(
        schema_=CELL_SCHEMA,
        id=cell,
        training=training,
        config=as_plain(experiment),
        data=DataRecord(
            name=info.name,
            size=info.size,
            channels=info.channels,
            fingerprint=info.identity,
            **_latents_told(experiment, generator),
        ),
        quality=quality,
        compute=ComputeRecord.model_validate(compute),
        time=TimeRecord.model_validate(timed),
        samples=str(store.samples_path(cell).relative_to(store.root)),
        provenance=Provenance.model_validate(
            {**provenance(), **method_provenance(experiment), **_training_provenance(done, inherited)}
        ),
        **({} if done.noise_schedule is None else {"noise_schedule": done.noise_schedule}),
    )


def _latents_told(experiment: Experiment, generator: ImageGenerator) -> dict[str, Any]:
    """The autoencoder, where the networks see latents."""
    if generator.decoder is None:
        return {}
    facts = generator.decoder.facts
    posterior = {"posterior": experiment.data.posterior or "mean"} if facts.has_posterior else {}
    told = {"autoencoder": facts.kind, "digest": facts.digest, "shape": generator.image_shape}
    return {"latents": LatentsRecord.model_validate({**told, **posterior})}


def _schedule_found(experiment: Experiment, generator: ImageGenerator) -> dict[str, Any]:
    """The schedule of an experiment that only says how to find it."""
    if experiment.sample.schedule is None:
        return {}
    sample = generator.experiment.sample
    steps = [step for step, refresh in enumerate(sample.refresh_schedule or ()) if refresh]
    return {"steps": sample.steps, "times": generator.times[:-1].tolist(), "refresh_steps": steps}


def _measure_quality(
    store: Store,
    cell: str,
    experiment: Experiment,
    dataset: Dataset,
    generator: ImageGenerator,
    shards: Shards,
    progress: JobProgress,
) -> tuple[QualityRecord, dict[str, int]]:
    """The quality of each sampling seed's images, and how often each network ran per image. Keeps the first images."""
    measure, seeds = experiment.measure, len(experiment.sample.seeds)
    progress(0, 0, "reference")
    meter = quality_meter(
        reference_of(experiment, dataset),
        measure,
        store.runs / "references",
        generator.device,
        lambda done, total: progress(done, total, "reference"),
    )
    per_seed: list[SeedRecord] = []
    evaluations: dict[str, int] = {}
    for number, seed in enumerate(experiment.sample.seeds):
        counted = partial(_features_of, progress, number, seeds)
        counted(0, measure.images)
        images, evaluations = shards.load(seed)
        found = meter.measure(images, counted)
        errors = {name: one.standard_error for name, one in found.items() if one.standard_error is not None}
        values = {name: one.value for name, one in found.items()}
        per_seed.append(SeedRecord(seed=seed, values=values, standard_errors=errors))
        if number == 0:
            with atomic_path(store.samples_path(cell)) as temporary, temporary.open("wb") as file:
                np.savez_compressed(file, images=images[:SHOWN_IMAGES].numpy())
    conditions = meter.conditions(measure.images)
    told = _reconstruction(store, experiment, dataset, meter, generator, progress)
    further = {} if told is None else {"reconstruction": told}
    return QualityRecord.model_validate({**conditions, "per_seed": per_seed, **further}), evaluations


def _reconstruction(
    store: Store,
    experiment: Experiment,
    dataset: Dataset,
    meter: QualityMeter,
    generator: ImageGenerator,
    progress: JobProgress,
) -> ReconstructionRecord | None:
    return reconstruction(
        experiment.data,
        _compared_with(experiment, dataset),
        meter,
        experiment.measure.images,
        generator.device,
        store.runs / "references",
        lambda done, total: progress(done, total, "reconstruction"),
    )


def _features_of(progress: JobProgress, number: int, seeds: int, done: int, total: int) -> None:
    """Report progress over all seeds' features: `number` are done, the current one is at `done` of `total` images."""
    progress(number * total + done, seeds * total, "features")


def _compared_with(experiment: Experiment, dataset: Dataset) -> Dataset:
    """The images of the reference; `dataset` are those that the network is trained on."""
    split = experiment.measure.reference
    return dataset if split == "train" else open_data(experiment.data, split)


def reference_of(experiment: Experiment, dataset: Dataset) -> Reference:
    """What the images of `experiment` are compared with; `dataset` is what its network is trained on."""
    split, source = experiment.measure.reference, _compared_with(experiment, dataset)
    info = source.info
    return Reference(f"{info.name} {split}", info.identity, source.all_uint8, info.images, data=info.name, split=split)


def _training_provenance(done: TrainingRecord, inherited: InheritedCost) -> dict[str, Any]:
    return {
        "weights_sha256": done.weights_sha256,
        "training_device": done.device,
        "training_images_per_second": done.images_per_second,
        "training_seconds": done.seconds,
        "training_others_share": done.others_share,
        "training_seconds_inherited": inherited.seconds,
        "training_chain": inherited.trainings,
    }
