"""Figures draw what the rows say, look the same everywhere, and are the same bytes each time."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from PIL import Image

from harness.report import ReportOptions, figure_list, load_options
from harness.report.figure_list import report_figures
from harness.report.figures import MOST_TOGETHER, against_figure, figure_keys, frontier_figure, sample_figure
from harness.report.panel import Panel
from harness.report.reported import GREY, of_data, read_reported, reported_figure
from harness.report.style import (
    COLOURS,
    COLUMN,
    METHODS,
    SAMPLER_LINES,
    SHADES,
    STYLE,
    Palette,
    log_ticks,
    pdf,
    png,
    shaded,
)
from tests.report.conftest import REPORTED
from tests.report.made_up import cell, panels, plain_rows, quickstart, write_report

DUAL = {"model.kind": "dual_rate"}
PUBLISHED = sorted((Path(__file__).parents[2] / "results").glob("*/cells.json"))


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
    joined = [data for line, data in drawn if line.get_gid() == "frontier"]
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


def looks_in(figure: Figure) -> set[tuple[str, str]]:
    """(colour, marker) of each line."""
    return {(str(line.get_color()), str(line.get_marker())) for line, _ in lines_of(figure)}


def test_a_method_has_one_colour_and_marker_in_every_figure(panel: Panel) -> None:
    palette = Palette(panel.arms)
    expected = {(palette.colour(arm), palette.marker(arm)) for arm in panel.arms}
    assert len({colour for colour, _ in expected}) == len({marker for _, marker in expected}) == len(panel.arms)
    assert looks_in(frontier_figure(panel)) >= expected
    for key, rows in figure_keys(panel).items():
        arms = {row.arm for row in rows}
        possible = {(shaded(palette.colour(a), share), palette.marker(a)) for a in arms for share in SHADES}
        drawn = looks_in(against_figure(panel, key, rows))
        assert drawn <= possible and {marker for _, marker in drawn} == {palette.marker(arm) for arm in arms}, key


def test_a_method_has_dashes_of_its_own_where_no_key_needs_them(panel: Panel) -> None:
    palette = Palette(panel.arms)
    for line, _ in lines_of(frontier_figure(panel)):
        if line.get_gid() == "frontier":
            (arm,) = (a for a in panel.arms if palette.colour(a) == line.get_color())
            assert dashes(line) == dashes_of(palette.line(arm))
    assert len({str(palette.line(arm)) for arm in panel.arms}) == len(panel.arms)
    plain = panels([cell(a, {"sample.steps": s}, frechet=8 / s) for a in ("base", "dual-rate") for s in (4, 8)])[0]
    drawn = {dashes(line) for line, _ in lines_of(against_figure(plain, "sample.steps"))}
    assert drawn == {dashes_of(palette.line(arm)) for arm in ("base", "dual-rate")}


def dashes(line: Line2D) -> Any:
    """The pattern in points, as drawn; nothing for a line without gaps."""
    _, pattern = line._dash_pattern  # type: ignore[attr-defined]
    return pattern and tuple(np.round(np.array(pattern) / line.get_linewidth(), 3))


def dashes_of(style: Any) -> Any:
    return None if style == "-" else tuple(style[1])


@pytest.mark.parametrize("samplers", [("ancestral", "ddim"), ("ddim", "heun"), ("dpmpp_2m", "heun", "ancestral")])
def test_a_sampler_has_one_line_style_whatever_others_there_are(samplers: tuple[str, ...]) -> None:
    rows = [
        cell("base", {"sample.sampler": sampler, "sample.steps": steps}, frechet=8 / steps + place)
        for place, sampler in enumerate(samplers)
        for steps in (4, 8)
    ]
    (panel,) = panels(rows)
    drawn = {float(data[0, 1]): dashes(line) for line, data in lines_of(against_figure(panel, "sample.steps"))}
    assert drawn == {2.0 + place: dashes_of(SAMPLER_LINES[sampler]) for place, sampler in enumerate(samplers)}


def test_methods_look_the_same_in_every_report() -> None:
    known = Palette(tuple(METHODS)).looks
    assert known == METHODS and Palette(("shrunk", "dual-rate")).looks["dual-rate"] == METHODS["dual-rate"]
    assert len({look.colour for look in METHODS.values()}) == len(METHODS)
    ours = [f"method {i}" for i in range(30)]
    alone = {arm: Palette((arm,)).looks[arm] for arm in ours}
    beside = Palette(("base", *ours[:1])).looks
    assert beside["base"] == METHODS["base"]
    assert len(set(alone.values())) > 20, "names choose different looks"
    for order in (ours, ours[::-1]):
        assert Palette(tuple(order)).looks == Palette(tuple(ours)).looks
    pairs = [(look.colour, look.marker) for look in Palette((*METHODS, *ours)).looks.values()]
    assert len(set(pairs)) == len(pairs), "no two of a report look alike"


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


def test_all_methods_are_told_apart_without_seeing_green() -> None:
    seen = [deuteranope(colour) for colour in COLOURS]
    gaps = [np.abs(a - b).max() for i, a in enumerate(seen) for b in seen[:i]]
    assert min(gaps) > 0.1


def is_whole(figure: Figure) -> bool:
    """Whether all that is drawn lies within the figure, which has a column's width."""
    canvas = FigureCanvasAgg(figure)
    with matplotlib.rc_context(STYLE):
        box = figure.get_tightbbox(canvas.get_renderer())
    width, height = figure.get_size_inches()
    inside = box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height
    return bool(inside and width == COLUMN)


