"""Tables: the main one in the paper's shape, the ablations, samplers by method, and costs at equal quality."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from harness.report.frontier import Comparison
from harness.report.noise import Distance, within_noise
from harness.report.panel import Panel
from harness.report.rows import REFRESH_KEYS, Rank, Row, rank, short, show, show_setting, varied_keys
from harness.report.timing import MARK, untrusted, why
from harness.wording import count_of

DASH = "–"
MATCHED = "matched"
"""The table of costs at equal quality."""
NOT_REACHED = "not reached"
SAME_AS_BEST, SAME_AS_BASE = "†", "‡"
STANDARD_KEYS = ("sample.sampler", "sample.steps", *REFRESH_KEYS)


@dataclass(frozen=True)
class Table:
    """A table twice: `values` for machines (CSV), `text` for readers (Markdown, LaTeX, page), with the same rows."""

    name: str
    note: str
    """What the columns mean."""
    values: pd.DataFrame
    text: pd.DataFrame
    strong: frozenset[tuple[int, str]] = field(default=frozenset())
    """(row, column of `text`) of the cells in bold."""
    conditions: str = ""
    """What holds for every figure of its panel: said once where several tables stand together."""

    @property
    def caption(self) -> str:
        """For a reader who has this table alone."""
        return f"{self.conditions} {self.note}".strip()

    @property
    def csv(self) -> str:
        return self.values.to_csv(index=False, lineterminator="\n", float_format="%.6g")

    @property
    def markdown(self) -> str:
        return f"{self.caption}\n\n{_markdown(self)}\n"

    @property
    def latex(self) -> str:
        return _latex(self)


@dataclass(frozen=True)
class Setting:
    """What every line of the main table is written against."""

    panel: Panel
    base: Row | None
    kinds: Mapping[str, str]
    extra: tuple[str, ...]
    """Varied keys that have no column of their own."""
    several_clocks: bool
    best: Distance | None
    of_base: Distance | None


def main_table(
    panel: Panel,
    base: Row | None,
    kinds: Mapping[str, str] | None = None,
    command: str = "harness time FILE",
) -> Table:
    """One line per row: what it is, its distance, its cost, and its speed-up over the row `base`.

    A speed-up says nothing of quality: it is to be read beside the distance. Rows without a result are listed with
    their status; times that are not to be trusted are marked, with `command` as the cure.
    """
    at = Setting(
        panel,
        base,
        kinds or {},
        extra=tuple(key for key in varied_keys(panel.rows) if key not in STANDARD_KEYS),
        several_clocks=len({row.clock for row in panel.measured if row.seconds > 0}) > 1,
        best=min(panel.distances.values(), key=lambda d: d.mean, default=None),
        of_base=panel.distances.get(base) if base is not None else None,
    )
    values = [_values(row, panel.distances.get(row), at) for row in panel.rows]
    text = pd.DataFrame([_text(row, panel.distances.get(row), at) for row in panel.rows])
    same_seeds = "seeds" in text and text["seeds"][text["seeds"] != DASH].nunique() <= 1  # the caption has them
    strong = {
        (index, panel.distance)
        for index, row in enumerate(panel.rows)
        if row.measured and panel.distances[row] is at.best
    }
    note = f"{_legend(panel, base, same_seeds)}{doubt(panel, command)}"
    shown = text.drop(columns="seeds") if same_seeds else text
    return Table("table", note, pd.DataFrame(values), shown, frozenset(strong), conditions(panel))


def doubt(panel: Panel, command: str) -> str:
    """The footnote on times that are not to be trusted; empty where there are none."""
    timed = [row for row in panel.measured if row.seconds > 0]
    return f" {MARK}: a time that is not to be trusted; {why(timed, command)}" if untrusted(timed) else ""


def _values(row: Row, found: Distance | None, at: Setting) -> dict[str, Any]:
    panel, condition, nan = at.panel, at.panel.condition, math.nan
    return {
        "arm": row.arm,
        "method": row.label,
        "sampler": row.sampler,
        "steps": row.steps,
        "refreshes": row.refreshes,
        "refresh_interval": row.interval,
        **{key: _plain(row.setting(key)) for key in at.extra},
        panel.distance: found.mean if found else nan,
        "spread": found.spread if found else nan,
        "standard_error": found.standard_error if found else nan,
        "training_seeds": len(row.records),
        "sampling_seeds": found.samplings if found else 0,
        panel.kernel: row.mean("kernel"),
        **{measure: row.mean(measure) for measure in panel.measures},
        "gmacs_per_image": row.gmacs,
        "gflops_per_image": 2 * row.gmacs,
        "seconds_per_image": row.seconds,
        "latency_seconds": row.latency,
        "peak_memory_bytes": row.peak_memory,
        "parameters": row.parameters,
        "training_gmacs": row.training_gmacs,
        "training_seconds": row.training_seconds,
        "compute_speed_up": _speed_up(row, at.base, "gmacs"),
        "time_speed_up": _speed_up(row, at.base, "seconds"),
        "within_noise_of_best": bool(found and at.best and within_noise(found, at.best)),
        "within_noise_of_base": bool(found and at.of_base and within_noise(found, at.of_base)),
        "images": condition.images if condition else None,
        "features": condition.features if condition else None,
        "reference": condition.reference if condition else None,
        "reference_images": condition.reference_images if condition else None,
        "device": row.clock[0],
        "time_trusted": row.time_trusted,
        "time_reasons": "; ".join(row.mistrust),
        "status": row.status or "measured",
        "cells": " ".join(str(record["id"]) for record in row.records),
    }


def _text(row: Row, found: Distance | None, at: Setting) -> dict[str, str]:
    panel = at.panel
    return {
        "method": row.label,
        "sampler": row.sampler,
        "steps": show(row.steps),
        "refreshes": show(row.refreshes),
        "interval": show(row.interval),
        **{at.kinds.get(key, short(key)): show(row.setting(key)) for key in at.extra},
        panel.distance: _marked(row, found, at),
        "seeds": f"{found.trainings}×{found.samplings}" if found else DASH,
        panel.kernel: number(row.mean("kernel")),
        **{measure.replace("_", " "): number(row.mean(measure)) for measure in panel.measures},
        "GMACs/image": number(row.gmacs),
        "s/image": _time(number(row.seconds), row),
        **(
            {"timed on": f"{show(row.clock[0])}, {count_of(show(row.clock[1]), 'thread')}"} if at.several_clocks else {}
        ),
        "compute speed-up": _times(_speed_up(row, at.base, "gmacs")),
        "time speed-up": _time(_times(_speed_up(row, at.base, "seconds")), row, at.base),
    }


def _time(text: str, *rows: Row | None) -> str:
    """A time, or a ratio of times, of `rows`; marked if one of them is not to be trusted."""
    return f"{text}{MARK}" if text != DASH and untrusted(row for row in rows if row is not None) else text


def _marked(row: Row, found: Distance | None, at: Setting) -> str:
    """The distance with its spread, its marks, and what is lacking; the status where there is no distance."""
    if found is None:
        return row.status
    marks = "".join(
        mark
        for mark, other in ((SAME_AS_BEST, at.best), (SAME_AS_BASE, at.of_base))
        if other is not None and found is not other and within_noise(found, other)
    )
    return f"{spread(found)}{marks}{f' ({row.status})' if row.status else ''}"


def _legend(panel: Panel, base: Row | None, same_seeds: bool) -> str:
    explained = "" if same_seeds else "seeds: trainings × samplings; "
    text = (
        f"{panel.distance}: mean ± standard deviation over seeds ({explained}"
        "se: the standard error, where there is one seed). "
        f"Bold: the least distance; {SAME_AS_BEST}: within noise of it (95 %)."
    )
    if base is None:
        return text + " No base row was measured, so there are no speed-ups."
    return (
        f"{text} {SAME_AS_BASE}: within noise of the base row. Speed-ups are over {base.name}, whatever the distance."
    )


def conditions(panel: Panel) -> str:
    """What holds for every figure of a panel: data, N, features, reference, seeds, device, dtype, batch, threads."""
    if panel.condition is None:
        return "Nothing has been measured yet."
    singular = any(record["quality"].get("covariance_singular") for row in panel.measured for record in row.records)
    warning = " Fewer images than features: the distances are a rough guide." if singular else ""
    return f"{panel.condition.text}; {_seeds(panel.measured)}; {timing(panel.measured)}.{warning}"


def _seeds(rows: Sequence[Row]) -> str:
    trainings = sorted({len(row.records) for row in rows})
    samplings = sorted({len(record["quality"]["per_seed"]) for row in rows for record in row.records})
    unknown = " (what another training would change is not known)" if trainings == [1] else ""
    return f"{count_of(_range(trainings), 'training')} × {count_of(_range(samplings), 'sampling seed')}{unknown}"


def timing(rows: Iterable[Row]) -> str:
    """How the rows were timed, in words."""
    times = [record["time"] for row in rows for record in row.records if record.get("time")]
    if not times:
        return "not timed"
    parts = [
        " / ".join(sorted({str(t.get("device")) for t in times})),
        " / ".join(sorted({str(t.get("dtype")) for t in times})),
        f"batch {_range(sorted({t['batch'] for t in times if t.get('batch')}))}",
        count_of(_range(sorted({t["threads"] for t in times if t.get("threads")})), "thread"),
        " and ".join(sorted({"compiled" if t.get("compiled") else "not compiled" for t in times})),
        f"median of {count_of(_range(sorted({t['repeats'] for t in times if t.get('repeats')})), 'repeat')}",
    ]
    return "timed on " + ", ".join(parts)


def _range(values: Sequence[float]) -> str:
    if not values:
        return "?"
    return show(values[0]) if len(values) == 1 else f"{show(values[0])} to {show(values[-1])}"


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
                best = min(summaries[row].mean for row in settings.values())
                ratio = geometric_mean(_over(summaries[a].mean, summaries[b].mean) for a, b in pairs)
                compute = geometric_mean(_over(a.gmacs, b.gmacs) for a, b in pairs)
                shown = next(iter(settings.values())).setting(key)
                held = {
                    "arm": arm,
                    "method": rows[0].label,
                    "key": key,
                    "value": _plain(shown),
                    "settings": len(pairs),
                    "distance_ratio": ratio,
                    "compute_ratio": compute,
                    f"best_{panel.distance}": best,
                }
                values.append(held)
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
    """Value of `key` → the other varied keys' values → row; values in order."""
    found: dict[Rank, dict[Any, Row]] = {}
    for row in rows:
        if row.has(key):
            found.setdefault(rank(row.setting(key)), {})[setting_without(row, key)] = row
    return {value: found[value] for value in sorted(found)}


