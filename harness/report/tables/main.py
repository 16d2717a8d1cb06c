"""The main table: one line per row, with what it is, its quality and its cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from harness.report.frontier import COSTS
from harness.report.noise import Distance, within_noise
from harness.report.panel import Panel
from harness.report.rows import REFRESH_KEYS, Row, short, show, varied_keys
from harness.report.tables.conditions import WITH_DECODER, conditions, doubt
from harness.report.tables.numbers import DASH, number, plain, with_spread
from harness.report.tables.table import Table
from harness.report.timing import MARK, untrusted
from harness.wording import count_of

SAME_AS_BEST, SAME_AS_BASE = "†", "‡"
UNKNOWN = "?"
STANDARD_KEYS = ("sample.sampler", "sample.steps", *REFRESH_KEYS)
"""Varied keys that have a column in every table."""


@dataclass(frozen=True)
class MainTable:
    """What every line of the main table needs to know of the others."""

    panel: Panel
    base: Row | None
    kinds: Mapping[str, str]
    extra: tuple[str, ...]
    """Varied keys that have no column of their own."""
    several_clocks: bool
    some_inherit: bool
    """Whether some row's training started from another."""
    best: Distance | None
    of_base: Distance | None


def main_table(
    panel: Panel,
    base: Row | None,
    kinds: Mapping[str, str] | None = None,
    command: str = "harness time FILE",
) -> Table:
    """One line per row: what it is, its distance, its cost, and its speed-up over the row `base`.

    A speed-up says nothing about quality: read it together with the distance. Rows without a result are listed with
    their status; times that are not to be trusted are marked, with `command` as the remedy.
    """
    table = MainTable(
        panel,
        base,
        kinds or {},
        extra=tuple(key for key in varied_keys(panel.rows) if key not in STANDARD_KEYS),
        several_clocks=len({row.clock for row in panel.measured if row.seconds > 0}) > 1,
        some_inherit=any(row.needs_further_trainings for row in panel.rows),
        best=panel.distances[best] if (best := panel.best(panel.measured)) is not None else None,
        of_base=panel.distances.get(base) if base is not None else None,
    )
    values = [_values(row, panel.distances.get(row), table) for row in panel.rows]
    text = pd.DataFrame([_text(row, panel.distances.get(row), table) for row in panel.rows])
    same_seeds = "seeds" in text and text["seeds"][text["seeds"] != DASH].nunique() <= 1  # they are in the caption
    strong = {
        (index, panel.distance)
        for index, row in enumerate(panel.rows)
        if row.measured and panel.distances[row] is table.best
    }
    inherited = (
        " Training: its own + what it has inherited from those that it started from or is stitched to "
        f"({UNKNOWN}: not known)."
        if table.some_inherit
        else ""
    )
    decoded = f" {WITH_DECODER}" if panel.decodes else ""
    note = f"{_legend(panel, base, same_seeds)}{decoded}{inherited}{doubt(panel, command)}"
    shown = text.drop(columns="seeds") if same_seeds else text
    return Table("table", note, pd.DataFrame(values), shown, frozenset(strong), conditions(panel))


def _values(row: Row, distance: Distance | None, table: MainTable) -> dict[str, Any]:
    panel, condition, nan = table.panel, table.panel.condition, math.nan
    return {
        "arm": row.arm,
        "method": row.label,
        "sampler": row.sampler,
        "steps": row.steps,
        "refreshes": row.refreshes,
        "refresh_interval": row.interval,
        **{key: plain(row.setting(key)) for key in table.extra},
        panel.distance: distance.mean if distance else nan,
        "spread": distance.spread if distance else nan,
        "standard_error": distance.standard_error if distance else nan,
        "training_seeds": len(row.records),
        "sampling_seeds": distance.samplings if distance else 0,
        **{measure.label.replace(" ", "_"): row.mean(name) for name, measure in panel.others.items()},
        "gmacs_per_image": row.gmacs,
        "gflops_per_image": 2 * row.gmacs,
        "seconds_per_image": row.seconds,
        **(_without_decoder(row) if panel.decodes else {}),
        "seconds_per_gmac": row.seconds_per_gmac,
        "latency_seconds": row.latency,
        "peak_memory_bytes": row.peak_memory,
        "parameters": row.parameters,
        "training_gmacs": row.training_gmacs,
        "training_seconds": row.training_seconds,
        "inherited_training_gmacs": row.inherited_gmacs,
        "inherited_training_seconds": row.inherited_seconds,
        "compute_speed_up": _speed_up(row, table.base, "gmacs"),
        "time_speed_up": _speed_up(row, table.base, "seconds"),
        "within_noise_of_best": bool(distance and table.best and within_noise(distance, table.best)),
        "within_noise_of_base": bool(distance and table.of_base and within_noise(distance, table.of_base)),
        "images": condition.images if condition else None,
        "features": condition.features if condition else None,
        "reference": condition.reference if condition else None,
        "reference_images": condition.reference_images if condition else None,
        "device": row.clock[0],
        "time_trusted": row.time_trusted,
        "time_reasons": "; ".join(row.mistrust_in_short),
        "status": row.status or "measured",
        "cells": " ".join(record.id for record in row.records),
    }


