"""The protocol of timing, with a clock of our own: what is warmed up, what is inside, how the time is shared out."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.config.schema import LatencyConfig, parse_experiment
from harness.engine.costs import measure_sampling
from harness.measure import latency
from harness.measure.latency import CpuClock, Mark, Timing, largest_batch, marking, measure_time, time_sampling
from harness.measure.memory import peak_memory_bytes, reset_peak_memory
from harness.measure.quiet import Watch
from models.method import RunNetwork, run_network
from tests.measure import networks

CPU = torch.device("cpu")


class ManualClock(CpuClock):
    """Moves only when told."""

    def __init__(self) -> None:
        self.now = 0.0
        self.synchronized = 0

    def mark(self) -> float:
        return self.now

    def synchronize(self) -> None:
        self.synchronized += 1


class DualRate:
    """Encodes in 5 seconds, denoises in 1, by the manual clock."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock

    def work(self, seconds: float) -> None:
        self.clock.now += seconds

    def step(self, state: Any, run: RunNetwork) -> None:
        if state is None:
            run("encoder", self.work, 5)
        run("denoiser", self.work, 1)


def test_time_is_shared_between_encoder_denoiser_and_loop() -> None:
    clock = ManualClock()
    model = DualRate(clock)
    batches: list[int] = []

    def sample(batch: int, watch: Callable[[RunNetwork], RunNetwork]) -> None:
        batches.append(batch)
        clock.now += 2  # the sampler's own work
        for step in range(4):
            model.step(None if step % 2 == 0 else (), watch(run_network))

    timing = time_sampling(sample, 7, CPU, warmup=2, repeats=3, clock=clock)
    assert batches == [7] * 5
    assert timing.seconds == [16, 16, 16]
    assert timing.network_seconds == {"encoder": 30, "denoiser": 12}
    assert timing.share == {"encoder": 10 / 16, "denoiser": 4 / 16, "loop": pytest.approx(2 / 16)}
    assert clock.synchronized == 2 * 3  # before and after each run, never inside


def test_the_warm_up_is_not_in_the_times() -> None:
    clock = ManualClock()
    durations = iter([100.0, 100.0, 1.0, 2.0, 4.0])

    def sample(batch: int, watch: object) -> None:
        clock.now += next(durations)

    timing = time_sampling(sample, 1, CPU, warmup=2, repeats=3, clock=clock)
    assert timing.seconds == [1, 2, 4]
    assert timing.share == {"loop": 1.0}


def test_median_and_quartiles() -> None:
    timing = Timing(2, [5.0, 1.0, 2.0, 3.0, 40.0])
    assert (timing.median, timing.quartiles) == (3.0, [2.0, 5.0])


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (networks.single_rate(), {"network": 6}),
        (networks.dual_rate(), {"encoder": 2, "denoiser": 6}),
        (networks.cached(), {"network": 2, "shallow": 4}),
    ],
)
@torch.no_grad()
def test_every_method_is_marked_where_its_networks_run(model: Any, expected: dict[str, int]) -> None:
    before = dict(vars(model))
    marks: list[Mark] = []
    run = marking(CpuClock(), marks)(run_network)
    state = None
    for step in range(6):
        z, t = torch.full((2, 1, 8, 8), float(step)), torch.zeros(())
        refresh = None if step % 3 == 0 else state
        plain, _ = model.step(z, t, None, refresh)
        x, state = model.step(z, t, None, refresh, run)
        assert torch.equal(x, plain)
    assert {name: sum(mark[0] == name for mark in marks) for name in expected} == expected
    assert len(marks) == sum(expected.values())
    assert all(end >= start for _, start, end in marks)
    assert dict(vars(model)) == before


@pytest.mark.parametrize(("fits", "limit", "largest"), [(300, 4096, 256), (256, 4096, 256), (10**6, 64, 64), (1, 8, 1)])
def test_the_largest_batch_that_fits(fits: int, limit: int, largest: int) -> None:
    tried: list[int] = []

    def sample(batch: int) -> None:
        tried.append(batch)
        if batch > fits:
            raise torch.OutOfMemoryError("out of memory")

    assert largest_batch(sample, limit) == largest
    assert max(tried) <= min(limit, 2 * largest)


def test_not_even_one_image_fits() -> None:
    def sample(batch: int) -> None:
        raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        largest_batch(sample)