def setting_without(row: Row, key: str) -> tuple[tuple[str, Rank], ...]:
    """What two rows of an arm share exactly if they differ in nothing that is varied but `key`."""
    return tuple(item for item in row.point if item[0] != key)


def sampler_table(panel: Panel) -> Table:
    """Each setting by each sampler, and per method the geometric mean of the ratio to ancestral sampling.

    Only methods that were sampled in two ways or more; arms that sample the same networks are one method.
    """
    summaries = panel.distances
    samplers = sorted({row.sampler for row in panel.measured})
    values, text = [], []
    for label, rows in _methods(panel):
        settings: dict[Any, dict[str, Row]] = {}
        for row in rows:
            settings.setdefault(setting_without(row, "sample.sampler"), {})[row.sampler] = row
        for held in settings.values():
            row = next(iter(held.values()))
            others = [k for k in row.varied if k not in STANDARD_KEYS]
            named = {"method": label, "steps": show(row.steps), "refreshes": show(row.refreshes)}
            named["other"] = ", ".join(f"{short(k)} {show(row.varied[k])}" for k in others) or DASH
            values.append({**named, **{s: summaries[held[s]].mean if s in held else math.nan for s in samplers}})
            text.append({**named, **{s: spread(summaries[held[s]]) if s in held else DASH for s in samplers}})
        if "ancestral" in samplers:
            named = {"method": label, "steps": "all", "refreshes": "all", "other": "× ancestral"}
            ratios = {s: _ratio_to(settings.values(), s, "ancestral", summaries) for s in samplers}
            values.append({**named, **ratios})
            text.append({**named, **{s: number(r) for s, r in ratios.items()}})
    note = (
        f"{panel.distance} by sampler at equal steps and refreshes (heun evaluates the network "
        "twice per step). Lines “× ancestral”: geometric mean of the ratio to ancestral sampling over the settings "
        "that have both; below 1 the sampler is better."
    )
    return Table("samplers", note, pd.DataFrame(values), pd.DataFrame(text), conditions=conditions(panel))


