"""What was submitted: one folder per submission, written before and after every call of sbatch.

``runs/submissions/<id>/record.json`` says which job makes which targets; submitit's scripts, pickles and the jobs'
logs lie beside it. A record that was begun and not finished tells the next submission that a terminal died in the
middle of a call, so that an array without a known number is found by its name and nothing is submitted twice.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import StoreError
from harness.slurm.arrays import Element
from harness.store import Kind, Store, Target, read_json, write_json

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

    def job_of(self, element: int) -> str | None:
        """Id of one element's job. An array of one element is a plain job."""
        if self.job is None:
            return None
        return self.job if len(self.elements) == 1 else f"{self.job}_{element}"

    def parent_of(self, element: int) -> str | None:
        """Id of the job that one element waits for."""
        kind, _, parent = (self.dependency or "").partition(":")
        return f"{parent}_{element}" if kind == "aftercorr" else parent or None


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

    @property
    def id(self) -> str:
        return self.folder.name

    def save(self) -> None:
        write_json(self.folder / "record.json", _to_plain(self))


@dataclass(frozen=True)
class Assignment:
    """The newest job that was to make a target."""

    job: str
    name: str
    submission: Submission
    parent: str | None = None
    """The job that it waits for."""

    @property
    def was_cancelled(self) -> bool:
        """Whether `harness cancel` ended it."""
        return self.job in self.submission.cancelled

    @property
    def log(self) -> Path:
        """What the job printed (first rank); its errors are beside it, as ``.err``."""
        return self.submission.folder / f"{self.job}_0_log.out"


def new_submission(store: Store, sweep: str, source: str) -> Submission:
    """A submission whose folder's name sorts by time."""
    stamp = time.strftime("%Y%m%dT%H%M%S")
    return Submission(submissions_folder(store) / f"{stamp}-{uuid.uuid4().hex[:6]}", sweep, source)


def submissions_folder(store: Store) -> Path:
    return store.runs.resolve() / "submissions"


def load_submissions(store: Store) -> list[Submission]:
    """All submissions, oldest first. A record that cannot be read raises StoreError."""
    folder = submissions_folder(store)
    found = [_from_plain(path.parent, read_json(path)) for path in folder.glob("*/record.json")]
    return sorted(found, key=lambda submission: (submission.created, submission.id))


def assignments(submissions: list[Submission]) -> dict[Target, Assignment]:
    """The newest job of every target that was ever submitted."""
    newest: dict[Target, Assignment] = {}
    for submission in submissions:
        for array in submission.arrays:
            if array.withdrawn or array.job is None:
                continue
            for place, element in enumerate(array.elements):
                assigned = Assignment(array.job_of(place) or "", array.name, submission, array.parent_of(place))
                newest.update((Target(array.kind, id), assigned) for id in element)
    return newest


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


def _from_plain(folder: Path, record: Any) -> Submission:
    try:
        arrays = [
            SubmittedArray(**{**array, "elements": tuple(tuple(element) for element in array["elements"])})
            for array in record["arrays"]
        ]
        rest = {key: record[key] for key in ("sweep", "source", "user", "created", "cancelled")}
    except (KeyError, TypeError) as error:
        raise StoreError(f"{folder / 'record.json'}: is no record of a submission ({error!r})") from None
    return Submission(folder, arrays=arrays, **rest)
