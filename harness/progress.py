"""Progress bars with an honest ETA: what remains, in GMACs, at the rate that this machine has shown."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from harness.store import Target

PLAIN_SECONDS = 20.0


class WorkClock:
    """Seconds that the remaining work will take, from the rates shown so far by each kind of work."""

    def __init__(self, work: Mapping[Target, float]) -> None:
        self.work = dict(work)
        self.fraction: dict[Target, float] = dict.fromkeys(work, 0.0)
        self.seconds: dict[str, float] = {}
        self.made: dict[str, float] = {}

    def advance(self, target: Target, fraction: float, seconds: float) -> None:
        """`target` has come to `fraction` (0 to 1) in another `seconds`."""
        gained = max(0.0, fraction - self.fraction[target]) * self.work[target]
        self.fraction[target] = max(fraction, self.fraction[target])
        self.seconds[target.kind] = self.seconds.get(target.kind, 0.0) + seconds
        self.made[target.kind] = self.made.get(target.kind, 0.0) + gained

    def remaining_seconds(self) -> float | None:
        """None until a rate is known."""
        rates = {kind: self.made[kind] / s for kind, s in self.seconds.items() if s > 0 and self.made[kind] > 0}
        if not rates:
            return None
        total = 0.0
        for target, work in self.work.items():
            rate = rates.get(target.kind, min(rates.values()))
            total += work * (1 - self.fraction[target]) / rate
        return total

    def done_fraction(self) -> float:
        """Share of all estimated seconds' worth of work that is done, by work."""
        total = sum(self.work.values())
        return sum(self.work[t] * f for t, f in self.fraction.items()) / total if total else 1.0


def clock_text(seconds: float | None) -> str:
    """``1:02:03``, ``2:03``, or a dash where unknown."""
    if seconds is None:
        return "–"
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class SweepProgress:
    """Two bars on a terminal: the target at work and the sweep; plain lines elsewhere."""

    def __init__(self, console: Console, work: Mapping[Target, float], labels: Mapping[Target, str]) -> None:
        self.console, self.labels = console, labels
        self.clock = WorkClock(work)
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[eta]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self.total = self.bars.add_task("all", total=1.0, eta="ETA –")
        self.current = self.bars.add_task("", total=1.0, eta="", visible=False)
        self.count, self.finished = len(work), 0
        self.last_plain = time.monotonic()

    @contextmanager
    def shown(self) -> Iterator[SweepProgress]:
        with self.bars:
            yield self

    @contextmanager
    def working_on(self, target: Target) -> Iterator[_Reporter]:
        """The bar of one target; the block gets the job's progress call."""
        label = self.labels.get(target, str(target))
        self.bars.reset(self.current, description=label, total=1.0, visible=True, eta="")
        yield _Reporter(self, target, label)

    def update(self, target: Target, label: str, done: int, total: int, seconds: float) -> None:
        fraction = done / total if total else 1.0
        self.clock.advance(target, fraction, seconds)
        eta = f"ETA {clock_text(self.clock.remaining_seconds())}"
        unit = "steps" if target.kind == "training" else "images"
        self.bars.update(self.current, completed=fraction, eta=f"{done}/{total} {unit}")
        self.bars.update(self.total, completed=self.clock.done_fraction(), eta=eta)
        if not self.console.is_terminal and time.monotonic() - self.last_plain > PLAIN_SECONDS:
            self.last_plain = time.monotonic()
            share = f"{100 * self.clock.done_fraction():.0f} %"
            self.console.print(f"[{share}, {eta}] {label}: {done} of {total} {unit}", highlight=False, markup=False)

    def note(self, text: str, target: Target | None = None) -> None:
        """One line that stays."""
        if target is not None:
            self.finished += 1
            self.clock.fraction[target] = 1.0
        head = f"[{self.finished}/{self.count}, ETA {clock_text(self.clock.remaining_seconds())}] "
        self.console.print((head if target else "") + text, highlight=False, markup=False)


class _Reporter:
    """Turns a job's (done, total) into the clock's seconds; what was done before this run counts no seconds."""

    def __init__(self, owner: SweepProgress, target: Target, label: str) -> None:
        self.owner, self.target, self.label = owner, target, label
        self.last: float | None = None

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self.last is None:
            self.owner.clock.fraction[self.target] = done / total if total else 1.0
        seconds = 0.0 if self.last is None else now - self.last
        self.last = now
        self.owner.update(self.target, self.label, done, total, seconds)

    def close(self) -> None:
        """Count the seconds since the last report: measuring after the last image is work too."""
        if self.last is not None:
            kind = self.target.kind
            self.owner.clock.seconds[kind] = self.owner.clock.seconds.get(kind, 0.0) + time.monotonic() - self.last
