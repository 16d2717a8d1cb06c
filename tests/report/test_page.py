"""The page stands alone, escapes what it shows, and has every row with its configuration."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from harness.report import Report
from harness.report.page import ASSETS

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
