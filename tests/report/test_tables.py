"""Tables against figures worked out by hand, in all three formats."""

from __future__ import annotations

import csv
import io
import math
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from harness.report import ReportOptions
from harness.report.figures import against_figure, figure_keys
from harness.report.tables import Table, ablation_table, main_table, sampler_table
from harness.report.tables.latex import latex_escape
from harness.report.tables.numbers import number
from harness.report.write import base_row, report_tables
from tests.report.made_up import cell, missing, panels

DUAL = {"model.kind": "dual_rate"}


def small() -> list[dict[str, Any]]:
    return [
        cell("base", {"sample.steps": 16}, frechet=[1.0, 1.2], gmacs=4.0, seconds=0.4),
        cell("base", {"sample.steps": 8}, frechet=[2.0, 2.2], gmacs=2.0, seconds=0.2),
        cell(
            "dual-rate",
            {"sample.steps": 16, "sample.refresh_interval": 4},
            frechet=[1.1, 1.1],
            gmacs=1.0,
            seconds=0.2,
            fixed=DUAL,
        ),
        missing("dual-rate", {"sample.steps": 8, "sample.refresh_interval": 4}, "blocked: a | b"),
    ]


def table_of(rows: list[dict[str, Any]], **options: Any) -> Table:
    (panel,) = panels(rows)
    return main_table(panel, base_row(panel, ReportOptions(base="base", **options)))


def test_the_main_table_by_hand() -> None:
    table = table_of(small())
    lines = {(line["arm"], line["steps"]): line for line in table.values.to_dict("records")}
    dual = lines["dual-rate", 16]
    assert dual["FD-digits"] == pytest.approx(1.1) and dual["refreshes"] == 4 and dual["refresh_interval"] == 4
    assert (dual["compute_speed_up"], dual["time_speed_up"]) == (4.0, 2.0)
    assert dual["gflops_per_image"] == 2 * dual["gmacs_per_image"] == 2.0
    assert (dual["images"], dual["features"], dual["reference"]) == (2000, "digits", "digits train")
    assert lines["base", 8]["compute_speed_up"] == 2.0
    assert lines["base", 16]["spread"] == pytest.approx(math.sqrt(0.02))
    assert lines["dual-rate", 8]["status"] == "blocked: a | b" and math.isnan(lines["dual-rate", 8]["FD-digits"])


def test_the_base_row_is_named_and_can_be_chosen() -> None:
    assert "Speed-ups are over base (ancestral, 16 steps)" in table_of(small()).caption
    chosen = table_of(small(), base_row={"sample.steps": 8})
    assert "Speed-ups are over base (ancestral, 8 steps)" in chosen.caption
    assert chosen.values.set_index(["arm", "steps"]).loc[("dual-rate", 16), "compute_speed_up"] == 2.0


def test_the_caption_states_the_conditions() -> None:
    caption = table_of(small()).caption
    for stated in (
        "digits 8×8",
        "FD-digits of 2000 images",
        "digits train (1797 images)",
        "1 training × 2 sampling",
        "cpu made-up",
        "float32",
        "batch 250",
        "2 threads",
        "not compiled",
        "median of 5 repeats",
    ):
        assert stated in caption


def test_differences_within_noise_are_marked() -> None:
    rows = [
        cell("base", {"sample.steps": 8}, frechet=1.0, standard_error=0.05),
        cell("near", {"sample.steps": 8}, frechet=1.05, standard_error=0.05, fixed=DUAL),
        cell("far", {"sample.steps": 8}, frechet=2.0, standard_error=0.05, fixed=DUAL),
    ]
    text = table_of(rows).text.set_index("method")["FD-digits"]
    assert text.tolist() == ["1.00 (se 0.050)", "1.05 (se 0.050)†‡", "2.00 (se 0.050)"]


def test_an_optional_measure_has_a_column_where_some_row_has_it() -> None:
    rows = small()
    assert "precision" not in table_of(rows).text.columns
    rows[0]["record"]["quality"]["per_seed"][0]["precision"] = 0.75
    assert table_of(rows).values["precision"].notna().sum() == 1


def test_rows_timed_elsewhere_have_no_time_speed_up_and_say_where() -> None:
    rows = small()
    rows[2]["record"]["time"]["device"] = "another"
    table = table_of(rows)
    lines = table.values.set_index(["arm", "steps"])
    assert math.isnan(lines["time_speed_up"][("dual-rate", 16)])
    assert lines["time_speed_up"][("base", 8)] == 2.0
    assert "another, 2 threads" in table.text["timed on"].tolist()


