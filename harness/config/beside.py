"""A second network that an experiment names: its configuration, which the experiment holds beside its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.config.schema import Experiment, as_plain, parse_experiment
from harness.errors import ConfigError

SECTIONS = ("model", "diffusion", "train")
"""What a network is built from."""


def network_of(experiment: Experiment) -> dict[str, Any]:
    """What is held of the network that `experiment` trains."""
    plain = as_plain(experiment)
    return {section: plain[section] for section in SECTIONS if section in plain}


def experiment_beside(experiment: Experiment, network: Mapping[str, Any] | None, key: str) -> Experiment | None:
    """That of the `network` which the configuration's `key` names, on the same data; None without one."""
    if network is None:
        return None
    plain = as_plain(experiment)
    shared: dict[str, Any] = {section: plain[section] for section in ("data", "measure") if section in plain}
    return parse_experiment({**network, **shared}, key)


def checked_beside(
    experiment: Experiment, network: Mapping[str, Any] | None, key: str, source: str, cannot: str
) -> Experiment | None:
    """:func:`experiment_beside`, if that network runs at every step and has classes where the experiment's own has.

    Raises :class:`ConfigError` of `source`; `cannot` is what a network that refreshes cannot do.
    """
    try:
        second = experiment_beside(experiment, network, key)
    except ConfigError as error:
        kind = ((network or {}).get("model") or {}).get("kind")
        refreshing = any(problem.startswith("sample.refresh") for problem in error.problems)
        problem = f"a {kind} network, which refreshes, {cannot}" if refreshing else str(error)
        raise ConfigError(source, [f"{key}: {problem}"]) from None
    if second is not None and second.model.class_conditional != experiment.model.class_conditional:
        raise ConfigError(source, [f"{key}: one of the two networks is class-conditional, the other is not"])
    return second
