"""Strict YAML: safe types only, and a key that appears twice is an error, not a silent overwrite."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from harness.errors import ConfigError


class _StrictLoader(yaml.CSafeLoader if hasattr(yaml, "CSafeLoader") else yaml.SafeLoader):  # type: ignore[misc]
    """PyYAML's safe loader, which also refuses duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                mark = key_node.start_mark
                raise yaml.MarkedYAMLError(problem=f"key {key!r} appears twice", problem_mark=mark)
            if isinstance(key, Hashable):
                seen.add(key)
        return super().construct_mapping(node, deep)


def load_text(text: str, source: str) -> Any:
    """The value of one YAML document. Raises :class:`ConfigError` with file and line."""
    try:
        return yaml.load(text, Loader=_StrictLoader)  # a subclass of the safe loader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}: " if mark else ""
        raise ConfigError(source, [f"{where}{error.problem or error.context}"]) from None
    except yaml.YAMLError as error:
        raise ConfigError(source, [str(error).splitlines()[0]]) from None


def load_mapping(path: Path) -> dict[str, Any]:
    """The mapping in the YAML file `path`. Raises :class:`ConfigError` if it cannot be read or is no mapping."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        raise ConfigError(str(path), [f"no such file{_siblings(path)}"]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), [f"cannot be read: {getattr(error, 'strerror', None) or error}"]) from None
    value = load_text(text, str(path))
    if not isinstance(value, dict):
        raise ConfigError(str(path), [f"holds {type(value).__name__}, not a mapping of keys"])
    odd = [key for key in value if not isinstance(key, str)]
    if odd:
        raise ConfigError(str(path), [f"{odd[0]!r} is no key"])
    return value


def _siblings(path: Path) -> str:
    from difflib import get_close_matches

    if not path.parent.is_dir():
        return ""
    match = get_close_matches(path.name, [p.name for p in path.parent.iterdir()], n=1, cutoff=0.5)
    return f" (did you mean {str(path.parent / match[0])!r}?)" if match else ""
