"""The sentence says who wins, who does not, and what cannot be said."""

from __future__ import annotations

import re
from typing import Any

import pytest

from harness.report.frontier import compare, series
from harness.report.headline import Headline, comparisons, headline, roles
from harness.report.panel import Panel
from tests.report.conftest import Ran
from tests.report.made_up import cell, missing, panels

ARMS = ("dual-rate", "base")
DUAL = {"model.kind": "dual_rate"}


def curve(arm: str, factor: float, floor: float = 0.0, seeds: tuple[int, ...] = (0, 1), **kwargs: Any) -> list[Any]:
    """An arm whose distance is cost⁻¹ where the base's is, at `factor` times its cost."""
    return [
        cell(
            arm,
            {"sample.steps": steps},
            frechet=floor + 8 / steps,
            gmacs=factor * steps,
            seconds=2 * factor * steps,
            seed=seed,
            standard_error=0.001,
            **kwargs,
        )
        for seed in seeds
        for steps in (4, 8, 16)
    ]


def panel_of(*arms: list[Any]) -> Panel:
    (panel,) = panels([row for arm in arms for row in arm])
    return panel


def test_a_win_is_said_with_its_size_and_interval() -> None:
    told = headline(panel_of(curve("base", 1.0), curve("dual-rate", 0.5, fixed=DUAL)))
    assert re.fullmatch(
        r"dual-rate: 0\.50× the compute \(0\.50–0\.5\d\) and 0\.50× the time \([\d.]+–[\d.]+\) of base "
        r"at equal FD-digits",
        told.line,
    )
    assert told.conditions.startswith("On average over the values that both reach, 2 to 0.5, with 95 % intervals.")
    assert "N = 2000; against base." in told.conditions and "noise" not in str(told)
    assert len(told.line.split()) < 20


def test_a_loss_is_said_first() -> None:
    told = headline(panel_of(curve("base", 1.0), curve("dual-rate", 3.0, fixed=DUAL)))
    assert told.line.startswith("dual-rate loses: 3.00× the compute (")


def test_no_difference_is_called_noise() -> None:
    generator = panel_of(
        [cell("base", {"sample.steps": s}, frechet=8 / s, gmacs=s, standard_error=1.0 / s) for s in (4, 8, 16)],
        [
            cell("dual-rate", {"sample.steps": s}, frechet=8.1 / s, gmacs=s, standard_error=1.0 / s, fixed=DUAL)
            for s in (4, 8, 16)
        ],
    )
    told = headline(generator)
    assert re.fullmatch(
        r"no difference beyond noise: dual-rate needs [\d.]+–[\d.]+× the compute and [\d.]+–[\d.]+× the time "
        r"of base at equal FD-digits",
        told.line,
    ), "a share that may as well be 1 is no finding"
    assert "One training seed, whose noise the intervals leave out." in told.conditions


def test_what_dual_rate_does_not_reach_is_said_first() -> None:
    told = headline(panel_of(curve("base", 1.0), curve("dual-rate", 0.5, floor=0.5, fixed=DUAL)))
    assert told.line.startswith(
        "dual-rate does not reach the best FD-digits of base (1 against 0.5); up to there it needs"
    )


def test_a_method_that_is_never_as_good_as_the_bases_cheapest_row_has_no_share_of_its_compute() -> None:
    cheap = [cell("dual-rate", {"sample.steps": s}, frechet=4 - s / 99, gmacs=0.1 * s, fixed=DUAL) for s in (4, 8)]
    told = headline(panel_of(curve("base", 1.0), cheap))
    assert told.line == "dual-rate does not reach the FD-digits of base"
    assert told.conditions.startswith("Its best is 3.92 at")
    assert "already the cheapest row of base has 2 at 4.00 GMACs" in told.conditions and "×" not in str(told)
    dear = [cell("dual-rate", {"sample.steps": s}, frechet=4 - s / 99, gmacs=9.0 * s, fixed=DUAL) for s in (4, 8)]
    assert headline(panel_of(curve("base", 1.0), dear)).line == (
        "dual-rate does not reach the FD-digits of base: at least 18.00× the compute for the same quality"
    )


def flat(arm: str, level: float, factor: float, standard_error: float | None = 2.0, **kwargs: Any) -> list[Any]:
    """An arm that more compute buys nothing."""
    return [
        cell(
            arm,
            {"sample.steps": steps},
            frechet=level + wobble,
            gmacs=factor * steps,
            standard_error=standard_error,
            **kwargs,
        )
        for steps, wobble in ((4, 0.01), (8, -0.01), (16, 0.0))
    ]


@pytest.mark.parametrize("standard_error", [2.0, 0.001, None])
@pytest.mark.parametrize("level", [303.58, 303.0, 290.0])
def test_networks_that_have_learnt_nothing_give_no_share(level: float, standard_error: float | None) -> None:
    """Neither where noise hides the difference, nor where 1 part in 300 is beyond noise."""
    panel = panel_of(
        flat("base", 303.59, 1.0, standard_error), flat("dual-rate", level, 0.5, standard_error, fixed=DUAL)
    )
    told = headline(panel)
    assert "cannot be compared" in told.line and "×" not in str(told)
    assert "The best of dual-rate is" in told.conditions and "of base 304 at 8.00 GMACs" in told.conditions


