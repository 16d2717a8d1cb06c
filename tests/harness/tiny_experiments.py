"""Experiments that train in a blink, on the digits."""

from __future__ import annotations

from typing import Any

from harness.config.schema import Experiment, parse_experiment

MODEL: dict[str, Any] = {"width": 8, "multipliers": [1, 2], "blocks": [1, 1], "head_width": 8, "embedding": 16}
TRAIN: dict[str, Any] = {"steps": 6, "batch": 8, "learning_rate": 1e-2, "log_every": 2, "checkpoint_every": 2}
SAMPLE: dict[str, Any] = {"steps": 4, "batch": 4}


def model_of(experiment: Experiment) -> Any:
    """The model's section. Its class is made of the keys of its method, so no type checker knows them."""
    return experiment.model


def tiny(kind: str = "single_rate", **sections: dict[str, Any]) -> Experiment:
    """A tiny experiment; `sections` change keys of its sections."""
    dual = kind == "dual_rate"
    values: dict[str, dict[str, Any]] = {
        "model": {"kind": kind, **MODEL},
        "train": TRAIN | ({"context_dropout": 0.5} if dual else {}),
        "sample": SAMPLE | ({"refreshes": 2} if dual else {}),
        "measure": {"images": 8, "latency": {"repeats": 1, "warmup": 0}},
    }
    merged = {name: values.get(name, {}) | sections.get(name, {}) for name in {*values, *sections}}
    return parse_experiment(merged, "test")
