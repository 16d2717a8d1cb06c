"""Whether refreshes where the bound is least are better in measured distance than refreshes even in time.

Rows are held against each other that differ in the schedule alone: the same network, sampler, steps and number of
refreshes, and so the same compute, over the same trainings' seeds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean, stdev

from harness.report.noise import Z
from harness.report.panel import Panel
from harness.report.rows import Row, canonical
from harness.wording import count_of

OF_SCHEDULE = ("schedule", "objective", "objective_bias", "schedule_seed")
STUDENT = (12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Half the width of a 95 % interval in standard errors, by the degrees of freedom of these, from 1."""


@dataclass(frozen=True)
class Gain:
    """How much nearer to the data, relatively, an arm's optimal schedule is than one even in time."""

    arm: str
    label: str
    mean: float
    """Share of the distance that is gained; below 0 where it is lost."""
    low: float
    high: float
    """A 95 % interval."""
    pairs: int
    trainings: int

    @property
    def verdict(self) -> str:
        """``better``, ``worse`` or ``equal`` beyond noise."""
        if self.low > 0:
            return "better"
        return "worse" if self.high < 0 else "equal"


def gains(panel: Panel) -> list[Gain]:
    """That of each arm with an optimal schedule that has rows beside it which are even in time."""
    even = {_but_for_schedule(row): row for row in panel.measured if _is_even(row)}
    by_arm: dict[str, list[tuple[Row, Row]]] = {}
    for row in panel.measured:
        is_optimal = row.setting("sample.schedule") == "optimal" and row.setting("sample.budget") is None
        other = even.get(_but_for_schedule(row)) if is_optimal else None
        if other is not None and math.isclose(other.gmacs, row.gmacs, rel_tol=1e-6):
            by_arm.setdefault(row.arm, []).append((row, other))
    found = (_gain(panel, arm, pairs) for arm, pairs in by_arm.items())
    return [gain for gain in found if gain is not None]


def _is_even(row: Row) -> bool:
    placed = any(row.setting(f"sample.{key}") is not None for key in ("refresh_steps", "refresh_interval", "times"))
    return row.refreshes is not None and not placed and row.setting("sample.schedule") in (None, "uniform")


def _but_for_schedule(row: Row) -> str:
    """A row's configuration without what says where the refreshes are."""
    sample = {k: v for k, v in row.config.get("sample", {}).items() if k not in OF_SCHEDULE and v is not None}
    return canonical({**row.config, "sample": sample})


def _gain(panel: Panel, arm: str, pairs: list[tuple[Row, Row]]) -> Gain | None:
    by_seed: dict[int, list[float]] = {}
    for row, other in pairs:
        ours, theirs = _by_seed(row, panel), _by_seed(other, panel)
        for seed in ours.keys() & theirs.keys():
            if ours[seed] > 0 and theirs[seed] > 0:
                by_seed.setdefault(seed, []).append(math.log(ours[seed] / theirs[seed]))
    by_seed = {seed: ratios for seed, ratios in by_seed.items() if len(ratios) == len(pairs)}
    if not by_seed:
        return None
    of_seeds = [fmean(ratios) for _, ratios in sorted(by_seed.items())]
    freedom = len(of_seeds) - 1
    if freedom:
        half = (STUDENT[freedom - 1] if freedom <= len(STUDENT) else Z) * stdev(of_seeds) / math.sqrt(len(of_seeds))
    else:  # what the measurement itself is off by
        noise = [panel.distances[row].sampling_noise for pair in pairs for row in pair]
        half = Z * math.sqrt(sum(one * one for one in noise)) / len(pairs)
    ends = [math.exp(fmean(of_seeds) + shift) for shift in (-half, 0.0, half)]
    low, mean, high = ends if panel.higher_is_better else ends[::-1]
    sign = 1 if panel.higher_is_better else -1
    label = pairs[0][0].label
    return Gain(arm, label, sign * (mean - 1), sign * (low - 1), sign * (high - 1), len(pairs), len(of_seeds))


def _by_seed(row: Row, panel: Panel) -> dict[int, float]:
    """The mean over sampling seeds, by the training's seed."""
    values = row.values(panel.metric)
    return {record.seed: fmean(own) for record, own in zip(row.records, values, strict=True)}


def in_short(gain: Gain, distance: str) -> str:
    """For a report's first line: whether it is better, by how much, and whether beyond noise."""
    than = "than refreshes even in time at the same compute"
    match gain.verdict:
        case "equal":
            range_ = f"{_percent(gain.low)} to {_percent(gain.high)}"
            return f"its schedule, optimal in the bound, is not better in {distance} {than} beyond noise ({range_})"
        case verdict:
            low, high = sorted((abs(gain.low), abs(gain.high)))
            return (
                f"its schedule, optimal in the bound, is {100 * abs(gain.mean):.1f} % {verdict} in {distance} "
                f"({100 * low:.1f}–{100 * high:.1f} %) {than}, beyond noise"
            )


def in_full(gain: Gain, distance: str) -> str:
    """A sentence of its own."""
    over = f"{count_of(gain.pairs, 'pair')} of rows that differ in the schedule alone, {_of(gain.trainings)}"
    return f"{gain.label}: {in_short(gain, distance)}, over {over}."


def _of(trainings: int) -> str:
    return (
        "one training, whose noise is left out"
        if trainings == 1
        else f"{count_of(trainings, 'training')}, 95 % interval"
    )


def _percent(share: float) -> str:
    return f"{100 * share:+.1f} %"


def schedule_sentences(panel: Panel, subject: str | None) -> tuple[str, list[str]]:
    """(What the first line says of the subject's schedule, or of the first arm's that has an optimal one; a sentence
    for each arm); nothing where schedules are not compared."""
    found = gains(panel)
    if not found:
        return "", []
    told = next((gain for gain in found if gain.arm == subject), found[0])
    short = in_short(told, panel.distance)
    if told.arm != subject:
        short = f"{told.label}: {short}"
    return short, [in_full(gain, panel.distance) for gain in found]