def test_networks_that_were_hardly_trained_give_no_share(ran: Ran) -> None:
    told = headline(panels(ran.rows)[0])
    assert "cannot be compared" in told.line and "N = 60" in told.conditions and "×" not in str(told)


def test_one_row_against_one_row_is_no_frontier() -> None:
    one = [cell("base", frechet=2.0, gmacs=2.0)]
    told = headline(panel_of(one, [cell("dual-rate", frechet=1.99, gmacs=1.0, fixed=DUAL)]))
    assert "base and dual-rate have one measured row" in told.conditions and "×" not in str(told)


def test_a_flat_base_says_nothing_of_a_methods_cost() -> None:
    """The method was trained, the base was not: its quality is told, a share of the base's compute is not."""
    told = headline(panel_of(flat("base", 303.59, 1.0), curve("dual-rate", 0.5, fixed=DUAL)))
    assert "cannot be compared" in told.line and "×" not in str(told)
    assert "The best of dual-rate is 0.5" in told.conditions


def test_the_intervals_of_times_hold_the_noise_of_timing() -> None:
    def told(spread: float, repeats: int = 5) -> dict[str, tuple[float, float]]:
        rows = [*curve("base", 1.0), *curve("dual-rate", 0.5, fixed=DUAL)]
        for row in rows:
            time = row["record"]["time"]
            median = time["seconds_per_image"]
            time |= {"repeats": repeats, "seconds_per_image_quartiles": [median / spread, median * spread]}
        panel = panel_of(rows)
        who = roles(panel)
        assert who is not None
        found = {cost: comparisons(panel, who, cost)[0] for cost in ("gmacs", "seconds")}
        assert all(f.ratio == pytest.approx(2.0) for f in found.values())
        return {cost: (f.low, f.high) for cost, f in found.items()}

    tight, loose = told(1.001), told(1.1)
    assert tight["gmacs"] == loose["gmacs"], "multiply-adds have no noise"
    assert tight["seconds"][1] / tight["seconds"][0] < 1.05
    # Repeats spread by 0.19 (log); two trainings' medians: 0.136 a row, and three rows of each method at the least.
    assert 1.15 < loose["seconds"][1] / loose["seconds"][0] < 2.0


def test_frontiers_without_a_common_range_give_a_bound() -> None:
    good = [cell("dual-rate", {"sample.steps": 4}, frechet=0.1, gmacs=1.0, fixed=DUAL)]
    told = headline(panel_of(curve("base", 1.0, seeds=(0,)), good))
    assert told.line == "dual-rate: at most 0.06× the compute of base at equal FD-digits"
    assert "At the one FD-digits that both reach, 0.5" in told.conditions


def test_the_base_family_holds_every_sampler_on_the_same_network() -> None:
    """A DDIM arm of the base's own network sets the bar, whatever its name; a shrunk or cached one does not."""
    ddim = [
        cell("DDIM", {"sample.steps": s}, frechet=8 / s, gmacs=s / 4, fixed={"sample.sampler": "ddim"})
        for s in (4, 8, 16)
    ]
    cached = [
        cell(
            "cached",
            {"sample.steps": 8},
            frechet=1.0,
            gmacs=1.0,
            fixed={"sample.cache_from_level": 1, "sample.refresh_interval": 2},
        )
    ]
    shrunk = [cell("shrunk", {"sample.steps": 8}, frechet=1.0, gmacs=1.0, fixed={"model.width": 8})]
    panel = panel_of(
        curve("base", 1.0, seeds=(0,)), ddim, cached, shrunk, curve("dual-rate", 0.5, seeds=(0,), fixed=DUAL)
    )
    who = roles(panel)
    assert who is not None and (who.family, who.subject) == (("base", "DDIM"), "dual-rate")
    (found,) = [c for c in comparisons(panel, who, "gmacs") if c.name == "dual-rate"]
    assert round(found.ratio, 3) == 0.5
    told = headline(panel)
    assert "2.00× the compute" in told.line
    assert "against base with the best of its 2 samplers (dual-rate had ancestral alone)" in told.conditions


def test_an_arm_stitched_to_another_network_is_compared_with_the_base_not_counted_as_it() -> None:
    """Where the second network runs all steps, the row is as cheap and as bad as that network: no row of the base's."""
    stitched = {"sample.stitch": "training:0123456789abcdef", "sample.stitch_share": 0.5}
    panel = panel_of(
        curve("base", 1.0, seeds=(0,)),
        curve("stitch", 0.5, seeds=(0,), fixed=stitched),
        curve("dual-rate", 0.8, seeds=(0,), fixed=DUAL),
    )
    who = roles(panel)
    assert who is not None and (who.family, who.subject) == (("base",), "dual-rate")
    found = {one.name: round(one.ratio, 3) for one in comparisons(panel, who, "gmacs")}
    assert found == {"stitch": 2.0, "dual-rate": 1.25}


