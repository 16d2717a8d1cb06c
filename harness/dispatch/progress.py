"""Progress of jobs: phases with their counts, and an ETA that is shown once there is ground for it."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import Console

from harness.dispatch.graph import Needs, in_order
from harness.engine.progress import ENCODING, MAIN, WAITING
from harness.store.kinds import FACTS, Kind
from harness.store.store import Target
from harness.wording import plural

if TYPE_CHECKING:
    from rich.progress import ProgressColumn, TaskID

PLAIN_SECONDS = 20.0
GROUND_SECONDS = 2.0
"""A rate that was observed for a shorter time is none."""
MAIN_UNITS: dict[str, str] = {kind: plural(facts.unit) for kind, facts in FACTS.items()}
UNITS = {
    ENCODING: "images",
    "reconstruction": "images",
    "features": "images",
    "reference": "images",
    "timing": "runs",
}
"""What is counted in the phases that jobs name."""
PROPORTIONAL = {"timing"}
"""Phases that take as long as their target is dear, as the main one; any other takes as long in one as in the next."""
ONCE = {ENCODING, "reconstruction", "reference", WAITING}
"""Phases that say nothing of how long the next target takes: later ones find their work done."""


def in_words(kind: str, done: int, total: int, phase: str = MAIN) -> str:
    """``120/300 steps``, ``features 250/800 images``, ``waiting, held by process 3 on node1, at 5/300 steps``."""
    main = MAIN_UNITS.get(kind, kind)
    if phase.startswith(WAITING):
        return f"{phase}, at {done}/{total} {main}" if total else phase
    count = f"{done}/{total} {main if phase == MAIN else UNITS.get(phase, '')}".strip() if total else ""
    return f"{phase} {count}".strip()


class WorkClock:
    """Seconds that the remaining work will take, from what each phase of each kind of work has taken so far.

    Work is in GMACs. The main phase of each kind of target has a rate; the other phases (starting, features, timing)
    are known once one target of the kind has finished. Until everything that is left can be estimated so, there is no
    answer. `needs` is the graph of the work: what waits for something else cannot be made beside it.
    """

    def __init__(self, work: Mapping[Target, float], workers: int = 1, needs: Needs | None = None) -> None:
        self.work, self.workers, self.needs = dict(work), workers, needs or {}
        self.fraction: dict[Target, float] = dict.fromkeys(work, 0.0)
        self.resumed: dict[Target, float] = {}
        self.finished: set[Target] = set()
        self.made: dict[Kind, float] = defaultdict(float)
        self.seconds: dict[Target, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        self.complete: list[Target] = []
        """Targets that were made here from start to end."""

    def resume(self, target: Target, fraction: float) -> None:
        """What was done before this run takes no seconds of it."""
        self.fraction[target] = self.resumed[target] = max(fraction, self.fraction[target])

    def spend(self, target: Target, seconds: float, phase: str = MAIN) -> None:
        """Another `seconds` of `phase` have passed."""
        self.seconds[target][WAITING if phase.startswith(WAITING) else phase] += seconds

    def advance(self, target: Target, fraction: float) -> None:
        """The main phase has come to `fraction` (0 to 1)."""
        self.made[target.kind] += max(0.0, fraction - self.fraction[target]) * self.work[target]
        self.fraction[target] = max(fraction, self.fraction[target])

    def finish(self, target: Target, whole: bool = False) -> None:
        """`target` needs no more time; `whole` if it was made here, so that others of its kind will be like it."""
        self.finished.add(target)
        if whole:
            self.complete.append(target)

    def main_seconds_left(self, target: Target) -> float | None:
        """Of the main phase of one target, by its own rate; None until there is ground for it."""
        seconds = self.seconds[target][MAIN]
        gained = self.fraction[target] - self.resumed.get(target, 0.0)
        if seconds < GROUND_SECONDS or gained <= 0:
            return None
        return seconds * (1 - self.fraction[target]) / gained

    def remaining_seconds(self) -> float | None:
        """None until there is ground for an answer."""
        left = [target for target in self.work if target not in self.finished]
        estimates = {kind: _Estimate(self, kind) for kind in {target.kind for target in left}}
        if not left:
            return 0.0
        if not all(estimate.is_grounded for estimate in estimates.values()):
            return None
        seconds = {target: estimates[target.kind].seconds_left(target) for target in left}
        return max(sum(seconds.values()) / min(self.workers, len(left)), self._longest_chain(seconds))

    def _longest_chain(self, seconds: Mapping[Target, float]) -> float:
        """What takes longest of all that must be made one after another, however many workers there are."""
        until: dict[Target, float] = {}
        for target in in_order(seconds, self.needs):
            before = max((until[need] for need in self.needs.get(target, ())), default=0.0)
            until[target] = before + seconds.get(target, 0.0)
        return max(until.values(), default=0.0)

    def done_fraction(self) -> float:
        """Share of the work that is done; a target counts in full once it has finished."""
        total = sum(self.work.values())
        done = sum(work * (1.0 if t in self.finished else 0.9 * self.fraction[t]) for t, work in self.work.items())
        return done / total if total else 1.0


class _Estimate:
    """What a kind of target takes, from those of the kind that have run."""

    def __init__(self, clock: WorkClock, kind: Kind) -> None:
        self.clock = clock
        spent = {target: phases for target, phases in clock.seconds.items() if target.kind == kind}
        main = sum(phases[MAIN] for phases in spent.values())
        complete = [target for target in clock.complete if target.kind == kind]
        self.rate = clock.made[kind] / main if main > 0 else 0.0
        self.is_known = self.rate > 0 and (bool(complete) or (FACTS[kind].is_even and main >= GROUND_SECONDS))
        self.is_grounded = self.is_known or FACTS[kind].is_brief  # until one has run, it counts as no time at all
        self.fixed = statistics.median([self._fixed(spent[target]) for target in complete] or [0.0])
        work = sum(clock.work[target] for target in complete)
        self.per_work = sum(self._proportional(spent[t]) for t in complete) / work if work else 0.0

    def seconds_left(self, target: Target) -> float:
        if not self.is_known:
            return 0.0
        phases = self.clock.seconds.get(target, {})
        work = self.clock.work[target]
        rest = max(0.0, self.fixed - self._fixed(phases))
        rest += max(0.0, self.per_work * work - self._proportional(phases))
        return work * (1 - self.clock.fraction[target]) / self.rate + rest

    @staticmethod
    def _proportional(phases: Mapping[str, float]) -> float:
        return sum(seconds for phase, seconds in phases.items() if phase in PROPORTIONAL)

    @staticmethod
    def _fixed(phases: Mapping[str, float]) -> float:
        return sum(seconds for phase, seconds in phases.items() if phase not in {MAIN, *PROPORTIONAL, *ONCE})


def clock_text(seconds: float | None) -> str:
    """``1:02:03``, ``2:03``, or a dash where unknown."""
    if seconds is None:
        return "–"
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


WORDS_WIDTH = 28
"""Letters that the words beside a bar take at most: a phase, a count, what is left of it."""
BAR_WIDTH, LEAST_BAR_WIDTH = 40, 8
PERCENT_WIDTH, ELAPSED_WIDTH = 5, 8
"""With the space before them."""


def _bar_columns(room: int) -> list[ProgressColumn]:
    """The columns of the bars, with `room` letters beside the longest label.

    Bar, elapsed time and percentage go, in this order, where there is no room for them: labels are never cut, for their
    ends tell two alike apart. One that is too long by itself goes on in the next line.
    """
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
    from rich.table import Column

    columns: list[ProgressColumn] = [
        TextColumn("{task.description}", markup=False, table_column=Column(overflow="fold")),
    ]
    room -= WORDS_WIDTH + 1
    if (bar := min(room - 1 - PERCENT_WIDTH - ELAPSED_WIDTH, BAR_WIDTH)) >= LEAST_BAR_WIDTH:
        columns.append(BarColumn(bar))
    if room >= PERCENT_WIDTH:
        columns.append(TaskProgressColumn())
    if room >= PERCENT_WIDTH + ELAPSED_WIDTH:
        columns.append(TimeElapsedColumn())
    return [*columns, TextColumn("{task.fields[words]}", markup=False, table_column=Column(overflow="fold"))]


class SweepProgress:
    """Bars on a terminal: the sweep and each target at work, with its phase; plain lines elsewhere."""

    def __init__(
        self,
        console: Console,
        work: Mapping[Target, float],
        labels: Mapping[Target, str],
        workers: int = 1,
        needs: Needs | None = None,
    ) -> None:
        self.console, self.labels = console, labels
        self.clock = WorkClock(work, workers, needs)
        from rich.progress import Progress

        longest = max((cell_len(label) for label in labels.values()), default=0)
        self.bars = Progress(*_bar_columns(console.width - longest), console=console, disable=not console.is_terminal)
        self.total = self.bars.add_task("all", total=1.0, words="ETA –")
        self.tasks: dict[Target, TaskID] = {}
        self.count, self.finished = len(work), 0
        self.last_plain = time.monotonic()

    @contextmanager
    def shown(self) -> Iterator[SweepProgress]:
        with self.bars:
            yield self

    @contextmanager
    def working_on(self, target: Target) -> Iterator[Reporter]:
        """The bar of one target; the block gets the job's progress call."""
        reporter = self.reporter(target)
        try:
            yield reporter
        finally:
            self.remove(target)

    def reporter(self, target: Target) -> Reporter:
        """A bar for `target`, and the call that moves it."""
        self.tasks[target] = self.bars.add_task(self.label(target), total=1.0, words="starting")
        return Reporter(self, target)

    def remove(self, target: Target) -> None:
        """Take the bar of `target` away."""
        if target in self.tasks:
            self.bars.remove_task(self.tasks.pop(target))

    def label(self, target: Target) -> str:
        return self.labels.get(target, str(target))

    @property
    def eta(self) -> str:
        return f"ETA {clock_text(self.clock.remaining_seconds())}"

    def show(self, target: Target, done: int, total: int, phase: str, started: bool) -> None:
        """Draw where `target` is; `started` says that the phase begins now."""
        text = in_words(target.kind, done, total, phase)
        if phase == MAIN and (left := self.clock.main_seconds_left(target)) is not None:
            text += f", {clock_text(left)} left"
        if target in self.tasks:
            self.bars.update(self.tasks[target], completed=done / total if total else 0.0, words=text)
        self.bars.update(self.total, completed=self.clock.done_fraction(), words=self.eta)
        waiting = started and phase.startswith(WAITING)
        if not self.console.is_terminal and (waiting or time.monotonic() - self.last_plain > PLAIN_SECONDS):
            self.last_plain = time.monotonic()
            self.console.print(f"[{100 * self.clock.done_fraction():.0f} %, {self.eta}] {self.label(target)}: {text}")

    def note(self, text: str, target: Target | None = None, whole: bool = False) -> None:
        """One line that stays; that `target` is at its end, `whole` if it was made here."""
        if target is not None:
            self.finished += 1
            self.clock.finish(target, whole)
            self.bars.update(self.total, completed=self.clock.done_fraction(), words=self.eta)
        head = f"[{self.finished}/{self.count}, {self.eta}] "
        self.console.print((head if target else "") + text)


class Reporter:
    """A job's progress call: the seconds between two calls are the first one's phase's."""

    def __init__(self, owner: SweepProgress, target: Target) -> None:
        self.owner, self.target = owner, target
        self.phase, self.last = "starting", time.monotonic()
        self.is_resumed = False

    def __call__(self, done: int, total: int, phase: str = MAIN) -> None:
        clock = self.owner.clock
        self.spend()
        started, self.phase = phase != self.phase, phase
        if phase == MAIN:
            fraction = done / total if total else 1.0
            (clock.advance if self.is_resumed else clock.resume)(self.target, fraction)
            self.is_resumed = True
        self.owner.show(self.target, done, total, phase, started)

    def spend(self) -> None:
        """Count the seconds since the last call."""
        now = time.monotonic()
        self.owner.clock.spend(self.target, now - self.last, self.phase)
        self.last = now

    @property
    def is_in_main_phase(self) -> bool:
        return self.phase == MAIN
