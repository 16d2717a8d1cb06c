"""Bars: phases by name and count, an ETA that holds once it is shown, texts that are no markup."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator

import pytest
from rich.console import Console

from harness.dispatch import progress as progress_module
from harness.dispatch.progress import Reporter, SweepProgress, WorkClock, in_words
from harness.store.store import Target

TRAININGS = [Target("training", f"t{n}") for n in range(3)]
CELLS = [Target("cell", f"c{n}") for n in range(12)]
WORK = {target: 100.0 + 40.0 * n for n, target in enumerate(TRAININGS)} | {
    target: 4.0 * (1 + n % 4) for n, target in enumerate(CELLS)
}
RATES = {"training": 10.0, "cell": 0.25}
"""GMACs a second: a cell's small networks get through far fewer."""
TIMING = 0.5
"""Seconds of timing per GMAC of a cell."""


def seconds_of(target: Target) -> float:
    rest = 1.0 if target.kind == "training" else 6.0 + TIMING * WORK[target]
    return WORK[target] / RATES[target.kind] + rest


def order() -> Iterator[Target]:
    for n, training in enumerate(TRAININGS):
        yield training
        yield from CELLS[4 * n : 4 * n + 4]


def test_an_eta_is_shown_once_there_is_ground_for_it_and_then_holds() -> None:
    """Trainings are quick and cells slow per GMAC, with much besides: after the first cell the answer stays right."""
    clock, noise = WorkClock(WORK), random.Random(0)
    left, told = sum(map(seconds_of, WORK)), 0
    for number, target in enumerate(order()):
        clock.spend(target, 1.0 if target.kind == "training" else 2.0, "starting")
        for step in range(1, 11):
            clock.spend(target, WORK[target] / RATES[target.kind] / 10 * noise.uniform(0.8, 1.2))
            clock.advance(target, step / 10)
            if number < 2:
                assert clock.remaining_seconds() is None  # no cell has ended yet
        if target.kind == "cell":
            clock.spend(target, 300.0 if number == 1 else 0.0, "reference")  # once, for all cells
            clock.spend(target, 4.0, "features")
            clock.spend(target, TIMING * WORK[target], "timing")
        clock.finish(target, whole=True)
        left -= seconds_of(target)
        if number >= 1 and left > 0:
            eta = clock.remaining_seconds()
            assert eta is not None and eta == pytest.approx(left, rel=0.1)
            told += 1
    assert told == 13 and clock.remaining_seconds() == 0.0 and clock.done_fraction() == 1.0


def test_the_rest_of_a_cell_is_counted_and_its_bar_is_not_full() -> None:
    clock = WorkClock({CELLS[0]: 10.0, CELLS[1]: 10.0})
    for target in CELLS[:2]:
        clock.spend(target, 5.0)
        clock.advance(target, 1.0)
        if target == CELLS[0]:
            clock.spend(target, 20.0, "features")
            clock.finish(target, whole=True)
    assert clock.remaining_seconds() == pytest.approx(20.0) and clock.done_fraction() == pytest.approx(0.95)
    clock.spend(CELLS[1], 15.0, "features")
    assert clock.remaining_seconds() == pytest.approx(5.0)
    clock.spend(CELLS[1], 15.0, "features")
    assert clock.remaining_seconds() == 0.0


def test_a_training_alone_has_an_eta_after_two_seconds_and_what_was_resumed_takes_none() -> None:
    clock = WorkClock({TRAININGS[0]: 100.0})
    clock.resume(TRAININGS[0], 0.5)
    clock.spend(TRAININGS[0], 1.0)
    clock.advance(TRAININGS[0], 0.51)
    assert clock.remaining_seconds() is None
    clock.spend(TRAININGS[0], 1.0)
    clock.advance(TRAININGS[0], 0.52)
    assert clock.remaining_seconds() == pytest.approx(48.0)
    assert clock.main_seconds_left(TRAININGS[0]) == pytest.approx(48.0)


