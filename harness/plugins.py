"""Objects of modules outside of the project, named ``package.module:NAME``, and the source that they are made of.

Such a module is imported from where Python finds it, or else from the working directory, or from the folders that the
environment's :data:`PATH_VARIABLE` lists. Its source is part of the ids of what it makes (:attr:`Source.digest`) and
travels with jobs to other machines (:attr:`Source.files`).
"""

from __future__ import annotations

import ast
import json
import os
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module, invalidate_caches
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from harness.files import digest_of_files

PATH_VARIABLE = "HARNESS_PLUGINS_PATH"
OWN_PACKAGES = frozenset({"harness", "models"})
RECORD = "PLUGINS.json"
"""In a copy of the source: the digest of each plugin's source, as it was where the copy was made."""
MOST_BYTES = 64 * 2**20


class PluginError(ValueError):
    """What is wrong with a plugin, as a phrase that follows its name."""


@dataclass(frozen=True)
class Source:
    """The files that a plugin is made of.

    Attributes:
        folder: the one that Python imports them from.
        files: relative to it.
        digest: of their names and content.
    """

    folder: Path
    files: tuple[Path, ...]
    digest: str


@dataclass(frozen=True)
class _Loaded:
    value: object
    source: Source | None


_loaded: dict[str, _Loaded] = {}


def load(place: str) -> object:
    """What ``package.module:NAME`` names. Raises :class:`PluginError`."""
    return _load(place).value


def source_of(place: str) -> Source | None:
    """The source of ``package.module:NAME``; None for the project's own modules. Raises :class:`PluginError`."""
    return _load(place).source


def loaded_sources() -> dict[str, Source]:
    """The sources of all plugins that this process has loaded so far."""
    return {place: loaded.source for place, loaded in _loaded.items() if loaded.source is not None}


def environment() -> dict[str, str]:
    """Variables by which a process that this one starts finds the plugins that this one has loaded."""
    folders = [str(source.folder) for source in loaded_sources().values()]
    given = filter(None, [os.environ.get(PATH_VARIABLE)])
    return {PATH_VARIABLE: os.pathsep.join(dict.fromkeys([*folders, *given]))} if folders else {}


def _load(place: str) -> _Loaded:
    if place not in _loaded:
        value, module = _import(place)
        _loaded[place] = _Loaded(value, _source(place, module))
    return _loaded[place]


def _import(place: str) -> tuple[object, ModuleType]:
    module_name, _, attribute = place.partition(":")
    if not all(part.isidentifier() for part in [*module_name.split("."), *attribute.split(".")]):
        raise PluginError("is no package.module:NAME")
    try:
        module = _import_module(module_name)
    except (Exception, SystemExit) as error:  # whatever a user's module raises while it is imported
        raise PluginError(f"cannot be imported: {type(error).__name__}: {error}{_found_first(error)}") from error
    found: object = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            own = [name for name, value in vars(module).items() if getattr(value, "__module__", "") == module_name]
            hint = f"; it has {', '.join(own)}" if own else ""
            raise PluginError(f"cannot be found: {module.__file__ or module_name} has no {attribute!r}{hint}")
        found = getattr(found, part)
    return found, module


def _found_first(error: BaseException) -> str:
    """Which package Python found first, where that one lacks the module: another of its name may lie further on."""
    missing = error.name or "" if isinstance(error, ModuleNotFoundError) else ""
    top, _, inside = missing.partition(".")
    places = list(getattr(sys.modules.get(top), "__path__", ())) if inside else []
    return f"; the package {top!r} that Python finds first lies in {', '.join(places)}" if places else ""


def failure(error: BaseException) -> str:
    """What a user's own code raised and the last line of that code that led to it, as one line."""
    lines = traceback.extract_tb(error.__traceback__)
    own = {str(source.folder / file) for source in loaded_sources().values() for file in source.files}
    last = next((line for line in reversed(lines) if line.filename in own), lines[-1] if lines else None)
    place = f" ({last.filename}, line {last.lineno})" if last else ""
    name, message = type(error).__name__, str(error) or (last.line if last else "")  # a bare assert says nothing
    return f"{name}: {message}{place}"


