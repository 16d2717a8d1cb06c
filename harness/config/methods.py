"""The methods that `model.kind` can name: the project's own, those that installed packages announce, any class.

``package.module:Class`` is imported from where Python finds it, or else from the working directory, or from the folders
that the environment's :data:`PATH_VARIABLE` lists. A package announces
a method by an entry point of the group :data:`GROUP`. The source of such a class is part of the ids of its trainings
(:attr:`Source.digest`) and travels with jobs to other machines (:attr:`Source.files`).
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module, invalidate_caches
from importlib.machinery import PathFinder
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from harness.config.complaints import nearest
from harness.errors import ConfigError
from models.methods import METHODS, Method, Settings

GROUP = "harness.methods"
PATH_VARIABLE = "HARNESS_METHODS_PATH"
OWN_PACKAGES = frozenset({"harness", "models"})
RECORD = "METHODS.json"
"""In a copy of the source: the digest of each kind's source, as it was where the copy was made."""
MOST_BYTES = 64 * 2**20
SECTIONS = {"model": "model_settings", "train": "train_settings", "sample": "sample_settings"}
"""The sections that a method has keys of its own in, and where it declares them."""


class UnknownMethod(ConfigError):
    """A name that nobody has given a method."""


@dataclass(frozen=True)
class Source:
    """The files that a class is made of.

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
    method: Method
    source: Source | None


_loaded: dict[str, _Loaded] = {kind: _Loaded(method, None) for kind, method in METHODS.items()}


def method_of(kind: str) -> Method:
    """The method called `kind`. Raises :class:`ConfigError` where there is none, or where it cannot be used."""
    return _load(kind).method


def source_of(kind: str) -> Source | None:
    """The source of the method called `kind`; None for the project's own, whose ids have a number for it."""
    return _load(kind).source


def known_methods() -> dict[str, Method]:
    """The project's own methods and all that this process has loaded so far."""
    return {kind: loaded.method for kind, loaded in _loaded.items()}


def loaded_sources() -> dict[str, Source]:
    """The sources of all methods loaded so far that are not the project's own."""
    return {kind: loaded.source for kind, loaded in _loaded.items() if loaded.source is not None}


def environment() -> dict[str, str]:
    """Variables by which a process that this one starts finds the methods that this one has loaded."""
    folders = [str(source.folder) for source in loaded_sources().values()]
    given = filter(None, [os.environ.get(PATH_VARIABLE)])
    return {PATH_VARIABLE: os.pathsep.join(dict.fromkeys([*folders, *given]))} if folders else {}


def _load(kind: str) -> _Loaded:
    if kind not in _loaded:
        place = kind if ":" in kind else _announced(kind)
        loaded_class, module = _import(kind, place)
        method = _checked(kind, loaded_class)
        method.kind = kind
        _loaded[kind] = _Loaded(method, _source(kind, module))
    return _loaded[kind]


def _refused(kind: str, problem: str) -> ConfigError:
    return ConfigError("model.kind", [f"{kind!r} {problem}"])


def _entry_points() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


def _announced(kind: str) -> str:
    """``package.module:Class`` of an entry point."""
    points = _entry_points()
    if kind in points:
        return points[kind].value
    choices = [*METHODS, *points]
    problem = f"is not one of {', '.join(map(repr, choices))}{nearest(kind, choices)}"
    raise UnknownMethod("model.kind", [f"{kind!r} {problem}, nor a method's package.module:Class"])


def _import(kind: str, place: str) -> tuple[object, ModuleType]:
    module_name, _, attribute = place.partition(":")
    if not all(part.isidentifier() for part in [*module_name.split("."), *attribute.split(".")]):
        raise _refused(kind, "is no package.module:Class of a method")
    try:
        module = _import_module(module_name)
    except (Exception, SystemExit) as error:  # whatever a person's module raises while it is imported
        where = "" if place == kind else f" ({place})"
        raise _refused(kind, f"cannot be imported{where}: {type(error).__name__}: {error}") from error
    found: object = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            classes = [name for name, value in vars(module).items() if _is_method(value)]
            hint = f"; it has {', '.join(classes)}" if classes else ""
            raise _refused(kind, f"cannot be found: {module.__file__ or module_name} has no {attribute!r}{hint}")
        found = getattr(found, part)
    return found, module


def _import_module(name: str) -> ModuleType:
    """The module `name`. Further folders are looked into last, so that nothing in them hides a package."""
    if find_spec(top := name.partition(".")[0]) is None:
        further = [str(Path.cwd()), *filter(None, os.environ.get(PATH_VARIABLE, "").split(os.pathsep))]
        invalidate_caches()
        folder = next((folder for folder in further if PathFinder.find_spec(top, [folder]) is not None), None)
        if folder is None:
            raise ModuleNotFoundError(f"No module named {top!r}, neither on Python's path nor in {', '.join(further)}")
        sys.path.append(folder)  # for good: it may import what lies beside it at any time
    return import_module(name)


def _is_method(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Method) and value is not Method


def _checked(kind: str, found: object) -> Method:
    """An instance of the class `found`, which has the face of a method."""
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise _refused(kind, "is no method: a subclass of models.methods.Method is needed")
    if found.build is Method.build and found.build_network is Method.build_network:
        raise _refused(kind, "has neither build nor build_network, so it has no network")
    for section, attribute in SECTIONS.items():
        settings = getattr(found, attribute)
        if not (isinstance(settings, type) and issubclass(settings, Settings)):
            raise _refused(kind, f"has {attribute} that are no subclass of models.methods.Settings")
        bare = [name for name, field in settings.model_fields.items() if field.is_required()]
        if bare:
            raise _refused(kind, f"has {section}.{bare[0]} without a default")
    try:
        return found()
    except Exception as error:
        raise _refused(kind, f"cannot be made: {type(error).__name__}: {error}") from error


def _source(kind: str, module: ModuleType) -> Source | None:
    """What the module is made of, as Python found it; None for a module of the project's own."""
    if module.__name__.partition(".")[0] in OWN_PACKAGES:
        return None
    if module.__file__ is None:
        raise _refused(kind, "has no source file, so trainings by different sources could not be told apart")
    path = Path(module.__file__).resolve()
    folder = path.parents[module.__name__.count(".") + (path.stem == "__init__")]
    files = tuple(sorted(_files_of(path, folder)))
    size = sum((folder / file).stat().st_size for file in files)
    if size > MOST_BYTES:
        raise _refused(
            kind,
            f"lies in a package of {size / 2**20:,.0f} MiB, which would travel with every job; at most "
            f"{MOST_BYTES / 2**20:.0f} may: keep data apart from the source",
        )
    return Source(folder, files, recorded_digests(folder).get(kind) or _digest(folder, files))


def recorded_digests(folder: Path) -> dict[str, str]:
    """Of each kind, where `folder` is a copy of the source that was made for jobs."""
    path = folder / RECORD
    digests: dict[str, str] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return digests


def _digest(folder: Path, files: tuple[Path, ...]) -> str:
    digest = hashlib.sha256()
    for file in files:
        content = (folder / file).read_bytes()
        digest.update(f"{file.as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()


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

    A whole package counts, since what one of its modules does may depend on any other, and on files that are none.
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
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.partition(".")[0])
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
