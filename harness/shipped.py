"""The sweeps that come with the harness, by name: ``quickstart``, ``digits/frontier``. Light to import."""

from __future__ import annotations

from pathlib import Path

from harness.errors import ConfigError
from harness.wording import nearest

FOLDERS = (Path(__file__).parent / "sweeps", Path(__file__).parents[1] / "sweeps")
"""Where they lie in a wheel, and in the project's source."""
SUFFIXES = (".yaml", ".yml")


def folder() -> Path | None:
    """The folder of the sweeps that come with this harness; None where only its packages were copied."""
    return next((place for place in FOLDERS if place.is_dir()), None)


def names() -> list[str]:
    """The names of all of them, sorted."""
    root = folder()
    found = () if root is None else root.rglob("*.yaml")
    return sorted(path.relative_to(root or path).with_suffix("").as_posix() for path in found)


def path_of(named: Path) -> Path:
    """The sweep that comes with the harness under the name `named`, or `named` itself where it is the path of a file.

    A file of that name comes first. Raises :class:`ConfigError` for a name that is neither.
    """
    if named.is_file() or named.suffix in SUFFIXES or named.is_absolute() or named.parts[:1] == ("..",):
        return named
    known, name = names(), named.as_posix()
    root = folder()
    if root is not None and name in known:
        return root / f"{name}.yaml"
    if named.exists():  # a folder, which the reader of the file complains of
        return named
    shipped = f"; sweeps that come with harness: {', '.join(known)}" if known else ""
    raise ConfigError(str(named), [f"no such file, nor a sweep that comes with harness{nearest(name, known)}{shipped}"])


def name_of(path: Path) -> str | None:
    """The name by which a command finds `path`, where it is a sweep that comes with the harness."""
    root = folder()
    if root is None or not path.is_relative_to(root):
        return None
    named = path.relative_to(root).with_suffix("")
    return None if named.exists() else named.as_posix()
