"""What a training or cell will cost, before it runs: evaluations from a dry run of the very sampler, MACs of networks
without weights.

What is published is counted by fvcore, which runs a network once. Planning counts large networks on the meta device, by
FlopCounterMode, in seconds and in no memory; tests hold the two against each other on every architecture of a sweep.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor

from harness.config.distilling import teacher_experiment
from harness.config.methods import source_of
from harness.config.scheduling import with_counts
from harness.config.schema import DiffusionConfig, Experiment, ModelConfig, SampleConfig
from harness.config.stitching import stitched_experiment
from harness.data import DataInfo, counted_images, known_info
from harness.data.autoencoder import autoencoder_facts
from harness.engine.build import (
    build_guidance,
    build_model,
    build_schedule,
    label_count,
    method_for,
    sampled_model,
    sampler_options,
    steps_of,
    time_steps,
)
from harness.engine.distilling import training_macs
from harness.engine.pair_tables import evaluations as pair_evaluations
from harness.engine.tables import evaluations
from harness.errors import ConfigError, HarnessError
from harness.measure.flops import (
    MacCount,
    flop_counter_count,
    network_calls,
    network_costs,
    observe_steps,
    sampling_macs,
)
from harness.plugins import failure
from models.denoise import Denoise
from models.method import RunNetwork, run_network
from models.noise import ImageNoise
from models.samplers import SAMPLERS
from models.stitch import stitched_names

GIGA = 1e9
LARGE_PARAMETERS = 20e6
ANY_CLASS = 1


class _Counting:
    """Stands in for a method: answers zeros, so that a sampler's evaluations can be counted without a network."""

    classes: int | None = ANY_CLASS

    def __init__(self, refresh: tuple[str, ...], between: tuple[str, ...]) -> None:
        self.refresh, self.between = refresh, between
        self.networks = tuple(dict.fromkeys((*refresh, *between)))

    def step(
        self,
        z: Tensor,
        log_snr: Tensor,
        labels: Tensor | None = None,
        state: object = None,
        run: RunNetwork = run_network,
    ) -> tuple[Tensor, tuple[()]]:
        for name in self.refresh if state is None else self.between:
            run(name, torch.zeros_like, z)
        return torch.zeros_like(z), ()


@dataclass(frozen=True)
class _Costed:
    """What multiply-adds depend on, taken from `experiment`."""

    info: DataInfo
    model: ModelConfig
    diffusion: DiffusionConfig
    own_keys: tuple[tuple[str, Any], ...]
    """The keys of the sections `train` and `sample` that only its method has."""
    training: bool
    experiment: Experiment = field(compare=False)

    @classmethod
    def of(cls, experiment: Experiment, info: DataInfo, *, training: bool) -> _Costed:
        method = method_for(experiment)
        own = [("train", name) for name in method.train_settings.model_fields]
        own += [] if training else [("sample", name) for name in method.sample_settings.model_fields]
        values = tuple((f"{section}.{name}", getattr(getattr(experiment, section), name)) for section, name in own)
        return cls(info, experiment.model, experiment.diffusion, values, training, experiment)

    def build(self) -> Any:
        """The networks, freshly initialised; in sampling with what the method puts around them."""
        model = build_model(self.experiment, self.info)
        return model if self.training else sampled_model(self.experiment, model)

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.info.channels, self.info.size, self.info.size

    @property
    def classes(self) -> int:
        return label_count(self.model, self.info) or 0


@dataclass(frozen=True)
class _NetworkCosts:
    """Multiply-adds of one evaluation of each network for one image, and the networks that steps run."""

    networks: dict[str, MacCount]
    refresh: tuple[str, ...]
    between: tuple[str, ...]

    @property
    def whole(self) -> int:
        """Multiply-adds of a step that refreshes."""
        return sampling_macs(self.networks, Counter(self.refresh))


@cache
def _counted(costed: _Costed) -> _NetworkCosts:
    """By fvcore, on networks that are built and run: here a person's own networks run for the first time."""
    try:
        model = costed.build()
        seen = observe_steps(model, costed.shape, costed.classes)
        networks = network_costs(model, costed.shape, costed.classes, training=costed.training)
    except Exception as error:
        kind = costed.model.kind
        if isinstance(error, HarnessError) or source_of(kind) is None:
            raise
        raise ConfigError("model.kind", [f"{kind!r} cannot be built and run: {failure(error)}"]) from error
    return _NetworkCosts(networks, seen.refresh, seen.between)


