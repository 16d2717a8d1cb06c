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
