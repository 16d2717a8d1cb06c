"""Every key of a configuration in words: what it takes, in which range, its default and what it means."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, get_args

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from harness.config.complaints import section_of, words_of

NO_DEFAULT = "required"
MOST_SHOWN = 1e6
"""Larger bounds are not shown: they only keep integers from overflowing."""
BOUNDS = {Ge: ("≥", "ge"), Gt: (">", "gt"), Le: ("≤", "le"), Lt: ("<", "lt")}


@dataclass(frozen=True)
class Key:
    """One key that a person can write.

    Attributes:
        name: dotted, as ``sample.steps``.
        takes: what its value is, in words.
        range: the bounds of its numbers, empty where there are none.
        default: as it is written in YAML; "required" where there is none, "unset" where the key may be left out and
            its meaning says what holds then.
        meaning: a phrase.
    """

    name: str
    takes: str
    range: str
    default: str
    meaning: str

    def as_dict(self) -> dict[str, str]:
        """The key as plain JSON values."""
        return asdict(self)


def keys_of(model: type[BaseModel], prefix: str = "") -> Iterator[Key]:
    """Every key of `model` and of the sections in it, in the order they are declared in.

    A section with a description is listed as one key: its own keys are listed elsewhere.
    """
    for name, field in model.model_fields.items():
        section = section_of(field.annotation)
        if section is None or field.description:
            yield Key(
                prefix + name,
                _words(field.annotation),
                ", ".join(dict.fromkeys(_bounds(field))),
                _default(field),
                field.description or "",
            )
        else:
            yield from keys_of(section, f"{prefix}{name}.")


def _words(annotation: Any) -> str:
    if section_of(annotation) is not None:
        return "a mapping of keys"
    return words_of(annotation).partition(", as {")[0]


def _bounds(field: FieldInfo) -> Iterator[str]:
    """Of the value itself, or of the numbers in it."""
    for mark in (*field.metadata, *_marks(field.annotation)):
        for kind, (sign, attribute) in BOUNDS.items():
            if isinstance(mark, kind) and getattr(mark, attribute) < MOST_SHOWN:
                yield f"{sign} {getattr(mark, attribute):g}"
        if isinstance(mark, MinLen) and mark.min_length:
            yield "one or more" if mark.min_length == 1 else f"{mark.min_length} or more"


def _marks(annotation: Any) -> Iterator[Any]:
    for argument in get_args(annotation):
        if isinstance(argument, FieldInfo):
            yield from argument.metadata
        else:
            yield from _marks(argument)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return NO_DEFAULT
    if field.default_factory_takes_validated_data:  # it depends on another key
        return "unset"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "unset"
    if isinstance(value, BaseModel):
        return "{}"
    return json.dumps(value, ensure_ascii=False)
