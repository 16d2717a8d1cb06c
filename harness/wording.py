"""Words of messages, tables and captions."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

CONSONANTS = frozenset("bcdfghjklmnpqrstvwxz")


def count_of(number: int | str, noun: str) -> str:
    """A number, or the text of one, with its noun: ``1 training``, ``2 trainings``, ``4 to 8 threads``."""
    return f"{number} {noun if str(number) == '1' else plural(noun)}"


def plural(noun: str) -> str:
    """The regular plural of an English noun."""
    if noun.endswith(("s", "x", "z", "ch", "sh")):
        return f"{noun}es"
    if noun.endswith("y") and noun[-2:-1] in CONSONANTS:
        return f"{noun[:-1]}ies"
    return f"{noun}s"


def nearest(name: str, choices: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` or nothing."""
    match = get_close_matches(name, list(choices), n=1, cutoff=0.6)
    return f" (did you mean {match[0]!r}?)" if match else ""


def reason(failure: BaseException) -> str:
    """The first line of an error's message, or what kind of error it is."""
    return (str(failure).strip().splitlines() or [type(failure).__name__])[0]


def percentage(share: float) -> str:
    """``12``, with three figures and never as a power of ten; without the sign."""
    return f"{100 * share:.3g}" if share < 9.995 else f"{100 * share:,.0f}"
