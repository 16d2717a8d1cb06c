"""Strict YAML: read as it was meant, or refused with the line and the right way to write it.

PyYAML's safe loader reads the text; of YAML's types only texts, numbers, true and false, null, lists and mappings are
taken. Scalars mean what they mean in YAML 1.2: `1e-5` is a number, `yes`, `on`, `1:30` and `2026-11-25` are texts, a
leading zero makes no octal number. Keys are text as it is written. A key that appears twice is an error, not a silent
overwrite.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Self

import yaml

from harness.errors import ConfigError
from harness.wording import count_of

MOST_VALUES = 1_000_000
"""Limit on values: aliases of aliases can stand for more than a machine can hold."""
MOST_LEVELS = 64
MOST_DIGITS = 400
TAG = "tag:yaml.org,2002:"
INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
PREFIXED = {"0o": 8, "0x": 16}
CORE_SCALARS = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (INTEGER.pattern, list("-+0123456789")),
    "float": (
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+0123456789."),
    ),
    "merge": (r"<<", ["<"]),
}
"""The scalars that are no text, in the order in which they are tried: pattern and first characters."""
CURES = {
    "cannot start any token": "a text that starts with {character} must stand in quotes",
    "found another document": "a file holds one document; remove the line --- and what does not belong to it",
    "undefined alias": "a text that starts with * must stand in quotes",
    "while scanning an alias": "a text that starts with * must stand in quotes",
    "while scanning an anchor": "a text that starts with & must stand in quotes",
    "mapping values are not allowed": "a text with ': ' in it must stand in quotes, and the keys of a level line up",
    "did not find expected key": "the keys of a level line up, and each has a value after ': '",
}
"""What to do about the parser's most common errors."""


class _Written:
    """A number that remembers how it was written: where a key takes text, that is its value."""

    text: str

    def __new__(cls, value: float, text: str) -> Self:
        number = super().__new__(cls, value)  # type: ignore[call-arg]
        number.text = text
        return number

    def __reduce__(self) -> tuple[type[Self], tuple[float, str]]:
        return type(self), (self.real, self.text)  # type: ignore[attr-defined]


class WholeNumber(_Written, int):
    """A whole number of a YAML file."""


class DecimalNumber(_Written, float):
    """A number with a point or an exponent of a YAML file."""


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """The safe loader with the scalars of YAML 1.2; only its parser and composer are used."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - filled below, as PyYAML wants it


for _name, (_pattern, _first) in CORE_SCALARS.items():
    _Loader.add_implicit_resolver(f"{TAG}{_name}", re.compile(rf"(?:{_pattern})\Z"), _first)


def load_text(text: str, source: str) -> Any:
    """The value of one YAML document; None where it is empty. Raises :class:`ConfigError` with file and line."""
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            return None if node is None else _Reader().document(node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        raise ConfigError(source, [_complaint(error, text)]) from None
    except yaml.YAMLError as error:
        raise ConfigError(source, [str(error).splitlines()[0]]) from None
    except RecursionError:
        raise ConfigError(source, ["is nested too deeply"]) from None


def _complaint(error: yaml.MarkedYAMLError, text: str) -> str:
    """The parser's message, with the line and what to do about it."""
    mark = error.problem_mark or error.context_mark
    problem = error.problem or error.context or "is no YAML"
    rest = "".join(text.split("\n")[mark.line : mark.line + 1])[mark.column :] if mark else ""
    cure = next((cure for part, cure in CURES.items() if part in f"{error.context} {problem}"), "")
    if "{character}" in cure:
        cure = "lines are indented with spaces, not tabs" if rest[:1] == "\t" else cure.format(character=rest[:1])
    where = f"line {mark.line + 1}: " if mark else ""
    return f"{where}{problem}{f' ({cure})' if cure else ''}"


