"""What was submitted: one folder per submission, written before and after every call of sbatch.

``runs/submissions/<id>/record.json`` says which job makes which targets; submitit's scripts, pickles and the jobs'
logs lie beside it. A record that was begun and not finished tells the next submission that a terminal died in the
middle of a call, so that an array without a known number is found by its name and nothing is submitted twice.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from harness.dispatch.slurm.arrays import Element
from harness.dispatch.sweep import Sweep
from harness.errors import StoreError
from harness.files import read_json, write_json
from harness.store.kinds import KINDS, Kind
from harness.store.store import Store, Target

SCHEMA = 1


def current_user() -> str:
    """The name that SLURM knows this user by, or the number where there is no name."""
    with contextlib.suppress(KeyError):
        return pwd.getpwuid(os.getuid()).pw_name
    return str(os.getuid())


@dataclass
class SubmittedArray:
    """One call of sbatch: its unique job name, and the job's number once SLURM has given it."""

    name: str
    kind: Kind
    elements: tuple[Element, ...]
    dependency: str | None = None
    job: str | None = None
    withdrawn: bool = False
    """Whether it was refused, or cancelled before it counted."""
    minutes: int | None = None
    """Time limit of one run."""
    memory: str | None = None
    """What a node was asked for; None: the partition's default."""
    after: str | None = None
    """Jobs of others that it waits for as well."""

    def job_of(self, element: int) -> str | None:
        """Id of one element's job. An array of one element is a plain job."""
        if self.job is None:
            return None
        return self.job if len(self.elements) == 1 else f"{self.job}_{element}"

    def parents_of(self, element: int) -> tuple[str, ...]:
        """Ids of the jobs that one element waits for, to make what it needs."""
        found: list[str] = []
        for dependency in (self.dependency or "").split(","):
            kind, *jobs = dependency.split(":")
            found += [f"{job}_{element}" for job in jobs] if kind == "aftercorr" else jobs
        return tuple(found)


@dataclass(frozen=True)
class SweepKey:
    """What a submission's sweep is known by, whatever its file says by now: its name or file, and its overrides."""

    name: str | None
    file: str
    overrides: tuple[str, ...]

    @classmethod
    def of(cls, sweep: Sweep) -> SweepKey:
        return cls(sweep.config.name, full_path(sweep.path), tuple(sweep.overrides))

    @classmethod
    def of_file(cls, path: Path, overrides: Iterable[str]) -> SweepKey:
        """Of a file that may be gone, or hold no sweep any more."""
        return cls(None, full_path(path), tuple(overrides))


@dataclass
class Submission:
    """One run of `harness sweep` or `harness retry` on a cluster."""

    folder: Path
    sweep: str
    source: str
    user: str = field(default_factory=current_user)
    created: float = field(default_factory=time.time)
    arrays: list[SubmittedArray] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    """Jobs that `harness cancel` has ended."""
    file: str | None = None
    """The sweep file, in full."""
    overrides: list[str] | None = None
    """What ``--set`` said; None where it is not known."""
    slurm: list[str] = field(default_factory=list)
    """What ``--slurm`` said."""
    shared: list[str] = field(default_factory=list)
    """Jobs of other sweeps that were at work on targets of this one already, so that it has none of its own."""
    left: int = 0
    """Trainings and cells that the cluster's limit on jobs left for the next submission."""

    @property
    def id(self) -> str:
        return self.folder.name

    @property
    def mark(self) -> str:
        """What tells its jobs from all others, in their names."""
        return self.id[-6:]

    def is_of(self, key: SweepKey) -> bool:
        """Whether it was for that sweep, in this or an earlier version of its file."""
        return self.is_like(key) and (self.overrides is None or sorted(self.overrides) == sorted(key.overrides))

    def is_like(self, key: SweepKey) -> bool:
        """Whether it was for the sweep of that name or file, with whatever overrides."""
        return self.sweep == key.name or self.file == key.file

    def describe(self) -> str:
        """The sweep's name, with what ``--set`` made of it."""
        return " ".join([self.sweep, *(f"--set {text}" for text in self.overrides or ())])

    @property
    def is_live(self) -> bool:
        """Whether it has arrays that SLURM took and that count."""
        return any(array.job is not None and not array.withdrawn for array in self.arrays)

    def save(self) -> None:
        write_json(self.folder / "record.json", _to_plain(self))


