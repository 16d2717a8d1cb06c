"""What is wrong with a value, in words: the key, the value, what is needed, the nearest choice, how to write it."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError

from harness.config.values import options_of, takes
from harness.wording import nearest

SHAPE_ERRORS = {
    "bool_type", "dict_type", "float_type", "int_from_float", "int_type", "list_type", "missing", "model_type",
    "string_type", "too_long", "too_short", "tuple_type",
}  # fmt: skip
"""pydantic's names for a value of another type or length than the key takes."""
TRUTHS = {word: truth for words, truth in (("yes on y", "true"), ("no off n", "false")) for word in words.split()}
"""How to write the words that YAML 1.1 and other languages take for a truth value."""
SHOWN = 60
OF_A_KEY = re.compile(r"[a-z]\w*: ")
"""How the message of a section's own check begins: with the key that is wrong."""


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The section that `annotation` allows, if it allows one."""
    return next((c for c in options_of(annotation) if isinstance(c, type) and issubclass(c, BaseModel)), None)


def known_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every dotted key of `model` that takes a value, e.g. ``sample.steps``."""
    yield from key_types(model, prefix)


def key_types(model: type[BaseModel], prefix: str = "") -> dict[str, Any]:
    """Every dotted key of `model` that takes a value, with the type of that value."""
    types: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        section = section_of(field.annotation)
        if section is None:
            types[prefix + name] = field.annotation
        else:
            types |= key_types(section, f"{prefix}{name}.")
    return types


def complaints(
    failure: ValidationError, model: type[BaseModel], known_elsewhere: Callable[[str], str | None] = lambda key: None
) -> list[str]:
    """One sentence for each key of `model` that is wrong; a key that was only misspelt is not reported as missing.

    `known_elsewhere` says why `model` does not have a key that others have.
    """
    sentences: dict[str, str] = {}
    misspelt: list[str] = []
    for error in failure.errors():
        if error["type"] == "default_factory_not_called":  # another error of the section has caused it
            continue
        location, annotation = _locate(model, error["loc"], error["input"] if error["type"] == "missing" else None)
        key = ".".join(location)
        if error["type"] == "extra_forbidden":
            sentences[key] = f"{key}: {known_elsewhere(key) or _unknown(location, model)}"
            misspelt.append(key)
        else:
            sentences.setdefault(key, _sentence(key, annotation, error))
    absent = [key for key in sentences if "." not in key and sentences[key].startswith(f"{key}: is missing")]
    for key in absent:
        if get_close_matches(key, misspelt, n=1, cutoff=0.6):
            del sentences[key]
    return list(sentences.values())


def _locate(model: type[BaseModel], location: tuple[int | str, ...], lacking: Any = None) -> tuple[list[str], Any]:
    """(The parts of the key, without positions in lists and the branches of a choice of types; its type).

    The type is that of the value itself where it stands in a list, but for what the list `lacking` lacks.
    """
    section: type[BaseModel] | None = model
    parts: list[str] = []
    annotation: Any = model
    for part in location:
        if section is not None and part in section.model_fields:
            annotation = section.model_fields[str(part)].annotation
        elif section is not None:  # an unknown key
            return [*parts, str(part)], None
        elif isinstance(part, int):
            annotation = annotation if isinstance(lacking, list) else _items_of(annotation, part)
            continue
        elif (inside := values_of(annotation)) is not None:
            annotation = inside
        else:
            break
        parts.append(str(part))
        section = section_of(annotation)
    return parts, annotation


def _items_of(annotation: Any, position: int) -> Any:
    """What a list holds at `position`."""
    for option in options_of(annotation):
        arguments = get_args(option)
        if get_origin(option) in (list, tuple):
            return arguments[0] if arguments[1:] in ((), (...,)) else arguments[position]
    return annotation


def values_of(annotation: Any) -> Any:
    """What a mapping of names holds; None for any other type."""
    return next((get_args(option)[1] for option in options_of(annotation) if get_origin(option) is dict), None)


def _unknown(location: list[str], model: type[BaseModel]) -> str:
    _, section = _locate(model, tuple(location[:-1]))
    choices = list((section_of(section) or model).model_fields)
    everywhere = [key for key in known_keys(model) if key.split(".")[-1] == location[-1]]
    hint = nearest(location[-1], choices) or (f" (did you mean {everywhere[0]!r}?)" if everywhere else "")
    return f"unknown key{hint}; choices: {', '.join(choices)}"