def test_nothing_is_cut_off_at_column_width(panel: Panel) -> None:
    for item in report_figures(panel, ReportOptions(base="base"), {}, REPORTED):
        assert is_whole(item.figure), item.name


LONG = "a method whose name is as long as anybody would ever want to make it, and then some more words"


def test_long_names_are_broken_instead_of_cut_off() -> None:
    """Of arms in a legend, of a key and of a distance along an axis."""
    rows = [
        cell(arm, {"sample.steps": steps, "model.width": width}, frechet=width / steps, gmacs=steps, label=label)
        for arm, label in (("base", "base"), ("long", LONG))
        for steps in (8, 16, 32)
        for width in (32, 64)
    ]
    for row in rows:
        row["record"]["quality"]["features"] = "efficientnet-with-a-long-name"
    (panel,) = panels(rows)
    drawn = report_figures(panel, ReportOptions(base="base", kinds={"sample.steps": LONG, "model.width": LONG}))
    assert {"frontier", "by-steps", "by-width"} <= {item.name for item in drawn}
    for item in drawn:
        assert is_whole(item.figure), item.name
        assert not overlapping(item.figure), item.name
    (by_steps,) = (item.figure for item in drawn if item.name == "by-steps")
    (axes,) = by_steps.axes
    texts = [text.get_text() for text in by_steps.legends[0].get_texts()]
    assert axes.get_xlabel().split() == LONG.split() and "\n" in axes.get_xlabel()
    assert LONG.split() in [text.split() for text in texts]
    canvas = FigureCanvasAgg(by_steps)
    canvas.draw()
    label = axes.xaxis.label.get_window_extent(canvas.get_renderer())
    assert not label.overlaps(by_steps.legends[0].get_window_extent(canvas.get_renderer()))


