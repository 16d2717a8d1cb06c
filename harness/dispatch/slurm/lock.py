"""One terminal at a time submits or cancels in a folder of results."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from harness.dispatch.slurm.submissions import submissions_folder
from harness.errors import DispatchError
from harness.store.lease import LeaseHeld, lease
from harness.store.store import Store

LOCK_SECONDS = 600.0


@contextlib.contextmanager
def submission_lock(store: Store) -> Iterator[None]:
    """Hold the folder's lock for the block. Raises :class:`DispatchError` if another terminal keeps it."""
    try:
        with lease(submissions_folder(store) / "lock", LOCK_SECONDS, poll_seconds=0.2):
            yield
    except LeaseHeld as error:
        raise DispatchError(f"another terminal has been submitting for {LOCK_SECONDS:.0f} s: {error}") from None