def test_markdown_has_one_line_per_row_and_escapes_its_own_signs() -> None:
    lines = [line for line in table_of(small()).markdown.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 4
    assert "blocked: a \\| b" in lines[4]
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1


def test_csv_reads_back() -> None:
    table = table_of(small())
    read = list(csv.DictReader(io.StringIO(table.csv)))
    assert len(read) == 4 and read[0]["arm"] == "base"
    assert float(read[0]["FD-digits"]) == pytest.approx(table.values["FD-digits"][0])
    assert {line["status"] for line in read} == {"measured", "blocked: a | b"}


def test_the_ablation_by_hand() -> None:
    rows = [
        cell(
            "dual-rate",
            {"sample.steps": steps, "sample.refresh_interval": interval},
            frechet=frechet,
            gmacs=gmacs,
            fixed=DUAL,
        )
        for steps, interval, frechet, gmacs in (
            (16, 2, 1.0, 8.0),
            (16, 4, 2.0, 4.0),
            (32, 2, 0.5, 16.0),
            (32, 4, 4.0, 8.0),
            (32, 8, 5.0, 4.0),
        )
    ]
    (panel,) = panels(rows)
    lines = ablation_table(panel).values.set_index(["key", "value"])
    interval = lines.loc["sample.refresh_interval"]
    # Interval 4 against 2: 2/1 at 16 steps, 4/0.5 at 32: the geometric mean is 4. Interval 8: 5/0.5 at 32 steps only.
    assert interval["distance_ratio"].tolist() == pytest.approx([1.0, 4.0, 10.0])
    assert interval["compute_ratio"].tolist() == pytest.approx([1.0, 0.5, 0.25])
    assert interval["settings"].tolist() == [2, 2, 1]
    assert interval["best_FD-digits"].tolist() == [0.5, 2.0, 5.0]
    assert lines.loc["sample.steps"]["settings"].tolist() == [2, 2]


def test_nothing_is_a_value_of_a_key_that_an_arm_varies() -> None:
    rows = [
        cell("base", {"sample.guidance": 3.0, "sample.guidance_interval": interval}, frechet=frechet)
        for interval, frechet in ((None, 4.0), ([0.2, 2.0], 3.0))
    ]
    (panel,) = panels([*rows, cell("base", {"sample.guidance": 1.0, "sample.guidance_interval": None}, frechet=2.0)])
    lines = ablation_table(panel).text.set_index(["key", "value"])
    assert lines.loc["guidance interval"].index.tolist() == ["none", "[0.2, 2]"]
    assert lines["FD-digits ×"][("guidance interval", "[0.2, 2]")] == "0.750"
    (rows_of_figure,) = [rows for key, rows in figure_keys(panel).items() if key == "sample.guidance_interval"]
    axes = against_figure(panel, "sample.guidance_interval", rows_of_figure).axes[0]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["none", "[0.2, 2]"]
    assert "guidance_interval" not in panel.measured[0].name and "–" not in panel.measured[0].name


def test_samplers_side_by_side_with_their_ratio_to_ancestral() -> None:
    rows = [
        cell(
            arm,
            {"sample.sampler": sampler, "sample.steps": steps},
            frechet=value * 8 / steps,
            fixed=DUAL if arm == "dual-rate" else None,
        )
        for arm, of in (("base", {"ancestral": 2.0, "ddim": 1.0}), ("dual-rate", {"ancestral": 1.0, "ddim": 3.0}))
        for sampler, value in of.items()
        for steps in (8, 16)
    ]
    (panel,) = panels(rows)
    lines = sampler_table(panel).values
    ratios = lines[lines["steps"] == "all"].set_index("method")
    assert ratios["ddim"].tolist() == pytest.approx([0.5, 3.0])
    assert ratios["ancestral"].tolist() == pytest.approx([1.0, 1.0])
    assert lines[(lines["method"] == "base") & (lines["steps"] == "16")]["ddim"].tolist() == [0.5]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0123456, "0.0123"),
        (1.0, "1.00"),
        (123.4, "123"),
        (12345.6, "12346"),
        (math.nan, "–"),
        (0.0, "0"),
        (-0.5, "-0.500"),
        (2.5e-6, "2.50e-06"),
        (9.999, "10.00"),
    ],
)
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text


LATEX_DOCUMENT = r"""\documentclass{article}
\usepackage{booktabs,graphicx,longtable}
\begin{document}
%s
\end{document}
"""


