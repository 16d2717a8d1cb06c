"""Wall-clock time of sampling: one protocol for every arm.

Warm up at the very batch that is timed; then each of `repeats` runs lies between two marks: CUDA events on a
GPU, which is synchronised before and after, a monotonic clock on a CPU. Reported are the median and the
quartiles. The networks are timed inside the same runs by marks around each evaluation, which queue no work
and wait for none; what they leave of a run is the loop: sampler, noise, Python.
"""

from __future__ import annotations

import contextlib
import platform
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.measure.memory import peak_memory_bytes, peak_memory_of, reset_peak_memory
from harness.measure.quiet import watch_quiet, yardstick_of
from models.method import RunNetwork


class CpuClock:
    """A monotonic clock; work on a CPU is done when its call returns."""

    def mark(self) -> Any:
        """A moment."""
        return time.perf_counter()

    def seconds(self, start: Any, end: Any) -> float:
        """Seconds between two marks."""
        return float(end - start)

    def synchronize(self) -> None:
        """Nothing is ever outstanding."""


class CudaClock(CpuClock):
    """Events on the current stream of `device`: they measure the GPU's time without making the host wait."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def mark(self) -> Any:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    def seconds(self, start: Any, end: Any) -> float:
        return float(start.elapsed_time(end)) / 1000

    def synchronize(self) -> None:
        torch.cuda.synchronize(self.device)


def clock_of(device: torch.device) -> CpuClock:
    """The clock for work on `device`."""
    return CudaClock(device) if device.type == "cuda" else CpuClock()


Mark = tuple[str, Any, Any]
"""(network, start, end) of one evaluation."""


def marking(clock: CpuClock, marks: list[Mark]) -> Callable[[RunNetwork], RunNetwork]:
    """What to put around a :class:`RunNetwork`: every network that it runs then adds a mark."""

    def around(run: RunNetwork) -> RunNetwork:
        def marked(name: str, function: Callable[..., Any], *inputs: Any) -> Any:
            start = clock.mark()
            result = run(name, function, *inputs)
            marks.append((name, start, clock.mark()))
            return result

        return marked

    return around


Sample = Callable[[int, Callable[[RunNetwork], RunNetwork]], object]
"""``sample(batch, watch)`` draws `batch` images, `watch` being put around what runs the networks."""


@dataclass
class Timing:
    """Seconds of each repeat at one batch, and of each kind of evaluation summed over the repeats."""

    batch: int
    seconds: list[float] = field(default_factory=list)
    network_seconds: Counter[str] = field(default_factory=Counter)

    @property
    def median(self) -> float:
        """Seconds of a run."""
        return float(np.median(self.seconds))

    @property
    def quartiles(self) -> list[float]:
        """First and third quartile, seconds of a run."""
        return [float(q) for q in np.quantile(self.seconds, [0.25, 0.75])]

    @property
    def share(self) -> dict[str, float]:
        """Share of the time in each kind of evaluation and in the ``loop`` around them; they sum to 1."""
        total = sum(self.seconds)
        shares = {name: seconds / total for name, seconds in self.network_seconds.items()}
        return {**shares, "loop": 1 - sum(shares.values())}


def time_sampling(
    sample: Sample,
    batch: int,
    device: torch.device,
    *,
    warmup: int = 1,
    repeats: int = 5,
    clock: CpuClock | None = None,
    tick: Callable[[], None] = lambda: None,
) -> Timing:
    """Time `sample`, which draws `batch` images on `device`, by the protocol of this module."""
    clock = clock or clock_of(device)
    timing = Timing(batch)
    for _ in range(warmup):
        sample(batch, marking(clock, []))
        tick()
    for _ in range(repeats):
        marks: list[Mark] = []
        clock.synchronize()
        start = clock.mark()
        sample(batch, marking(clock, marks))
        end = clock.mark()
        clock.synchronize()
        timing.seconds.append(clock.seconds(start, end))
        for name, first, last in marks:
            timing.network_seconds[name] += clock.seconds(first, last)  # type: ignore[assignment]
        tick()
    return timing


def largest_batch(sample: Callable[[int], object], limit: int = 4096) -> int:
    """The largest power of two up to `limit` that ``sample`` draws without running out of GPU memory.

    Raises the out-of-memory error itself if not even one image fits.
    """
    fits = 0
    batch = 1
    while batch <= limit:
        try:
            sample(batch)
        except torch.OutOfMemoryError:
            if fits == 0:
                raise
            break
        finally:
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        fits, batch = batch, batch * 2
    return fits


def device_name(device: torch.device) -> str:
    """The hardware's own name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def measure_time(
    sample: Sample,
    batch: int,
    device: torch.device,
    *,
    warmup: int = 1,
    repeats: int = 5,
    dtype: str = "float32",
    compiled: bool = False,
    cuda_graphs: bool = False,
    tick: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """The record's ``time``: throughput at `batch`, latency at batch 1, and the conditions they hold for.

    ``sample(n, …)`` draws n images. `dtype`, `compiled` and `cuda_graphs` say how it does so. Peak memory is of the
    throughput runs: the GPU allocator's, on a CPU the whole process's. ``trusted`` says whether the machine was quiet
    meanwhile, ``reasons`` why not.
    """
    options: dict[str, Any] = {"warmup": warmup, "repeats": repeats, "tick": tick}
    with watch_quiet(yardstick_of(device, clock_of(device).synchronize)) as watch:
        single = time_sampling(sample, 1, device, **options)
        if not watch.is_quiet_so_far():  # not worth repeating
            repeats = 1
            options |= {"warmup": min(warmup, 1), "repeats": repeats}
        reset_peak_memory(device)
        full = single if batch == 1 else time_sampling(sample, batch, device, **options)
    return {
        **watch.record,
        "device": device_name(device),
        "dtype": dtype,
        "compiled": compiled,
        "cuda_graphs": cuda_graphs,
        "threads": torch.get_num_threads(),
        "batch": batch,
        "seconds_per_image": full.median / batch,
        "seconds_per_image_quartiles": [q / batch for q in full.quartiles],
        "images_per_second": batch / full.median,
        "warmup": warmup,
        "repeats": repeats,
        "latency_seconds": single.median,
        "latency_seconds_quartiles": single.quartiles,
        "share": full.share,
        "latency_share": single.share,
        "peak_memory_bytes": peak_memory_bytes(device),
        "peak_memory_of": peak_memory_of(device),
    }