def _import_module(name: str) -> ModuleType:
    """The module `name`. Further folders are looked into last, so that nothing in them hides a package."""
    if find_spec(top := name.partition(".")[0]) is None:
        further = [str(Path.cwd()), *filter(None, os.environ.get(PATH_VARIABLE, "").split(os.pathsep))]
        invalidate_caches()
        folder = next((folder for folder in further if PathFinder.find_spec(top, [folder]) is not None), None)
        if folder is None:
            raise ModuleNotFoundError(f"No module named {top!r}, neither on Python's path nor in {', '.join(further)}")
        sys.path.append(folder)  # never removed: the module may import what lies beside it at any time
    return import_module(name)


def _source(place: str, module: ModuleType) -> Source | None:
    """What the module is made of, as Python found it; None for a module of the project's own."""
    if module.__name__.partition(".")[0] in OWN_PACKAGES:
        return None
    if module.__file__ is None:
        raise PluginError("has no source file, so what different sources make could not be told apart")
    path = Path(module.__file__).resolve()
    folder = path.parents[module.__name__.count(".") + (path.stem == "__init__")]
    files = tuple(sorted(_files_of(path, folder)))
    size = sum((folder / file).stat().st_size for file in files)
    if size > MOST_BYTES:
        raise PluginError(
            f"lies in a package of {size / 2**20:,.0f} MiB, which would travel with every job; at most "
            f"{MOST_BYTES / 2**20:.0f} may: keep data apart from the source",
        )
    content = ((file.as_posix(), (folder / file).read_bytes()) for file in files)
    return Source(folder, files, recorded_digests(folder).get(place) or digest_of_files(content))


def recorded_digests(folder: Path) -> dict[str, str]:
    """Of each plugin, where `folder` is a copy of the source that was made for jobs."""
    path = folder / RECORD
    digests: dict[str, str] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return digests


def _files_of(path: Path, folder: Path) -> set[Path]:
    """Relative to `folder`: what belongs to the module in the file `path`, and to what it imports beside it.

    What is installed into Python's own folders is a package by itself: others there belong to the environment.
    """
    found = set(_unit(path, folder))
    if folder in _python_folders():
        return found
    waiting = list(found)
    while waiting:
        for beside in _imported(folder / waiting.pop(), folder):
            fresh = set(_unit(beside, folder)) - found
            found |= fresh
            waiting += fresh
    return found


def _unit(path: Path, folder: Path) -> tuple[Path, ...]:
    """All files of the outermost package that the module in `path` belongs to, or its own.

    The whole package counts, since what one of its modules does may depend on any other, and on its data files.
    """
    for parent in reversed(path.relative_to(folder).parents[:-1]):
        if (folder / parent / "__init__.py").exists():
            return tuple(file.relative_to(folder) for file in package_files(folder / parent))
    return (path.relative_to(folder),)


def package_files(package: Path) -> Iterator[Path]:
    """All files of a package but caches and hidden ones, in a fixed order."""
    for path in sorted(package.rglob("*")):
        parts = path.relative_to(package).parts
        hidden = any(part.startswith(".") or part == "__pycache__" for part in parts)
        if path.is_file() and not hidden and path.suffix != ".pyc":
            yield path


def _imported(path: Path, folder: Path) -> Iterator[Path]:
    """The files of modules in `folder` that the file `path` imports, also inside functions."""
    if path.suffix != ".py":
        return
    try:
        parsed = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # nothing can import it; should something try, Python says what is wrong
        return
    names: set[str] = set()
    for node in ast.walk(parsed):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.partition(".")[0])
        elif isinstance(node, ast.ImportFrom) and node.level:  # of its own package, which may have no __init__.py
            names.add(path.relative_to(folder).parts[0])
    for name in sorted(names - OWN_PACKAGES - sys.stdlib_module_names):
        for file in _module_files(name):
            if file.is_relative_to(folder):
                yield file


def _module_files(name: str) -> Iterator[Path]:
    """The file of the top-level module `name`, or all of a package without ``__init__.py``; none where it is absent."""
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):
        return
    if spec is None:
        return
    if spec.has_location and spec.origin is not None:
        yield Path(spec.origin).resolve()
    elif spec.origin is None:
        for place in spec.submodule_search_locations or ():
            yield from sorted(Path(place).resolve().rglob("*.py"))


@cache
def _python_folders() -> frozenset[Path]:
    return frozenset(Path(path).resolve() for path in sysconfig.get_paths().values())
