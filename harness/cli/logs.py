"""`harness logs`: what the jobs of a training or cell printed, once or as it comes."""

from __future__ import annotations

import codecs
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from harness.cli.console import console, print_json
from harness.cli.hints import Asked
from harness.cli.status import find_targets, submitted_targets
from harness.dispatch.plan import plan
from harness.dispatch.slurm.submissions import Assignment, all_assignments, load_submissions
from harness.dispatch.status import LIVE, Row, read_status
from harness.dispatch.sweep import Sweep, load_sweep
from harness.errors import ConfigError, StoreError
from harness.store.store import Store, Target
from harness.wording import count_of

LOG_BYTES = 200_000
FOLLOW_SECONDS = 1.0
STATE_SECONDS = 5.0


@dataclass(frozen=True)
class Attempt:
    """One job of a target, and what its ranks printed; requeued runs of a job append to the same files."""

    job: str
    submitted: float
    paths: list[Path]


def run(
    file: Path,
    name: str,
    overrides: Sequence[str],
    results: Path,
    follow: bool,
    every_attempt: bool,
    json_output: bool,
) -> None:
    """What the last job of a training or cell printed, or all its jobs, and the traceback of its error."""
    if follow and json_output:
        raise ConfigError("--follow", ["has no meaning with --json"])
    sweep, store, out = load_sweep(file, overrides), Store(results), console(json_output)
    (target,) = find_targets(sweep, [name], submitted_targets(sweep, store))
    made = attempts(store, target)
    if follow and made:
        _Follower(sweep, store, target, out).run()
        return
    noted = store.state(target)
    with_logs = [attempt for attempt in made if attempt.paths]
    if not with_logs and not noted.get("traceback"):
        raise StoreError(f"{target}: no job of it has left a log{_why(sweep, store, target)}")
    shown = with_logs if every_attempt else made[-1:]
    if json_output:
        print_json(
            {
                "id": target.id,
                "files": [str(path) for attempt in shown for path in attempt.paths],
                "attempts": [
                    {"job": one.job, "submitted": one.submitted, "files": [str(path) for path in one.paths]}
                    for one in made
                ],
                "traceback": noted.get("traceback"),
            }
        )
        return
    for attempt in shown:
        for path in attempt.paths:
            _print_heading(f"{_heading(attempt)}: {path}", out)
            _print_tail(path, out)
    if noted.get("traceback"):
        _print_heading(f"{target}: {noted.get('state')}", out)
        out.print(noted["traceback"])
    earlier = [attempt for attempt in with_logs if attempt not in shown]
    if earlier:
        command = Asked(file, overrides, results).command("logs", name, "--all")
        out.print(f"logs of {count_of(len(earlier), 'earlier job')} too: {command}")


def _heading(attempt: Attempt) -> str:
    return f"job {attempt.job}, submitted {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(attempt.submitted))}"


def _print_heading(text: str, out: Console) -> None:
    """In full: a rule as wide as the terminal would cut off a path."""
    out.print(f"── {text} ──", style="dim")


def _why(sweep: Sweep, store: Store, target: Target) -> str:
    row = _row(sweep, store, target)
    return f"; it is {row.state}{f': {row.reason}' if row.reason else ''}" if row is not None else ""


def _row(sweep: Sweep, store: Store, target: Target) -> Row | None:
    """None for a target of an earlier version of the sweep."""
    return read_status(plan(sweep, store), store).rows.get(target)


def attempts(store: Store, target: Target) -> list[Attempt]:
    """All jobs of the target on SLURM, oldest first, and last the process of `--cluster local` that it ran in."""
    made = all_assignments(load_submissions(store)).get(target, [])
    found = [Attempt(one.job, one.submission.created, _paths_of(one)) for one in made]
    noted = store.state(target)
    if (job := noted.get("local_job")) is not None:  # its last process ran here, with --cluster local
        paths = sorted((store.runs / "logs" / str(job)).glob(f"{job}_*_log.*"))
        found.append(Attempt(f"{job} (a process of {noted.get('host')})", noted.get("started", 0.0), paths))
    return found


def _paths_of(assignment: Assignment) -> list[Path]:
    """What all ranks of a job printed, and their errors."""
    found = assignment.submission.folder.glob(f"{assignment.job}_*_log.*")
    return sorted(path for path in found if _is_of(path.name, assignment.job))


def _is_of(file_name: str, job: str) -> bool:
    """Whether ``12_3_0_log.err`` is of job ``12_3``, not of an element of array ``12``."""
    return file_name.removeprefix(f"{job}_").split("_")[1].startswith("log.")


def _print_tail(path: Path, out: Console) -> int:
    """The end of the file; returns up to which byte it was read."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - LOG_BYTES))
        content = file.read()
    if size > LOG_BYTES:
        out.print(f"… the last {LOG_BYTES // 1000} kB")
    out.print(content.decode(errors="replace"), end="")
    return max(0, size - LOG_BYTES) + len(content)


class _Follower:
    """Prints new output file by file, as `tail -f` does, until the target's job has ended."""

    def __init__(self, sweep: Sweep, store: Store, target: Target, out: Console) -> None:
        self.sweep, self.store, self.target, self.out = sweep, store, target, out
        self.read: dict[Path, int] = {}
        self.decoders: dict[Path, codecs.IncrementalDecoder] = {}
        self.shown: Path | None = None
        self.said = ""

    def run(self) -> None:
        while True:
            row = _row(self.sweep, self.store, self.target)
            is_over = row is None or row.state not in LIVE
            self._say_if_waiting(row)
            until = time.monotonic() + STATE_SECONDS
            self._print_new()
            while not is_over and time.monotonic() < until:
                time.sleep(FOLLOW_SECONDS)
                self._print_new()
            if is_over:
                self._print_new()
                if row is not None:
                    self._say(f"{self.target}: {row.state}{f': {row.reason}' if row.reason else ''}")
                return

    def _say_if_waiting(self, row: Row | None) -> None:
        if row is not None and row.state in ("queued", "waiting"):
            self._say(f"{self.target}: {row.state} {row.reason}".rstrip())

    def _say(self, sentence: str) -> None:
        if sentence != self.said:
            self.out.print(sentence, style="dim")
            self.said = sentence

    def _print_new(self) -> None:
        made = attempts(self.store, self.target)
        for path in made[-1].paths if made else []:
            if path not in self.read:
                self._head(path)
                self.read[path] = _print_tail(path, self.out)
                self.decoders[path] = codecs.getincrementaldecoder("utf-8")(errors="replace")
                continue
            with path.open("rb") as file:
                file.seek(self.read[path])
                content = file.read()
            if content:
                self._head(path)
                self.read[path] += len(content)
                self.out.print(self.decoders[path].decode(content), end="")

    def _head(self, path: Path) -> None:
        if path != self.shown:
            _print_heading(str(path), self.out)
            self.shown = path
