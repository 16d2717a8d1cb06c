"""The sweeps at the paper's scale: costs as reported, settings as in the paper, plans as their comments say."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from harness.config.schema import Experiment
from harness.data.dataset import DataInfo
from harness.dispatch.sweep import load_experiment
from harness.engine.estimate import planned_costs
from models.refresh import evenly

SWEEPS = Path(__file__).parents[2] / "sweeps"
TOLERANCE = 0.02


def images(name: str, size: int, classes: int) -> DataInfo:
    """What a network must know of the data, without the data."""
    return DataInfo(name, "train", images=1, size=size, channels=3, classes=classes, fingerprint="")


INFO = {
    "imagenet64": images("imagenet64", 64, 1000),
    "imagenet128": images("imagenet128", 128, 1000),
    "cifar10": images("cifar10", 32, 10),
}


def experiment(sweep: str, arm: str, *overrides: str) -> Experiment:
    return load_experiment(SWEEPS / f"{sweep}.yaml", overrides, arm)


@cache
def gmacs(sweep: str, arm: str, *overrides: str) -> dict[str, float]:
    """Per evaluation of each network."""
    chosen = experiment(sweep, arm, *overrides)
    costs = planned_costs(chosen, INFO[sweep])
    return {name: cost.gmacs for name, cost in costs.items()}


LARGER_LIGHT = ("model.light_width=0.75", "model.light_blocks=[2, 17]")


@pytest.mark.parametrize(
    ("sweep", "arm", "overrides", "network", "reported"),
    [
        ("imagenet64", "base", (), "network", 108.5),
        ("imagenet64", "dual-rate", (), "encoder", 108.5),
        ("imagenet64", "dual-rate", (), "denoiser", 22.3),
        ("imagenet64", "dual-rate", LARGER_LIGHT, "encoder", 108.5),
        ("imagenet64", "dual-rate", LARGER_LIGHT, "denoiser", 44.0),
        ("imagenet128", "base", (), "network", 137.4),
        ("imagenet128", "dual-rate", (), "encoder", 137.4),
        ("imagenet128", "dual-rate", (), "denoiser", 73.0),
        ("cifar10", "base", (), "network", 21.2),
        ("cifar10", "dual-rate", (), "encoder", 21.2),
    ],
)
def test_cost_per_evaluation_is_the_reported_one(
    sweep: str, arm: str, overrides: tuple[str, ...], network: str, reported: float
) -> None:
    assert gmacs(sweep, arm, *overrides)[network] == pytest.approx(reported, rel=TOLERANCE)


@pytest.mark.parametrize(("sweep", "steps"), [("imagenet64", 512), ("imagenet128", 512), ("cifar10", 128)])
def test_the_shrunk_network_costs_per_step_what_dual_rate_does(sweep: str, steps: int) -> None:
    dual = gmacs(sweep, "dual-rate")
    per_step = (sum(evenly(16, steps)) * dual["encoder"] + steps * dual["denoiser"]) / steps
    assert gmacs(sweep, "shrunk")["network"] == pytest.approx(per_step, rel=TOLERANCE)


@pytest.mark.parametrize("arm", ["base", "dual-rate", "edm"])
@pytest.mark.parametrize("sweep", ["imagenet64", "imagenet128"])
def test_training_is_as_in_the_paper(sweep: str, arm: str) -> None:
    chosen = experiment(sweep, arm)
    train = chosen.train
    assert (train.steps, train.batch, train.learning_rate, train.gradient_clip) == (1_000_000, 1024, 1e-4, 1.0)
    assert (train.label_dropout, train.precision, train.compile) == (0.1, "bfloat16", True)
    assert train.translation > 0 and chosen.model.class_conditional
    assert chosen.diffusion.preconditioning == ("edm" if arm == "edm" else "none")
    assert getattr(train, "context_dropout", None) == (0.5 if arm == "dual-rate" else None)
    assert (chosen.measure.images, chosen.measure.features) == (50_000, "inception")


@pytest.mark.parametrize("sweep", sorted(INFO))
def test_a_comment_gives_the_counts_of_this_project(sweep: str) -> None:
    text = " ".join(re.sub(r"^# ?", "", line) for line in (SWEEPS / f"{sweep}.yaml").read_text().splitlines())
    numbers: dict[str, Any] = {**gmacs(sweep, "dual-rate"), **gmacs(sweep, "base")}
    for name, value in numbers.items():
        shown = {"network": "base", "denoiser": "light"}.get(name, name)
        assert re.search(rf"{shown} {value:.1f}", text) or f"({value:.1f} GMACs)" in text, (name, value)
    assert "PLANNED, NOT MEASURED" in text
