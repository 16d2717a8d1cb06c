"""The page stands alone, escapes what it shows, and has every row with its configuration."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from harness.report import Report
from harness.report.chart import Axis
from harness.report.page import ASSETS
from harness.report.shown import frontier_rows
from tests.report.made_up import cell, panels, write_report

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Reader(HTMLParser):
    """Checks that elements nest, and gathers what tests look at."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes what is not open"

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(scope="module")
def html(report: Report) -> str:
    return (report.folder / "index.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert reader.open == []
    return reader


def test_it_asks_for_nothing_from_outside(html: str, read: Reader) -> None:
    for tag, attributes in read.tags:
        for name in ("src", "href", "srcset", "action", "data"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:image/png;base64,", "#")), (tag, name)
    assert not re.search(r"(url\(|@import|https?://|fetch\(|XMLHttpRequest)", html)
    assert "default-src 'none'" in html


def test_all_text_is_escaped(html: str, read: Reader) -> None:
    assert "<against>" not in html and "<failed>" not in html
    text = "".join(read.text)
    assert "Dual-rate <against> its baselines & rivals" in text
    assert "blocked: its training <failed>" in text


def test_every_row_is_there_with_its_configuration_one_click_away(report: Report, html: str) -> None:
    table = html[html.index("<h2>Results</h2>") :]
    table = table[: table.index("</table>")]
    lines = table.split("<tr>")[2:]
    assert len(lines) == len(report.table)
    assert all(line.count("<details>") == 1 for line in lines)
    last = lines[-1]
    assert "sample.steps: 128" in last and "model.light_width: 0.25" in last
    # What all rows share is written once, and every row points to it.
    assert html.count("measure.images: 2000") == 1 and all('href="#common"' in line for line in lines)


def test_every_figure_is_inlined_with_a_caption_and_the_conditions_are_said_once(report: Report, read: Reader) -> None:
    pictures = [attributes for tag, attributes in read.tags if tag == "img"]
    assert len(pictures) == sum(name.endswith(".png") for name in report.files)
    captions = [picture["alt"] or "" for picture in pictures]
    assert len(set(captions)) == len(captions) and all(len(caption.split()) < 25 for caption in captions)
    text = "".join(read.text)
    said = "FD-digits of 2000 images against digits train (1797 images); 2 trainings × 2 sampling seeds; timed on"
    assert text.count(said) == 1
    assert text.count("bars are 95 % intervals") == 1


def test_no_words_are_repeated_from_caption_to_caption(report: Report, html: str) -> None:
    """Nowhere do two captions of figures or tables share eight words in a row."""
    captions = re.findall(r"<figcaption>(.*?)<span|<p class=\"caption\">(.*?)(?:<span|</p>)", html, re.S)
    words = [(one or other).split() for one, other in captions]
    assert len(words) > 8
    seen: dict[tuple[str, ...], int] = {}
    for place, caption in enumerate(words):
        for start in range(len(caption) - 7):
            run = tuple(caption[start : start + 8])
            assert seen.setdefault(run, place) == place, " ".join(run)


def test_headline_and_provenance_are_shown(report: Report, read: Reader) -> None:
    text = "".join(read.text)
    assert report.headline in text and report.conditions in text
    assert "0123456789" in text and "torch" in text and "cells.json" in text


def test_templates_style_and_script_are_in_the_wheel() -> None:
    wheel = pytest.importorskip("hatchling.builders.wheel", reason="hatchling, which builds the wheel, is not here")
    root = Path(__file__).parents[2]
    included = {file.distribution_path for file in wheel.WheelBuilder(str(root)).recurse_included_files()}
    assets = {str(path.relative_to(root)) for path in ASSETS.iterdir()}
    assert len(assets) == 4 and assets <= included
    assert "harness/metrics/extractors/digits_network.safetensors" in included


def test_the_frontier_has_a_point_per_measured_row_with_its_settings(report: Report, html: str, read: Reader) -> None:
    points = [attributes for tag, attributes in read.tags if tag == "circle" and "data-row" in attributes]
    measured = len(report.table) - 1  # one is blocked
    assert len(points) == measured
    assert sorted(int(point["data-row"] or -1) for point in points) == list(range(measured))
    told = {int(point["data-row"] or 0): point["aria-label"] or "" for point in points}
    for row, line in enumerate(report.table.to_dict("records")[:measured]):
        assert told[row].startswith(str(line["method"])) and str(line["sampler"]) in told[row]
        assert str(line["FD-digits"]).rstrip("†‡") in told[row] and f"{line['GMACs/image']} GMACs" in told[row]
    leading = [point for point in points if point.get("tabindex") == "0"]
    assert 0 < len(leading) < len(points) and all("data-strip" in point for point in leading)
    assert html.count("data-strip=") == len(leading)  # of those whose images are kept
    for point in points:
        assert 0 < float(point["cx"] or -1) < 640 and 0 < float(point["cy"] or -1) < 360


def test_filled_points_are_those_that_no_other_of_the_method_beats(rows: list[dict[str, Any]]) -> None:
    """By the definition, row against row."""
    (panel,) = panels(rows)
    for row in panel.measured:
        beaten = any(
            other.arm == row.arm
            and other is not row
            and other.gmacs <= row.gmacs
            and panel.distances[other].mean <= panel.distances[row].mean
            for other in panel.measured
        )
        assert (row in frontier_rows(panel)) == (not beaten)


@pytest.mark.parametrize(
    "values", [[0.1, 0.26], [1.0, 1.0], [0.0, 3.0], [1.2, 1.3], [1e-4, 1e4], [-2.0, 5.0], [7.0, 8.0]]
)
def test_an_axis_holds_its_values_and_its_marks(values: list[float]) -> None:
    axis = Axis(values, 60, 600)
    assert all(60 < axis(value) < 600 for value in values)
    ticks = axis.ticks()
    assert 1 <= len(ticks) <= 9 and all(60 <= tick.at <= 600 for tick in ticks)
    assert [tick.at for tick in ticks] == sorted({tick.at for tick in ticks})
    for tick in ticks:
        assert axis(float(tick.text)) == pytest.approx(tick.at, abs=0.6)


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVE = """<script>{
const told = {}, input = document.querySelector(".search"), table = document.querySelector("section.rows table");
const visible = () => [...table.tBodies[0].rows].filter(row => row.offsetHeight).length;
const type = text => { input.value = text; input.dispatchEvent(new Event("input")); return visible(); };
told.all = visible();
told.heun = type("HEUN"); told.count = document.querySelector(".count").textContent;
told.dimmed = document.querySelectorAll("circle.out").length;
told.without = type("-heun"); told.nothing = type("<b>no such row</b>"); told.again = type("");
const head = [...table.tHead.rows[0].cells].findIndex(cell => cell.textContent === "GMACs/image");
const column = () => [...table.tBodies[0].rows].map(row => parseFloat(row.cells[head].textContent));
table.tHead.rows[0].cells[head].querySelector("button").click(); told.rising = column();
table.tHead.rows[0].cells[head].querySelector("button").click(); told.falling = column();
const tip = document.querySelector(".tip"), point = document.querySelector("circle[tabindex]");
told.before = tip.hidden; point.focus();
told.tip = tip.innerText; told.strip = !!tip.querySelector("img");
told.marked = document.querySelector("tr.marked") && document.querySelector("tr.marked").textContent;
point.dispatchEvent(new KeyboardEvent("keydown", {key: "Escape"})); told.closed = tip.hidden;
const other = document.querySelector("circle:not([tabindex])[data-row]");
other.dispatchEvent(new MouseEvent("mouseenter")); told.hover = tip.innerText;
told.inside = tip.getBoundingClientRect().right <= innerWidth;
told.wide = document.documentElement.scrollWidth <= innerWidth;
document.body.textContent = "TOLD" + JSON.stringify(told) + "END";
}</script></body>"""


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
@pytest.mark.parametrize("width", [1280, 500])
def test_in_a_browser_one_filters_sorts_and_points(report: Report, html: str, tmp_path: Path, width: int) -> None:
    page = tmp_path / "page.html"
    page.write_text(html.replace("</body>", DRIVE), encoding="utf-8")
    command = [CHROMIUM or "", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run(
        [*command, f"--window-size={width},900", "--dump-dom", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    found = re.search("TOLD({.*})END", done.stdout)
    assert found, done.stdout[-500:] + done.stderr[-500:]
    told = json.loads(unescape(found[1]))
    rows = len(report.table)
    heun = sum("heun" in str(line["sampler"]) for line in report.table.to_dict("records"))
    assert told["all"] == told["again"] == rows and told["heun"] == heun and told["count"] == f"{heun} of {rows} rows"
    assert told["without"] == rows - heun and told["nothing"] == 0
    assert told["dimmed"] == rows - 1 - heun  # one row has no point
    known = [value for value in told["rising"] if value is not None]
    assert known == sorted(known) and [v for v in told["falling"] if v is not None] == sorted(known, reverse=True)
    assert told["before"] and told["closed"] and told["strip"]
    assert told["tip"].split("\n")[0].partition(" (")[0] in told["marked"] and "FD-digits:" in told["tip"]
    assert "GMACs" in told["hover"] and told["hover"] != told["tip"]
    assert told["inside"] and told["wide"]


def test_labels_are_text_in_the_frontier_too(tmp_path: Path) -> None:
    nasty = '"><script>alert(1)</script>'
    rows = [cell("base", {"sample.steps": n}, frechet=3 / n, gmacs=n, label=nasty) for n in (8, 16)]
    write_report("x", nasty, rows, tmp_path)
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "<script>alert" not in text and text.count("<script>") == 1
    reader = Reader()
    reader.feed(text)
    labels = [attributes["aria-label"] or "" for tag, attributes in reader.tags if "data-row" in attributes]
    assert len(labels) == 2 and all(label.startswith(nasty) for label in labels)


def test_without_javascript_nothing_stands_there_that_does_nothing(html: str, read: Reader) -> None:
    assert not any(tag == "input" for tag, _ in read.tags)  # the script makes the filter
    assert html.count("<title>") == 1 + html.count("data-row=")  # a browser shows what a point is by itself
