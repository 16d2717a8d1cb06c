"""Drawing images from a trained network: what a configuration's `sample` section says, as one object.

Image i of a seed depends on the seed and i alone: not on the batch, the order, or the number of ranks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor, nn

from harness.config.schema import Experiment
from harness.config.stitching import stitched_experiment
from harness.data import DataInfo, known_info, open_data
from harness.data.latents import DECODER, Autoencoder, at_once, load_autoencoder
from harness.engine.build import (
    build_guidance,
    build_model,
    build_schedule,
    clips,
    label_count,
    sampled_model,
    sampler_options,
    steps_of,
    time_steps,
)
from harness.engine.compiling import CompiledNetworks, compiled_normal, cuda_graphs_skipped
from harness.engine.distributed import pick_device
from harness.engine.labels import class_sequence
from harness.errors import ConfigError, MissingDataError
from models.denoise import Denoise
from models.method import Model, RunNetwork, run_network
from models.noise import ImageNoise, normal
from models.noise_schedule import noise_schedule_of
from models.samplers import SAMPLERS
from models.stitch import Stitched


class ImageGenerator:
    """A network ready to draw images, on its device."""

    def __init__(
        self,
        experiment: Experiment,
        model: nn.Module,
        info: DataInfo,
        device: torch.device,
        second: nn.Module | None = None,
    ) -> None:
        """`info` is what networks know of the data; `second` is the network that ``sample.stitch`` names."""
        sample = experiment.sample
        self.experiment, self.device = experiment, device
        self.trained_model = _ready(model, device)
        self.second = None if second is None else Stitched(_ready(second, device))
        self.image_shape = (info.channels, info.size, info.size)
        """Of what the networks see: an image, or its latents."""
        latents = experiment.data.latents
        self.decoder: Autoencoder | None = None if latents is None else load_autoencoder(latents, device)
        self.classes = label_count(experiment.model, info)
        self.model = sampled_model(experiment, self.trained_model)
        self.steps = steps_of(sample, self.model, self.second)
        self.schedule = build_schedule(experiment.diffusion, info.size)
        self.times = time_steps(sample, self.schedule, noise_schedule_of(self.trained_model))
        self.refreshes = sample.refresh_schedule
        self._normal: Callable[..., Tensor] = normal
        self._run_network: RunNetwork = run_network
        self._replays = sample.compile and device.type == "cuda"
        if sample.compile:
            self._run_network = CompiledNetworks(cuda_graphs=self._replays)
            self._normal = compiled_normal()
        self._skipped = cuda_graphs_skipped() if self._replays else 0
        self._classes_drawn = torch.empty(0, dtype=torch.int64)
        self.only_class: int | None = None
        """The one class to draw; None for all of them in the proportions of the reference."""
        self.needs_data = True
        """Whether the classes must be the reference's; else they come equally often where it is not there."""
        self.networks_run: Counter[str] = Counter()
        """How often the last draw ran each network per image, counted as it happened."""

    @property
    def models(self) -> list[Model]:
        """The models that take turns at the steps, its own first."""
        return [self.model] if self.second is None else [self.model, self.second]

    @property
    def cuda_graphs(self) -> bool:
        """Whether every network run so far replayed a CUDA graph."""
        return self._replays and cuda_graphs_skipped() == self._skipped

    @torch.no_grad()
    def draw(
        self,
        seed: int,
        indices: Tensor,
        callback: Callable[[int, Tensor, Tensor], None] | None = None,
        watch: Callable[[RunNetwork], RunNetwork] = lambda run: run,
    ) -> Tensor:
        """Images `indices` (int64, (B,)) of `seed`: float32 (B, C, H, W) in [-1, 1].

        `callback` sees every step; `watch` is put around what runs the networks, to time them. Latents are decoded, in
        float32 and not compiled; to `watch` the decoder is one more network, called :data:`DECODER`.
        A class-conditional network draws the classes in the proportions of the reference that the images are measured
        against (:func:`harness.engine.labels.class_sequence`).
        """
        sample = self.experiment.sample
        classes = self.labels(indices)
        labels = None if classes is None else classes.to(self.device)
        indices = indices.to(self.device)
        denoise = Denoise(
            self.steps,
            self.schedule,
            self.times,
            self.refreshes,
            labels=labels,
            guidance=build_guidance(sample),
            clip=clips(self.experiment),
            run=watch(self._run_network),
        )
        noise = ImageNoise(seed, indices, self.image_shape, self.device, draw_normal=self._normal)
        sampler = SAMPLERS[sample.sampler]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=sample.precision == "bfloat16"):
            images = sampler(denoise, noise, self.times, self.schedule, callback=callback, **sampler_options(sample))
        self.networks_run = Counter(denoise.networks_run)
        if isinstance(self._run_network, CompiledNetworks) and not self._run_network.networks:
            raise ConfigError(
                "sample.compile", ["the method's step runs no network through `run`, so there is nothing to compile"]
            )
        return self._decoded(images.float(), watch(run_network)).clamp(-1, 1)

    def _decoded(self, drawn: Tensor, run: RunNetwork) -> Tensor:
        """Images of what a sampler has drawn."""
        if self.decoder is None:
            return drawn
        side = drawn.shape[-1] * self.decoder.facts.factor
        return torch.cat([run(DECODER, self.decoder.decode, part) for part in drawn.split(at_once(side))])

    def labels(self, indices: Tensor) -> Tensor | None:
        """Classes of images `indices`, int64 (B,) on the CPU; None for a network without labels."""
        if self.classes is None:
            return None
        if self.only_class is not None:
            return torch.full((len(indices),), self.only_class, dtype=torch.int64)
        needed = int(indices.max()) + 1
        if needed > len(self._classes_drawn):
            counts = self._class_counts(self.classes)
            self._classes_drawn = class_sequence(counts, max(needed, self.experiment.measure.images))
        return self._classes_drawn[indices.cpu()]

    def _class_counts(self, classes: int) -> Tensor:
        try:
            return class_counts(self.experiment, classes)
        except MissingDataError:
            if self.needs_data:
                raise
            return torch.ones(classes, dtype=torch.int64)


def _ready(model: nn.Module, device: torch.device) -> nn.Module:
    """`model` on the device, for evaluation alone."""
    # half as fast again on a CPU, for convolutions and transformers; bfloat16 convolutions on GPUs prefer it too
    moved: nn.Module = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return moved.eval().requires_grad_(False)


def class_counts(experiment: Experiment, classes: int) -> Tensor:
    """Images of each class in the reference, int64 (classes,)."""
    reference = open_data(experiment.data, experiment.measure.reference)
    return torch.bincount(reference.labels, minlength=classes)


def fresh_generator(experiment: Experiment, device: torch.device | None = None) -> ImageGenerator:
    """A generator with freshly initialised weights: for what does not depend on their values, cost and time.

    Where the data are not there it draws the classes in equal proportions, which cost as much.
    """
    info = known_info(experiment.data, labelled=experiment.model.class_conditional)
    torch.manual_seed(experiment.seed)
    other = stitched_experiment(experiment)
    second = None if other is None else build_model(other, info)
    generator = ImageGenerator(experiment, build_model(experiment, info), info, device or pick_device(), second)
    generator.needs_data = False
    return generator
