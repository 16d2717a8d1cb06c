"""Figures draw what the rows say, look the same everywhere, and are the same bytes each time."""

from __future__ import annotations

import io
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from harness.report import ReportOptions
from harness.report.figures import against_figure, figure_keys, frontier_figure, sample_figure
from harness.report.panel import Panel, panels
from harness.report.reported import read_reported, reported_figure
from harness.report.style import COLOURS, COLUMN, STYLE, Palette, pdf, png
from harness.report.write import report_figures
from tests.report.conftest import REPORTED
from tests.report.made_up import cell, quickstart

DUAL = {"model.kind": "dual_rate"}


@pytest.fixture(scope="module")
def panel() -> Panel:
    return panels(quickstart())[0]


def lines_of(figure: Figure) -> list[tuple[Any, np.ndarray]]:
    return [(line, np.asarray(line.get_xydata())) for line in figure.axes[0].get_lines()]


def test_the_frontier_holds_every_row_and_joins_the_undominated(panel: Panel) -> None:
    drawn = lines_of(frontier_figure(panel))
    points = {tuple(p) for line, data in drawn for p in np.round(data, 9)}
    expected = {(round(row.gmacs, 9), round(panel.distances[row].mean, 9)) for row in panel.measured}
    assert points == expected
    joined = [data for line, data in drawn if line.get_linestyle() == "-"]
    assert len(joined) == len(panel.arms)
    assert all((np.diff(data[:, 0]) > 0).all() and (np.diff(data[:, 1]) < 0).all() for data in joined)


def test_a_key_is_drawn_with_lines_that_differ_in_nothing_else(panel: Panel) -> None:
    keys = figure_keys(panel)
    assert set(keys) == {"sample.steps", "sample.refresh_interval", "model.light_width"}
    figure = against_figure(panel, "model.light_width", keys["model.light_width"])
    (axes,) = figure.axes
    segments = 0
    for _, data in lines_of(figure):
        for part in np.split(data, np.flatnonzero(np.isnan(data[:, 0]))):
            part = part[~np.isnan(part[:, 0])]
            if len(part):
                assert part[:, 0].tolist() == [0.25, 0.5]
                segments += 1
    assert segments == 10  # two samplers × five pairs of steps and interval
    assert axes.get_xlabel() == "light width, relative to the encoder"
    assert axes.get_ylabel() == "FD-digits (N = 2000)"


def test_an_arm_has_one_colour_in_every_figure(panel: Panel) -> None:
    palette = Palette(panel.arms)
    assert len({palette.colour(arm) for arm in panel.arms}) == len(panel.arms)
    used = {line.get_color() for line, data in lines_of(frontier_figure(panel)) if line.get_linestyle() == "-"}
    assert used == {palette.colour(arm) for arm in panel.arms}
    steps = against_figure(panel, "sample.steps", figure_keys(panel)["sample.steps"])
    assert {line.get_color() for line, _ in lines_of(steps)} == used


def luminance(colour: str) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


@pytest.mark.parametrize("colour", COLOURS)
def test_colours_show_on_white(colour: str) -> None:
    assert 1.05 / (luminance(colour) + 0.05) > 2.0