class _Reader:
    """Turns the nodes of one document into plain values."""

    def __init__(self) -> None:
        self._values: dict[int, Any] = {}
        self._sizes: dict[int, int] = {}
        self._open: set[int] = set()

    def document(self, root: yaml.Node) -> Any:
        value = self._value(root)
        if self._sizes[id(root)] > MOST_VALUES:
            raise _refused(root, f"its aliases stand for {self._sizes[id(root)]:,} values, more than {MOST_VALUES:,}")
        return value

    def _value(self, node: yaml.Node) -> Any:
        """The value of `node`; an alias's is built once and shared."""
        if id(node) in self._open:
            raise _refused(node, "an alias stands inside what it is an alias of")
        if id(node) not in self._values:
            if len(self._open) > MOST_LEVELS:
                raise _refused(node, f"is nested deeper than {MOST_LEVELS} levels")
            self._open.add(id(node))
            self._values[id(node)] = self._made(node)
            self._open.remove(id(node))
            self._sizes[id(node)] = 1 + sum(self._sizes.get(id(child), 1) for child in _children(node))
        return self._values[id(node)]

    def _made(self, node: yaml.Node) -> Any:
        if isinstance(node, yaml.ScalarNode):
            return _scalar(node)
        if isinstance(node, yaml.SequenceNode):
            _expect_tag(node, "seq")
            return [self._value(item) for item in node.value]
        assert isinstance(node, yaml.MappingNode)  # nodes are scalars, sequences or mappings
        _expect_tag(node, "map")
        return self._mapping(node)

    def _mapping(self, node: yaml.MappingNode) -> dict[str, Any]:
        own: dict[str, Any] = {}
        merged: dict[str, Any] | None = None
        for key_node, value_node in node.value:
            if key_node.tag == f"{TAG}merge":
                if merged is not None:
                    raise _refused(key_node, "key '<<' appears twice; write <<: [*one, *other]")
                merged = self._merged(value_node)
                continue
            key = _key(key_node)
            if key in own:
                raise _refused(key_node, f"key {key!r} appears twice")
            own[key] = self._value(value_node)
        return {**(merged or {}), **own}

    def _merged(self, node: yaml.Node) -> dict[str, Any]:
        """What `<<` merges in: a mapping, or a list of them in which earlier ones take precedence."""
        value = self._value(node)
        parts = value if isinstance(node, yaml.SequenceNode) else [value]
        if not all(isinstance(part, dict) for part in parts):
            raise _refused(node, "<< takes a mapping or a list of mappings, such as <<: *name")
        return {key: item for part in reversed(parts) for key, item in part.items()}


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.SequenceNode):
        yield from node.value
    elif isinstance(node, yaml.MappingNode):
        for _, value in node.value:
            yield value


def _key(node: yaml.Node) -> str:
    """A key is text as written, whatever it would be as a value."""
    if not isinstance(node, yaml.ScalarNode):
        raise _refused(node, "a key must be text, not a list or a mapping")
    _expect_tag(node, "str", "int", "float", "bool", "null")
    if not node.value:
        raise _refused(node, "a key is missing before ':'")
    return str(node.value)


def _scalar(node: yaml.ScalarNode) -> str | int | float | bool | None:
    kind, text = node.tag.removeprefix(TAG), node.value
    if kind == "merge":  # no value has that meaning
        return str(text)
    _expect_tag(node, "str", "int", "float", "bool", "null")
    if kind == "str":
        return str(text)
    if not re.fullmatch(CORE_SCALARS[kind][0], text):  # a tag was written before it
        raise _refused(node, f"{text!r} is no {kind}")
    if kind == "null":
        return None
    if kind == "bool":
        return bool(text.lower() == "true")
    if len(text) > MOST_DIGITS:
        raise _refused(node, f"a number of {len(text)} digits")
    if kind == "int":
        return WholeNumber(whole_number(text), text)
    return DecimalNumber(float(text.replace(".inf", "inf").replace(".nan", "nan") if "n" in text else text), text)


def whole_number(text: str) -> int:
    """The value of a text that :data:`INTEGER` matches: `0x` and `0o` as in Python, leading zeros mean nothing."""
    return int(text, PREFIXED.get(text[:2], 10))


def _expect_tag(node: yaml.Node, *kinds: str) -> None:
    if node.tag not in {TAG + kind for kind in kinds}:
        name = node.tag.replace(TAG, "!!", 1)
        raise _refused(node, f"{name} is not taken, only texts, numbers, true, false, null, lists and mappings")


def _refused(node: yaml.Node, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


def load_mapping(path: Path, *, may_be_empty: bool = False) -> dict[str, Any]:
    """The mapping in the YAML file `path`. Raises :class:`ConfigError` if it cannot be read or is no mapping."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # with or without a byte order mark
    except FileNotFoundError:
        raise ConfigError(str(path), [f"no such file{_siblings(path)}"]) from None
    except IsADirectoryError:
        raise ConfigError(str(path), [f"is a folder; a YAML file is needed{_files_in(path)}"]) from None
    except UnicodeDecodeError as error:
        where = f"{error.reason} at byte {error.start}"
        raise ConfigError(str(path), [f"is not UTF-8 ({where}); save it as UTF-8"]) from None
    except OSError as error:
        raise ConfigError(str(path), [f"cannot be read: {error.strerror or error}"]) from None
    value = load_text(text, str(path))
    if value is None and may_be_empty:
        return {}
    if value is None:
        raise ConfigError(str(path), ["is empty; a file of keys is needed, each as key: value"])
    if not isinstance(value, dict):
        raise ConfigError(str(path), [f"holds {_kind_of(value)}, not keys; write each as key: value"])
    return value


def _kind_of(value: Any) -> str:
    return "a list" if isinstance(value, list) else f"only {value!r}"


def _siblings(path: Path) -> str:
    if not path.parent.is_dir():
        return ""
    match = get_close_matches(path.name, [p.name for p in path.parent.iterdir()], n=1, cutoff=0.5)
    return f" (did you mean {str(path.parent / match[0])!r}?)" if match else ""


def _files_in(folder: Path, most: int = 4) -> str:
    files = sorted(str(path) for path in folder.glob("*.yaml"))
    if not files:
        return ""
    return f"; there are {', '.join(files[:most])}" + (
        f" and {count_of(len(files) - most, 'more file')}" if len(files) > most else ""
    )
