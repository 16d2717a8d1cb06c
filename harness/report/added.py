"""What an arm's training added to the base's."""

from __future__ import annotations

import math

from harness.report.panel import Panel
from harness.report.rows import Row
from harness.wording import percentage


def added_share(panel: Panel, base: str, row: Row) -> float:
    """Training compute that `row` needs beyond the base arm's, as a share of the base's training; nan if not known.

    The base's training is the one that the row's has started from, else the costliest of the base arm. Of a row that
    draws from a network of the base arm itself, nothing was added, but for the training of one that it is stitched to;
    of one that starts from it, its own training was; of any other, all that it took.
    """
    trained = _trainings_of(panel, base)
    whole = max((cost for cost in trained.values() if math.isfinite(cost)), default=math.nan)
    if not row.records or not whole > 0:
        return math.nan
    own = row.records[0].training
    if own in trained:
        stitched = row.setting("sample.stitch") is not None
        return (row.training_gmacs + row.inherited_gmacs - trained[own]) / trained[own] if stitched else 0.0
    through = next((training for training in row.training_chain if training in trained), None)
    already = 0.0 if through is None else trained[through]
    added = row.training_gmacs + max(row.inherited_gmacs - already, 0.0)
    return added / (whole if through is None else already)


def _trainings_of(panel: Panel, base: str) -> dict[str, float]:
    """The base arm's trainings, each with all that it took, what it inherits included."""
    key = ("trainings", base)
    if key not in panel.memory:
        panel.memory[key] = {
            record.training: row.training_gmacs + row.inherited_gmacs
            for row in panel.measured
            if row.arm == base
            for record in row.records
        }
    trained: dict[str, float] = panel.memory[key]
    return trained


def more_training(panel: Panel, base: str, arm: str | None) -> str:
    """``12 % more training`` or ``10 to 100 % more training``: what an arm's trainings took beyond those of the base
    that they started from. Empty for an arm that started from nothing; it is said where the amount is not known."""
    rows = [row for row in panel.measured if row.arm == arm and row.setting("train.start") is not None]
    if not rows:
        return ""
    shares = [added_share(panel, base, row) for row in rows]
    if not all(map(math.isfinite, shares)):
        return "an amount of more training that is not known"
    words = dict.fromkeys(percentage(share) for share in (min(shares), max(shares)))
    return f"{' to '.join(words)} % more training"
