"""Whether a time was taken in quiet: told from the scheduler's own counts, here with real work beside ours."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from harness import threads
from harness.measure import quiet
from harness.measure.latency import measure_time
from harness.measure.quiet import Reading, watch_quiet, yardstick_of
from harness.threads import choose_wait_policy, processors

CPU = torch.device("cpu")
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="the scheduler's counts are Linux's")


@contextmanager
def busy_machine() -> Iterator[None]:
    """Twice as many busy processes as processors."""
    burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * processors())]
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()


def draw(batch: int, watch: object) -> None:
    matrix = torch.ones(300, 300)
    for _ in range(60):
        matrix = matrix @ matrix * 1e-3


@LINUX
def test_a_time_taken_beside_other_work_is_not_trusted_and_says_why() -> None:
    with busy_machine():
        record = measure_time(draw, 2, CPU, warmup=1, repeats=4)
    assert record["trusted"] is False
    assert any("waited for a processor" in reason or "other processes took" in reason for reason in record["reasons"])
    assert record["repeats"] == 1, "not worth the repeats"
    conditions = record["conditions"]
    assert conditions["processor_seconds"] > 0 and conditions["wall_seconds"] > 0
    assert conditions["others_share"] > quiet.MOST_OTHERS


def readings(wall: float, own: float, waiting: float, busy: float) -> list[Reading]:
    return [Reading(100.0, 10.0, 1.0, 50.0), Reading(100 + wall, 10 + own, 1 + waiting, 50 + busy)]


@pytest.mark.parametrize(
    ("wall", "own", "waiting", "busy", "said"),
    [
        (10.0, 10.0, 0.1, 10.2, ""),
        (10.0, 10.0, 0.9, 10.2, "waited for a processor in 8% of the time in which they had work"),
        (10.0, 12.0, 36.0, 12.2, "waited for a processor in 75% of the time in which they had work"),  # four threads
        (1.0, 64.0, 0.1, 64.1, "waited for a processor in less than 1% of the time in which they had work"),
        (10.0, 10.0, 0.1, 15.04, "other processes took 25% of the 2 processors"),
        (0.1, 0.1, 0.0, 0.14, ""),  # no more than the system's clock can tell
    ],
)
def test_what_makes_a_time_untrustworthy(
    wall: float, own: float, waiting: float, busy: float, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = iter(readings(wall, own, waiting, busy))
    monkeypatch.setattr(quiet, "read_scheduler", lambda: next(taken))
    monkeypatch.setattr(quiet, "processors", lambda: 2)
    with watch_quiet(lambda: 1.0) as watch:
        pass
    assert watch.record["trusted"] == (not said)
    assert said in " ".join(watch.reasons)


@pytest.mark.parametrize("threads", [1, 4, 64])
@pytest.mark.parametrize("waiting", [0.0, 0.1, 0.99, 1.0])
def test_the_share_of_waiting_is_one_threads_whatever_their_number(threads: int, waiting: float) -> None:
    """Each of them is ready for the whole time, and waits for the same share of it."""
    wall = 10.0
    before, after = readings(wall, threads * wall * (1 - waiting), threads * wall * waiting, 0.0)
    assert quiet.delayed_share(before, after) == pytest.approx(waiting)


def test_where_the_system_tells_nothing_only_the_yardstick_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quiet, "read_scheduler", lambda: Reading(1.0, 1.0, None, None))
    seconds = iter([1.0, 1.1, 1.0, 1.5])
    for said in ([], ["the same work took 1.50× as long after as before"]):
        with watch_quiet(lambda: next(seconds)) as watch:
            pass
        assert watch.reasons == said


def test_the_yardstick_takes_time() -> None:
    assert 0 < yardstick_of(CPU, lambda: None)() < 10


def test_threads_sleep_on_a_busy_machine_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([(0.0, 0.0), (1000.0, 0.0), (0.0, 0.0), (0.01, 0.01)])
    monkeypatch.setattr(threads, "busy_and_own_seconds", lambda: next(seconds))
    monkeypatch.setattr(threads, "_may_be_busy", lambda: True)
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setenv(threads.POLICY, "ACTIVE")
    assert choose_wait_policy() is None, "the user's choice stands"
    monkeypatch.delenv(threads.POLICY)
    said = choose_wait_policy()
    assert said is not None and "this machine is busy" in said
    assert threads.os.environ[threads.POLICY] == "PASSIVE"
    monkeypatch.delenv(threads.POLICY)
    assert choose_wait_policy() is None
    assert threads.POLICY not in threads.os.environ


@LINUX
def test_a_command_on_a_busy_machine_says_what_it_chose() -> None:
    code = "import os; from harness import threads; print(threads.choose_wait_policy(), os.environ.get(threads.POLICY))"
    environment = {name: value for name, value in threads.os.environ.items() if name != threads.POLICY}
    with busy_machine():
        said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert "threads sleep" in said.stdout and said.stdout.endswith("PASSIVE\n")