def _without_decoder(row: Row) -> dict[str, float]:
    """Its costs but for decoding latents; of a row that samples images all of them."""
    return {
        "gmacs_per_image_without_decoder": row.gmacs_without_decoder,
        "seconds_per_image_without_decoder": row.seconds_without_decoder,
    }


def _steps(interval: float | None) -> str:
    """``4``, or ``1.67`` where refreshes are spread over steps that they do not divide: the average."""
    return DASH if interval is None else f"{interval:.2f}".rstrip("0").rstrip(".")


def _text(row: Row, distance: Distance | None, table: MainTable) -> dict[str, str]:
    panel = table.panel
    return {
        "method": row.label,
        "sampler": row.sampler,
        "steps": show(row.steps),
        "refreshes": show(row.refreshes),
        "interval": _steps(row.interval),
        **{table.kinds.get(key, short(key)): show(row.setting(key)) for key in table.extra},
        panel.distance: _marked(row, distance, table),
        "seeds": f"{distance.trainings}×{distance.samplings}" if distance else DASH,
        **{measure.label: number(row.mean(name)) for name, measure in panel.others.items()},
        "GMACs/image": number(row.gmacs),
        **({"sampling GMACs": number(row.gmacs_without_decoder)} if panel.decodes else {}),
        "s/image": _time(number(row.seconds), row),
        **({"sampling s": _time(number(row.seconds_without_decoder), row)} if panel.decodes else {}),
        **({"timed on": _clock(row)} if table.several_clocks else {}),
        **(_training(row) if table.some_inherit else {}),
        "compute speed-up": _times(_speed_up(row, table.base, "gmacs")),
        "time speed-up": _time(_times(_speed_up(row, table.base, "seconds")), row, table.base),
    }


def _training(row: Row) -> dict[str, str]:
    """What its training took, and behind a plus what those took that it started from or is stitched to."""
    costs = {
        "training TMACs": (row.training_gmacs / 1e3, row.inherited_gmacs / 1e3),
        "training s": (row.training_seconds, row.inherited_seconds),
    }
    return {
        name: f"{number(own)} + {number(inherited) if math.isfinite(inherited) else UNKNOWN}"
        if row.needs_further_trainings and row.measured
        else number(own)
        for name, (own, inherited) in costs.items()
    }


def _clock(row: Row) -> str:
    device, threads = row.clock
    return f"{show(device)}, {count_of(show(threads), 'thread')}"


def _time(text: str, *rows: Row | None) -> str:
    """A time, or a ratio of times, of `rows`; marked if one of them is not to be trusted."""
    return f"{text}{MARK}" if text != DASH and untrusted(row for row in rows if row is not None) else text


def _marked(row: Row, distance: Distance | None, table: MainTable) -> str:
    """The distance with its spread, its marks, and what is missing; the status where there is no distance."""
    if distance is None:
        return row.status
    marks = "".join(
        mark
        for mark, other in ((SAME_AS_BEST, table.best), (SAME_AS_BASE, table.of_base))
        if other is not None and distance is not other and within_noise(distance, other)
    )
    return f"{with_spread(distance)}{marks}{f' ({row.status})' if row.status else ''}"


def _legend(panel: Panel, base: Row | None, same_seeds: bool) -> str:
    best = "the largest" if panel.higher_is_better else "the least distance"
    explained = "" if same_seeds else "seeds: trainings × samplings; "
    text = (
        f"{panel.distance}: mean ± standard deviation over seeds ({explained}"
        "se: the standard error, where there is one seed). "
        f"Bold: {best}; {SAME_AS_BEST}: within noise of it (95 %)."
    )
    if base is None:
        return text + " No base row was measured, so there are no speed-ups."
    return (
        f"{text} {SAME_AS_BASE}: within noise of the base row. Speed-ups are over {base.name}, whatever the distance."
    )


def _speed_up(row: Row, base: Row | None, cost: str) -> float:
    if base is None or not row.measured or (cost == "seconds" and row.clock != base.clock):
        return math.nan
    mine, its = COSTS[cost](row), COSTS[cost](base)
    return its / mine if mine and its else math.nan


def _times(ratio: float) -> str:
    return DASH if math.isnan(ratio) else number(ratio)