def test_a_student_of_the_same_network_is_compared_with_the_base_not_counted_as_it() -> None:
    student = {"distill.method": "moment_matching", "distill.steps": 8}
    panel = panel_of(
        curve("base", 1.0, seeds=(0,)),
        curve("student", 0.5, seeds=(0,), fixed=student),
        curve("dual-rate", 0.8, seeds=(0,), fixed={**DUAL, **student}),
    )
    who = roles(panel)
    assert who is not None and (who.family, who.subject) == (("base",), "dual-rate")
    of_students = roles(panel, base="student")
    assert of_students is not None and (of_students.family, of_students.subject) == (("student",), "dual-rate")


def test_sampler_against_the_same_sampler() -> None:
    rows = []
    for sampler, factor in (("ancestral", 0.5), ("ddim", 2.0)):
        rows += curve("base", 1.0, seeds=(0,), fixed={"sample.sampler": sampler})
        rows += curve("dual-rate", factor, seeds=(0,), fixed={**DUAL, "sample.sampler": sampler})
    for row in rows:
        row["varied"]["sample.sampler"] = row["record"]["config"]["sample"]["sampler"]
    panel = panel_of(rows)
    who = roles(panel)
    assert who is not None
    found = {c.name: round(c.ratio, 3) for c in comparisons(panel, who, "gmacs", by_sampler=True)}
    assert found == {"dual-rate, ancestral": 2.0, "dual-rate, ddim": 0.5}


@pytest.mark.parametrize("kind", ["dual_rate", "a_package.module:Method"])
def test_the_subject_is_the_first_arm_whose_own_method_refreshes(kind: str) -> None:
    refreshed = {"sample.refreshes": 2}
    panel = panel_of(
        curve("base", 1.0),
        curve("cached", 0.8, fixed={**refreshed, "sample.cache_from_level": 1}),
        curve("shrunk", 0.7, fixed={"model.width": 8}),
        curve("other", 0.5, fixed={**refreshed, "model.kind": kind}),
    )
    who = roles(panel)
    assert who is not None and (who.family, who.subject) == (("base",), "other")


def test_a_method_that_runs_at_every_step_is_the_subject_where_no_other_is() -> None:
    other = curve("other", 0.5, fixed={"model.kind": "a_package.module:Method"})
    who = roles(panel_of(curve("base", 1.0), curve("shrunk", 0.7, fixed={"model.width": 8}), other))
    assert who is not None and who.subject == "other"


def test_time_is_told_at_the_distances_of_compute() -> None:
    rows = [*curve("base", 1.0), *curve("dual-rate", 0.5, fixed=DUAL)]
    for row in rows:  # the base's cheapest row is slow: its frontier in time begins elsewhere
        if (row["arm"], row["varied"]) == ("base", rows[0]["varied"]):
            row["record"]["time"]["seconds_per_image"] = 100.0
    panel = panel_of(rows)
    who = roles(panel)
    assert who is not None
    ((compute,), (time,)) = (comparisons(panel, who, cost) for cost in ("gmacs", "seconds"))
    assert [at.target for at in time.matched] == [at.target for at in compute.matched]
    noise = panel.timing_noise
    dual_rate, base = (
        series(arm, arm, [r for r in panel.measured if r.arm == arm], panel.distances, "seconds", noise) for arm in ARMS
    )
    assert dual_rate is not None and base is not None
    alone = compare(dual_rate, base, "seconds")
    assert [at.target for at in alone.matched] != [at.target for at in time.matched]
    assert (alone.ratio, alone.low, alone.high) == (time.ratio, time.low, time.high)


def test_seconds_of_two_machines_are_not_compared() -> None:
    rows = [*curve("base", 1.0), *curve("dual-rate", 0.5, fixed=DUAL)]
    for row in rows:
        if row["arm"] == "dual-rate":
            row["record"]["time"]["device"] = "another"
    told = headline(panel_of(rows))
    assert "0.50× the compute" in told.line and "the time" not in told.line


def test_what_cannot_be_said() -> None:
    nothing = headline(panel_of([missing("base", {"sample.steps": 8})]))
    assert nothing == Headline("Nothing has been measured yet.") and str(nothing) == nothing.line
    assert "no arm to compare" in headline(panel_of(curve("base", 1.0))).line
    lacking = [missing("base", {"sample.steps": 8}), *curve("dual-rate", 1.0, fixed=DUAL)]
    assert "'base' has no measured row" in headline(panel_of(lacking), base="base").line
    assert "no arm to compare" in headline(panel_of(curve("base", 1.0), curve("x", 1.0)), subject="absent").line


def test_a_report_with_nothing_timed_speaks_of_compute_alone() -> None:
    rows = [*curve("base", 1.0), *curve("dual-rate", 0.5, fixed=DUAL)]
    for row in rows:
        row["record"]["time"] = None
    told = headline(panel_of(rows))
    assert "0.50× the compute" in told.line and "the time" not in told.line
