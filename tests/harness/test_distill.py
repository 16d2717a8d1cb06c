"""Distillations as trainings: resumed, over ranks, counted, named in ids, refused, and in a sweep with its report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.config.schema import Experiment
from harness.config.stitching import network_of
from harness.data import open_data
from harness.engine.train import State, build_training, train_network
from harness.errors import Stopped, StoreError
from harness.store.checkpoints import checkpoints
from harness.store.weights import load_tensors, save_tensors, tensors_digest
from tests.harness.test_train import DISTRIBUTED
from tests.harness.tiny_experiments import tiny

CPU = torch.device("cpu")
LABELLED: dict[str, Any] = {"class_conditional": True, "dropout": 0.3}
DROPPED: dict[str, Any] = {"label_dropout": 0.25}
CONDITIONAL: dict[str, Any] = {"preconditioning": "conditional"}


def base() -> Experiment:
    """Of the teacher: its head does not begin at zero when it has been trained."""
    return tiny(model=LABELLED, train=DROPPED)


def adapted(start: Path | str, **train: Any) -> Experiment:
    """A dual-rate network around the base, which a student may start from."""
    return tiny("dual_rate", model=LABELLED | CONDITIONAL, train={**DROPPED, "start": str(start), **train})


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of a base that was trained for a few steps."""
    folder = tmp_path_factory.mktemp("base")
    train_network(base(), "base", folder)
    return folder / "weights.safetensors"


@pytest.fixture(scope="module")
def dual_start(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Those of a dual-rate network around it."""
    folder = tmp_path_factory.mktemp("adapted")
    train_network(adapted(teacher, freeze=["encoder"]), "adapted", folder, start=teacher)
    return folder / "weights.safetensors"


def student(
    start: Path,
    teacher: Path,
    kind: str = "single_rate",
    *,
    train: dict[str, Any] | None = None,
    model: dict[str, Any] | None = None,
    **distill: Any,
) -> Experiment:
    """A student of two steps, or of three with two refreshes."""
    dual = kind == "dual_rate"
    steps: dict[str, Any] = {"steps": 3, "refreshes": 2} if dual else {"steps": 2}
    values = {"method": "moment_matching", "teacher": str(teacher), **steps, **distill}
    return tiny(
        kind,
        model=LABELLED | (CONDITIONAL if dual else {}) | (model or {}),
        train={**DROPPED, "start": str(start), "steps": 5, **(train or {})},
        distill={key: value for key, value in values.items() if value is not None},
        teacher=network_of(base()),
    )


def trained(experiment: Experiment, folder: Path) -> dict[str, Tensor]:
    assert experiment.train.start is not None and experiment.distill.teacher is not None
    start, teacher = Path(experiment.train.start), Path(experiment.distill.teacher)
    train_network(experiment, "t", folder, start=start, teacher=teacher)
    return load_tensors(folder / "weights.safetensors", "t")[0]


def stopped(experiment: Experiment, folder: Path) -> None:
    """One step further, and its checkpoint."""
    start, teacher = Path(experiment.train.start or ""), Path(experiment.distill.teacher or "")
    with pytest.raises(Stopped):
        train_network(experiment, "t", folder, should_stop=lambda: True, start=start, teacher=teacher)


def state_of(experiment: Experiment) -> State:
    return build_training(experiment, open_data(experiment.data).info, CPU)[0]


def journal(folder: Path) -> list[dict[str, float]]:
    """The training's log, without its times."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if "second" not in name} for line in lines]


# Resumed.

FULL = {"rollout": "full"}
REGRESSION = {"method": "regression", "teacher_steps": 2}
WAYS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("single_rate", {}, {}),
    ("single_rate", {"times": "continuous", "guidance": 2.0, "guidance_interval": [0.1, 3.0]}, {}),
    ("single_rate", {"variant": "instant"}, {}),
    ("single_rate", REGRESSION, {}),
    ("dual_rate", {}, {"freeze": ["encoder"]}),
    ("dual_rate", FULL, {"accumulate": 2}),
    ("dual_rate", {"variant": "instant"}, {"freeze": ["encoder"]}),
    ("dual_rate", {"variant": "instant", "guidance": 2.0}, {}),
    ("dual_rate", REGRESSION, {"freeze": ["encoder"]}),
    ("dual_rate", REGRESSION | FULL, {}),
]


@pytest.mark.parametrize(("kind", "distill", "train"), WAYS)
def test_stopped_after_every_step_it_ends_bit_for_bit_the_same(
    teacher: Path, dual_start: Path, tmp_path: Path, kind: str, distill: dict[str, Any], train: dict[str, Any]
) -> None:
    start = dual_start if kind == "dual_rate" else teacher
    experiment = student(start, teacher, kind, train=train, **distill)
    whole = trained(experiment, tmp_path / "whole")
    for _ in range(experiment.train.steps - 1):
        stopped(experiment, tmp_path / "cut")
    cut = trained(experiment, tmp_path / "cut")
    assert cut.keys() == whole.keys() and all(torch.equal(cut[name], value) for name, value in whole.items())
    given = load_tensors(start)[0]
    assert cut.keys() == given.keys()
    moved = {name for name, value in given.items() if not torch.equal(value, cut[name])}
    frozen = {name for name in given if train.get("freeze") and name.startswith("encoder.")}
    assert moved and not moved & frozen
    assert frozen or any(name.startswith(("network.", "encoder.")) for name in moved)


