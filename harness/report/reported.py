"""Figures of the literature: kept apart from what is measured here, each with its source and caveat."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from harness.errors import StoreError
from harness.metrics import DEFAULT
from harness.report.panel import Panel
from harness.report.style import MARKERS, column_figure, log_axis, styled

GREY = "#555555"
"""Colour of what is not measured here: the colours are the methods'."""


@dataclass(frozen=True)
class Reported:
    """One line of reported.csv; empty cells are None."""

    source: str
    arxiv: str
    data: str
    method: str
    sampler: str | None
    steps: int | None
    evaluations: int | None
    refreshes: int | None
    features: str | None
    images: int | None
    reference: str | None
    distance: float | None
    tflops_per_image: float | None
    gflops_per_evaluation: float | None
    multiply_add_counts: int | None
    """1 or 2 operations per multiply-add; None where no source says."""
    caveat: str

    @property
    def gmacs_per_image(self) -> float | None:
        """None where the cost, or what it counts, is not known."""
        if self.tflops_per_image is None or self.multiply_add_counts is None:
            return None
        return 1000 * self.tflops_per_image / self.multiply_add_counts


NUMBERS = {
    "steps": int,
    "evaluations": int,
    "refreshes": int,
    "images": int,
    "distance": float,
    "tflops_per_image": float,
    "gflops_per_evaluation": float,
    "multiply_add_counts": int,
}


def read_reported(path: Path) -> tuple[Reported, ...]:
    """All lines of the table at `path`. Raises :class:`StoreError` naming line and column of a bad value."""
    names = [f.name for f in fields(Reported)]
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != names:
            raise StoreError(f"{path}: its columns must be {', '.join(names)}")
        found = []
        for number, line in enumerate(reader, start=2):
            values: dict[str, Any] = {}
            for name, text in line.items():
                try:
                    values[name] = NUMBERS.get(name, str)(text) if text else None
                except ValueError:
                    raise StoreError(f"{path}: line {number}: {name}: {text!r} is not a number") from None
            if not values["source"] or not values["caveat"]:
                raise StoreError(f"{path}: line {number}: a figure of the literature needs its source and its caveat")
            found.append(Reported(**values))
    return tuple(found)


def agreeing(reported: Sequence[Reported], panel: Panel) -> list[tuple[str, float, float]]:
    """(label, GMACs, distance) of the lines that may stand in a panel's figure.

    Only FID (Inception's features with the official weights) of the same data, N, and split of the reference. The table
    names the split alone, a cell's reference the data too: both are compared.
    """
    condition = panel.condition
    if condition is None or not condition.official or panel.metric != DEFAULT:
        return []
    measured = (condition.data, condition.features, condition.images, condition.split)
    return [
        (f"[{line.source}] {line.method}", line.gmacs_per_image, line.distance)
        for line in of_data(reported, panel)
        if line.distance is not None
        and line.gmacs_per_image is not None
        and line.features == "inception"
        and (line.data, line.features, line.images, line.reference) == measured
    ]


def of_data(reported: Sequence[Reported], panel: Panel) -> list[Reported]:
    """The lines on the panel's data: those on other data say nothing beside it."""
    return [line for line in reported if panel.condition is not None and line.data == panel.condition.data]


def has_figure(reported: Sequence[Reported]) -> bool:
    """Whether one of the lines has both a distance and a cost to be drawn at."""
    return any(line.distance is not None and line.tflops_per_image is not None for line in reported)


@styled
def reported_figure(reported: Sequence[Reported]) -> Figure:
    """Reported distance against reported cost, one marker per source and method, open and grey: nothing measured."""
    drawn = [
        (line, line.tflops_per_image, line.distance)
        for line in reported
        if line.distance is not None and line.tflops_per_image is not None
    ]
    groups = list(dict.fromkeys((line.source, line.method) for line, _, _ in drawn))
    looks = {group: MARKERS[i % len(MARKERS)] for i, group in enumerate(groups)}
    legend = [
        Line2D(
            [],
            [],
            color=GREY,
            marker=marker,
            linestyle="",
            markerfacecolor="white",
            label=f"[{source}] {method}",
        )
        for (source, method), marker in looks.items()
    ]
    figure, axes = column_figure(1.9, legend)
    for line, cost, distance in drawn:
        axes.plot([cost], [distance], looks[line.source, line.method], color=GREY, markerfacecolor="white")
        if line.steps is not None:
            axes.annotate(
                f"{line.steps}",
                (cost, distance),
                xytext=(3, 2),
                textcoords="offset points",
                fontsize=5.5,
                color=GREY,
            )
    log_axis(axes, "x")
    axes.set_xlabel("reported TFLOPs per image (numbers: steps)")
    axes.set_ylabel("reported FID, 50 000 images")
    return figure
