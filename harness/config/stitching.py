"""The second network of a stitched sampling: its configuration beside the experiment's own, and whether they fit."""

from __future__ import annotations

from typing import Any

from harness.config.schema import Experiment, as_plain, parse_experiment
from harness.errors import ConfigError

SECTIONS = ("model", "diffusion", "train")
"""What a network is built from."""


def network_of(experiment: Experiment) -> dict[str, Any]:
    """What ``stitched`` holds of the network that `experiment` trains."""
    plain = as_plain(experiment)
    return {section: plain[section] for section in SECTIONS if section in plain}


def stitched_experiment(experiment: Experiment) -> Experiment | None:
    """That of the network which runs the first steps of `experiment`'s sampling, on the same data; None without one."""
    if experiment.sample.stitch is None or experiment.stitched is None:
        return None
    plain = as_plain(experiment)
    beside: dict[str, Any] = {section: plain[section] for section in ("data", "measure") if section in plain}
    return parse_experiment({**experiment.stitched, **beside}, "sample.stitch")


def check_stitched(experiment: Experiment, source: str) -> None:
    """Raise :class:`ConfigError` unless the two networks of `experiment` can take turns."""
    try:
        second = stitched_experiment(experiment)
    except ConfigError as error:
        kind = ((experiment.stitched or {}).get("model") or {}).get("kind")
        refreshing = any(problem.startswith("sample.refresh") for problem in error.problems)
        problem = f"a {kind} network, which refreshes, cannot be stitched to another" if refreshing else str(error)
        raise ConfigError(source, [f"sample.stitch: {problem}"]) from None
    if second is None:
        return
    if second.model.class_conditional != experiment.model.class_conditional:
        raise ConfigError(source, ["sample.stitch: one of the two networks is class-conditional, the other is not"])
    guidance = experiment.sample.guidance
    if guidance not in (None, 1) and second.train.label_dropout == 0:
        raise ConfigError(
            source, ["sample.guidance: the network that sample.stitch names was trained without train.label_dropout"]
        )
