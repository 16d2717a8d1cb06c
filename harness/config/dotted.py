"""Dotted keys: nested mappings to flat ones and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from harness.config.methods import UnknownMethod, method_of
from harness.config.schema import Experiment, key_types, nearest
from harness.errors import ConfigError

SECTIONS = frozenset(Experiment.model_fields) - {"seed"}


def flatten(values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Nested or dotted keys to dotted ones. Raises :class:`ConfigError` for a key that no experiment has."""
    flat: dict[str, Any] = {}
    problems: list[str] = []
    known = key_types()

    def visit(prefix: str, items: Mapping[str, Any]) -> None:
        for key, value in items.items():
            dotted = f"{prefix}{key}"
            if dotted in known:
                if dotted in flat:
                    problems.append(f"{dotted}: appears twice")
                flat[dotted] = value
            elif isinstance(value, Mapping) and any(k.startswith(f"{dotted}.") for k in known):
                visit(f"{dotted}.", value)
            elif any(k.startswith(f"{dotted}.") for k in known):
                problems.append(f"{dotted}: is a section of keys, not {value!r}")
            else:
                problems.append(f"{dotted}: unknown key{hint_of(dotted)}")

    visit("", values)
    if problems:
        raise ConfigError(source, problems)
    return flat


def hint_of(dotted: str) -> str:
    known = key_types()
    siblings = [k for k in known if k.rpartition(".")[0] == dotted.rpartition(".")[0]]
    first = nearest(dotted, siblings) if "." in dotted else nearest(dotted, sorted(SECTIONS))
    hint = first or nearest(dotted, list(known))
    listed = [k.rpartition(".")[2] for k in siblings] if "." in dotted else sorted(SECTIONS)
    return f"{hint}; choices: {', '.join(listed)}" if listed else hint


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys to nested mappings."""
    nested: dict[str, Any] = {}
    for dotted, value in flat.items():
        *parents, last = dotted.split(".")
        level = nested
        for parent in parents:
            level = level.setdefault(parent, {})
        level[last] = value
    return nested


def load_kinds(values: Any, source: str) -> None:
    """Load the methods that `values`, of whatever shape a file has, name anywhere: their keys are known from then on.

    Raises :class:`ConfigError` for a class that cannot be used; a name that is not known stays for the schema to tell.
    """
    for kind in dict.fromkeys(_kinds_in(values)):
        try:
            method_of(kind)
        except UnknownMethod:
            continue
        except ConfigError as error:
            raise ConfigError(source, [f"model.kind: {problem}" for problem in error.problems]) from error


def _kinds_in(values: Any) -> Iterator[str]:
    """What stands as ``model.kind`` in `values`: nested, dotted, in lists of a grid, zipped with other keys."""
    if not isinstance(values, Mapping):
        return
    for key, value in values.items():
        names = [name.strip() for name in str(key).split(",")]
        if "model.kind" in names:
            place = names.index("model.kind")
            points = value if isinstance(value, list) else [value]
            if len(names) > 1:
                points = [point[place] for point in points if isinstance(point, list) and len(point) > place]
            yield from (point for point in points if isinstance(point, str))
        elif key == "model" and isinstance(value, Mapping) and isinstance(value.get("kind"), str):
            yield value["kind"]
        yield from _kinds_in(value)