def test_a_checkpoint_holds_student_and_copy_and_both_their_optimisers_but_no_teacher(
    teacher: Path, dual_start: Path, tmp_path: Path
) -> None:
    experiment = student(dual_start, teacher, "dual_rate", train={"freeze": ["encoder"]})
    stopped(experiment, tmp_path)
    assert {name.split(".")[1] for name in load_tensors(checkpoints(tmp_path)[0], "t")[0]} >= {"auxiliary", "student"}
    stopped(experiment, tmp_path)
    path = checkpoints(tmp_path)[0]
    tensors, metadata = load_tensors(path, "t")
    state = state_of(experiment)
    learned = {name for name, parameter in state.model.named_parameters() if parameter.requires_grad}
    assert {name.split(".")[0] for name in learned} == {"student", "auxiliary"}
    table = {"errors.log_error"}  # the one state that is no parameter
    held = {name.removeprefix("model.") for name in tensors if name.startswith("model.")}
    assert held == learned | {f"student.{name}" for name in table}
    for key in ("exp_avg", "exp_avg_sq", "step"):
        assert {name.removeprefix(f"optimizer.{key}.") for name in tensors if name.startswith(f"optimizer.{key}.")} == (
            learned
        )
    # each has had one of the two iterations
    assert {float(value) for name, value in tensors.items() if name.startswith("optimizer.step.")} == {1.0}
    average = {name.removeprefix("average.") for name in tensors if name.startswith("average.")}
    assert average == table | {name.removeprefix("student.") for name in learned if name.startswith("student.")}
    assert not any("teacher" in name or "encoder." in name for name in tensors)
    given, started = load_tensors(teacher)[0], load_tensors(dual_start)[0]
    frozen = {f"teacher.{name}": value for name, value in given.items()}
    frozen |= {f"student.{name}": value for name, value in started.items() if name.startswith("encoder.")}
    assert metadata["frozen"] == tensors_digest(frozen)


def test_the_copy_of_the_teacher_begins_as_the_teacher_and_learns_at_its_own_rate(
    teacher: Path, tmp_path: Path
) -> None:
    """With Adam's β at 0 a step is the learning rate in the direction of each gradient's sign: of the first iteration,
    which is the copy's, no weight of the student moves."""
    options = {"adam_betas": [0.0, 0.0], "gradient_clip": None, "learning_rate": 1e-2}
    experiment = student(teacher, teacher, train=options, auxiliary_learning_rate=1e-4)
    stopped(experiment, tmp_path)
    tensors, given = load_tensors(checkpoints(tmp_path)[0])[0], load_tensors(teacher)[0]
    moved = {
        role: max(float((tensors[f"model.{role}.{name}"] - value).abs().max()) for name, value in given.items())
        for role in ("student", "auxiliary")
    }
    assert moved["student"] == 0
    assert moved["auxiliary"] == pytest.approx(1e-4, rel=0.02)
    stopped(experiment, tmp_path)
    tensors = load_tensors(checkpoints(tmp_path)[0])[0]
    moves = [(tensors[f"model.student.{name}"] - value).abs().max() for name, value in given.items()]
    assert max(map(float, moves)) == pytest.approx(1e-2, rel=0.02)


@pytest.mark.parametrize("way", [{}, {"variant": "instant"}, REGRESSION])
def test_a_checkpoint_beside_another_teacher_is_refused(teacher: Path, tmp_path: Path, way: dict[str, Any]) -> None:
    stopped(student(teacher, teacher, **way), tmp_path)
    other = tmp_path / "other.safetensors"
    save_tensors(other, {name: value + 1 for name, value in load_tensors(teacher)[0].items()}, "base")
    with pytest.raises(StoreError, match=r"was made beside other frozen weights than those of .*distill\.teacher"):
        trained(student(teacher, other, **way), tmp_path)


# Over ranks.


@pytest.mark.parametrize(
    ("kind", "distill", "train"),
    [
        ("single_rate", {}, {}),
        ("dual_rate", FULL, {"freeze": ["encoder"]}),
        ("dual_rate", {"guidance": 2.0}, {}),
        ("dual_rate", REGRESSION, {}),
    ],
)
def test_two_processes_train_what_one_does(
    teacher: Path, dual_start: Path, tmp_path: Path, kind: str, distill: dict[str, Any], train: dict[str, Any]
) -> None:
    start = dual_start if kind == "dual_rate" else teacher
    train = {"steps": 4, "accumulate": 2, **train}
    experiment = student(start, teacher, kind, train=train, model={"dropout": 0.0}, **distill)
    script = DISTRIBUTED.replace(
        "Path(sys.argv[2]))", "Path(sys.argv[2]), start=Path(sys.argv[3]), teacher=Path(sys.argv[4]))"
    )
    assert script != DISTRIBUTED
    asked = [sys.executable, "-c", script, experiment.model_dump_json(exclude_none=True), str(tmp_path / "two")]
    port = 20_000 + (os.getpid() + 11) % 20_000
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [*asked, str(start), str(teacher)],
            env={**os.environ, **group, "RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    one = trained(experiment, tmp_path / "one")
    errors = [rank.communicate(timeout=120)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], errors
    two = load_tensors(tmp_path / "two" / "weights.safetensors", "t")[0]
    assert all(torch.allclose(one[name], two[name], rtol=1e-5, atol=1e-5) for name in one)
    for first, second in zip(journal(tmp_path / "one"), journal(tmp_path / "two"), strict=True):
        assert first["loss"] == pytest.approx(second["loss"], rel=1e-3, abs=2e-6)
        assert first.keys() == second.keys()  # of the rest each tells its mean over micro-batches, a root mean square
