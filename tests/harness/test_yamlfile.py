"""What YAML means here: the scalars of YAML 1.2, keys as text, only what JSON has; a line and a cure where refused."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from harness.config.yamlfile import load_mapping, load_text
from harness.errors import ConfigError

SCALARS: dict[str, Any] = {
    "1e-5": 1e-5, "1e3": 1000.0, ".5": 0.5, "1.": 1.0, "064": 64, "010": 10, "0o17": 15, "0x1f": 31, "-3": -3, "+1": 1,
    "yes": "yes", "no": "no", "on": "on", "off": "off", "y": "y", "true": True, "False": False, "~": None, "null": None,
    "": None, "1:30": "1:30", "48:00:00": "48:00:00", "1_000": "1_000", "2026-11-25": "2026-11-25",
    "2026-11-25 10:00:00": "2026-11-25 10:00:00", "0b11": "0b11", "=": "=", "<<": "<<", "'8'": "8", "!!str 8": "8",
    "!!int '8'": 8, "1.2.3": "1.2.3", "-": [None], ".inf": float("inf"), "1e400": float("inf"),
}  # fmt: skip


@pytest.mark.parametrize("text", SCALARS)
def test_scalars(text: str) -> None:
    value = load_text(f"a: {text}" if text != "-" else "a:\n- ", "f")["a"]
    assert value == SCALARS[text] and isinstance(value, type(SCALARS[text]))


def test_a_number_remembers_how_it_was_written() -> None:
    values = load_text("[007, 1.50, 1e3]", "f")
    for made in (values, copy.deepcopy(values), pickle.loads(pickle.dumps(values))):
        assert [value.text for value in made] == ["007", "1.50", "1e3"]
    assert json.loads(json.dumps(values)) == [7, 1.5, 1000.0]


def test_keys_are_text_as_it_is_written() -> None:
    read = load_text("on: 1\noff: 2\n010: 3\n8: 4\n1:30: 5\nnull: 6\n2026-11-25: 7\n1e3: {no: 8}\n", "f")
    assert read == {"on": 1, "off": 2, "010": 3, "8": 4, "1:30": 5, "null": 6, "2026-11-25": 7, "1e3": {"no": 8}}


def test_merging() -> None:
    """What stands in the mapping wins over what is merged, wherever the << stands; of a list the earlier wins."""
    read = load_text(
        "x: &x {a: 1, b: 2}\ny: {<<: *x, b: 3}\nz: {b: 3, <<: [{a: 5}, {a: 6, c: 7}]}\nw:\n  b: 4\n  <<: *x\n", "f"
    )
    assert read["y"] == {"a": 1, "b": 3} and read["z"] == {"a": 5, "b": 3, "c": 7} and read["w"] == {"a": 1, "b": 4}


def laughs(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join(lines)


REFUSED = {
    "key twice": ("a: 1\nb: 2\na: 3", "line 3: key 'a' appears twice"),
    "key twice, as number and text": ("8: 1\n'8': 2", "line 2: key '8' appears twice"),
    "key twice, nested": ("a: {b: 1, b: 2}", "line 1: key 'b' appears twice"),
    "list as key": ("? [a, b]\n: c", "line 1: a key must be text"),
    "no key": ("? \n: x", "line 1: a key is missing"),
    "empty key": ("'': x", "line 1: a key is missing"),
    "set": ("a: !!set {x, y}", "line 1: !!set is not taken"),
    "binary": ("a: !!binary aGk=", "line 1: !!binary is not taken"),
    "timestamp": ("a: !!timestamp 2026-11-25", "line 1: !!timestamp is not taken"),
    "omap": ("a: !!omap [b: 1]", "line 1: !!omap is not taken"),
    "pairs": ("a: !!pairs [b: 1]", "line 1: !!pairs is not taken"),
    "python": ("a: !!python/object/apply:os.system [x]", "line 1: !!python/object/apply:os.system is not taken"),
    "own tag": ("a: !foo x", "line 1: !foo is not taken"),
    "wrong tag": ("a: !!int x", "line 1: 'x' is no int"),
    "list in itself": ("a: &a [*a]", "line 1: an alias stands inside what it is an alias of"),
    "mapping in itself": ("a: &a\n  b:\n    c: *a", "line 1: an alias stands inside"),
    "merged into itself": ("a: &a {<<: *a}", "line 1: an alias stands inside"),
    "aliases of aliases": (laughs(9), "line 1: its aliases stand for .* values, more than 1,000,000"),
    "merge of a list": ("a: {<<: [1]}", "line 1: << takes a mapping or a list of mappings"),
    "two merges": ("a: &a {b: 1}\nc: {<<: *a, <<: *a}", "line 2: key '<<' appears twice"),
    "no such alias": ("a: *b", r"line 1: .*\(a text that starts with \* must stand in quotes\)"),
    "pattern": ("a: *-train.zip", r"line 1: .*\(a text that starts with \* must stand in quotes\)"),
    "anchor alone": ("a: &", r"line 1: .*\(a text that starts with & must stand in quotes\)"),
    "at": ("a: @x", r"line 1: .*\(a text that starts with @ must stand in quotes\)"),
    "tab": ("a:\n\tb: 1", r"line 2: .*\(lines are indented with spaces, not tabs\)"),
    "colon in a text": ("title: a: b", r"line 1: .*\(a text with ': ' in it must stand in quotes"),
    "two documents": ("a: 1\n---\nb: 2", "line 2: .*a file holds one document"),
    "control character": ("a: \x07", "character"),
    "open list": ("a: [1", "line 2: did not find expected"),
    "deep": ("[" * 200 + "]" * 200, "is nested deeper than 64 levels"),
    "very deep": ("[" * 100_000, "nest"),
    "long number": ("a: " + "9" * 5000, "line 1: a number of 5000 digits"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_is_told_with_its_line(case: str) -> None:
    text, expected = REFUSED[case]
    with pytest.raises(ConfigError, match=f"^f: {expected}" if expected.startswith("line") else expected):
        load_text(text, "f")


def test_byte_order_marks_line_ends_and_encodings(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_bytes("\ufefftitle: Größe ×\r\nb: 2\r\n".encode())
    assert load_mapping(path) == {"title": "Größe ×", "b": 2}
    for encoding in ("latin-1", "utf-16"):
        path.write_bytes("title: Größe\n".encode(encoding))
        with pytest.raises(ConfigError, match=r"is not UTF-8 \(.*\); save it as UTF-8"):
            load_mapping(path)
