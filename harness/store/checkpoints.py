"""Checkpoints of a training: written in the background, read back whole or not at all."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from torch import Tensor

from harness.errors import StoreError
from harness.files import set_aside
from harness.store.weights import DamagedFile, load_tensors, save_tensors

log = logging.getLogger("harness")

KEPT_CHECKPOINTS = 2


class CheckpointWriter:
    """Writes checkpoints in a thread while the training goes on.

    :meth:`write` copies the tensors to the CPU and returns; at most one checkpoint is being written at any time, so a
    second call waits for the first. A write that failed raises at the next call of any method, and at the latest when
    the block ends: no training goes on for long without its checkpoints.
    """

    def __init__(self, folder: Path, training: str, kept: int = KEPT_CHECKPOINTS) -> None:
        self.folder, self.training, self.kept = folder, training, kept
        self._thread: threading.Thread | None = None
        self._failure: tuple[Path, BaseException] | None = None

    def write(self, tensors: Mapping[str, Tensor], step: int, **metadata: str) -> None:
        """Start writing the checkpoint of `step`; `tensors` may change as soon as this returns."""
        self.wait()
        snapshot = {name: value.detach().to("cpu", copy=True) for name, value in tensors.items()}
        path = self.folder / f"checkpoint-{step:09d}.safetensors"
        self._thread = threading.Thread(
            target=self._write, args=(path, snapshot, {**metadata, "step": str(step)}), name=path.name
        )
        self._thread.start()

    def check(self) -> None:
        """Raise :class:`StoreError` if the last write has failed; does not wait."""
        if self._failure is not None:
            (path, failure), self._failure = self._failure, None
            reason = getattr(failure, "strerror", None) or f"{type(failure).__name__}: {failure}"
            raise StoreError(f"{path}: the checkpoint could not be written: {reason}") from failure

    def wait(self) -> None:
        """Until the checkpoint at hand is on disk. Raises :class:`StoreError` if it could not be written."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            self.wait()
        except StoreError as failure:
            if error is None:
                raise
            log.warning("%s", failure)  # what ended the training comes first

    def _write(self, path: Path, snapshot: dict[str, Tensor], metadata: dict[str, str]) -> None:
        try:
            save_tensors(path, snapshot, self.training, **metadata)
            for old in checkpoints(self.folder)[self.kept :]:
                old.unlink(missing_ok=True)
        except BaseException as failure:
            self._failure = (path, failure)


def checkpoints(folder: Path) -> list[Path]:
    """Newest first."""
    return sorted(folder.glob("checkpoint-*.safetensors"), reverse=True)


class Checkpoint(NamedTuple):
    """A checkpoint as it was read."""

    path: Path
    tensors: dict[str, Tensor]
    metadata: dict[str, str]

    @property
    def step(self) -> int:
        """The step that it was written after."""
        return int(self.metadata["step"])


def read_newest(folder: Path, training: str, damaged: Callable[[Path, DamagedFile], None]) -> Checkpoint | None:
    """The newest checkpoint that is whole, None if there is none.

    `damaged` is told of each newer one that is not. Raises :class:`StoreError` for another training's file.
    """
    for path in checkpoints(folder):
        try:
            tensors, metadata = load_tensors(path, training)
        except DamagedFile as error:
            damaged(path, error)
            continue
        except StoreError:
            if not path.exists():
                continue  # another rank has set it aside
            raise
        return Checkpoint(path, tensors, metadata)
    return None


def set_aside_and_say(path: Path, error: DamagedFile) -> None:
    """Put a damaged checkpoint out of the way, with a warning."""
    log.warning("%s; set aside as %s", error, set_aside(path).name)
