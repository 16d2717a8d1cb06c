"""Looking on while a network is trained: every so often its average draws a small set of images, which is measured.

They are the first images of the first sampling seed, drawn as the experiment's section ``sample`` says: those that its
cell will begin with, with the weights of the moment. The training does not notice: the networks are copies, torch's
random numbers are as they were afterwards, and the time is counted apart.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.config.scheduling import CHOOSING
from harness.config.schema import Experiment, TrainConfig, as_plain, parse_experiment
from harness.data import Dataset, open_data
from harness.data.export import save_grid
from harness.engine.build import build_model
from harness.engine.cell import SHOWN_IMAGES, first_images, reference_of
from harness.engine.latents import LatentData
from harness.engine.sampling import ImageGenerator
from harness.engine.schedules import scheduled
from harness.measure.fidelity import quality_meter
from harness.store.training_log import SAMPLES, SECONDS
from models.limits import MEASURED_SCHEDULES

log = logging.getLogger("harness")

FOLDER = "samples"
"""In a training's folder, with a grid of each set of images."""
NAME = re.compile(r"step-(\d{6,})\.png")
CANDIDATES_PER_REFRESH = 4
"""Where a budget would have chosen steps and refreshes together."""


def is_due(settings: TrainConfig, step: int) -> bool:
    """Whether images are drawn after `step` steps: every ``sample_every`` of them, and at the end."""
    every = settings.sample_every
    return every is not None and step > 0 and (step % every == 0 or step == settings.steps)


def drawn_as(experiment: Experiment, size: int) -> Experiment:
    """How `experiment`'s network draws while it is trained: by its section ``sample``, without what needs more than it.

    A network that ``sample.stitch`` names is left out. A schedule that is found by errors of the finished network
    becomes an even one of as many refreshes; one of a budget has a refresh at every fourth of its candidate steps.
    Nothing is compiled: it would forget what the training has compiled.
    """
    plain = as_plain(experiment)
    sample, train = plain["sample"], plain["train"]
    unseen = {"stitch", "stitch_share", "stitch_at"}
    if sample.get("schedule") in MEASURED_SCHEDULES:
        unseen |= set(CHOOSING)
        if sample.get("budget") is not None:
            sample["refreshes"] = -(-sample["steps"] // CANDIDATES_PER_REFRESH)
    kept = {key: value for key, value in sample.items() if key not in unseen}
    kept |= {"compile": False, "batch": min(sample["batch"], experiment.train.samples)}
    rest = {key: value for key, value in plain.items() if key != "stitched"}
    chosen = parse_experiment({**rest, "train": train, "sample": kept}, "train.sample_every")
    return scheduled(chosen, size)


class TrainingSamples:
    """Draws and measures the sets of images of one training, in one process."""

    def __init__(
        self,
        experiment: Experiment,
        dataset: Dataset | LatentData,
        folder: Path,
        device: torch.device,
        references: Path | None = None,
    ) -> None:
        """`dataset` is what the training loads, `folder` its own; `references` has the features of references that were
        made before.

        Raises what measuring would: for weights of the extractor or a reference that are not there.
        """
        self.experiment, self.info = drawn_as(experiment, dataset.info.size), dataset.info
        self.folder, self.device = folder, device
        self.images = experiment.train.samples
        # samples of latents are decoded, and held against images
        images = dataset if isinstance(dataset, Dataset) else open_data(experiment.data)
        self._meter = quality_meter(reference_of(experiment, images), experiment.measure, references, device)

    def begin(self, step: int) -> None:
        """Remove the grids that were drawn after `step`, which the training goes on from."""
        for path in (self.folder / FOLDER).glob("step-*.png"):
            name = NAME.fullmatch(path.name)
            if name is not None and int(name[1]) > step:
                path.unlink(missing_ok=True)

    def take(self, step: int, weights: Mapping[str, Tensor]) -> dict[str, Any] | None:
        """Draw with `weights`, measure, store the grid: the line of the training's log for `step`.

        None where that fails, which is said: a training does not end for want of its pictures.
        """
        started = time.monotonic()
        devices = [self.device] if self.device.type == "cuda" else []
        try:
            with torch.random.fork_rng(devices):
                images = first_images(self._generator(weights), self.experiment.sample.seeds[0], self.images)
                found = self._meter.measure(images)
            grid = f"{FOLDER}/step-{step:06d}.png"
            save_grid(images.numpy(), self.folder / grid, SHOWN_IMAGES)
        except Exception as error:  # whatever it is: out of memory, values that are not finite, a full disk
            said = (str(error).splitlines() or [""])[0]
            log.warning("samples at step %d: %s: %s; the training goes on", step, type(error).__name__, said)
            return None
        measures = self._meter.conditions(self.images)["measures"]
        distances = {
            f"{measure['label']} of {self.images} images": round(found[name].value, 6)
            for name, measure in measures.items()
        }
        return {"step": step, SAMPLES: grid, SECONDS: round(time.monotonic() - started, 3), **distances}

    def _generator(self, weights: Mapping[str, Tensor]) -> ImageGenerator:
        model = build_model(self.experiment, self.info).to(self.device)
        model.load_state_dict(weights)
        return ImageGenerator(self.experiment, model, self.info, self.device)
