"""The source that jobs run: a copy made at submission, so that editing it before a job starts changes nothing."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from harness.errors import DispatchError
from harness.files import digest_of_files
from harness.plugins import RECORD, loaded_sources, package_files
from harness.store.provenance import commit_of
from harness.store.store import Store

PACKAGES = ("harness", "models")
COMMIT_FILE = "SOURCE_COMMIT"
"""Beside the copied harness: commit and ``clean`` or ``dirty``, for the provenance of results."""


def take_snapshot(store: Store) -> Path:
    """The folder under the store that holds a copy of our packages as they are now; put it on PYTHONPATH.

    With them go the sources of plugins, the methods and metrics that are not the project's own: jobs import these
    copies, wherever they run, and compute the same ids from them. Its name is the hash of content and commit: the same
    source is copied once, by rename.
    """
    folders = {name: _package_folder(name) for name in PACKAGES}
    content = {f"{name}/{relative}": data for name, folder in folders.items() for relative, data in _files(folder)}
    content[f"harness/{COMMIT_FILE}"] = _commit_line(folders["harness"]).encode()
    content |= _plugins()
    target = store.runs.resolve() / "source" / digest_of_files(content.items())[:16]
    if not target.exists():
        _write(content, target)
    return target


def _plugins() -> dict[str, bytes]:
    """The sources of the plugins that this process has loaded, and the record of their digests."""
    sources = loaded_sources()
    content = {
        file.as_posix(): (source.folder / file).read_bytes() for source in sources.values() for file in source.files
    }
    digests = {place: source.digest for place, source in sorted(sources.items())}
    return {**content, RECORD: json.dumps(digests, indent=1).encode()} if sources else {}


def _write(content: dict[str, bytes], target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        for name, data in content.items():
            path = temporary / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        temporary.chmod(0o755)
        temporary.rename(target)
    except OSError as error:
        if not target.exists():  # else another terminal was quicker
            raise DispatchError(f"{target}: the source could not be copied: {error.strerror}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _package_folder(name: str) -> Path:
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise DispatchError(f"the package {name} cannot be found on this machine")
    return Path(next(iter(spec.submodule_search_locations)))


def _files(folder: Path) -> Iterator[tuple[str, bytes]]:
    """All files of a package but caches, in a fixed order: (relative path, content)."""
    for path in package_files(folder):
        if path.name != COMMIT_FILE:
            yield path.relative_to(folder).as_posix(), path.read_bytes()


def _commit_line(harness: Path) -> str:
    """Commit and ``clean`` or ``dirty``, where there is one; a copy of a copy says the same."""
    recorded = harness / COMMIT_FILE
    if recorded.exists():
        return recorded.read_text(encoding="utf-8")
    found = dict(commit_of(harness.parent))
    return f"{found['commit']} {'dirty' if found['dirty'] else 'clean'}\n" if found["commit"] else "\n"
