"""Dotted keys: nested mappings to flat ones and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.config.complaints import key_types
from harness.config.schema import (
    Experiment,
    nearest,
)
from harness.errors import ConfigError

KEY_TYPES = key_types(Experiment)
"""Every dotted key of an experiment, with the type of its value."""
KEYS = tuple(KEY_TYPES)
SECTIONS = frozenset(Experiment.model_fields) - {"seed"}


def flatten(values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Nested or dotted keys to dotted ones. Raises :class:`ConfigError` for a key that no experiment has."""
    flat: dict[str, Any] = {}
    problems: list[str] = []

    def visit(prefix: str, items: Mapping[str, Any]) -> None:
        for key, value in items.items():
            dotted = f"{prefix}{key}"
            if dotted in KEYS:
                if dotted in flat:
                    problems.append(f"{dotted}: appears twice")
                flat[dotted] = value
            elif isinstance(value, Mapping) and any(k.startswith(f"{dotted}.") for k in KEYS):
                visit(f"{dotted}.", value)
            elif any(k.startswith(f"{dotted}.") for k in KEYS):
                problems.append(f"{dotted}: is a section of keys, not {value!r}")
            else:
                problems.append(f"{dotted}: unknown key{hint_of(dotted)}")

    visit("", values)
    if problems:
        raise ConfigError(source, problems)
    return flat


def hint_of(dotted: str) -> str:
    siblings = [k for k in KEYS if k.rpartition(".")[0] == dotted.rpartition(".")[0]]
    first = nearest(dotted, siblings) if "." in dotted else nearest(dotted, sorted(SECTIONS))
    hint = first or nearest(dotted, list(KEYS))
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
