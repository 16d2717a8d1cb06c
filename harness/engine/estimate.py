"""What a training or cell will cost, before it runs: evaluations from a dry run of the very sampler, MACs of networks
without weights.

What is published is counted by fvcore, which runs a network once. Planning counts large networks on the meta device, by
FlopCounterMode, in seconds and in no memory; tests hold the two against each other on every architecture of a sweep.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from harness.config.schema import DiffusionConfig, Experiment, ModelConfig, SampleConfig, TrainConfig
from harness.data import DataInfo, known_info
from harness.engine.build import (
    ImageInfo,
    build_guidance,
    build_model,
    build_schedule,
    build_stepper,
    label_count,
    refresh_mask,
    sampler_options,
    time_steps,
)
from harness.measure.flops import (
    MacCount,
    flop_counter_macs,
    network_costs,
    network_evaluations,
    sampling_macs,
    training_macs_per_step,
)
from models.denoise import Denoise
from models.method import RunNetwork, run_network
from models.noise import ImageNoise
from models.samplers import SAMPLERS

GIGA = 1e9
LARGE_PARAMETERS = 20e6
ANY_CLASS = 1


class _Counting:
    """Stands in for a method: answers zeros, so that a sampler's evaluations can be counted without a network."""

    classes: int | None = ANY_CLASS

    def __init__(self, networks: tuple[str, ...], cached: bool) -> None:
        self.networks, self.cached = networks, cached

    def step(
        self,
        z: Tensor,
        log_snr: Tensor,
        labels: Tensor | None = None,
        state: object = None,
        run: RunNetwork = run_network,
    ) -> tuple[Tensor, tuple[()]]:
        for name in self._networks_run(state is None):
            run(name, torch.zeros_like, z)
        return torch.zeros_like(z), ()

    def _networks_run(self, refresh: bool) -> tuple[str, ...]:
        if len(self.networks) == 1:
            return self.networks
        if refresh:
            return self.networks[:1] if self.cached else self.networks
        return self.networks[1:]


def networks_of(experiment: Experiment) -> tuple[str, ...]:
    """The kinds of evaluation that sampling makes: what runs at a refresh first, what runs at every step last."""
    if experiment.model.kind == "dual_rate":
        return ("encoder", "denoiser")
    return ("network",) if experiment.sample.cache_from_level is None else ("network", "shallow")


def expected_evaluations(experiment: Experiment) -> dict[str, int]:
    """Evaluations of each network per image."""
    size = image_info(experiment).size if experiment.diffusion.base_resolution else 1
    return dict(_evaluations(experiment.sample, experiment.diffusion, networks_of(experiment), size))


@cache
def _evaluations(
    sample: SampleConfig, diffusion: DiffusionConfig, networks: tuple[str, ...], size: int
) -> tuple[tuple[str, int], ...]:
    schedule = build_schedule(diffusion, size)
    times = time_steps(sample, schedule)
    one = torch.zeros(1, dtype=torch.int64)
    denoise = Denoise(
        _Counting(networks, sample.cache_from_level is not None),
        schedule,
        times,
        refresh_mask(sample),
        labels=one,
        guidance=build_guidance(sample),
    )
    noise = ImageNoise(0, one, (1, 1, 1), torch.device("cpu"))
    SAMPLERS[sample.sampler](denoise, noise, times, schedule, **sampler_options(sample))
    return tuple(sorted(denoise.evaluations.items()))


def image_info(experiment: Experiment) -> DataInfo:
    """What its networks must know of the data, from the configuration where the data are not there."""
    return known_info(experiment.data, labelled=experiment.model.class_conditional)


@cache
def _network_costs(
    info: DataInfo, model: ModelConfig, diffusion: DiffusionConfig, cache_from_level: int | None, training: bool
) -> dict[str, MacCount]:
    experiment = Experiment.model_construct(model=model, diffusion=diffusion, train=TrainConfig())
    stepper = build_stepper(build_model(experiment, info), cache_from_level)
    shape = (info.channels, info.size, info.size)
    return network_costs(stepper, shape, label_count(model, info) or 0, training=training)


def network_costs_of(experiment: Experiment, *, training: bool = False) -> dict[str, MacCount]:
    """Multiply-adds of one evaluation of each network, for one image."""
    cache = None if training else experiment.sample.cache_from_level
    return _network_costs(image_info(experiment), experiment.model, experiment.diffusion, cache, training)


@cache
def _planned_costs(
    info: DataInfo, model: ModelConfig, diffusion: DiffusionConfig, cache_from_level: int | None, training: bool
) -> dict[str, MacCount]:
    if not _is_large(model):
        return _network_costs(info, model, diffusion, cache_from_level, training)
    experiment = Experiment.model_construct(model=model, diffusion=diffusion, train=TrainConfig())
    return planned_costs(experiment, info, cache_from_level, training=training)


def _is_large(model: ModelConfig) -> bool:
    """Whether running the network once would take noticeable time and memory, roughly."""
    widths = (model.width * multiplier for multiplier in model.multipliers)
    return sum(18 * width**2 * blocks for width, blocks in zip(widths, model.blocks, strict=False)) > LARGE_PARAMETERS


def planned_costs(
    experiment: Experiment, info: ImageInfo, cache_from_level: int | None = None, *, training: bool = False
) -> dict[str, MacCount]:
    """Multiply-adds of one evaluation of each network for one image of `info`, without allocating a weight."""
    classes = label_count(experiment.model, info) or 0
    with torch.device("meta"):
        network = build_model(experiment, info)
        stepper = build_stepper(network, cache_from_level)
        shape = (info.channels, info.size, info.size)
        calls = network_evaluations(stepper, shape, classes, training=training)
        return {
            name: MacCount(flop_counter_macs(function, inputs, model=network), {}, {})
            for name, (function, inputs) in calls.items()
        }


def _planned_costs_of(experiment: Experiment, *, training: bool = False) -> dict[str, MacCount]:
    cache = None if training else experiment.sample.cache_from_level
    return _planned_costs(image_info(experiment), experiment.model, experiment.diffusion, cache, training)


def gmacs_per_image(experiment: Experiment) -> float:
    """GMACs to draw one image."""
    return sampling_macs(_planned_costs_of(experiment), expected_evaluations(experiment)) / GIGA


def cell_gmacs(experiment: Experiment) -> float:
    """GMACs of a whole cell: its images and the timed repeats."""
    sample, latency = experiment.sample, experiment.measure.latency
    timed = (latency.batch or sample.batch) + 1
    images = experiment.measure.images * len(sample.seeds) + timed * (latency.warmup + latency.repeats)
    return images * gmacs_per_image(experiment)


def training_gmacs_per_step(experiment: Experiment, *, recomputed: bool = False) -> float:
    """GMACs of one training step over the global batch; with `recomputed` what activation checkpointing adds too."""
    train = experiment.train
    per_step = training_macs_per_step(
        _planned_costs_of(experiment, training=True),
        train.batch,
        denoiser_times=train.denoiser_times or 1,
        recomputed=recomputed and train.checkpoint_activations,
    )
    return per_step / GIGA


def training_gmacs(experiment: Experiment) -> float:
    """GMACs of a whole training: forward and backward of every network at every step."""
    return experiment.train.steps * training_gmacs_per_step(experiment, recomputed=True)
