"""The second network of a stitched sampling: its configuration beside the experiment's own, and whether they fit."""

from __future__ import annotations

from harness.config.beside import checked_beside, experiment_beside
from harness.config.schema import Experiment
from harness.errors import ConfigError

KEY = "sample.stitch"


def stitched_experiment(experiment: Experiment) -> Experiment | None:
    """That of the second network of `experiment`'s sampling, on the same data; None without one."""
    return None if experiment.sample.stitch is None else experiment_beside(experiment, experiment.stitched, KEY)


def check_stitched(experiment: Experiment, source: str) -> None:
    """Raise :class:`ConfigError` unless the two networks of `experiment` can take turns."""
    if experiment.sample.stitch is None:
        return
    second = checked_beside(experiment, experiment.stitched, KEY, source, "cannot be stitched to another")
    if second is None:
        return
    guidance = experiment.sample.guidance
    if guidance not in (None, 1) and second.train.label_dropout == 0:
        raise ConfigError(
            source, ["sample.guidance: the network that sample.stitch names was trained without train.label_dropout"]
        )
