"""Values of a YAML file or of the command line, converted to what their key takes.

A key that takes text gets the text that was written, be it `007`, `1.50` or `2026-11-25`; a key that takes a whole
number gets 1000 for `1e3`. A value that does not fit its key's type is left as it is, for the schema to refuse.
"""

from __future__ import annotations

import os
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from math import isfinite
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from harness.config.yamlfile import DecimalNumber, WholeNumber, load_text
from harness.errors import ConfigError

NOTHING = "null"
"""What stands for no value on the command line, for a key that may go without one."""


@dataclass(frozen=True)
class ReadBy:
    """In a free mapping's annotation: the function that reads its values, whose types the annotation does not give."""

    read: Callable[[Any], Any]


def options_of(annotation: Any) -> Iterator[Any]:
    """The types that `annotation` allows, without their constraints; a literal's are its values."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from options_of(get_args(annotation)[0])
    elif origin in (Union, types.UnionType):
        for option in get_args(annotation):
            yield from options_of(option)
    elif annotation is None:
        yield type(None)
    else:
        yield annotation


def takes(annotation: Any, kind: type) -> bool:
    """Whether a value of `kind` can be one of `annotation`'s."""
    return any(
        option is kind or (get_origin(option) is Literal and any(type(value) is kind for value in get_args(option)))
        for option in options_of(annotation)
    )


def as_typed(annotation: Any, value: Any) -> Any:
    """`value`, as YAML gave it, converted to what a key of type `annotation` takes."""
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int | float):
        return _number(annotation, value)
    if isinstance(value, list):
        return _items(annotation, value)
    if isinstance(value, Mapping):
        return _entries(annotation, value)
    return value


def _number(annotation: Any, value: int | float) -> int | float | str:
    written = getattr(value, "text", str(value))
    whole = _whole(value) if takes(annotation, int) else None
    if takes(annotation, str) and written != str(whole):
        return str(written)
    if whole is not None:
        return whole
    return plain(value) if takes(annotation, float) or takes(annotation, int) else value


def _whole(value: int | float) -> int | None:
    if isinstance(value, int):
        return int(value)
    if not isfinite(value):
        return None
    exact = Decimal(value.text) if isinstance(value, DecimalNumber) else Decimal(value)
    return int(exact) if exact == exact.to_integral_value() else None


def plain(value: Any) -> Any:
    """`value` of YAML with Python's own numbers, which do not remember how they were written."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, WholeNumber):
        return int(value)
    return float(value) if isinstance(value, DecimalNumber) else value


def _items(annotation: Any, values: list[Any]) -> list[Any]:
    for option in options_of(annotation):
        arguments = get_args(option)
        if get_origin(option) is list or (get_origin(option) is tuple and arguments[1:] == (...,)):
            return [as_typed(arguments[0], value) for value in values]
        if get_origin(option) is tuple and len(arguments) == len(values):
            return [as_typed(argument, value) for argument, value in zip(arguments, values, strict=True)]
    return values


def _entries(annotation: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    for option in options_of(annotation):
        if isinstance(option, type) and issubclass(option, BaseModel):
            fields = option.model_fields
            return {key: _field(fields[key], value) if key in fields else value for key, value in values.items()}
        if get_origin(option) is dict:
            return {key: as_typed(get_args(option)[1], value) for key, value in values.items()}
    return dict(values)


def _field(field: FieldInfo, value: Any) -> Any:
    reader = next((mark for mark in field.metadata if isinstance(mark, ReadBy)), None)
    return reader.read(value) if reader else as_typed(field.annotation, value)


def from_text(annotation: Any, text: str, source: str) -> Any:
    """The value that `text` of a command line gives a key of type `annotation`.

    A key that takes text gets `text` as it stands; any other is read as YAML. Raises :class:`ConfigError`, which
    `source` opens, where that is no YAML, or nothing for a key that may go without a value: a shell's variable that is
    not set would say so unnoticed.
    """
    if takes(annotation, type(None)):
        if not text.strip():
            raise ConfigError(source, [f"nothing stands after the =; give a value, or {NOTHING} to leave it unset"])
        if text.strip() == NOTHING:
            return None
    if takes(annotation, str):
        if takes(annotation, bool) and text in ("true", "false"):
            return text == "true"
        return text
    return as_typed(annotation, load_text(text, source))


def decoded(text: str, source: str) -> str:
    """An argument of the command line whose bytes are UTF-8, in whatever locale. Raises :class:`ConfigError`."""
    try:
        return os.fsencode(text).decode()
    except UnicodeDecodeError:
        shown = text.encode(errors="replace").decode()
        raise ConfigError(source, [f"{shown!r} is not UTF-8; rename it, or link to it by another name"]) from None