def _methods(panel: Panel) -> list[tuple[str, list[Row]]]:
    """(label, rows) of what was sampled in two ways or more: arms that sample the same networks are one."""
    by_arm: dict[str, list[Row]] = {}
    for row in panel.measured:
        by_arm.setdefault(row.arm, []).append(row)
    by_networks: dict[frozenset[Any], list[str]] = {}
    for arm, rows in by_arm.items():
        networks = frozenset(
            (record.get("training"), row.setting("sample.cache_from_level")) for row in rows for record in row.records
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
        _over(summaries[held[sampler]].mean, summaries[held[other]].mean)
        for held in settings
        if sampler in held and other in held
    )


def matched_table(
    panel: Panel,
    found: Iterable[tuple[Comparison, Comparison | None]],
    name: str = MATCHED,
    family: Sequence[str] = (),
    command: str = "harness time FILE",
) -> Table:
    """Compute and time at equal quality: one line per method and target distance, "not reached" where it is not.

    Times that rest on rows of the method, or of the base's `family` of arms, that are not to be trusted are marked.
    """
    values, text = [], []
    doubted = {row.arm for row in untrusted(panel.measured)}
    for compute, time in found:  # both at the same distances
        own, base = compute.arm in doubted, bool(doubted.intersection(family))
        for i, at in enumerate(compute.matched):
            timed = time.matched[i] if time else None
            values.append(
                {
                    "method": compute.name,
                    "base": compute.base,
                    panel.distance: at.target,
                    "base_gmacs": at.base_cost,
                    "gmacs": at.cost,
                    "gmacs_is_upper_bound": at.bound,
                    "compute_ratio": at.ratio,
                    "compute_ratio_low": at.low,
                    "compute_ratio_high": at.high,
                    "base_seconds": timed.base_cost if timed else math.nan,
                    "seconds": timed.cost if timed else math.nan,
                    "time_ratio": timed.ratio if timed else math.nan,
                    "time_ratio_low": timed.low if timed else math.nan,
                    "time_ratio_high": timed.high if timed else math.nan,
                    "time_trusted": not (own or base) if timed else None,
                }
            )
            bound = "≤ " if at.bound and math.isfinite(at.cost) else ""
            text.append(
                {
                    "method": compute.name,
                    "base": compute.base,
                    panel.distance: number(at.target),
                    "base GMACs": _reached(at.base_cost),
                    "GMACs": bound + _reached(at.cost),
                    "compute speed-up": _interval(at.ratio, at.low, at.high),
                    "base s": _doubtful(_reached(timed.base_cost), base) if timed else DASH,
                    "s": _doubtful(_reached(timed.cost), own) if timed else DASH,
                    "time speed-up": (
                        _doubtful(_interval(timed.ratio, timed.low, timed.high), own or base) if timed else DASH
                    ),
                }
            )
    by_sampler = f"As in the table “{MATCHED}”, each method sampler by sampler against the base with the same one."
    note = (
        f"Cost per image at equal {panel.distance}, interpolated on each method's frontier "
        "(log–log). Distances: the points of the base's frontier and the best that both reach. A speed-up is "
        "the base's cost over the method's, with its 95 % bootstrap interval over the noise of distances and times; "
        "“up to”: within noise the distance may not be reached. ≤: already the method's cheapest row is as good."
    )
    note = (note if name == MATCHED else by_sampler) + doubt(panel, command)
    return Table(name, note, pd.DataFrame(values), pd.DataFrame(text), conditions=conditions(panel))


