"""What drawing an image costs: multiply-adds by network, and time by the common protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any

import torch

from harness.config.schema import LatencyConfig
from harness.data.latents import DECODER
from harness.engine.build import method_for
from harness.engine.distilling import training_macs
from harness.engine.estimate import teacher_macs
from harness.measure.flops import MacCount, count_macs, network_costs, observe_steps, parameter_counts, sampling_macs
from harness.measure.latency import largest_batch, measure_time
from models.method import RunNetwork
from models.stitch import STITCHED

if TYPE_CHECKING:
    from harness.data.latents import Autoencoder
    from harness.engine.sampling import ImageGenerator


def sampling_cost(generator: ImageGenerator, networks_run: Mapping[str, int]) -> dict[str, Any]:
    """The record's ``compute`` of a generator whose runs of each network per image were counted as they happened."""
    shape, classes = generator.image_shape, generator.classes or 0
    second = generator.second
    costs = {name: cost for one in generator.models for name, cost in network_costs(one, shape, classes).items()}
    decoder = {} if generator.decoder is None else {DECODER: decoding_cost(generator.decoder, shape)}
    decoder_macs = sum(cost.macs for cost in decoder.values())
    macs = sampling_macs(costs, networks_run) + decoder_macs
    experiment, method = generator.experiment, method_for(generator.experiment)
    model = generator.trained_model
    seen = observe_steps(model, shape, classes)
    training = training_macs(
        experiment,
        network_costs(model, shape, classes, training=True),
        seen.refresh,
        seen.between,
        teacher_macs(experiment),
        recomputed=True,
    )
    is_given = experiment.model.weights is not None  # what they have cost is not known
    return {
        "gmacs_per_image": macs / 1e9,
        "gflops_per_image": 2 * macs / 1e9,
        "macs_per_image": macs,
        **({"decoder_gmacs_per_image": decoder_macs / 1e9} if decoder else {}),
        "evaluations": dict(networks_run),
        "gmacs_per_evaluation": {name: count.gmacs for name, count in (costs | decoder).items()},
        "parameters": {
            **parameter_counts(generator.trained_model, method.network_parameters(generator.trained_model)),
            **({} if second is None else {STITCHED: sum(parameter.numel() for parameter in second.parameters())}),
        },
        "training_gmacs_per_step": None if is_given else training / 1e9,
        "training_steps": None if is_given else experiment.train.steps,
    }


def decoding_cost(decoder: Autoencoder, shape: Sequence[int]) -> MacCount:
    """Multiply-adds of decoding the latents, of `shape` (C, h, w), of one image."""
    return count_macs(decoder.decode, (torch.zeros(1, *shape, device=decoder.device),), model=decoder)


def measure_sampling(
    generator: ImageGenerator,
    settings: LatencyConfig,
    *,
    find_largest: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """The record's ``time`` of a generator: throughput at ``settings.batch`` (``sample.batch`` if unset).

    With `find_largest` on a GPU the throughput batch is the largest power of two that fits. `progress` is called
    with the number of runs done, between runs.
    """

    def sample(batch: int, watch: Callable[[RunNetwork], RunNetwork] = lambda run: run) -> object:
        return generator.draw(0, torch.arange(batch), watch=watch)

    sampling = generator.experiment.sample
    batch = settings.batch or sampling.batch
    if find_largest and generator.device.type == "cuda":
        batch = largest_batch(sample)
    runs = count(1)
    total = (settings.warmup + settings.repeats) * (1 if batch == 1 else 2)
    progress(0, total)
    timing = measure_time(
        sample,
        batch,
        generator.device,
        warmup=settings.warmup,
        repeats=settings.repeats,
        dtype=sampling.precision,
        compiled=sampling.compile,
        tick=lambda: progress(next(runs), total),
    )
    if next(runs) <= total:  # fewer runs than asked for were worth their time
        progress(total, total)
    return {**timing, **_of_decoder(timing), "cuda_graphs": generator.cuda_graphs}


def _of_decoder(timing: Mapping[str, Any]) -> dict[str, Any]:
    """The decoder's part of the times of :func:`measure_time`, by its share of all timed runs; nothing without one."""
    if DECODER not in timing["share"]:
        return {}
    return {
        "decoder_seconds_per_image": timing["share"][DECODER] * timing["seconds_per_image"],
        "decoder_latency_seconds": timing["latency_share"][DECODER] * timing["latency_seconds"],
    }
