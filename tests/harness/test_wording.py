"""A number stands with the noun that goes with it, wherever the project speaks."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.wording import count_of, percentage, plural

HARNESS = Path(__file__).parents[2] / "harness"


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [
        (0, "training", "0 trainings"),
        (1, "training", "1 training"),
        (2, "cell", "2 cells"),
        (1, "class", "1 class"),
        (3, "class", "3 classes"),
        (2, "refresh", "2 refreshes"),
        (2, "batch", "2 batches"),
        (2, "entry", "2 entries"),
        (2, "key", "2 keys"),
        ("1", "thread", "1 thread"),
        ("2 to 4", "thread", "2 to 4 threads"),
        (2, "job array", "2 job arrays"),
    ],
)
def test_counts(number: int | str, noun: str, text: str) -> None:
    assert count_of(number, noun) == text


def test_plurals() -> None:
    assert [plural(noun) for noun in ("box", "dish", "fly", "ray")] == ["boxes", "dishes", "flies", "rays"]


COUNTED = "trainings|cells|arrays|jobs|seeds|threads|repeats|entries|workers"
SPOKEN = re.compile(rf"\s({COUNTED})\b(?! and)")


def spoken(path: Path) -> Iterator[str]:
    """What a module says right after a value: the constant part of an f-string behind a replaced one."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            for value, after in zip(node.values, node.values[1:], strict=False):
                said = isinstance(after, ast.Constant) and SPOKEN.match(str(after.value))
                if said and isinstance(value, ast.FormattedValue) and "len(sweep.cells)" not in ast.unparse(value):
                    yield f"{path.name}:{node.lineno}: {{{ast.unparse(value.value)}}}{said[0]}"


def test_no_message_puts_a_plural_after_a_number_that_may_be_one() -> None:
    assert [line for path in sorted(HARNESS.rglob("*.py")) for line in spoken(path)] == []


@pytest.mark.parametrize(
    ("share", "told"), [(0.1, "10"), (0.0123456, "1.23"), (2.489, "249"), (9.996, "1,000"), (65.78, "6,578")]
)
def test_a_percentage_is_never_a_power_of_ten(share: float, told: str) -> None:
    assert percentage(share) == told
