"""Numbers in words: significant digits, spreads, ratios."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from harness.report.noise import Distance
from harness.report.rows import Row, show

DASH = "–"
"""Shown where there is no value."""


def geometric_mean(ratios: Iterable[float]) -> float:
    """Geometric mean of the positive, finite `ratios`; nan where there is none."""
    logs = [math.log(r) for r in ratios if r > 0 and math.isfinite(r)]
    return math.exp(sum(logs) / len(logs)) if logs else math.nan


def with_spread(distance: Distance) -> str:
    """``1.02 ± 0.05``, or with the standard error where there is no spread, of a single value."""
    if math.isfinite(distance.spread):
        return f"{number(distance.mean)} ± {number(distance.spread, 2)}"
    if distance.standard_error > 0:
        return f"{number(distance.mean)} (se {number(distance.standard_error, 2)})"
    return number(distance.mean)


def number(value: float, digits: int = 3) -> str:
    """`value` with that many significant digits, never in exponent form above 10⁻⁴; a dash for nan."""
    if value is None or not math.isfinite(value):
        return DASH
    if value == 0:
        return "0"
    if abs(value) < 1e-4:
        return f"{value:.{digits - 1}e}"
    decimals = max(digits - 1 - math.floor(math.log10(abs(value))), 0)
    return f"{value:.{decimals}f}"


def over(one: float, other: float) -> float:
    """The ratio of the two; nan where `other` is zero."""
    return one / other if other else math.nan


def plain(value: Any) -> Any:
    """A setting as CSV files show it."""
    return show(value) if isinstance(value, list | tuple | dict | bool) else value


def setting_without(row: Row, key: str) -> tuple[Any, ...]:
    """The values of all varied keys but `key`: equal for two rows of an arm that differ in `key` alone."""
    return tuple(item for item in row.point if item[0] != key)