def _doubtful(text: str, doubted: bool) -> str:
    return f"{text}{MARK}" if doubted and text not in (DASH, NOT_REACHED) else text


def _over(one: float, other: float) -> float:
    """Their ratio; nan where the other is zero."""
    return one / other if other else math.nan


def _reached(cost: float) -> str:
    return number(cost) if math.isfinite(cost) else NOT_REACHED


def _interval(ratio: float, low: float, high: float) -> str:
    if math.isnan(ratio):
        return DASH
    if low == 0 or math.isinf(high):
        return f"{ratio:.2f} (up to {high:.2f})" if low == 0 and math.isfinite(high) else f"{ratio:.2f} (any)"
    return f"{ratio:.2f} ({low:.2f} to {high:.2f})"


def geometric_mean(ratios: Iterable[float]) -> float:
    """Geometric mean of the positive, finite `ratios`; nan where there is none."""
    logs = [math.log(r) for r in ratios if r > 0 and math.isfinite(r)]
    return math.exp(sum(logs) / len(logs)) if logs else math.nan


def spread(found: Distance) -> str:
    """``1.02 ± 0.05``, or with the standard error where one value has no spread."""
    if math.isfinite(found.spread):
        return f"{number(found.mean)} ± {number(found.spread, 2)}"
    if found.standard_error > 0:
        return f"{number(found.mean)} (se {number(found.standard_error, 2)})"
    return number(found.mean)


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