def test_latex_compiles(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    compiler = shutil.which("pdflatex")
    if compiler is None:
        pytest.skip("there is no pdflatex here to compile the tables with")
    odd = cell("odd", {"sample.steps": 8}, label="[50 % of $x_1$] & {λ → ∞} ~ \\dual #1 ^ü “ok” 图", fixed=DUAL)
    (panel,) = panels([*rows, odd])
    tables = [table.latex for table in report_tables(panel, ReportOptions(base="base"))]
    assert len(tables) == 5 and any("longtable" in table for table in tables)
    assert any(r"\begin{tabular}" in table for table in tables)
    (tmp_path / "tables.tex").write_text(LATEX_DOCUMENT % "\n\\clearpage\n".join(tables), encoding="utf-8")
    done = subprocess.run(
        [compiler, "-interaction=nonstopmode", "-halt-on-error", "tables.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Missing character" not in done.stdout
    too_wide = [line for line in done.stdout.splitlines() if line.startswith("Overfull") and "in alignment" not in line]
    assert not too_wide, "only a table that breaks over pages (an alignment by itself) may be wider than the text"


def test_latex_escapes_every_special_sign() -> None:
    assert latex_escape("a_b & 5% #1 {x} ~ ^ $ \\") == (
        r"a\_b \& 5\% \#1 \{x\} \textasciitilde{} \textasciicircum{} \$ \textbackslash{}"
    )
    assert latex_escape("é図").isascii()


def test_arms_that_sample_the_same_networks_are_one_method_of_the_sampler_table() -> None:
    rows = [
        cell(arm, {"sample.steps": steps}, frechet=value * 8 / steps, fixed={"sample.sampler": sampler})
        for arm, sampler, value in (("base", "ancestral", 2.0), ("DDIM", "ddim", 1.0))
        for steps in (8, 16)
    ]
    rows.append(cell("shrunk", {"sample.steps": 8}, fixed={"model.width": 8}))
    (panel,) = panels(rows)
    lines = sampler_table(panel).values
    assert set(lines["method"]) == {"base / DDIM"}
    assert lines.set_index("steps").loc["all", "ddim"] == pytest.approx(0.5)


STITCHED = {"sample.stitch": "a/b", "sample.stitch_share": 0.5}


def test_an_arm_stitched_to_another_network_is_another_method_of_the_sampler_table() -> None:
    rows = [
        cell(arm, {"sample.sampler": sampler}, fixed=fixed)
        for arm, fixed in (("base", {}), ("stitch", STITCHED), ("last", {**STITCHED, "sample.stitch_at": "last"}))
        for sampler in ("ancestral", "ddim")
    ]
    assert set(sampler_table(panels(rows)[0]).values["method"]) == {"base", "stitch", "last"}


def test_a_forecast_cache_is_another_method_than_one_that_reuses() -> None:
    """They sample the same network, but at equal steps and refreshes they are two lines, not one."""
    rows = [
        cell(arm, {"sample.sampler": sampler}, frechet=frechet, fixed=fixed)
        for arm, fixed, frechets in (
            ("cached", {"sample.cache_from_level": 1}, (4.0, 3.0)),
            ("forecast", {"sample.cache_from_level": 1, "sample.cache_order": 1}, (2.0, 1.0)),
        )
        for sampler, frechet in zip(("ancestral", "ddim"), frechets, strict=True)
    ]
    table = sampler_table(panels(rows)[0]).values
    ratios = table[table["other"] == "× ancestral"].set_index("method")["ddim"]
    assert ratios.to_dict() == {"cached": 0.75, "forecast": 0.5}


def test_an_interval_that_is_no_whole_number_has_two_decimals() -> None:
    """Of 3 refreshes in 5 steps, 3 in 7, 4 in 6 and 4 in 8, and of a row without a result."""
    rows = [
        cell("dual", {"sample.steps": steps, "sample.refreshes": refreshes}, fixed=DUAL)
        for steps, refreshes in ((5, 3), (7, 3), (6, 4), (8, 4))
    ]
    rows.append(missing("dual", {"sample.steps": 10, "sample.refreshes": 6}))
    (panel,) = panels(rows)
    table = main_table(panel, None)
    shown = dict(zip(table.text["steps"], table.text["interval"], strict=True))
    assert shown == {"5": "1.67", "6": "1.5", "7": "2.33", "8": "2", "10": "1.67"}


def test_steps_that_were_taught_do_not_hide_those_of_sampling() -> None:
    rows = [*small(), cell("student", {"sample.steps": 4, "distill.steps": 8}, frechet=[1.5], gmacs=0.5)]
    (panel,) = panels(rows)
    table = main_table(panel, None)
    shown = {tuple(line) for line in table.text[["method", "steps", "distill.steps"]].to_numpy().tolist()}
    assert {("base", "16", "–"), ("base", "8", "–"), ("student", "4", "8")} <= shown
