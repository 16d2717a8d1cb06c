"""What a person can put right: each is printed as one clear message with exit status 2, without a traceback."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT)
FULL_WORDS = tuple(os.strerror(number) for number in FULL)
FULL_CURE = "free some, and the same command goes on from what is saved"


def printable(text: str) -> str:
    r"""`text` for messages and tables: what is not UTF-8 in a file's name (kept as surrogates) as ``\xe9``."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # surrogates of another origin, such as a JSON's "\ud800"
        return text.encode("utf-8", "backslashreplace").decode("utf-8")


class HarnessError(Exception):
    """Base of the errors that a person can put right. The message can be printed, whatever a file is called."""

    def __init__(self, message: str = "") -> None:
        super().__init__(printable(message))


class ConfigError(HarnessError):
    """Bad configuration. Holds every problem found, not only the first."""

    def __init__(self, source: str, problems: Sequence[str]) -> None:
        self.source = source
        self.problems = list(problems)
        super().__init__("\n".join(f"{source}: {problem}" for problem in self.problems))


KEYS = ("data", "model", "diffusion", "train", "distill", "sample", "measure", "report")
"""What the keys of a configuration begin with."""


@contextlib.contextmanager
def told_of(file: Path | str) -> Iterator[None]:
    """Errors that name a key of a configuration alone are given the file that it is read from."""
    try:
        yield
    except ConfigError as error:
        if not _is_key(error.source):
            raise
        raise ConfigError(str(file), [f"{error.source}: {problem}" for problem in error.problems]) from error
    except HarnessError as error:
        if type(error) not in (DataError, MissingDataError, StoreError) or not _is_key(str(error).partition(": ")[0]):
            raise
        raise type(error)(f"{file}: {error}") from error


def _is_key(text: str) -> bool:
    section, dot, key = text.partition(".")
    return section in KEYS and (not dot or key.replace("_", "").replace(".", "").isalpha())


class DiskFull(HarnessError):
    """No space, or no quota, is left where results are written."""


def is_full(error: BaseException | None) -> bool:
    """Whether `error` comes from a full disk: by its number, its cause's, or the system's words in its message."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return True
        if any(words in str(error) for words in FULL_WORDS):
            return True
        error = error.__cause__
    return False


class DataError(HarnessError):
    """Data that are missing or damaged."""


class MissingDataError(DataError):
    """Data that are not there; what does not need them can go on."""


class StoreError(HarnessError):
    """A result, checkpoint or weights file that is missing, damaged or of another configuration."""


class DispatchError(HarnessError):
    """A job that could not be submitted, or a scheduler that could not be reached."""


class Blocked(HarnessError):
    """A target that cannot be made because something that it needs is not there, and why."""


class Stopped(Exception):
    """The training was asked to stop; its state is saved and the same call goes on from there."""
