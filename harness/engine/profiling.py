"""Profile a few steps of a training: achieved FLOP/s against the device's peak, and a trace.

Nothing is trained or saved: the steps run from the start of the training and are thrown away.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from harness.config.schema import Experiment
from harness.data import batches
from harness.engine.distributed import Ranks, pick_device
from harness.engine.estimate import training_gmacs_per_step
from harness.engine.latents import training_data
from harness.engine.train import build_training, micro_batch_of, optimise
from harness.files import atomic_path
from harness.measure.latency import clock_of, device_name
from harness.measure.memory import peak_memory_bytes, peak_memory_of, reset_peak_memory
from harness.measure.peaks import reference_tflops

WARM_UP, TIMED, TRACED = 3, 10, 3
"""Steps of each part; with torch.compile the first of the warm-up compiles."""


@dataclass(frozen=True)
class StepTimes:
    """Seconds of each timed step, and how many of them were spent in the loader."""

    step: list[float]
    loader: list[float]


def profile_training(experiment: Experiment, trace: Path | None, timed: int = TIMED) -> dict[str, Any]:
    """Time `timed` steps, then write a chrome trace of :data:`TRACED` more to `trace` (if given); in this one process.

    FLOPs are the model's: three times the forward pass, two to a multiply-add, recomputed activations not counted.
    """
    device = pick_device()
    dataset = training_data(experiment)
    state, objective = build_training(experiment, dataset.info, device)
    stream = batches(
        dataset,
        experiment.train.batch,
        experiment.seed,
        workers=experiment.train.workers,
        pin_memory=device.type == "cuda",
    )
    micro_batch = micro_batch_of(experiment.train, Ranks())
    clock = clock_of(device)

    def run(steps: int) -> StepTimes:
        times = StepTimes([], [])
        for _ in range(steps):
            started = time.perf_counter()
            batch = next(stream)
            times.loader.append(time.perf_counter() - started)
            optimise(state, objective, experiment, batch, micro_batch, device)
            state.step += 1
            clock.synchronize()
            times.step.append(time.perf_counter() - started)
        return times

    run(WARM_UP)
    reset_peak_memory(device)
    times = run(timed)
    memory = peak_memory_bytes(device)
    if trace is not None:
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
        with profile(activities=activities) as profiler:
            run(TRACED)
        with atomic_path(trace) as temporary:
            profiler.export_chrome_trace(str(temporary))
    return _summary(experiment, times, device, memory, trace)


def _summary(
    experiment: Experiment, times: StepTimes, device: torch.device, memory: int | None, trace: Path | None
) -> dict[str, Any]:
    train, seconds = experiment.train, median(times.step)
    gmacs = training_gmacs_per_step(experiment)
    achieved = 2 * gmacs * 1e9 / seconds / 1e12
    reference, what = reference_tflops(device, device_name(device), train.precision)
    return {
        "device": device_name(device),
        "precision": train.precision,
        "compiled": train.compile,
        "threads": torch.get_num_threads(),
        "batch": train.batch,
        "steps": len(times.step),
        "seconds_per_step": seconds,
        "images_per_second": train.batch / seconds,
        "loader_share": sum(itertools.chain(times.loader)) / sum(times.step),
        "gmacs_per_step": gmacs,
        "tflops_achieved": achieved,
        "tflops_reference": reference,
        "reference": what,
        "share_of_reference": None if reference is None else achieved / reference,
        "peak_memory_bytes": memory,
        "peak_memory_of": peak_memory_of(device),
        "trace": None if trace is None else str(trace),
    }


def conditions_of(summary: Mapping[str, Any]) -> str:
    """What the times of a summary were taken with, in a line."""
    keys = ("device", "precision", "compiled", "threads", "batch", "steps", "peak_memory_of")
    return ", ".join(f"{key.replace('_', ' ')}: {summary[key]}" for key in keys)


def memory_in_words(summary: Mapping[str, Any]) -> str:
    """Its peak memory; a dash where the system does not tell."""
    memory = summary["peak_memory_bytes"]
    return "–" if memory is None else f"{memory / 2**30:.2f} GiB"


def describe_profile(summary: dict[str, Any]) -> list[str]:
    """The summary as lines for people."""
    share = summary["share_of_reference"]
    against = summary["reference"] if share is None else f"{share:.1%} of {summary['reference']}"
    if share is not None:
        against += f" ({summary['tflops_reference']:.4g} TFLOP/s)"
    memory = summary["peak_memory_bytes"]
    lines = [
        f"device: {summary['device']}, {summary['precision']}, {'' if summary['compiled'] else 'not '}compiled",
        f"step: {summary['seconds_per_step']:.4g} s (median of {summary['steps']}), "
        f"{summary['images_per_second']:,.1f} images/s at batch {summary['batch']}, "
        f"{summary['loader_share']:.1%} of the time in the loader",
        f"achieved: {summary['tflops_achieved']:.4g} TFLOP/s, {against}",
    ]
    if memory is not None:
        lines.append(f"peak memory: {memory / 2**30:.2f} GiB ({summary['peak_memory_of']})")
    if summary["trace"] is not None:
        lines.append(f"trace: {summary['trace']} (open it in chrome://tracing or ui.perfetto.dev)")
    return lines
