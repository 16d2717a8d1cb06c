"""What a training or cell will cost, before it runs: evaluations from a dry run of the very sampler, MACs from fvcore."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache

import torch
from torch import Tensor

from harness.build import build_schedule, refresh_mask, time_steps
from harness.config import DataConfig, DiffusionConfig, Experiment, ModelConfig, SampleConfig
from harness.sampling import SAMPLER_OPTIONS
from models.denoise import Denoise
from models.noise import ImageNoise
from models.samplers import SAMPLERS

GIGA = 1e9
BACKWARD = 2
"""A backward pass is counted as two forward passes, the usual convention."""


class _Counting(torch.nn.Module):
    """Stands in for a network: answers zeros, so that a sampler's evaluations can be counted without one."""

    def __init__(self, evaluations: tuple[str, ...]) -> None:
        super().__init__()
        self.evaluations = evaluations

    def step(self, z: Tensor, log_snr: Tensor, labels: Tensor | None, state: object) -> tuple[Tensor, object]:
        return torch.zeros_like(z), state if state is not None else ()


def networks_of(experiment: Experiment) -> tuple[str, ...]:
    """The kinds of evaluation that sampling makes: what runs at a refresh first, what runs at every step last."""
    if experiment.model.kind == "dual_rate":
        return ("encoder", "denoiser")
    return ("network",) if experiment.sample.cache_from_level is None else ("network", "shallow")


def expected_evaluations(experiment: Experiment) -> dict[str, int]:
    """Evaluations of each network per image."""
    size = 8  # of no matter but to the schedule's shift
    return dict(_evaluations(experiment.sample, experiment.diffusion, networks_of(experiment), size))


@lru_cache(maxsize=None)
def _evaluations(
    sample: SampleConfig, diffusion: DiffusionConfig, networks: tuple[str, ...], size: int
) -> tuple[tuple[str, int], ...]:
    experiment = Experiment.model_construct(sample=sample, diffusion=diffusion)
    schedule = build_schedule(experiment, size)
    times = time_steps(experiment, schedule)
    labels = torch.zeros(1, dtype=torch.int64)
    denoise = Denoise(
        _Counting(networks),
        schedule,
        times,
        refresh_mask(sample),
        labels=labels if sample.guidance is not None else None,
        guidance=sample.guidance,
        guidance_interval=sample.guidance_interval,
    )
    noise = ImageNoise(0, torch.zeros(1, dtype=torch.int64), (1, 1, 1), torch.device("cpu"))
    options = {k: v for k in SAMPLER_OPTIONS[sample.sampler] if (v := getattr(sample, k)) is not None}
    SAMPLERS[sample.sampler](denoise, noise, times, schedule, callback=None, **options)
    return tuple(sorted(Counter(denoise.evaluations).items()))


@lru_cache(maxsize=None)
def _network_gmacs(
    data: DataConfig, model: ModelConfig, diffusion: DiffusionConfig, cache_from_level: int | None
) -> tuple[tuple[str, float], ...]:
    from harness.build import build_model
    from harness.data import open_data
    from harness.measure.flops import network_costs
    from models.cache import CachedSingleRate

    experiment = Experiment.model_construct(data=data, model=model, diffusion=diffusion)
    info = open_data(data).info
    network = build_model(experiment, info).eval()
    stepper = network if cache_from_level is None else CachedSingleRate(network, cache_from_level)
    costs = network_costs(stepper, (info.channels, info.size, info.size))
    return tuple((name, cost.macs / GIGA) for name, cost in costs.items())


def gmacs_per_evaluation(experiment: Experiment) -> dict[str, float]:
    """GMACs of one evaluation of each network, for one image."""
    return dict(
        _network_gmacs(experiment.data, experiment.model, experiment.diffusion, experiment.sample.cache_from_level)
    )


def gmacs_per_image(experiment: Experiment) -> float:
    """GMACs to draw one image."""
    costs = gmacs_per_evaluation(experiment)
    return sum(costs[name] * count for name, count in expected_evaluations(experiment).items())


def cell_gmacs(experiment: Experiment) -> float:
    """GMACs of a whole cell: its images and the timed repeats."""
    sample, latency = experiment.sample, experiment.measure.latency
    timed = (latency.batch or sample.batch) + 1
    images = experiment.measure.images * len(sample.seeds) + timed * (latency.warmup + latency.repeats)
    return images * gmacs_per_image(experiment)


def training_gmacs(experiment: Experiment) -> float:
    """GMACs of a whole training: forward and backward of every network at every step."""
    single = experiment.model_copy(
        update={"sample": experiment.sample.model_copy(update={"cache_from_level": None})}
    )
    costs = gmacs_per_evaluation(single)
    times = experiment.train.denoiser_times or 1
    per_image = sum(cost * (times if name == "denoiser" else 1) for name, cost in costs.items())
    return experiment.train.steps * experiment.train.batch * (1 + BACKWARD) * per_image