def deuteranope(colour: str) -> np.ndarray:
    """The colour as seen without the middle cones (Machado et al. 2009, full severity), linear RGB."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    matrix = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    return np.clip(np.array(matrix) @ linear, 0, 1) ** (1 / 2.2)


def test_the_first_arms_are_told_apart_without_seeing_green() -> None:
    seen = [deuteranope(colour) for colour in COLOURS[:6]]
    gaps = [np.abs(a - b).max() for i, a in enumerate(seen) for b in seen[:i]]
    assert min(gaps) > 0.1


def test_nothing_is_cut_off_at_column_width(panel: Panel) -> None:
    for item in report_figures(panel, ReportOptions(base="base"), {}, REPORTED):
        figure = item.figure
        assert figure.get_size_inches()[0] == COLUMN
        canvas = FigureCanvasAgg(figure)
        with matplotlib.rc_context(STYLE):
            canvas.draw()
            box = figure.get_tightbbox(canvas.get_renderer())
        width, height = figure.get_size_inches()
        assert box.x0 >= -0.01 and box.y0 >= -0.01, item.name
        assert box.x1 <= width + 0.01 and box.y1 <= height + 0.01, item.name


def test_letters_are_legible_in_print(panel: Panel) -> None:
    sizes = {t.get_fontsize() for t in frontier_figure(panel).findobj(matplotlib.text.Text) if t.get_text()}
    assert min(sizes) >= 6


def test_the_same_rows_give_the_same_bytes_and_leave_no_trace(panel: Panel) -> None:
    before = dict(matplotlib.rcParams)
    with matplotlib.rc_context({"font.size": 31, "axes.grid": False, "lines.linewidth": 9}):
        one = frontier_figure(panel)
        first = (png(one), pdf(one))
    other = frontier_figure(panel)
    assert (png(other), pdf(other)) == first
    assert dict(matplotlib.rcParams) == before
    assert b"CreationDate" not in first[1] and b"Software" not in first[0]
    assert Image.open(io.BytesIO(first[0])).size[0] == round(COLUMN * 200)


def test_letters_stay_text_in_pdf(panel: Panel) -> None:
    """Type 42 (TrueType): conferences refuse the Type 3 fonts that matplotlib writes unless told otherwise."""
    content = pdf(frontier_figure(panel))
    assert b"/CIDFontType2" in content and b"/Type3" not in content


def test_more_values_than_looks_do_not_flood_the_legend() -> None:
    rows = [
        cell("dual-rate", {"model.light_width": width, "sample.steps": steps}, frechet=width + steps, fixed=DUAL)
        for width in (0.25, 0.5)
        for steps in range(1, 60)
    ]
    panel = panels(rows)[0]
    figure = against_figure(panel, "model.light_width", figure_keys(panel)["model.light_width"])
    assert figure.get_size_inches()[1] < 3


def test_values_that_are_no_numbers_stand_in_order() -> None:
    rows = [
        cell("dual-rate", {"model.context_levels": levels}, frechet=value, fixed=DUAL)
        for levels, value in (("last", 2.0), ("all", 1.0))
    ]
    panel = panels(rows)[0]
    figure = against_figure(panel, "model.context_levels", list(panel.measured))
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["all", "last"]


def test_distance_against_the_time_of_training() -> None:
    rows = [cell("base", {"train.steps": steps}, frechet=1000 / steps) for steps in (500, 1000, 2000)]
    panel = panels(rows)[0]
    names = [item.name for item in report_figures(panel, ReportOptions())]
    assert {"by-training-steps", "by-training-seconds", "by-training-gmacs"} <= set(names)
    figure = against_figure(panel, "training_seconds", list(panel.measured))
    # 500 steps of 128 images at 2000 images per second
    assert lines_of(figure)[0][1][0].tolist() == pytest.approx([32.0, 2.0])


def test_images_of_one_column_are_those_of_one_index() -> None:
    images = np.arange(4 * 8 * 8, dtype=np.uint8).reshape(4, 8, 8)
    figure = sample_figure([("one", images), ("other", images[:3])])
    strips = [np.asarray(axes.get_images()[0].get_array()) for axes in figure.axes]
    assert strips[0].shape == strips[1].shape and (strips[0] == strips[1]).all()
    assert (strips[0][:32:4, :32:4] == images[0]).all()


def test_the_literature_is_drawn_apart() -> None:
    known = read_reported(REPORTED)
    figure = reported_figure(known)
    assert "reported" in figure.axes[0].get_xlabel() and "reported" in figure.axes[0].get_ylabel()
    drawn = [data[0].tolist() for _, data in lines_of(figure)]
    assert [13.14, 1.12] in drawn and len(drawn) == 10
