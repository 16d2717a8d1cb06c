"""What processes that are started through submitit need: our own packages, and a folder whose name it leaves alone."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent
"""The folder of our packages, `harness` and `models`."""


@contextlib.contextmanager
def own_packages_first(further: Mapping[str, str] | None = None) -> Iterator[None]:
    """Processes started in the block import this very harness, and nothing from the folder they are started in.

    `further` are environment variables that they have besides.
    """
    path = os.pathsep.join([str(SOURCE), *filter(None, [os.environ.get("PYTHONPATH")])])
    with _environment({"PYTHONPATH": path, "PYTHONSAFEPATH": "1", **(further or {})}):
        yield


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def name_for_submitit(folder: Path) -> Iterator[Path]:
    """`folder`, which exists, by a name without `%`.

    submitit puts numbers of jobs in the place of `%j`, `%t`, `%a` and `%A`, and does so in the names of folders too.
    """
    if "%" not in str(folder):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="harness-") as holder:
        link = Path(holder) / "folder"
        link.symlink_to(folder.resolve(), target_is_directory=True)
        yield link
