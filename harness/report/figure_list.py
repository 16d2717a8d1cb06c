"""The figures of a report, in the order of the page. A person adds one to :data:`FIGURES`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from harness.report import figures
from harness.report.bought import ADDED_FIGURE, added_any, added_caption, bought
from harness.report.options import ReportOptions
from harness.report.panel import Panel
from harness.report.reported import Reported, agreeing, has_figure, of_data, read_reported, reported_figure
from harness.report.rows import Row
from harness.report.schedule_figure import SCHEDULE_CAPTION, SCHEDULE_FIGURE, schedule_figure, schedules
from harness.report.shown import first_cell, sample_rows
from harness.report.tables.numbers import number
from harness.report.timing import untrusted


@dataclass(frozen=True)
class Drawn:
    """A figure that has been drawn, with the name of its files and its caption."""

    name: str
    caption: str
    figure: Figure


@dataclass(frozen=True)
class Source:
    """What figures are drawn from: a panel, what the report was asked for, images by cell, the literature."""

    panel: Panel
    options: ReportOptions
    samples: Mapping[str, np.ndarray] = field(default_factory=dict)
    reported: tuple[Reported, ...] = ()


def frontier(source: Source) -> Iterator[Drawn]:
    """Quality against compute."""
    figure = figures.frontier_figure(source.panel, "gmacs", agreeing(source.reported, source.panel))
    yield Drawn("frontier", f"{source.panel.distance} against compute.", figure)


def frontier_in_time(source: Source) -> Iterator[Drawn]:
    """Quality against time, but not where a time is not to be trusted."""
    panel = source.panel
    if any(row.seconds > 0 for row in panel.measured) and not untrusted(panel.measured):
        figure = figures.frontier_figure(panel, "seconds")
        yield Drawn("frontier-time", f"{panel.distance} against time.", figure)


def against_each_key(source: Source) -> Iterator[Drawn]:
    """Quality against each varied key, and against what length of training costs."""
    kinds = source.options.kinds
    for key, rows in _axes(source.panel).items():
        name = kinds.get(key) or figures.words(key)
        figure = figures.against_figure(source.panel, key, rows, kinds=kinds, base=source.options.base)
        yield Drawn(f"by-{figures.file_word(key)}", f"{source.panel.distance} against {name}.", figure)


def against_added_training(source: Source) -> Iterator[Drawn]:
    """What sampling at equal quality costs against what was added to the training, where some arm added any."""
    panel, options = source.panel, source.options
    points = bought(panel, options.base, options.subject)
    if added_any(points):
        shown = [point for point in points if point.compute is not None]
        yield Drawn(ADDED_FIGURE, added_caption(panel, points), figures.bought_figure(panel, shown))


def noise_schedules(source: Source) -> Iterator[Drawn]:
    """The noise schedules that trainings have found, where some have."""
    if schedules(source.panel):
        yield Drawn(SCHEDULE_FIGURE, SCHEDULE_CAPTION, schedule_figure(source.panel))


def sample_grid(source: Source) -> Iterator[Drawn]:
    """Images of each method's best row."""
    if lines := sample_lines(source.panel, source.samples):
        best = "the best value" if source.panel.higher_is_better else "the least distance"
        yield Drawn(
            "samples",
            f"Each method's row with {best}; images of one column start from the same noise "
            "(sampling seed and index are equal).",
            figures.sample_figure(lines),
        )


def literature(source: Source) -> Iterator[Drawn]:
    """Figures of the literature on the same data, apart from what is measured here."""
    lines, condition = of_data(source.reported, source.panel), source.panel.condition
    if condition is not None and has_figure(lines):
        yield Drawn(
            "reported",
            f"Figures of the literature on {condition.data}, not measured here: FID of 50 000 images, not to "
            "be compared with distances of other features or another N. [EDM] counts a multiply-add as one FLOP; "
            "what [DR] counts is not known. Sources and caveats: results/reported.csv.",
            reported_figure(lines),
        )


FIGURES: list[Callable[[Source], Iterator[Drawn]]] = [
    frontier,
    frontier_in_time,
    against_each_key,
    against_added_training,
    noise_schedules,
    sample_grid,
    literature,
]
"""Each draws none, one or several figures of a panel."""


def report_figures(
    panel: Panel,
    options: ReportOptions,
    samples: Mapping[str, np.ndarray] | None = None,
    reported: Path | None = None,
) -> list[Drawn]:
    """Every figure of a panel. `samples` are images by cell, `reported` is a table of the literature's figures."""
    if panel.condition is None:
        return []
    known = read_reported(reported) if reported is not None and reported.exists() else ()
    source = Source(panel, options, samples or {}, known)
    return [drawn for draw in FIGURES for drawn in draw(source)]


def _axes(panel: Panel) -> dict[str, list[Row]]:
    """What distance is drawn against, each with its rows: the varied keys, and what length of training costs."""
    found = figures.figure_keys(panel)
    for derived, key in figures.DERIVED.items():
        rows = [row for row in found.get(key, []) if figures.value_of(row, derived) is not None]
        if rows:
            found[derived] = rows
    return found


def sample_lines(panel: Panel, samples: Mapping[str, np.ndarray]) -> list[tuple[str, np.ndarray]]:
    """(name with distance, images) of each row that is shown and has images."""
    summaries = panel.distances
    return [
        (f"{row.name}: {panel.distance} {number(summaries[row].mean)}", samples[first_cell(row)])
        for row in sample_rows(panel)
        if first_cell(row) in samples
    ]
