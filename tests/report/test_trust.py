"""Times that are not to be trusted: marked wherever they stand, told nowhere, with the reason and the cure.

The records are a real sweep's, as they were written; the tests change the fields under test and nothing else.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.report import Report, ReportOptions, headline, load_rows
from harness.report import panels as report_panels
from harness.report.doubts import counted
from harness.report.timing import MARK, time_command, timing_noise
from tests.report.conftest import Ran
from tests.report.made_up import panels, write_report

RESULTS = Path(__file__).parents[2] / "results"
BUSY = "load 7.9 on 2 processors"
COMMAND = "harness time some/sweep.yaml --set train.steps=3"
OPTIONS = ReportOptions(command="harness report some/sweep.yaml --set train.steps=3")
Change = Callable[[dict[str, Any]], None]


def changed(ran: Ran, change: Change, arms: tuple[str, ...] = ("base", "dual-rate"), most: int = 99) -> list[Any]:
    """The sweep's rows, as if timed in quiet, with the times of up to `most` of each arm's cells changed."""
    rows, left = ran.rows, dict.fromkeys(arms, most)
    for row in rows:
        quiet(row["record"]["time"])
        if left.get(row["arm"], 0) > 0:
            left[row["arm"]] -= 1
            change(row["record"]["time"])
    return rows


def with_key(name: str, value: object) -> Change:
    return lambda time: time.update({name: value})


def busy(time: dict[str, Any]) -> None:
    time |= {"trusted": False, "reasons": [BUSY]}


def quiet(time: dict[str, Any]) -> None:
    time |= {"trusted": True, "reasons": []}


def older(time: dict[str, Any]) -> None:
    time.pop("trusted", None)
    time.pop("reasons", None)


def written(rows: list[Any], folder: Path) -> Report:
    return write_report("r", "", rows, folder, OPTIONS)


def lines(report: Report, name: str = "table.csv") -> list[dict[str, str]]:
    with (report.folder / name).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_time_of_a_busy_machine_is_marked_with_reason_and_cure(ran: Ran, tmp_path: Path) -> None:
    rows = changed(ran, quiet)
    busy(rows[0]["record"]["time"])
    report = written(rows, tmp_path)
    shown = [text.endswith(MARK) for text in report.table["s/image"]]
    assert sum(shown) == 1
    trusted = [(line["time_trusted"], line["time_reasons"]) for line in lines(report)]
    assert trusted.count(("False", BUSY)) == 1 and trusted.count(("True", "")) == len(rows) - 1
    told = f"1 of {len(rows)} rows was timed on a machine that was not quiet ({BUSY}): `{COMMAND}`"
    for name in ("table.md", "index.html", "matched.md"):
        text = (tmp_path / name).read_text(encoding="utf-8").replace("\\", "")
        assert f"{MARK}: a time that is not to be trusted; {told}" in text, name
    assert f"its times are not to be trusted: {BUSY}" in (tmp_path / "index.html").read_text(encoding="utf-8")
    assert r"\textsection" in (tmp_path / "table.tex").read_text(encoding="utf-8")


def test_the_time_figure_is_withheld_and_the_page_says_so(ran: Ran, tmp_path: Path) -> None:
    written(changed(ran, quiet), tmp_path)
    assert (tmp_path / "frontier-time.png").exists()
    report = written(changed(ran, busy, ("dual-rate",), most=1), tmp_path)
    assert not (tmp_path / "frontier-time.png").exists() and "frontier.png" in report.files
    assert "FD-digits against time is not drawn: 1 of 9 rows was timed" in (tmp_path / "index.html").read_text()


def test_a_ratio_of_times_is_marked_if_either_is_doubtful(ran: Ran, tmp_path: Path) -> None:
    report = written(changed(ran, busy, ("dual-rate",)), tmp_path)
    marked = {(m, MARK in t) for m, t in zip(report.table["method"], report.table["time speed-up"], strict=True)}
    assert marked == {("base", False), ("dual-rate", True)}
    assert {line["time_trusted"] for line in lines(report, "matched.csv")} == {"False"}
    report = written(changed(ran, busy, ("base",)), tmp_path)
    assert all(MARK in text for text in report.table["time speed-up"])


@pytest.mark.parametrize("arm", ["base", "dual-rate"])
def test_no_headline_of_time_rests_on_a_doubtful_one(arm: str, ran: Ran) -> None:
    told = headline(panels(changed(ran, busy, (arm,), most=1))[0], command=COMMAND).conditions
    assert told.count("Times are left out: 1 of 9 rows was timed on a machine that was not quiet") == 1
    assert told.endswith(f"`{COMMAND}`, on a quiet one, takes all times again.")


@pytest.mark.parametrize("change", [older, quiet])
def test_records_that_are_trusted_or_do_not_say_count_as_they_are(change: Change, ran: Ran, tmp_path: Path) -> None:
    report = written(changed(ran, change), tmp_path)
    for name in ("table.md", "matched.md", "index.html"):
        assert "not to be trusted" not in (tmp_path / name).read_text(encoding="utf-8")
    assert (tmp_path / "frontier-time.png").exists() and MARK not in "".join(report.table["s/image"])
    assert {line["time_trusted"] for line in lines(report)} == {"" if change is older else "True"}


def test_what_is_not_trusted_without_a_reason_is_not_trusted(ran: Ran) -> None:
    def silent(time: dict[str, Any]) -> None:
        time["trusted"] = False

    assert "(its record does not say why)" in headline(panels(changed(ran, silent))[0]).conditions


def reasons_in_turn(*reasons: list[str]) -> Change:
    """The next of `reasons` at each call."""
    left = iter(reasons)
    return lambda time: time.update({"trusted": False, "reasons": next(left)})


def test_the_rows_that_a_reason_holds_for_are_counted_and_numbers_told_as_a_range(ran: Ran, tmp_path: Path) -> None:
    took = "other processes took {} of the 2 processors".format
    given = reasons_in_turn(
        [took("46%")], [took("9%"), "the same work took 0.35× as long after as before"], [took("78%")]
    )
    rows = changed(ran, given, ("base",), most=3)
    told = headline(panels(rows)[0], command=COMMAND).conditions
    assert (
        "3 of 9 rows were timed on a machine that was not quiet (other processes took 9% to 78% of the 2 processors: "
        "3 rows; the same work took 0.35× as long after as before: 1 row): `harness time"
    ) in told
    written(rows, tmp_path)
    reasons = [line["time_reasons"] for line in lines(report=written(rows, tmp_path))]
    assert took("9%") + "; the same work took 0.35× as long after as before" in reasons


def test_more_kinds_of_reasons_than_a_sentence_names_are_counted() -> None:
    of_rows = [["a 1", "b"], ["a 3", "c", "d"], ["a 2", "b", "c", "e", "d"]]
    assert counted(of_rows, "row") == "a 1 to 3: 3 rows; b: 2 rows; c: 2 rows; 2 other reasons: 2 rows"
    assert counted([["a less than 1%"], ["a 70%"], ["a 1%"]], "row") == "a less than 1% to 70%"


OLDER_RECORD = "its threads waited for a processor 130% of the time"


@pytest.mark.parametrize(
    ("conditions", "said"),
    [
        # 13 s of waiting and 7 s of running
        (
            {"waiting_share": 1.3, "wall_seconds": 10.0, "processor_seconds": 7.0},
            "its threads waited for a processor in 65% of the time in which they had work",
        ),
        (None, "on average 1.3 of its threads waited for a processor"),
    ],
)
def test_what_older_records_say_of_all_threads_together_is_told_of_one(
    conditions: dict[str, float] | None, said: str, ran: Ran, tmp_path: Path
) -> None:
    def older_record(time: dict[str, Any]) -> None:
        time |= {"trusted": False, "reasons": [OLDER_RECORD], "conditions": conditions}

    report = written(changed(ran, older_record), tmp_path)
    for name in ("table.md", "index.html", "table.csv"):
        text = (report.folder / name).read_text(encoding="utf-8")
        assert said in text and "130%" not in text, name


def test_the_cure_is_the_reports_own_command() -> None:
    assert time_command("harness report a b.yaml --set x=1") == "harness time a b.yaml --set x=1"
    assert time_command("harness report") == time_command("python make.py") == "harness time FILE"


def test_the_noise_of_timing_is_what_the_quartiles_of_the_repeats_tell(ran: Ran) -> None:
    """Of three normal draws the quartiles are 0.846 standard deviations apart on average."""

    def noisy(time: dict[str, Any]) -> None:
        median = time["seconds_per_image"]
        time["seconds_per_image_quartiles"] = [median / 1.1, median * 1.1]

    noise = timing_noise(panels(changed(ran, noisy))[0].measured)
    assert len(noise) == 9 and list(noise.values()) == pytest.approx([0.1906 / 0.846] * 9, rel=0.03)
    for name, value in (("seconds_per_image_quartiles", None), ("repeats", 1)):
        silent = panels(changed(ran, with_key(name, value)))[0].measured
        assert set(timing_noise(silent).values()) == {0.0}


def doubts(rows: list[Any]) -> list[tuple[str, ...]]:
    return [row.mistrust for row in panels(rows)[0].measured if row.mistrust]


def set_yardsticks(rows: list[Any], seconds: list[float]) -> None:
    for row, one in zip(rows, seconds, strict=True):
        row["record"]["time"]["conditions"] = {"yardstick_seconds": [one * 1.1, one]}


def test_a_cell_beside_which_the_same_work_took_longer_is_not_trusted(ran: Ran) -> None:
    rows = ran.rows
    set_yardsticks(rows, [0.01] * 7 + [0.0115, 0.02])
    assert doubts(rows) == [("the same fixed work took 2.0× as long as beside other cells",)]
    rows[8]["record"]["time"]["device"] = "another"
    assert doubts(rows) == [], "what is slower by its nature is only compared with its like"
    set_yardsticks(rows[:3], [0.01, 0.01, 0.02])
    assert doubts(rows[:3]) == [], "three cells do not tell what is usual"


def test_most_cells_on_a_slow_machine_do_not_make_it_the_usual_one(ran: Ran) -> None:
    rows = ran.rows
    set_yardsticks(rows, [0.01] * 4 + [0.02] * 5)
    assert len(doubts(rows)) == 5


def test_a_cell_whose_multiply_adds_took_longer_than_its_networks_others_is_not_trusted(ran: Ran) -> None:
    rows = ran.rows
    assert doubts(rows) == []
    base = [row for row in rows if row["arm"] == "base"]
    base[0]["record"]["time"]["seconds_per_image"] *= 3
    assert doubts(rows) == [("it took 3.0× the seconds per GMAC of its network's other cells",)]
    base[0]["record"]["time"]["seconds_per_image"] *= 0.6
    assert doubts(rows) == [], "steps differ in overhead, and short timings in noise"


def test_a_published_sweep_has_one_cell_that_was_timed_beside_something_else() -> None:
    """The shrunk network took 8 times as long for 32 steps of DDIM as for 16, and as for 32 of DPM-Solver++."""
    (panel,) = report_panels(load_rows(RESULTS / "digits-frontier" / "cells.json"))
    doubted = [row for row in panel.measured if row.mistrust]
    assert [(row.arm, row.sampler, row.steps) for row in doubted] == [("shrunk", "ddim", 32)]
