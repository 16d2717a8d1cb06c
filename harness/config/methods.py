"""The methods that `model.kind` can name: the project's own, those that installed packages announce, any class.

A class is named ``package.module:Class`` (:mod:`harness.plugins`). A package announces a method by an entry point of
the group :data:`GROUP`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

from harness import plugins
from harness.errors import ConfigError
from harness.plugins import PluginError, Source, failure
from harness.wording import nearest
from models.methods import METHODS, Method, Settings

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "harness.methods"
SECTIONS = {"model": "model_settings", "train": "train_settings", "sample": "sample_settings"}
"""The sections that a method has keys of its own in, and where it declares them."""


class UnknownMethod(ConfigError):
    """A name of no method."""


_loaded: dict[str, Method] = dict(METHODS)
_places: dict[str, str] = {}
"""The ``package.module:Class`` of each kind that is not the project's own."""


def method_of(kind: str) -> Method:
    """The method called `kind`. Raises :class:`ConfigError` where there is none, or where it cannot be used."""
    if kind not in _loaded:
        place = kind if ":" in kind else _announced(kind)
        try:
            found = plugins.load(place)
        except PluginError as error:
            raise _refused(kind, str(error)) from error
        method = _checked(kind, found)
        method.kind = kind
        _loaded[kind], _places[kind] = method, place
    return _loaded[kind]


def source_of(kind: str) -> Source | None:
    """The source of the method called `kind`; None for the project's own, whose ids have a number for it."""
    method_of(kind)
    return plugins.source_of(_places[kind]) if kind in _places else None


def known_methods() -> dict[str, Method]:
    """The project's own methods and all that this process has loaded so far."""
    return dict(_loaded)


def _refused(kind: str, problem: str) -> ConfigError:
    return ConfigError("model.kind", [f"{kind!r} {problem}"])


def _entry_points() -> dict[str, list[EntryPoint]]:
    """By name; several where packages announce different classes under one."""
    from importlib.metadata import entry_points  # imported here: it is slow, and only a kind from outside needs it

    points: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=GROUP):
        same = points.setdefault(point.name, [])
        if point.value not in [other.value for other in same]:
            same.append(point)
    return points


def _announced(kind: str) -> str:
    """``package.module:Class`` of an entry point."""
    points = _entry_points()
    if len(announced := [point.value for point in points.get(kind, [])]) > 1:
        raise _refused(kind, f"is announced by several installed packages; name one of {', '.join(announced)}")
    if announced:
        return announced[0]
    choices = [*METHODS, *points]
    problem = f"is not one of {', '.join(map(repr, choices))}{nearest(kind, choices)}"
    raise UnknownMethod("model.kind", [f"{kind!r} {problem}, nor a method's package.module:Class"])


def _check_defaults(kind: str, section: str, settings: type[Settings]) -> None:
    """That every default is a value that its key takes and that JSON holds, as ids and records do."""
    try:
        settings.model_validate_json(settings.model_construct().model_dump_json(warnings=False))
    except PydanticSerializationError as error:
        raise _refused(kind, f"has a default in {SECTIONS[section]} that JSON cannot hold: {error}") from error
    except ValidationError as failed:
        for one in failed.errors():
            if one["type"] not in ("value_error", "assertion_error"):  # the method's own checks may need further keys
                key = ".".join(map(str, (section, *one["loc"])))
                why = f"{one['msg'][0].lower()}{one['msg'][1:]}"
                raise _refused(
                    kind, f"has {key} with the default {one['input']!r}, which it does not take: {why}"
                ) from None
    except Exception as error:
        raise _refused(kind, f"fails to check its keys of the section {section}: {failure(error)}") from error


def _checked(kind: str, found: object) -> Method:
    """An instance of the class `found`, once it is known to have the interface of a method."""
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
        _check_defaults(kind, section, settings)
    try:
        return found()
    except Exception as error:
        raise _refused(kind, f"cannot be made: {type(error).__name__}: {error}") from error
