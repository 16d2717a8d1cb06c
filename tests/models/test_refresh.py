"""Refresh schedules."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.refresh import evenly, every, explicit


def at(mask: tuple[bool, ...]) -> list[int]:
    return [step for step, refresh in enumerate(mask) if refresh]


def test_every() -> None:
    assert at(every(4, 10)) == [0, 4, 8]
    assert every(1, 3) == (True, True, True)
    assert at(every(3, 3)) == [0]


@given(st.integers(1, 60), st.data())
def test_evenly_has_the_number_asked_for_and_is_even(steps: int, data: st.DataObject) -> None:
    refreshes = data.draw(st.integers(1, steps))
    starts = at(evenly(refreshes, steps))
    assert len(starts) == refreshes
    assert starts[0] == 0
    gaps = {b - a for a, b in zip(starts, [*starts[1:], steps], strict=True)}
    assert max(gaps) - min(gaps) <= 1


@given(st.integers(1, 12), st.integers(1, 12))
def test_evenly_is_every_where_the_interval_is_whole(interval: int, refreshes: int) -> None:
    assert evenly(refreshes, interval * refreshes) == every(interval, interval * refreshes)


def test_explicit() -> None:
    assert explicit([0, 1, 5], 6) == (True, True, False, False, False, True)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: every(0, 4), "refresh_interval: 0 is not between 1 and 4"),
        (lambda: every(5, 4), "refresh_interval: 5 is not between 1 and 4"),
        (lambda: evenly(5, 4), "refreshes: 5 is not between 1 and 4"),
        (lambda: every(1, 0), "steps: 0 is less than 1"),
        (lambda: explicit([1, 2], 4), "does not start with step 0"),
        (lambda: explicit([], 4), "does not start with step 0"),
        (lambda: explicit([0, 4], 4), "does not rise, below 4"),
        (lambda: explicit([0, 2, 2], 4), "does not rise, below 4"),
    ],
)
def test_refuses(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]
