"""Ablations: what each value of each varied key does, all else equal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from harness.report.panel import Panel
from harness.report.rows import Rank, Row, rank, short, show_setting, varied_keys
from harness.report.tables.conditions import conditions
from harness.report.tables.numbers import geometric_mean, number, over, plain, setting_without
from harness.report.tables.table import Table


def ablation_table(panel: Panel, kinds: Mapping[str, str] | None = None) -> Table:
    """Per arm and varied key: what each value does to distance and compute, all else equal.

    Ratios are to the key's first value: geometric means over the settings (of all other keys) in which both were
    measured.
    """
    kinds = kinds or {}
    summaries = panel.distances
    values, text = [], []
    for arm in panel.arms:
        rows = [row for row in panel.measured if row.arm == arm]
        for key in varied_keys(rows):
            by_value = _by_value(rows, key)
            first = next(iter(by_value))
            for value, settings in by_value.items():
                shared = [s for s in settings if s in by_value[first]]
                pairs = [(settings[s], by_value[first][s]) for s in shared]
                best = summaries[winner].mean if (winner := panel.best(settings.values())) is not None else math.nan
                ratio = geometric_mean(over(summaries[a].mean, summaries[b].mean) for a, b in pairs)
                compute = geometric_mean(over(a.gmacs, b.gmacs) for a, b in pairs)
                shown = next(iter(settings.values())).setting(key)
                line = {
                    "arm": arm,
                    "method": rows[0].label,
                    "key": key,
                    "value": plain(shown),
                    "settings": len(pairs),
                    "distance_ratio": ratio,
                    "compute_ratio": compute,
                    f"best_{panel.distance}": best,
                }
                values.append(line)
                text.append(
                    {
                        "method": rows[0].label,
                        "key": kinds.get(key, short(key)),
                        "value": show_setting(shown),
                        "settings": str(len(pairs)),
                        f"{panel.distance} ×": number(ratio) if value != first else "1",
                        "compute ×": number(compute) if value != first else "1",
                        f"best {panel.distance}": number(best),
                    }
                )
    note = (
        "Each value of each varied key against the key's first value: geometric mean of the "
        "ratios over the settings of all other keys in which both were measured (settings: how many)."
    )
    return Table("ablations", note, pd.DataFrame(values), pd.DataFrame(text), conditions=conditions(panel))


def _by_value(rows: Iterable[Row], key: str) -> dict[Rank, dict[Any, Row]]:
    """Value of `key`, in order → values of the other varied keys → row."""
    by_value: dict[Rank, dict[Any, Row]] = {}
    for row in rows:
        if row.has(key):
            by_value.setdefault(rank(row.setting(key)), {})[setting_without(row, key)] = row
    return {value: by_value[value] for value in sorted(by_value)}