def _sentence(key: str, annotation: Any, error: Mapping[str, Any]) -> str:
    kind, value = error["type"], error["input"]
    head = f"{key}: " if key else ""
    if kind in ("value_error", "assertion_error"):
        message = str(error["ctx"]["error"]) or _failed_check(error["ctx"]["error"], value)
        return f"{key}.{message}" if key and OF_A_KEY.match(message) else f"{head}{message}"
    if kind == "missing" and key and "." not in key and isinstance(value, dict):
        return f"{head}is missing; {words_of(annotation)} is needed"
    if value is None:
        changes_nothing = section_of(annotation) or values_of(annotation)
        cure = "write {} where it changes nothing" if changes_nothing else f"{words_of(annotation)} is needed"
        return f"{head}nothing is given; {cure}"
    if kind == "literal_error":
        choices = [text.strip("'") for text in error["ctx"]["expected"].replace(" or ", ", ").split(", ")]
        return f"{head}{shown(value)} is not one of {error['ctx']['expected']}{nearest(str(value), choices)}"
    if kind in SHAPE_ERRORS:
        return f"{head}{_misfit(annotation, value)}"
    if kind == "string_pattern_mismatch":
        return f"{head}{shown(value)} is no name; lower-case letters, digits and . _ - are, as {_as_name(str(value))!r}"
    if kind == "finite_number":
        return f"{head}{shown(value)} is no finite number"
    return f"{head}{error['msg'][0].lower()}{error['msg'][1:]}, not {shown(value)}"


def _failed_check(error: BaseException, value: Any) -> str:
    """The message for a check that raised without one, as a bare ``assert`` does: it quotes the line of the check."""
    frames = traceback.extract_tb(error.__traceback__)
    line = f" ({frames[-1].line}; {frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    given = "its keys together do" if isinstance(value, Mapping | BaseModel) else f"{shown(value)} does"
    return f"{given} not pass a check{line}"


def _misfit(annotation: Any, value: Any) -> str:
    """A value of the wrong type: what it is, what is needed, and how that is written where it can be told."""
    needed = words_of(annotation)
    if isinstance(value, str) and not takes(annotation, str) and (takes(annotation, int) or takes(annotation, float)):
        meant = _number_meant(value)
        return f"{shown(value)} is text, not a number; {f'write it as {meant}' if meant else f'{needed} is needed'}"
    if isinstance(value, str) and takes(annotation, bool):
        meant = TRUTHS.get(value.lower())
        return f"{shown(value)} is text; write {meant or 'true or false'}"
    if isinstance(value, bool) and takes(annotation, str):
        return f"{needed} is needed; write {str(value).lower()} in quotes if that is the text"
    return f"{needed} is needed, not {shown(value)}"


def _number_meant(text: str) -> str | None:
    """How to write the number that `text` was meant as; None where it is not a number."""
    bare = re.sub(r"(?<=\d)[_,' ](?=\d{3})", "", text.strip())
    return bare if re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", bare) else None


def _as_name(text: str) -> str:
    return re.sub(r"[^a-z0-9_.-]+", "-", text.lower()).strip("-._") or "my-sweep"


def shown(value: Any) -> str:
    """`value` for a message, cut short where it is long."""
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def words_of(annotation: Any) -> str:
    """What a key of that type takes, in words."""
    return " or ".join(dict.fromkeys(_words(option) for option in options_of(annotation) if option is not type(None)))


def _words(option: Any) -> str:
    simple = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    if option in simple:
        return simple[option]
    origin, arguments = get_origin(option), get_args(option)
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin is tuple and arguments[1:] != (...,):
        return f"a list of {len(arguments)} {_plural(arguments[0])}"
    if origin in (tuple, list):
        return f"a list of {_plural(arguments[0])}"
    if origin is dict and section_of(arguments[1]):
        return "a mapping of names, as {base: {}},"
    return "a mapping of keys, as {key: value},"


def _plural(annotation: Any) -> str:
    option = next(options_of(annotation))
    plural = {int: "whole numbers", float: "numbers", str: "texts"}
    return plural.get(option, "values") if get_origin(option) is not Literal else f"values ({_words(option)})"