def test_workers_share_what_remains() -> None:
    clock = WorkClock(dict.fromkeys(CELLS[:5], 1.0), workers=2)
    clock.spend(CELLS[0], 10.0)
    clock.advance(CELLS[0], 1.0)
    clock.finish(CELLS[0], whole=True)
    assert clock.remaining_seconds() == pytest.approx(20.0)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("training", 120, 300), "120/300 steps"),
        (("cell", 5, 80), "5/80 images"),
        (("cell", 250, 800, "features"), "features 250/800 images"),
        (("cell", 3, 12, "timing"), "timing 3/12 runs"),
        (("cell", 0, 0, "counting"), "counting"),
        (("cell", 0, 0, "waiting, held by process 3 on n1"), "waiting, held by process 3 on n1"),
        (("training", 5, 9, "waiting, held by process 3 on n1"), "waiting, held by process 3 on n1, at 5/9 steps"),
    ],
)
def test_phases_in_words(arguments: tuple[str, int, int], expected: str) -> None:
    assert in_words(*arguments) == expected


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """A clock that stands still until it is set."""
    moment = [0.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: moment[0])
    yield moment


def shown(terminal: bool) -> tuple[io.StringIO, SweepProgress]:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=200, markup=False, highlight=False, emoji=False)
    return out, SweepProgress(console, {CELLS[0]: 1.0, CELLS[1]: 1.0}, {CELLS[0]: "r [old] [/b] :smile:"})


def test_a_terminal_shows_the_phase_and_texts_as_they_are() -> None:
    out, bars = shown(terminal=True)
    with bars.shown(), bars.working_on(CELLS[0]) as report:
        for arguments in ((0, 80), (80, 80), (40, 80, "features"), (0, 0, "waiting, held by process 3 on n1")):
            report(*arguments)
            bars.bars.refresh()
    text = out.getvalue()
    for expected in (
        "r [old] [/b] :smile:",
        "80/80 images",
        "features 40/80 images",
        "waiting, held by process 3 on n1",
    ):
        assert expected in text
    assert "ETA –" in text


def test_elsewhere_a_line_every_twenty_seconds_and_at_once_where_it_waits(now: list[float]) -> None:
    out, bars = shown(terminal=False)
    with bars.shown(), bars.working_on(CELLS[0]) as report:
        for second, arguments in enumerate([(0, 0, "waiting, held by process 3 on n1")] * 15):
            now[0] = float(second)
            report(*arguments)
        now[0] = 15.0
        report(0, 80)
        now[0] = 40.0
        report(20, 80)
        report(40, 80, "features")
    lines = out.getvalue().splitlines()
    assert lines == [
        "[0 %, ETA –] r [old] [/b] :smile:: waiting, held by process 3 on n1",
        "[11 %, ETA –] r [old] [/b] :smile:: 20/80 images, 1:15 left",
    ]


def test_a_reporter_gives_seconds_to_the_phase_that_took_them(now: list[float]) -> None:
    _, bars = shown(terminal=False)
    report: Reporter
    with bars.working_on(CELLS[0]) as report:
        for moment, arguments in ((3.0, (0, 4)), (8.0, (4, 4)), (9.0, (0, 4, "features")), (15.0, (0, 0, "timing"))):
            now[0] = moment
            report(*arguments)
        now[0] = 22.0
        report.spend()
    assert bars.clock.seconds[CELLS[0]] == {"starting": 3.0, "": 6.0, "features": 6.0, "timing": 7.0}


def test_an_eta_is_no_shorter_than_the_longest_chain() -> None:
    """Three trainings, each the start of the next, are made one after another whatever the number of workers."""
    chain = [Target("training", f"t{n}") for n in range(4)]
    needs = {chain[0]: (), chain[1]: (), chain[2]: (chain[1],), chain[3]: (chain[2],)}
    for workers, expected in ((1, 30.0), (2, 30.0), (8, 30.0)):
        clock = WorkClock(dict.fromkeys(chain, 100.0), workers, needs)
        clock.spend(chain[0], 10.0)
        clock.advance(chain[0], 1.0)
        clock.finish(chain[0], whole=True)
        assert clock.remaining_seconds() == pytest.approx(expected)
    clock = WorkClock(dict.fromkeys(chain, 100.0), 2, dict.fromkeys(chain, ()))
    clock.spend(chain[0], 10.0)
    clock.advance(chain[0], 1.0)
    clock.finish(chain[0], whole=True)
    assert clock.remaining_seconds() == pytest.approx(15.0)