def _speed_up(row: Row, base: Row | None, cost: str) -> float:
    if base is None or not row.measured or (cost == "seconds" and row.clock != base.clock):
        return math.nan
    mine, its = getattr(row, cost), getattr(base, cost)
    return its / mine if mine and its else math.nan


def _times(ratio: float) -> str:
    return DASH if math.isnan(ratio) else number(ratio)


def _plain(value: Any) -> Any:
    return show(value) if isinstance(value, list | tuple | dict | bool) else value


def _cells(table: Table, escape: Callable[[str], str], strong: Callable[[str], str]) -> Iterable[list[str]]:
    columns = list(table.text.columns)
    for index, line in enumerate(table.text.itertuples(index=False)):
        cells = [escape(cell if isinstance(cell, str) else DASH) for cell in line]
        yield [
            strong(cell) if (index, column) in table.strong else cell
            for column, cell in zip(columns, cells, strict=True)
        ]


def numeric_columns(table: Table) -> set[str]:
    """Columns of the text that are set flush right: all but the names."""
    return set(table.text.columns) - {"method", "sampler", "base", "key", "value", "other", "timed on"}


def _markdown(table: Table) -> str:
    columns = list(table.text.columns)
    if not columns:
        return "(no rows)"
    right = numeric_columns(table)
    lines = [
        "| " + " | ".join(_markdown_escape(c) for c in columns) + " |",
        "|" + "|".join("--:" if c in right else ":--" for c in columns) + "|",
    ]
    lines += ["| " + " | ".join(cells) + " |" for cells in _cells(table, _markdown_escape, lambda c: f"**{c}**")]
    return "\n".join(lines)


MARKDOWN = str.maketrans({**{character: f"\\{character}" for character in "\\|*_<>`"}, "\n": " "})


def _markdown_escape(text: str) -> str:
    return text.translate(MARKDOWN)


LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "\n": " ",
    "–": "--",
    "—": "---",
    "±": r"$\pm$",
    "×": r"$\times$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "≈": r"$\approx$",
    "†": r"\textsuperscript{\textdagger}",
    "§": r"\textsection{}",
    "‡": r"\textsuperscript{\textdaggerdbl}",
    "“": "``",
    "”": "''",
    "’": "'",
    "\N{THIN SPACE}": r"\,",
    "\N{NO-BREAK SPACE}": "~",
    "²": r"\textsuperscript{2}",
    "³": r"\textsuperscript{3}",
    "λ": r"$\lambda$",
    "σ": r"$\sigma$",
    "τ": r"$\tau$",
    "η": r"$\eta$",
    "ρ": r"$\rho$",
    "ε": r"$\varepsilon$",
    "α": r"$\alpha$",
    "β": r"$\beta$",
    "μ": r"$\mu$",
    "µ": r"$\mu$",
    "Δ": r"$\Delta$",
    "→": r"$\to$",
    "…": r"\ldots{}",
    "·": r"$\cdot$",
}
LATEX_COMMANDS = str.maketrans(LATEX)
LONG = 45
"""Lines from which on a LaTeX table may break over pages."""
WRAPPED = 24
"""Letters from which on a cell of a LaTeX table is broken into lines."""


def latex_escape(text: str) -> str:
    """`text` as LaTeX that any engine compiles: known symbols as commands, other non-ASCII by its nearest ASCII."""
    escaped = text.translate(LATEX_COMMANDS)
    if escaped.isascii() and escaped.isprintable():
        return escaped
    return "".join(c if c.isascii() and c.isprintable() else _ascii(c) for c in escaped)


def _ascii(character: str) -> str:
    plain = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    plain = "".join(c for c in plain if c.isprintable())
    return "".join(LATEX.get(c, c) for c in plain) or f"[U+{ord(character):04X}]"


def _latex_head(column: str, side: str) -> str:
    """A column's name, its words above each other."""
    words = [latex_escape(word) for word in column.replace("/", "/ ").split()]
    stacked = r"\\".join(words)
    return rf"\shortstack[{side}]{{{stacked}}}" if len(words) > 1 else f"{{{stacked}}}"


def _latex_cell(text: str) -> str:
    """A cell's text in braces; what is long (a status, mostly) broken into lines, so that the page's width is kept."""
    escaped = latex_escape(text)
    if len(text) > WRAPPED:
        escaped = rf"\parbox[t]{{{WRAPPED // 2}em}}{{\raggedright {escaped}\strut}}"
    return f"{{{escaped}}}"


def _latex(table: Table) -> str:
    columns = list(table.text.columns)
    if not columns:
        return "% no rows\n"
    right = numeric_columns(table)
    shape = "".join("r" if column in right else "l" for column in columns)
    # In braces, since a line that opens with a bracket would be read as the option of the break before it.
    head = " & ".join(_latex_head(column, "r" if column in right else "l") for column in columns) + r" \\"
    body = [" & ".join(cells) + r" \\" for cells in _cells(table, _latex_cell, lambda c: rf"\textbf{c}")]
    caption = latex_escape(table.caption)
    if len(body) < LONG:
        lines = [
            "% needs \\usepackage{booktabs,graphicx}; a table wider than the text is shrunk to it",
            r"\begin{table}",
            r"\centering\scriptsize\setlength{\tabcolsep}{2pt}",
            rf"\caption{{{caption}}}\smallskip",
            rf"\sbox0{{\begin{{tabular}}{{{shape}}}",
            r"\toprule",
            head,
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}}%",
            r"\ifdim\wd0>\linewidth\resizebox{\linewidth}{!}{\usebox0}\else\usebox0\fi",
            r"\end{table}",
        ]
    else:
        lines = [
            "% needs \\usepackage{booktabs,longtable}; breaks over pages: if too wide, set it in landscape",
            r"{\scriptsize\setlength{\tabcolsep}{2pt}",
            r"\setlength{\LTcapwidth}{\textwidth}",
            rf"\begin{{longtable}}{{{shape}}}",
            rf"\caption{{{caption}}}\\",
            r"\toprule",
            head,
            r"\midrule",
            r"\endfirsthead",
            r"\toprule",
            head,
            r"\midrule",
            r"\endhead",
            r"\bottomrule",
            r"\endfoot",
            *body,
            r"\end{longtable}",
            "}",
        ]
    return "\n".join(lines) + "\n"