def _counted_without_weights(costed: _Costed, least_parameters: float) -> _NetworkCosts | None:
    """By FlopCounterMode, in no memory; None for networks of fewer parameters, or that do not run without memory."""
    try:
        with torch.device("meta"):
            model = costed.build()
            if sum(parameter.numel() for parameter in model.parameters()) < least_parameters:
                return None
            seen = observe_steps(model, costed.shape, costed.classes)
            calls = network_calls(model, costed.shape, costed.classes, training=costed.training)
            networks = {
                name: flop_counter_count(function, inputs, model=model) for name, (function, inputs) in calls.items()
            }
    except (NotImplementedError, RuntimeError):  # an operator that needs values: then they are counted with them
        return None
    return _NetworkCosts(networks, seen.refresh, seen.between)


@cache
def _planned(costed: _Costed) -> _NetworkCosts:
    return _counted_without_weights(costed, LARGE_PARAMETERS) or _counted(costed)


def image_info(experiment: Experiment) -> DataInfo:
    """What its networks must know of the data, from the configuration where the data are not there."""
    return known_info(experiment.data, labelled=experiment.model.class_conditional)


def network_costs_of(experiment: Experiment, *, training: bool = False) -> dict[str, MacCount]:
    """Multiply-adds of one evaluation of each network, for one image; in sampling also of one it is stitched to."""
    info, second = image_info(experiment), None if training else stitched_experiment(experiment)
    costs = dict(_counted(_Costed.of(experiment, info, training=training)).networks)
    return costs if second is None else costs | _renamed(_counted(_Costed.of(second, info, training=False))).networks


def teacher_macs(experiment: Experiment) -> int:
    """Multiply-adds of an evaluation of the network that teaches in `experiment`'s training; 0 without one."""
    teacher = teacher_experiment(experiment)
    return 0 if teacher is None else _counted(_Costed.of(teacher, image_info(teacher), training=True)).whole


def planned_costs(experiment: Experiment, info: DataInfo, *, training: bool = False) -> dict[str, MacCount]:
    """Multiply-adds of one evaluation of each network for one image of `info`, without allocating a weight."""
    costed = _Costed.of(experiment, info, training=training)
    return (_counted_without_weights(costed, 0) or _counted(costed)).networks


def _planned_costs_of(experiment: Experiment, *, training: bool = False) -> _NetworkCosts:
    return _planned(_Costed.of(experiment, image_info(experiment), training=training))


def _renamed(second: _NetworkCosts) -> _NetworkCosts:
    """As a sampler tells of a network that another is stitched to."""
    names = stitched_names(tuple(second.networks))
    return _NetworkCosts(
        {names[name]: cost for name, cost in second.networks.items()},
        tuple(names[name] for name in second.refresh),
        tuple(names[name] for name in second.between),
    )


def _second_costs_of(experiment: Experiment) -> _NetworkCosts | None:
    """Of the network that ``sample.stitch`` names."""
    second = stitched_experiment(experiment)
    return None if second is None else _renamed(_planned_costs_of(second))


def expected_runs(experiment: Experiment) -> dict[str, int]:
    """Evaluations of each network per image. Raises :class:`ConfigError` where a budget still has to be spent."""
    if experiment.sample.budget is not None:
        raise ConfigError(
            "sample.budget",
            [
                f"{experiment.sample.budget:g} GMACs are spent once the network is measured: harness schedule finds "
                "the steps and refreshes, which sample.times and sample.refresh_steps then say"
            ],
        )
    costs, second = _planned_costs_of(experiment), _second_costs_of(experiment)
    size = image_info(experiment).size if experiment.diffusion.base_resolution else 1
    steps = (costs.refresh, costs.between), None if second is None else (second.refresh, second.between)
    return dict(_evaluations(experiment.sample, experiment.diffusion, *steps, size))


StepNetworks = tuple[tuple[str, ...], tuple[str, ...]]
"""The networks that a step runs which refreshes, and those of one between."""


@cache
def _evaluations(
    sample: SampleConfig, diffusion: DiffusionConfig, own: StepNetworks, second: StepNetworks | None, size: int
) -> tuple[tuple[str, int], ...]:
    schedule = build_schedule(diffusion, size)
    times = time_steps(sample, schedule)
    one = torch.zeros(1, dtype=torch.int64)
    denoise = Denoise(
        steps_of(sample, _Counting(*own), None if second is None else _Counting(*second)),
        schedule,
        times,
        sample.refresh_schedule,
        labels=one,
        guidance=build_guidance(sample),
    )
    noise = ImageNoise(0, one, (1, 1, 1), torch.device("cpu"))
    SAMPLERS[sample.sampler](denoise, noise, times, schedule, **sampler_options(sample))
    return tuple(sorted(denoise.networks_run.items()))


