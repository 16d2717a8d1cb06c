"""Samplers by method, at equal steps and refreshes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from harness.report.noise import Distance
from harness.report.panel import Panel
from harness.report.rows import Row, short, show
from harness.report.tables.conditions import conditions
from harness.report.tables.main import STANDARD_KEYS
from harness.report.tables.numbers import DASH, geometric_mean, number, over, setting_without, with_spread
from harness.report.tables.table import Table


def sampler_table(panel: Panel) -> Table:
    """Each setting by each sampler, and per method the geometric mean of the ratio to ancestral sampling.

    Only methods with at least two samplers; arms that sample the same networks are one method.
    """
    summaries = panel.distances
    samplers = sorted({row.sampler for row in panel.measured})
    values, text = [], []
    for label, rows in _methods(panel):
        settings: dict[Any, dict[str, Row]] = {}
        for row in rows:
            settings.setdefault(setting_without(row, "sample.sampler"), {})[row.sampler] = row
        for by_sampler in settings.values():
            row = next(iter(by_sampler.values()))
            others = [k for k in row.varied if k not in STANDARD_KEYS]
            named = {"method": label, "steps": show(row.steps), "refreshes": show(row.refreshes)}
            named["other"] = ", ".join(f"{short(k)} {show(row.varied[k])}" for k in others) or DASH
            values.append(
                {**named, **{s: summaries[by_sampler[s]].mean if s in by_sampler else math.nan for s in samplers}}
            )
            text.append(
                {**named, **{s: with_spread(summaries[by_sampler[s]]) if s in by_sampler else DASH for s in samplers}}
            )
        if "ancestral" in samplers:
            named = {"method": label, "steps": "all", "refreshes": "all", "other": "× ancestral"}
            ratios = {s: _ratio_to(settings.values(), s, "ancestral", summaries) for s in samplers}
            values.append({**named, **ratios})
            text.append({**named, **{s: number(r) for s, r in ratios.items()}})
    note = (
        f"{panel.distance} by sampler at equal steps and refreshes (heun evaluates the network "
        "twice per step). Lines “× ancestral”: geometric mean of the ratio to ancestral sampling over the settings "
        f"that have both; {'above' if panel.higher_is_better else 'below'} 1 the sampler is better."
    )
    return Table("samplers", note, pd.DataFrame(values), pd.DataFrame(text), conditions=conditions(panel))


def _methods(panel: Panel) -> list[tuple[str, list[Row]]]:
    """(label, rows) of each method with at least two samplers; arms that sample the same networks are one method."""
    by_arm: dict[str, list[Row]] = {}
    for row in panel.measured:
        by_arm.setdefault(row.arm, []).append(row)
    by_networks: dict[frozenset[Any], list[str]] = {}
    for arm, rows in by_arm.items():
        networks = frozenset(
            (
                record.training,
                row.setting("sample.stitch"),
                row.setting("sample.stitch_at"),
                row.setting("sample.cache_from_level"),
                row.setting("sample.cache_order") or 0,
            )
            for row in rows
            for record in row.records
        )
        by_networks.setdefault(networks, []).append(arm)
    methods = [
        (" / ".join(by_arm[arm][0].label for arm in arms), [row for arm in arms for row in by_arm[arm]])
        for arms in by_networks.values()
    ]
    return [(label, rows) for label, rows in methods if len({row.sampler for row in rows}) > 1]


def _ratio_to(
    settings: Iterable[Mapping[str, Row]], sampler: str, other: str, summaries: Mapping[Row, Distance]
) -> float:
    return geometric_mean(
        over(summaries[by_sampler[sampler]].mean, summaries[by_sampler[other]].mean)
        for by_sampler in settings
        if sampler in by_sampler and other in by_sampler
    )
