"""Images and distances during training: the very figures that a cell would have, and a training that does not notice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.config.schema import Experiment
from harness.engine.train import train_network
from harness.engine.training_samples import FOLDER, KEY
from harness.store.identity import identify
from tests.harness.test_freeze import adapted, base
from tests.harness.test_loggers import journal
from tests.harness.tiny_experiments import tiny

LOOKING: dict[str, Any] = {"sample_every": 2, "sample_images": 6}


def looking(experiment: Experiment, **keys: Any) -> Experiment:
    train = experiment.train.model_copy(update={**LOOKING, **keys})
    return experiment.model_copy(update={"train": train})


def samples_in(folder: Path) -> dict[int, dict[str, Any]]:
    """The lines of samples in a training's log by their step; each step once."""
    lines = [line for line in journal(folder) if KEY in line]
    assert len({line["step"] for line in lines}) == len(lines)
    return {int(line["step"]): line for line in lines}


def without_time(lines: dict[int, dict[str, Any]]) -> dict[int, dict[str, Any]]:
    return {
        step: {key: value for key, value in line.items() if key != "sample_seconds"} for step, line in lines.items()
    }


def grids(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / FOLDER).iterdir())}


LABELLED: dict[str, Any] = {"class_conditional": True, "dropout": 0.3}
LEARNED = {"train": {"noise_schedule": "learned"}, "sample": {"spacing": "noise_schedule"}}
TRAINED: dict[str, tuple[Experiment, bool]] = {
    "single_rate": (tiny(model=LABELLED), False),
    "dual_rate": (tiny("dual_rate", train={"loggers": ["tensorboard"]}), False),
    "cached": (tiny(sample={"cache_from_level": 1, "refreshes": 2}), False),
    "learned noise schedule": (tiny(**LEARNED), False),
    "compiled and bfloat16 in sampling": (
        tiny(sample={"compile": True, "precision": "bfloat16"}, measure={"images": 8, "latency": {"warmup": 1}}),
        False,
    ),
}


def both(experiment: Experiment, folder: Path, **options: Any) -> tuple[Path, Path]:
    """Folders of the training without and with samples."""
    plain, seen = folder / "plain", folder / "seen"
    train_network(experiment, "t", plain, **options)
    train_network(looking(experiment), "t", seen, **options)
    return plain, seen


def assert_unchanged(plain: Path, seen: Path) -> None:
    """The files of weights are the same to the byte, and each loss is."""
    assert (plain / "weights.safetensors").read_bytes() == (seen / "weights.safetensors").read_bytes()
    losses = [{line["step"]: line["loss"] for line in journal(folder) if "loss" in line} for folder in (plain, seen)]
    assert losses[0] == losses[1] and not (plain / FOLDER).exists()
    assert list(samples_in(seen)) == [2, 4, 6] and len(grids(seen)) == 3


@pytest.mark.parametrize("name", TRAINED)
def test_a_training_does_not_notice(name: str, tmp_path: Path) -> None:
    experiment, _ = TRAINED[name]
    assert identify(experiment) == identify(looking(experiment))
    assert_unchanged(*both(experiment, tmp_path))


def test_one_that_starts_and_one_with_a_frozen_encoder_do_not_notice(tmp_path: Path) -> None:
    start = tmp_path / "base" / "weights.safetensors"
    train_network(base(), "base", start.parent)
    for freeze in (False, True):
        assert_unchanged(*both(adapted(start, freeze=freeze), tmp_path / str(freeze), start=start))


def test_a_student_does_not_notice(tmp_path: Path) -> None:
    from tests.harness import test_distill as distilled

    start = tmp_path / "base" / "weights.safetensors"
    train_network(distilled.base(), "base", start.parent)
    experiment = distilled.student(start, start, train={"steps": 6})
    assert_unchanged(*both(experiment, tmp_path, start=start, teacher=start))
