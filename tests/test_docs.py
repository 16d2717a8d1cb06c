"""The pages people read: their links lead somewhere, and the figures they quote are those of the reports."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\(([^)\s#]+)|src=\"([^\"]+)\"")
NAMED = re.compile(r"`((?:harness|models|sweeps|tests|tools|results|docs)/[\w./-]*\w/?)`")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_names_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = [first or second for first, second in LINK.findall(text)]
    relative = [link for link in links if not link.startswith(("http:", "https:"))]
    assert [link for link in relative if not (page.parent / link).exists()] == []
    made = ("results/NAME", "results/local", "results/runs")
    assert [name for name in NAMED.findall(text) if not (ROOT / name).exists() and not name.startswith(made)] == []


def test_every_page_is_linked_from_the_first() -> None:
    first = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [page.name for page in PAGES[1:] if f"({page.relative_to(ROOT)})" not in first] == []


def test_the_table_of_the_first_page_is_the_reports() -> None:
    rows = (
        (ROOT / "README.md").read_text(encoding="utf-8").partition("| 8×8 digits")[2].split("\n\n")[0].splitlines()[2:]
    )
    with (ROOT / "results" / "digits-seeds" / "table.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert len(rows) == 4
    samplers = {"Heun": "heun", "DPM-Solver++(2M)": "dpmpp_2m"}
    for row in rows:
        name, steps, refreshes, distance, gmacs, milliseconds = (cell.strip() for cell in row.strip("|").split("|"))
        arm, _, sampler = name.partition(", ")
        label = "base" if arm == "base" else "dual-rate, light convolutions"
        (found,) = (
            line
            for line in table
            if (line["method"], line["sampler"], line["steps"]) == (label, samplers[sampler], steps)
            and line["refreshes"].removesuffix(".0") == refreshes.strip("–")
        )
        mean, _, spread = distance.partition(" ± ")
        assert float(mean) == pytest.approx(float(found["FD-digits"]), abs=0.005)
        assert float(spread) == pytest.approx(float(found["spread"]), abs=0.005)
        assert float(gmacs) == pytest.approx(float(found["gmacs_per_image"]), abs=5e-4)
        assert float(milliseconds) == pytest.approx(1000 * float(found["seconds_per_image"]), abs=0.05)


def lines_of(text: str, head: str) -> list[list[str]]:
    """The lines of the Markdown table that begins with `head`, as their cells."""
    body = text.partition(head)[2].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in body]


def test_what_adapting_and_its_rivals_cost_is_what_the_report_prints() -> None:
    report = (ROOT / "results" / "digits-adapted" / "added-training.md").read_text(encoding="utf-8")
    printed = {name: figures for name, *figures in lines_of(report, "| method ")}
    quoted = lines_of((ROOT / "docs" / "results.md").read_text(encoding="utf-8"), "| beside the base ")
    for name, added, compute, time, both in quoted:
        assert [added, compute.replace("**", ""), time, *both.split(" – ")] == printed[name.removesuffix(" †")], name
    assert len(quoted) == len(printed) == 10


def test_the_first_page_quotes_what_the_report_prints_of_the_adapted_network() -> None:
    report = (ROOT / "results" / "digits-adapted" / "added-training.md").read_text(encoding="utf-8")
    printed = {name: figures for name, *figures in lines_of(report, "| method ")}
    half, quarter = printed["adapted, 50 %"], printed["adapted, 25 %"]
    page = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    said = page.partition("## You have a trained network")[2].partition("## ")[0]
    span = r"([\d.]+)× {}\(([\d.]+)–([\d.]+)\)"

    def quoted(what: str) -> list[str]:
        found = re.search(what, said)
        return list(found.groups()) if found else []

    def figures(cell: str) -> list[str]:
        return re.findall(r"\d\.\d\d", cell)

    assert quoted(span.format("the compute ")) == figures(half[1])
    assert quoted(span.format("the time ")) == figures(half[2])
    assert quoted(r"equal FD-digits for ([\d.]+ %) more training") == [half[0]]
    assert quoted(span.format("") + r" of the compute for ([\d.]+ %)") == [*figures(quarter[1]), quarter[0]]