def test_an_error_that_is_not_of_memory_is_not_swallowed() -> None:
    def sample(batch: int) -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        largest_batch(sample)


def quiet(monkeypatch: pytest.MonkeyPatch, answer: bool) -> None:
    """Whatever else the machine that runs the tests is doing."""
    monkeypatch.setattr(Watch, "is_quiet_so_far", lambda watch: answer)


def test_on_a_busy_machine_the_repeats_are_not_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    quiet(monkeypatch, False)
    batches: list[int] = []
    record = measure_time(lambda batch, watch: batches.append(batch), 4, CPU, warmup=2, repeats=3)
    assert batches == [1] * 5 + [4] * 2
    assert record["repeats"] == 1


def test_the_time_of_a_record(monkeypatch: pytest.MonkeyPatch) -> None:
    quiet(monkeypatch, True)
    batches: list[int] = []
    record = measure_time(
        lambda batch, watch: batches.append(batch), 4, CPU, warmup=1, repeats=3, dtype="bfloat16", compiled=True
    )
    assert batches == [1] * 4 + [4] * 4
    assert (record["batch"], record["repeats"], record["warmup"]) == (4, 3, 1)
    assert (record["dtype"], record["compiled"], record["cuda_graphs"]) == ("bfloat16", True, False)
    assert record["threads"] == torch.get_num_threads()
    assert record["device"]
    assert record["peak_memory_bytes"] > 0 and record["peak_memory_of"] == "the whole process"
    low, high = record["seconds_per_image_quartiles"]
    assert low <= record["seconds_per_image"] <= high
    assert record["images_per_second"] == pytest.approx(1 / record["seconds_per_image"])


def test_the_peak_of_a_processs_memory_counts_from_its_reset() -> None:
    reset_peak_memory(CPU)
    before = peak_memory_bytes(CPU)
    held = torch.ones(50_000_000)
    peak = peak_memory_bytes(CPU)
    assert before is not None and peak is not None and peak >= before + held.nbytes // 2
    nbytes = held.nbytes
    del held
    reset_peak_memory(CPU)
    assert (peak_memory_bytes(CPU) or 0) <= peak - nbytes // 2


def test_a_throughput_batch_of_one_is_timed_once() -> None:
    batches: list[int] = []
    record = measure_time(lambda batch, watch: batches.append(batch), 1, CPU, warmup=0, repeats=2)
    assert batches == [1, 1]
    assert record["seconds_per_image"] == record["latency_seconds"]


@pytest.mark.parametrize(("batch", "expected"), [(None, 5), (3, 3)])
def test_a_generator_is_timed_at_the_batch_of_its_configuration(batch: int | None, expected: int) -> None:
    model = networks.dual_rate()

    @torch.no_grad()
    def draw(seed: int, indices: Tensor, watch: Callable[[RunNetwork], RunNetwork]) -> Tensor:
        drawn.append(len(indices))
        return model.step(torch.zeros(len(indices), 1, 8, 8), torch.zeros(()), None, None, watch(run_network))[0]

    drawn: list[int] = []
    experiment = parse_experiment({"sample": {"batch": 5}}, "test")
    generator: Any = SimpleNamespace(draw=draw, device=CPU, experiment=experiment, cuda_graphs=False)
    record = measure_sampling(generator, LatencyConfig(batch=batch, warmup=0, repeats=1))
    assert record["batch"] == expected
    assert drawn == [1, expected]
    assert set(record["share"]) == {"encoder", "denoiser", "loop"}
    assert sum(record["share"].values()) == pytest.approx(1)
    assert all(0 < share < 1 for share in record["share"].values())


def test_the_device_has_a_name() -> None:
    assert latency.device_name(CPU).strip()
    if sys.platform == "linux":
        assert latency.device_name(CPU) != "cpu"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_events_time_the_work_not_its_launch() -> None:
    device = torch.device("cuda")
    matrix = torch.randn(4096, 4096, device=device)

    def sample(batch: int, watch: object) -> None:
        for _ in range(50):
            matrix @ matrix

    timing = time_sampling(sample, 1, device, warmup=2, repeats=3)
    assert timing.median > 50 * 2 * 4096**3 / 2e15  # no GPU multiplies float32 faster than that
    record = measure_time(sample, 2, device, warmup=1, repeats=2)
    assert record["peak_memory_bytes"] > matrix.nbytes