@dataclass(frozen=True)
class Assignment:
    """The newest job that was to make a target."""

    job: str
    name: str
    submission: Submission
    parents: tuple[str, ...] = ()
    """The jobs that it waits for, to make what its target needs."""
    array: SubmittedArray | None = None

    @property
    def was_cancelled(self) -> bool:
        """Whether `harness cancel` ended it."""
        return self.job in self.submission.cancelled

    @property
    def outside(self) -> str | None:
        """Jobs of others that it waits for, in words, if it waits for none of its own sweep."""
        if self.parents or self.array is None or self.array.after is None:
            return None
        return f"job {', '.join(text.partition(':')[2] for text in self.array.after.split(','))}"

    @property
    def log(self) -> Path:
        """What the job printed (first rank); its errors are beside it, as ``.err``."""
        return self.submission.folder / f"{self.job}_0_log.out"


def new_submission(store: Store, sweep: str, source: str, **known: Any) -> Submission:
    """A submission whose folder's name sorts by time; `known` are further fields of it."""
    stamp = time.strftime("%Y%m%dT%H%M%S")
    return Submission(submissions_folder(store) / f"{stamp}-{uuid.uuid4().hex[:6]}", sweep, source, **known)


def full_path(path: Path) -> str:
    """The path as records keep it, so that a file is known from whatever folder it is named."""
    return str(path.absolute().resolve())


def submissions_folder(store: Store) -> Path:
    return store.runs.resolve() / "submissions"


@dataclass(frozen=True)
class Damaged:
    """A record that cannot be read; its jobs are still known by their names."""

    folder: Path
    reason: str

    def sweep_of(self, job_name: str) -> str | None:
        """The sweep that a job of this submission belongs to; None if the job is of another."""
        match = re.fullmatch(rf"(.+)-(?:{'|'.join(KINDS)})s-{re.escape(self.folder.name[-6:])}\.\d+", job_name)
        return match.group(1) if match else None

    def describe(self) -> str:
        return f"{self.reason}: its jobs are left out; once they have ended, the folder {self.folder} may be moved away"


@dataclass(frozen=True)
class Records:
    """All submissions that can be read, oldest first, and the records that cannot."""

    submissions: list[Submission]
    damaged: list[Damaged]

    @property
    def note(self) -> str:
        return "; ".join(damaged.describe() for damaged in self.damaged)


def read_records(store: Store) -> Records:
    """All submissions. A damaged record stands in nobody's way."""
    found: list[Submission] = []
    damaged: list[Damaged] = []
    for path in sorted(submissions_folder(store).glob("*/record.json")):
        try:
            found.append(_from_plain(path.parent, read_json(path)))
        except StoreError as error:
            damaged.append(Damaged(path.parent, str(error).partition(";")[0]))
    return Records(sorted(found, key=lambda submission: (submission.created, submission.id)), damaged)


def load_submissions(store: Store) -> list[Submission]:
    """All submissions whose records can be read, oldest first."""
    return read_records(store).submissions


def assignments(submissions: list[Submission]) -> dict[Target, Assignment]:
    """The newest job of every target that was ever submitted."""
    return {target: jobs[-1] for target, jobs in all_assignments(submissions).items()}


def all_assignments(submissions: list[Submission]) -> dict[Target, list[Assignment]]:
    """All jobs of every target that was ever submitted, oldest first."""
    found: dict[Target, list[Assignment]] = {}
    for submission in submissions:
        for array in submission.arrays:
            if array.withdrawn or array.job is None:
                continue
            for place, element in enumerate(array.elements):
                assigned = Assignment(array.job_of(place) or "", array.name, submission, array.parents_of(place), array)
                for id in element:
                    found.setdefault(Target(array.kind, id), []).append(assigned)
    return found


def unfinished(submissions: list[Submission]) -> Iterator[tuple[Submission, SubmittedArray]]:
    """Arrays of which it is not known whether SLURM took them."""
    for submission in submissions:
        for array in submission.arrays:
            if array.job is None and not array.withdrawn:
                yield submission, array


def _to_plain(submission: Submission) -> dict[str, Any]:
    arrays = [{**vars(array), "elements": [list(element) for element in array.elements]} for array in submission.arrays]
    rest = {key: value for key, value in vars(submission).items() if key not in ("folder", "arrays")}
    return {"schema": SCHEMA, **rest, "arrays": arrays}


_RECORD = TypeAdapter(Submission)


def _from_plain(folder: Path, record: Any) -> Submission:
    try:
        return _RECORD.validate_python({**record, "folder": folder})
    except (ValidationError, TypeError) as error:
        raise StoreError(f"{folder / 'record.json'}: is no record of a submission ({_first_problem(error)})") from None


def _first_problem(error: ValidationError | TypeError) -> str:
    if isinstance(error, TypeError):
        return "it holds no keys"
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg'][0].lower()}{first['msg'][1:]}"