def gmacs_per_image(experiment: Experiment) -> float:
    """GMACs to draw one image, decoding it included; of a budget that still has to be spent all of it."""
    if experiment.sample.budget is not None:
        return float(experiment.sample.budget)
    networks, second = _planned_costs_of(experiment).networks, _second_costs_of(experiment)
    networks = networks if second is None else networks | second.networks
    return (sampling_macs(networks, expected_runs(experiment)) + decoder_macs(experiment)) / GIGA


def decoder_macs(experiment: Experiment) -> int:
    """Multiply-adds of making an image of its latents; 0 where the networks see images."""
    if experiment.data.latents is None:
        return 0
    info = image_info(experiment)
    digest = autoencoder_facts(experiment.data.latents).digest
    return _decoder_macs(experiment.data.latents, digest, (info.channels, info.size, info.size))


@cache
def _decoder_macs(path: str, digest: str, shape: tuple[int, int, int]) -> int:
    from harness.data.latents import shapeless_autoencoder

    decoder = shapeless_autoencoder(path)
    return flop_counter_count(decoder.decode, (torch.zeros(1, *shape, device="meta"),), model=decoder).macs


def encoding_gmacs(experiment: Experiment) -> float:
    """GMACs of encoding all training images once; 0 where the networks see images, or there are none to count."""
    data = experiment.data
    if data.latents is None:
        return 0.0
    images = counted_images(data)
    shape = images.channels, images.size, images.size
    return images.images * _encoder_macs(data.latents, autoencoder_facts(data.latents).digest, shape) / GIGA


@cache
def _encoder_macs(path: str, digest: str, shape: tuple[int, int, int]) -> int:
    from harness.data.latents import shapeless_autoencoder

    encoder = shapeless_autoencoder(path)
    count = flop_counter_count(
        lambda images: encoder.encode(images).mean, (torch.zeros(1, *shape, device="meta"),), model=encoder
    )
    return count.macs


def schedule_macs(experiment: Experiment) -> Callable[[int, int], int]:
    """(steps, refreshes) to multiply-adds of an image, wherever they are: a sum of so much for each of either."""
    networks, decoding = _planned_costs_of(experiment).networks, decoder_macs(experiment)

    def counted(steps: int, refreshes: int) -> int:
        return sampling_macs(networks, expected_runs(with_counts(experiment, steps, refreshes))) + decoding

    of_step = counted(3, 1) - counted(2, 1)
    of_refresh = counted(3, 2) - counted(3, 1)
    fixed = counted(2, 1) - 2 * of_step - of_refresh
    return lambda steps, refreshes: fixed + steps * of_step + refreshes * of_refresh


def cell_gmacs(experiment: Experiment) -> float:
    """GMACs of a whole cell: its images and the timed repeats."""
    sample, latency = experiment.sample, experiment.measure.latency
    timed = (latency.batch or sample.batch) + 1
    images = experiment.measure.images * len(sample.seeds) + timed * (latency.warmup + latency.repeats)
    return images * gmacs_per_image(experiment)


def training_gmacs_per_step(experiment: Experiment, *, recomputed: bool = False) -> float:
    """GMACs of one training step over the global batch; with `recomputed` what activation checkpointing adds too.

    Of a distillation whose iterations take turns, the mean.
    """
    seen = _planned_costs_of(experiment, training=True)
    teacher = teacher_experiment(experiment)
    taught = 0 if teacher is None else _planned_costs_of(teacher, training=True).whole
    return training_macs(experiment, seen.networks, seen.refresh, seen.between, taught, recomputed=recomputed) / GIGA


def training_gmacs(experiment: Experiment) -> float:
    """GMACs of a whole training: forward and backward of every network at every step; 0 for weights that are given."""
    if experiment.model.weights is not None:
        return 0.0  # nothing is trained here
    return experiment.train.steps * training_gmacs_per_step(experiment, recomputed=True)


def table_gmacs(experiment: Experiment) -> float:
    """GMACs of measuring a table of the network of `experiment`, which it runs as at a refresh."""
    costs, images = _planned_costs_of(experiment, training=True), image_info(experiment).images
    return evaluations(images) * costs.whole / GIGA


def pair_table_gmacs(experiment: Experiment) -> float:
    """GMACs of measuring the errors on pairs of times of the network that `experiment` samples."""
    costs = _planned_costs_of(experiment)
    refreshing, between = pair_evaluations(image_info(experiment).images)
    return (refreshing * costs.whole + between * sampling_macs(costs.networks, Counter(costs.between))) / GIGA