@pytest.mark.parametrize(
    ("key", "values"),
    [
        (
            "model.light_levels",
            [["conv", "conv"], ["transformer", "conv"], ["conv"] * 4, ["transformer"] * 2, ["conv"]],
        ),
        ("sample.budget", [0.03902, 0.04002, 0.04758, 0.05614, 0.0904]),
        ("sample.steps", [1, 2, 3, 100, 101, 102]),
        ("model.backbone", ["uvit", "x" * 40, "y" * 40]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_texts_of_ticks_are_whole_and_do_not_run_into_each_other(key: str, values: list[Any]) -> None:
    rows = [cell("dual-rate", {key: value}, frechet=2.0 + i, fixed=DUAL) for i, value in enumerate(values)]
    (panel,) = panels(rows)
    figure = against_figure(panel, key, list(panel.measured))
    assert is_whole(figure) and not overlapping(figure)
    assert len(figure.axes[0].get_xticks()) == len(values)


@pytest.mark.parametrize("cheapest", [0.00105, 0.0019, 0.0102, 0.97])
def test_the_number_at_the_end_of_a_frontiers_axis_is_whole(cheapest: float) -> None:
    for dearest in np.geomspace(2 * cheapest, 30 * cheapest, 12):
        costs = (cheapest, float(dearest))
        (panel,) = panels([cell("base", {"sample.steps": i + 1}, frechet=3 - i, gmacs=c) for i, c in enumerate(costs)])
        assert is_whole(frontier_figure(panel)), costs


@pytest.mark.parametrize("samplers", [["ddim"], ["ddim", "heun"]], ids=["told by dashes", "told by the filling"])
def test_a_network_without_refreshes_looks_like_no_number_of_them(samplers: list[str]) -> None:
    rows = [
        cell("base", {"sample.sampler": name, "sample.steps": s}, frechet=(9 + place) / s)
        for place, name in enumerate(samplers)
        for s in (8, 16)
    ]
    rows += [
        cell("dual-rate", {**row["varied"], "sample.refreshes": r}, frechet=9.0 - r, fixed=DUAL)
        for row in rows
        for r in (1, 2, 4)
    ]
    (panel,) = panels(rows)
    figure = against_figure(panel, "sample.steps")
    slot = dashes if len(samplers) == 1 else Line2D.get_fillstyle
    palette = Palette(panel.arms)
    looks = {
        arm: {slot(line) for line, _ in lines_of(figure) if line.get_marker() == palette.marker(arm)}
        for arm in panel.arms
    }
    assert len(looks["base"]) == 1 and len(looks["dual-rate"]) == 3 and not looks["base"] & looks["dual-rate"]
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    of_key = {
        text: slot(handle)
        for text, handle in zip(texts, figure.legends[0].legend_handles, strict=True)
        if text.startswith("refreshes") and isinstance(handle, Line2D)
    }
    assert list(of_key) == ["refreshes 1", "refreshes 2", "refreshes 4"] and set(of_key.values()) == looks["dual-rate"]


def test_a_key_with_one_value_takes_no_look() -> None:
    """The arm says it already."""
    rows = [cell("base", {"sample.steps": s}, frechet=9 / s) for s in (8, 16)]
    rows += [cell("dual-rate", {"sample.steps": s, "sample.refreshes": 2}, frechet=8 / s, fixed=DUAL) for s in (8, 16)]
    (panel,) = panels(rows)
    drawn = {dashes(line) for line, _ in lines_of(against_figure(panel, "sample.steps"))}
    assert drawn == {dashes_of(Palette(panel.arms).line(arm)) for arm in panel.arms}


def test_letters_are_legible_in_print(panel: Panel) -> None:
    sizes = {float(t.get_fontsize()) for t in frontier_figure(panel).findobj(matplotlib.text.Text) if t.get_text()}
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


def test_the_literature_is_drawn_apart_and_has_no_methods_colour() -> None:
    known = read_reported(REPORTED)
    figure = reported_figure(known)
    assert "reported" in figure.axes[0].get_xlabel() and "reported" in figure.axes[0].get_ylabel()
    drawn = [data[0].tolist() for _, data in lines_of(figure)]
    assert [13.14, 1.12] in drawn and len(drawn) == 10
    assert not {line.get_color() for line, _ in lines_of(figure)} & set(COLOURS)


def test_the_literature_on_other_data_is_left_out(panel: Panel) -> None:
    def names(rows: list[Any]) -> set[str]:
        return {item.name for item in report_figures(panels(rows)[0], ReportOptions(), {}, REPORTED)}

    assert "reported" not in names(quickstart()), "the digits have none"
    rows = [cell("base", {"sample.steps": steps}, frechet=8 / steps) for steps in (4, 8)]
    for row in rows:
        row["record"]["quality"]["reference"]["name"] = "CIFAR-10 32×32 test"
    assert "reported" in names(rows)
    assert [line.source for line in of_data(read_reported(REPORTED), panels(rows)[0])] == ["EDM"]


@pytest.mark.parametrize(
    ("low", "high"),
    [(0.104, 0.275), (0.001, 0.0078), (1.0, 15.0), (303.5, 303.6), (0.98, 1.02), (1e-5, 3e4), (2.0, 2.5), (7e-4, 8e-4)],
)
def test_an_axis_names_enough_numbers_and_none_runs_into_the_next(low: float, high: float) -> None:
    ticks = log_ticks(low, high, apart=0.11)
    assert 2 <= len(ticks) <= 9 and all(low <= tick <= high for tick in ticks)
    assert min(np.diff(np.log(ticks))) >= 0.11 * np.log(high / low) - 1e-12
    assert len({f"{tick:.6g}" for tick in ticks}) == len(ticks)


def run_into(a: Text, one: Bbox, b: Text, two: Bbox) -> bool:
    """Whether a text runs into the next; of two that are aslant, and end at their ticks, whether they are nearer to
    each other than a line of text is high."""
    if not a.get_rotation():
        return bool(one.overlaps(two))
    return bool((two.x1 - one.x1) * math.sin(math.radians(a.get_rotation())) < float(a.get_fontsize()) / 72 * 200)


def overlapping(figure: Figure) -> list[str]:
    """The labels of an axis that run into each other."""
    canvas = FigureCanvasAgg(figure)
    with matplotlib.rc_context(STYLE):
        canvas.draw()
        renderer = canvas.get_renderer()
        found = []
        for axes in figure.axes:
            for axis in (axes.xaxis, axes.yaxis):
                shown = [label for label in axis.get_ticklabels() if label.get_text() and label.get_visible()]
                boxes = [label.get_window_extent(renderer) for label in shown]
                pairs = zip(shown, boxes, shown[1:], boxes[1:], strict=False)
                found += [f"{a.get_text()} {b.get_text()}" for a, one, b, two in pairs if run_into(a, one, b, two)]
    return found


@pytest.mark.parametrize("kept", PUBLISHED, ids=lambda path: path.parent.name)
def test_no_label_is_cut_off_or_runs_into_the_next_in_what_is_published(kept: Path) -> None:
    options = load_options(kept)
    for panel in panels(plain_rows(kept), options.arms):
        for item in report_figures(panel, options):
            assert not overlapping(item.figure), item.name
            assert is_whole(item.figure), item.name


def test_a_person_adds_a_figure_to_the_list(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def mine(source: figure_list.Source) -> Iterator[figure_list.Drawn]:
        yield figure_list.Drawn("mine", "My own.", frontier_figure(source.panel))

    monkeypatch.setattr(figure_list, "FIGURES", [*figure_list.FIGURES, mine])
    report = write_report("r", "", [cell("base", {"sample.steps": steps}) for steps in (4, 8)], tmp_path)
    assert {"mine.png", "mine.pdf"} <= set(report.files)
    assert "My own." in (tmp_path / "index.html").read_text(encoding="utf-8")


def test_many_arms_have_a_picture_each_with_the_base_behind() -> None:
    """All on the same axes, so that they can be held against each other; few arms stay together."""
    arms = ["base", *(f"arm {i}" for i in range(MOST_TOGETHER))]
    rows = [
        cell(arm, {"sample.sampler": sampler, "sample.steps": steps}, frechet=(i + 1) * 8 / steps, label=arm)
        for i, arm in enumerate(arms)
        for sampler in ("ddim", "heun")
        for steps in ((4, 8, 16) if arm == "base" else (8, 16))
    ]
    (panel,) = panels(rows, arms)
    figure = against_figure(panel, "sample.steps")
    assert [axes.get_title(loc="left") for axes in figure.axes] == arms[1:]
    for i, axes in enumerate(figure.axes, start=1):
        lines = [line for line in axes.get_lines() if len(np.asarray(line.get_xdata())) > 1]
        grey, own = ([line for line in lines if (line.get_color() == GREY) is behind] for behind in (True, False))
        assert [np.nanmax(np.asarray(line.get_ydata())) for line in grey] == [2.0, 2.0]
        assert [np.nanmax(np.asarray(line.get_ydata())) for line in own] == [(i + 1) * 1.0] * 2
        low, high = axes.get_xlim()
        assert low < 4 and high > 16
    assert len({(axes.get_xlim(), axes.get_ylim()) for axes in figure.axes}) == 1
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["ddim", "heun", "base, in each"]
    (few,) = panels([row for row in rows if row["arm"] != arms[-1]], arms[:-1])
    assert len(against_figure(few, "sample.steps").axes) == 1
