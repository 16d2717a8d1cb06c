"""Distillations as trainings: resumed, over ranks, counted, named in ids, refused, and in a sweep with its report."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from rich.console import Console
from torch import Tensor
from typer.testing import CliRunner

from harness.cli.app import app
from harness.config.beside import network_of
from harness.config.schema import DataConfig, DistillConfig, Experiment
from harness.data import open_data
from harness.dispatch.checks import check_starts
from harness.dispatch.local import run_inline
from harness.dispatch.plan import plan
from harness.dispatch.sweep import Sweep, load_sweep
from harness.engine import jobs
from harness.engine.build import build_model
from harness.engine.distributed import Ranks
from harness.engine.estimate import table_gmacs, training_gmacs, training_gmacs_per_step
from harness.engine.planned import PlannedCosts
from harness.engine.tables import measured_experiment, seconds_of_table
from harness.engine.train import Diverged, State, build_training, train_network
from harness.errors import Blocked, ConfigError, DataError, Stopped, StoreError
from harness.measure.flops import network_costs
from harness.store.checkpoints import checkpoints
from harness.store.identity import Identifier, start_table
from harness.store.records import CellRecord
from harness.store.store import Store, Target
from harness.store.weights import load_tensors, save_tensors, tensors_digest
from tests.harness.processes import started
from tests.harness.tiny import by_arm, harness, invoke
from tests.harness.tiny_experiments import MODEL, tiny
from tests.harness.two_ranks import Training, train_by_two

CPU = torch.device("cpu")
LABELLED: dict[str, Any] = {"class_conditional": True, "dropout": 0.3}
DROPPED: dict[str, Any] = {"label_dropout": 0.25}
UNDROPPED: dict[str, dict[str, Any]] = {"single_rate": {}, "dual_rate": {"context_dropout": 0.0}}
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
        train={**DROPPED, **UNDROPPED[kind], "start": str(start), "steps": 5, **(train or {})},
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
    unused = {"student.denoiser.null_context"}  # without context dropout it has no gradient
    for key in ("optimizer.exp_avg.", "optimizer.exp_avg_sq.", "optimizer.step."):
        assert {name.removeprefix(key) for name in tensors if name.startswith(key)} == learned - unused
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


RANKED: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("single_rate", {}, {}),
    ("dual_rate", FULL, {"freeze": ["encoder"]}),
    ("dual_rate", {"guidance": 2.0}, {}),
    ("dual_rate", REGRESSION, {}),
]
"""Students (kind, keys of `distill`, keys of `train`) that are trained by two processes."""


@pytest.fixture(scope="module")
def by_two(teacher: Path, dual_start: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Training]:
    """What two processes have trained, each of :data:`RANKED`."""
    folder, made = tmp_path_factory.mktemp("by-two"), []
    for number, (kind, distill, train) in enumerate(RANKED):
        start = dual_start if kind == "dual_rate" else teacher
        train = {"steps": 4, "accumulate": 2, **train}
        experiment = student(start, teacher, kind, train=train, model={"dropout": 0.0}, **distill)
        made.append(Training(experiment, folder / str(number), start, teacher))
    train_by_two(*made)
    return made


@pytest.mark.parametrize("number", range(len(RANKED)))
def test_two_processes_train_what_one_does(number: int, by_two: list[Training], tmp_path: Path) -> None:
    made = by_two[number]
    one = trained(made.experiment, tmp_path / "one")
    two = load_tensors(made.folder / "weights.safetensors", "t")[0]
    close = torch.cat([torch.isclose(one[name], two[name], rtol=1e-5, atol=1e-5).flatten() for name in one])
    share = float(close.float().mean())
    assert share > 0.99  # Adam makes whole steps of the rounding of a gradient that is nearly zero
    for first, second in zip(journal(tmp_path / "one"), journal(made.folder), strict=True):
        assert first["loss"] == pytest.approx(second["loss"], rel=1e-3, abs=2e-6)
        assert first.keys() == second.keys()  # of the rest each tells its mean over micro-batches, a root mean square


# Run away.


@pytest.mark.parametrize("way", [{}, {"variant": "instant"}, REGRESSION])
def test_what_runs_away_leaves_a_checkpoint_from_before(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: dict[str, Any]
) -> None:
    """The learning rate rises by 0.2 a step, until it throws a network out; nothing is logged before the end."""
    most = 1.5
    monkeypatch.setattr("harness.engine.train.RUNAWAY", most)
    rates = {"learning_rate": 200.0, "warmup": 999, "steps": 40, "checkpoint_every": 1, "log_every": 40}
    experiment = student(teacher, teacher, train=rates, **way)
    with pytest.raises(Diverged, match=r"run away: its estimates have a root mean square of .* at step") as failure:
        trained(experiment, tmp_path)
    (last, *_) = checkpoints(tmp_path)
    assert str(failure.value).endswith(f"the last checkpoint before is {last}")
    tensors, metadata = load_tensors(last, "t")
    step = int(metadata["step"])
    assert step >= 1 and f"at step {step + 1}; " in str(failure.value)  # the very update that threw it out
    assert all(value.isfinite().all() for value in tensors.values())
    state = state_of(experiment)
    state.restore(tensors, step)
    model: Any = state.model
    z = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    for network in (model.student, *([] if model.auxiliary is None else [model.auxiliary])):
        x = network.step(z, torch.linspace(-8, 8, 64), torch.arange(64) % 10)[0]
        assert float(x.detach().square().mean().sqrt()) < 2 * most
    with pytest.raises(Diverged) as again:  # goes on from there, and ends there
        trained(experiment, tmp_path)
    assert str(again.value) == str(failure.value)


def test_at_once_thrown_out_it_leaves_nothing(teacher: Path, tmp_path: Path) -> None:
    for way in ({}, {"variant": "instant"}, REGRESSION):
        folder = tmp_path / str(way)
        experiment = student(teacher, teacher, train={"learning_rate": 1e3, "steps": 1, "log_every": 1}, **way)
        with pytest.raises(Diverged, match="at step 1; no checkpoint was written before"):
            trained(experiment, folder)
        assert not (folder / "weights.safetensors").exists()


# Other ways to compute the same.


@pytest.mark.parametrize(("kind", "way"), [("single_rate", {}), ("dual_rate", FULL), ("dual_rate", REGRESSION)])
def test_activation_checkpointing_changes_nothing_and_bfloat16_little(
    teacher: Path, dual_start: Path, tmp_path: Path, kind: str, way: dict[str, Any]
) -> None:
    start = dual_start if kind == "dual_rate" else teacher
    weights = {
        name: trained(student(start, teacher, kind, train={"learning_rate": 1e-3, **train}, **way), tmp_path / name)
        for name, train in (
            ("plain", {}),
            ("recomputed", {"checkpoint_activations": True}),
            ("bfloat16", {"precision": "bfloat16"}),
        )
    }
    for name, value in weights["plain"].items():
        torch.testing.assert_close(weights["recomputed"][name], value, atol=0, rtol=0)
        torch.testing.assert_close(weights["bfloat16"][name], value, atol=1e-2, rtol=0)


@pytest.mark.parametrize(
    ("kind", "way"), [("single_rate", {"guidance": 2.0}), ("dual_rate", {}), ("dual_rate", REGRESSION)]
)
def test_compiled_it_learns_the_same(
    teacher: Path, dual_start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, way: dict[str, Any]
) -> None:
    original, compiled = torch.compile, []

    def eagerly(function: Any, dynamic: bool, mode: str | None = None) -> Any:
        compiled.append(function)
        return original(function, backend="eager", dynamic=dynamic)

    monkeypatch.setattr(torch, "compile", eagerly)
    start = dual_start if kind == "dual_rate" else teacher
    plain = trained(student(start, teacher, kind, train={"steps": 3}, **way), tmp_path / "plain")
    experiment = student(start, teacher, kind, train={"steps": 3, "compile": True}, **way)
    weights = trained(experiment, tmp_path / "compiled")
    runs = {"teacher", "auxiliary"} if way is not REGRESSION else {"teacher"}
    assert len(compiled) == len(runs) + (2 if kind == "dual_rate" else 1)
    for name, value in plain.items():
        torch.testing.assert_close(weights[name], value, atol=1e-4, rtol=1e-4)


# In a sweep.

SWEEP = f"""
name: distilled
base:
  data: {{name: digits}}
  model: {json.dumps({"kind": "single_rate", "class_conditional": True, **MODEL})}
  train: {{steps: 3, batch: 8, label_dropout: 0.2, log_every: 1, checkpoint_every: 1}}
  sample: {{steps: 4, batch: 16}}
  measure: {{images: 16, latency: {{repeats: 1, warmup: 0, batch: 8}}}}
arms:
  base: {{grid: {{sample.steps: [4, 2]}}}}
  adapted:
    set: &dual {{model.kind: dual_rate, model.preconditioning: conditional, sample.steps: 4, sample.refreshes: 2,
      train.start: base, train.freeze: [encoder]}}
  plain: {{set: {{train.start: base, distill.method: regression, distill.teacher: base, distill.steps: 2,
    distill.teacher_steps: 2, sample.sampler: ddim, sample.steps: 2}}}}
  mmd: {{set: {{train.start: base, distill.method: moment_matching, distill.teacher: base, distill.steps: 2,
    sample.steps: 2}}}}
  guided: {{like: mmd, set: {{distill.guidance: 2.0}}}}
  instant: {{like: mmd, set: {{distill.variant: instant}}}}
  dual-mmd: {{like: mmd, set: {{model.kind: dual_rate, model.preconditioning: conditional, train.start: adapted,
    distill.steps: 4, distill.refreshes: 2, sample.steps: 4, sample.refreshes: 2}}}}
  frozen: {{like: dual-mmd, set: {{train.freeze: [encoder], distill.rollout: full}}}}
  again: {{like: plain, set: {{train.start: mmd, distill.teacher: plain, distill.teacher_steps: null}}}}
"""


def write(folder: Path, text: str = SWEEP) -> Path:
    path = folder / "s.yaml"
    path.write_text(text)
    return path


def only(*arms: str, text: str = SWEEP) -> str:
    """The sweep with these of its arms."""
    values = yaml.safe_load(text)
    return yaml.safe_dump({**values, "arms": {name: values["arms"][name] for name in arms}}, sort_keys=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Sweep, Store]:
    place = tmp_path_factory.mktemp("made")
    sweep, store = load_sweep(write(place)), Store(place / "results")
    assert run_inline(plan(sweep, store), store, Console(quiet=True)).is_complete
    return sweep, store


def records(made: tuple[Sweep, Store]) -> dict[str, CellRecord]:
    """The record of each arm's first cell."""
    sweep, store = made
    found: dict[str, CellRecord] = {}
    for cell in sweep.cells.values():
        found.setdefault(cell.rows[0][0], store.read_cell(cell.id))
    return found


def test_each_training_step_costs_what_its_runs_cost(made: tuple[Sweep, Store]) -> None:
    told = records(made)
    info = open_data(DataConfig()).info
    experiments = {arm: training.experiment for training in made[0].trainings.values() for arm in training.arms}
    (single,), dual = (
        network_costs(build_model(experiments[arm], info), (1, 8, 8), 10, training=True).values()
        for arm in ("base", "adapted")
    )
    evaluation, encoder, light = single.gmacs, *(count.gmacs for count in dual)
    projections = encoder - next(iter(dual)).by_module["encoder"] / 1e9  # of the context, which are trained
    runs = told["adapted"].compute.evaluations  # of 4 steps, 2 of them refreshes
    assert runs["encoder"] == 2
    lights = {4: 2, 2: 1}[runs["denoiser"]]  # of a segment of two steps: whether it runs at its refresh too
    expected = {
        "base": 3 * evaluation,
        # student: half of the iterations 3, the others 1; its rival the same; the teacher always 1
        "mmd": 5 * evaluation,
        "guided": 6 * evaluation,  # the teacher twice
        "instant": (3 + 2.5) * evaluation,  # half of the images a gradient, 3, the others a derivative, 2
        "plain": (3 + 2) * evaluation,
        "dual-mmd": 2 * (encoder + lights * light) + 3 * evaluation,
        # from noise on: a refresh and a light step before the last refresh. A frozen encoder has no backward pass
        "frozen": 2 * encoder + projections + 3 * lights * light + 3 * evaluation,
    }
    for arm, gmacs in expected.items():
        compute = told[arm].compute
        assert compute.training_gmacs_per_step == pytest.approx(8 * gmacs, rel=1e-9), arm
        experiment = experiments[arm]
        assert training_gmacs_per_step(experiment) == pytest.approx(8 * gmacs, rel=1e-9), arm
        assert training_gmacs(experiment) == pytest.approx(3 * 8 * gmacs, rel=1e-9), arm


def test_what_a_student_has_cost_holds_its_teacher_and_its_start_once(made: tuple[Sweep, Store]) -> None:
    sweep, store = made
    ids = {arm: target.id for arm, target in by_arm(sweep).items()}
    for arm, chain in (("mmd", ["base"]), ("frozen", ["adapted", "base"]), ("again", ["mmd", "base", "plain"])):
        record = store.read_training(ids[arm])
        assert record.inherited is not None
        assert list(record.inherited.trainings) == [ids[name] for name in chain]
        experiments = {name: sweep.trainings[ids[name]].experiment for name in (arm, *chain)}
        tables = [one for one in experiments.values() if start_table(one) is not None]
        costs = [training_gmacs(experiments[name]) for name in chain]
        costs += [table_gmacs(measured_experiment(store, one)) for one in tables]
        assert record.inherited.gmacs == pytest.approx(sum(costs))
        seconds = [store.read_training(ids[name]).seconds or 0.0 for name in chain]
        seconds += [seconds_of_table(store, Identifier().table(one) or "") or 0.0 for one in tables]
        assert record.inherited.seconds == pytest.approx(sum(seconds), abs=0.01)


def test_the_weights_are_the_students_alone_and_load_as_any_network(made: tuple[Sweep, Store], tmp_path: Path) -> None:
    sweep, store = made
    ids = {arm: target.id for arm, target in by_arm(sweep).items()}
    for arm, like in (("mmd", "base"), ("plain", "base"), ("frozen", "adapted"), ("dual-mmd", "adapted")):
        one, other = (load_tensors(store.weights_path(ids[name]), ids[name])[0] for name in (arm, like))
        assert one.keys() == other.keys() and {n: v.shape for n, v in one.items()} == {
            n: v.shape for n, v in other.items()
        }
    weights = store.weights_path(ids["mmd"])
    copy = tmp_path / "student.safetensors"
    copy.write_bytes(weights.read_bytes())
    out = tmp_path / "images.png"
    invoke("sample", sweep.path, "--arm", "mmd", "--images", 4, "--out", out, "--results", store.root)
    assert out.exists()
    told = json.loads(invoke("measure", sweep.path, "--arm", "mmd", "--results", store.root, "--json"))
    assert told["training"] == ids["mmd"]
    # a student of a student, and a network stitched from one
    again = only("base", text=SWEEP).replace(
        "arms:",
        f"arms:\n  next: {{set: {{train.start: {copy}, distill.method: "
        f"regression, distill.teacher: {copy}, distill.steps: 1, sample.steps: 1, sample.sampler: ddim}}}}",
    )
    invoke("sweep", write(tmp_path, again), "--results", tmp_path / "results", "--cluster", "inline")


def test_the_report_has_its_table_where_something_was_distilled(made: tuple[Sweep, Store], tmp_path: Path) -> None:
    sweep, store = made
    invoke("report", sweep.path, "--results", store.root)
    folder = store.root / "distilled"
    (csv,) = folder.rglob("distilled.csv")
    assert list(folder.rglob("distilled.md"))
    table = pd.read_csv(csv)
    assert list(table["arm"])[:2] == ["base", "base"] and list(table["steps"])[:2] == [4, 2]
    students = table[table["distillation"].notna()].set_index("arm")
    assert set(students.index) == {"plain", "mmd", "guided", "instant", "dual-mmd", "frozen", "again"}
    told = records(made)
    for arm, row in students.iterrows():
        assert row["taught_steps"] == row["steps"] == (4 if arm in ("dual-mmd", "frozen") else 2)
        compute = told[str(arm)].compute
        assert row["distilling_gmacs"] == pytest.approx(3 * (compute.training_gmacs_per_step or 0), rel=1e-4)
        assert row["gmacs_per_image"] == pytest.approx(compute.gmacs_per_image, rel=1e-4)
    path = write(tmp_path, only("base").replace("name: distilled", "name: none"))
    invoke("report", path, "--results", store.root)
    assert not list((store.root / "none").rglob("distilled.*"))


# Ids.


def training_id(text: str, place: Path, arm: str = "mmd") -> str:
    return by_arm(load_sweep(write(place, text)))[arm].id


def changed(arm: str, **keys: Any) -> str:
    """The base, its dual-rate neighbour and the student with other keys; None leaves one out."""
    values = yaml.safe_load(only("base", "adapted", "mmd"))
    chosen = values["arms"].setdefault(arm, {}).setdefault("set", {})
    for key, value in keys.items():
        chosen[key.replace("__", ".")] = value
    values["arms"][arm]["set"] = {key: value for key, value in chosen.items() if value is not None}
    return yaml.safe_dump(values, sort_keys=False)


DUAL_STUDENT: dict[str, Any] = {
    "model__kind": "dual_rate",
    "model__preconditioning": "conditional",
    "train__start": "adapted",
    "distill__steps": 4,
    "distill__refreshes": 2,
    "sample__steps": 4,
    "sample__refreshes": 2,
}


def test_each_key_of_a_distillation_is_in_its_trainings_id_and_so_is_its_teachers_training(tmp_path: Path) -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"method": "regression"},
        {"method": "regression", "teacher_steps": 2},
        {"steps": 3},
        {"times": "continuous"},
        {"rollout": "full"},
        {"guidance": 2.0},
        {"guidance": 2.0, "guidance_interval": [0.1, 1.0]},
        {"variant": "instant"},
        {"auxiliary_learning_rate": 1e-4},
        {"teacher": "mid"},
    ]
    mid = {"mid": {"cells": False, "set": {"train.flip": True}}}

    def id_of(change: dict[str, Any], arm: str = "mmd", **others: Any) -> str:
        keys = {f"distill__{key}": value for key, value in change.items()}
        values = yaml.safe_load(changed("mmd", **others, **keys))
        values["arms"] |= mid if "teacher" in change else {}
        return training_id(yaml.safe_dump(values, sort_keys=False), tmp_path, arm)

    ids = [id_of(change) for change in changes]
    ids += [id_of({}, **DUAL_STUDENT), id_of({}, **DUAL_STUDENT | {"distill__refreshes": 1})]
    assert len(set(ids)) == len(ids)
    drawn = {key for change in changes for key in change} | {"refreshes"}
    assert drawn == set(DistillConfig.model_fields)
    # the teacher's training, where the student starts from another
    mid["mid"]["set"] = {"train.flip": True, "train.steps": 4}
    assert id_of({"teacher": "mid"}) not in ids
    mid["mid"]["set"] = {"train.flip": True, "train.workers": 1}
    assert id_of({"teacher": "mid"}) == ids[changes.index({"teacher": "mid"})]
    assert id_of({}, "base") == id_of({"steps": 3}, "base") == training_id(only("base"), tmp_path, "base")


def test_planned_costs_are_kept_apart_by_all_that_they_depend_on(tmp_path: Path) -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"guidance": 2.0},
        {"variant": "instant"},
        {"rollout": "full"},
        {"method": "regression"},
        {"method": "regression", "teacher_steps": 2},
    ]
    texts = [changed("mmd", **{f"distill__{key}": value for key, value in change.items()}) for change in changes]
    texts += [changed("mmd", **DUAL_STUDENT), changed("mmd", **DUAL_STUDENT, train__freeze=["encoder"])]
    texts += [changed("mmd", **DUAL_STUDENT | {"distill__refreshes": 1})]
    wide = yaml.safe_load(changed("mmd", distill__teacher="wide"))
    wide["arms"]["wide"] = {"cells": False, "set": {"model.width": 12}}
    texts.append(yaml.safe_dump(wide, sort_keys=False))
    kept = PlannedCosts(tmp_path / "costs.json")
    for text in texts:
        sweep = load_sweep(write(tmp_path, text))
        experiment = next(t.experiment for t in sweep.trainings.values() if "mmd" in t.arms)
        assert kept("training_gmacs", experiment) == training_gmacs(experiment), text


# Refused.


def refused(text: str, place: Path) -> str:
    with pytest.raises((ConfigError, DataError)) as failure:
        load_sweep(write(place, text))
    return str(failure.value)


REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        {"distill__method": "moment_match"},
        "distill.method: 'moment_match' is not one of .*did you mean 'moment_matching'",
    ),
    ({"distill__method": None}, "distill.teacher: needs distill.method; choices: moment_matching, regression"),
    ({"distill__teacher": None}, "distill.teacher: missing"),
    ({"distill__steps": None}, "distill.steps: missing"),
    ({"train__start": None}, "train.start: missing; a student starts from trained weights"),
    ({"distill__refreshes": 1}, "distill.refreshes: a single_rate student refreshes nothing; leave it out"),
    (DUAL_STUDENT | {"distill__refreshes": None}, "distill.refreshes: missing; a dual_rate student needs to know"),
    (DUAL_STUDENT | {"distill__refreshes": 9}, "distill.refreshes: 9 is not between 1 and 4, the number of steps"),
    (
        DUAL_STUDENT | {"train__denoiser_times": 4},
        "train.denoiser_times: 4 is of the dual_rate model's own loss, .* leave it out",
    ),
    (DUAL_STUDENT | {"train__pairs": "same"}, "train.pairs: 'same' is of the dual_rate model's own loss"),
    (DUAL_STUDENT | {"distill__times": "continuous"}, "distill.times: continuous times have no grid, .* set discrete"),
    ({"distill__times": "continuous", "distill__rollout": "full"}, "distill.times: continuous .* a full rollout lies"),
    ({"distill__teacher_steps": 2}, "distill.teacher_steps: only regression has it, the method is moment_matching"),
    (
        {"distill__method": "regression", "distill__variant": "instant"},
        "distill.variant: only moment_matching has it, the method is regression",
    ),
    (
        {"distill__variant": "instant", "distill__auxiliary_learning_rate": 1e-4},
        "distill.auxiliary_learning_rate: the instant variant trains no copy of the teacher; leave it out",
    ),
    ({"distill__guidance_interval": [1.0, 2.0]}, "distill.guidance_interval: needs distill.guidance"),
    ({"distill__variant": "instant", "train__batch": 9}, "train.batch: the instant .* of 9 images; make it even"),
    (
        {"distill__variant": "instant", "train__batch": 6, "train__accumulate": 2},
        "train.batch: the instant .* of 3 images; make it even",
    ),
    (DUAL_STUDENT | {"distill__teacher": "adapted"}, "distill.teacher: a dual_rate network, .* cannot teach; name a"),
    ({"distill__teacher": "bse"}, "distill.teacher: no arm 'bse' .did you mean 'base'"),
    ({"distill__teacher": "mmd"}, "distill.teacher: an arm is taught by itself: mmd → mmd; name another"),
    ({"distill__teacher": "training:abc"}, "distill.teacher: 'training:abc' is no id of a training; write it as"),
    ({"distill__teacher": "./none.safetensors"}, r"distill.teacher: \./none.safetensors does not exist"),
    ({"distill__teacher": "PLACE"}, "distill.teacher: .* is a folder; give the path of the file of weights"),
    ({"distill__teacher": "PLACE/cut.safetensors"}, "distill.teacher: .*cut.safetensors: is cut short or damaged"),
    ({"distill__teacher": "PLACE/bare.safetensors"}, "distill.teacher: .*bare.safetensors has no configuration in it"),
    ({"diffusion__prediction": "epsilon"}, "diffusion.prediction: epsilon says nothing about an image at pure noise"),
    ({"diffusion__log_snr_range": [-5.0, 5.0]}, "distill.teacher: the two networks have another schedule"),
    ({"model__class_conditional": False, "train__label_dropout": 0.0}, "distill.teacher: one of the two networks is"),
]


@pytest.mark.parametrize(("keys", "message"), REFUSED)
def test_refused_with_one_message_of_the_key(keys: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "cut.safetensors").write_bytes(b"cut")
    save_tensors(tmp_path / "bare.safetensors", {"a": torch.zeros(1)}, "base")
    said = refused(changed("mmd", **keys).replace("PLACE", str(tmp_path)), tmp_path)
    assert re.search(message, said), said
    assert len(said.splitlines()) == 1


TEACHERS: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"set": {"diffusion.base_resolution": 16}}, {}, "distill.teacher: the two networks have another schedule"),
    ({"set": {"diffusion.prediction": "epsilon"}}, {}, "distill.teacher: predicts epsilon, .* name one that predicts"),
    ({"grid": {"train.steps": [3, 4]}}, {}, "distill.teacher: arm 'other' has 2 trainings per seed, .* train.steps"),
    (
        {"set": {"train.label_dropout": 0.0}},
        {"distill.guidance": 2.0},
        "distill.guidance: the teacher was trained without train.label_dropout",
    ),
    (
        {"set": {"train.start": "base", "distill.method": "regression", "distill.teacher": "mmd", "distill.steps": 2}},
        {},
        "distill.teacher: arms teach each other in a circle: mmd → other → mmd; name another in one of them",
    ),
    (
        {"set": {"train.start": "mmd"}},
        {},
        "train.start.*: arms start from or are taught by each other in a circle: .*; name another in one of them",
    ),
]


@pytest.mark.parametrize(("other", "keys", "message"), TEACHERS)
def test_an_arm_that_cannot_teach_is_refused(
    other: dict[str, Any], keys: dict[str, Any], message: str, tmp_path: Path
) -> None:
    values = yaml.safe_load(changed("mmd", distill__teacher="other"))
    values["arms"]["mmd"]["set"] |= keys
    values["arms"]["other"] = {"cells": False, **other}
    said = refused(yaml.safe_dump(values, sort_keys=False), tmp_path)
    assert re.search(message, said), said
    assert len(said.splitlines()) == 1


def test_what_does_not_fit_is_told_before_anything_is_trained(tmp_path: Path, teacher: Path) -> None:
    store = Store(tmp_path / "results")
    sweep = load_sweep(write(tmp_path, changed("mmd", model__width=16)))
    with pytest.raises(ConfigError, match=r"arm 'mmd': train\.start: base does not fit"):
        check_starts(plan(sweep, store), store)
    tensors, facts = load_tensors(teacher)
    fewer = dict(list(tensors.items())[1:])
    save_tensors(tmp_path / "fewer.safetensors", fewer, "base", config=facts["config"])
    sweep = load_sweep(write(tmp_path, changed("mmd", distill__teacher=str(tmp_path / "fewer.safetensors"))))
    with pytest.raises(ConfigError, match=r"arm 'mmd': distill\.teacher: .*fewer.* does not fit: .* not there"):
        check_starts(plan(sweep, store), store)


def test_halves_must_be_whole_on_each_rank(teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = student(teacher, teacher, train={"batch": 6}, variant="instant")
    monkeypatch.setattr("harness.engine.train.current_ranks", lambda: Ranks(0, 2, 0))
    with pytest.raises(ConfigError, match=r"train\.batch: the instant .* of 3 images over 2 × 1 ranks × accumulations"):
        train_network(experiment, "t", tmp_path, start=teacher, teacher=teacher)


def test_the_command_refuses_with_status_two_and_distils_with_a_teacher_of_its_own(
    made: tuple[Sweep, Store], tmp_path: Path
) -> None:
    sweep, store = made
    ids = {arm: target.id for arm, target in by_arm(sweep).items()}
    for words, message in (
        (["distill", sweep.path, "--arm", "base"], "distill.method: missing; nothing says how to distil"),
        (["distill", sweep.path, "--arm", "mmd", "--set", "distill.teacher=none"], "distill.teacher: no arm 'none'"),
        (["sweep", sweep.path, "--set", "distill.steps=0"], "distill.steps: "),
    ):
        said = harness(tmp_path / "results", *words)
        assert said.returncode == 2 and message in said.stderr and "Traceback" not in said.stderr, said.stderr
    assert not (tmp_path / "results" / "runs" / "trainings").exists()
    done = json.loads(invoke("distill", sweep.path, "--arm", "mmd", "--results", store.root, "--json"))
    assert done["training"] == ids["mmd"]
    weights = tmp_path / "teacher.safetensors"
    weights.write_bytes(store.weights_path(ids["base"]).read_bytes())
    named = ("--set", f"distill.teacher={weights}", "--set", "train.steps=3")  # of what is distilled alone
    other = json.loads(invoke("distill", sweep.path, "--arm", "mmd", "--results", store.root, "--json", *named))
    assert other["training"] not in ids.values() and other["inherited"]["trainings"] == [ids["base"]]
    file = tmp_path / "one.yaml"
    values = yaml.safe_load(SWEEP)["base"]
    file.write_text(yaml.safe_dump({**values, "distill": {"method": "regression", "steps": 2}}))
    one = json.loads(invoke("distill", file, "--teacher", weights, "--results", tmp_path / "results", "--json"))
    assert one["steps"] == 3


# Run, stopped, failed.


def train_until_killed(root: Path, training: str) -> None:
    def kill(done: int, total: int, phase: str | None = None) -> None:
        if done == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    jobs.run(Store(root), Target("training", training), kill)


def test_killing_the_teacher_then_the_student_loses_nothing(made: tuple[Sweep, Store], tmp_path: Path) -> None:
    sweep, whole = made
    store, arms = Store(tmp_path / "results"), by_arm(sweep)
    for arm in ("base", "mmd"):
        store.save_experiment(arms[arm], sweep.nodes[arms[arm]].experiment)
    with pytest.raises(Blocked, match=f"training {arms['base'].id}"):
        jobs.run(store, arms["mmd"])
    for arm in ("base", "mmd"):
        killed = started(train_until_killed, store.root, arms[arm].id)
        killed.join()
        assert killed.exitcode == -signal.SIGKILL and not store.is_done(arms[arm])
        jobs.run(store, arms[arm])
    id = arms["mmd"].id
    assert store.weights_path(id).read_bytes() == whole.weights_path(id).read_bytes()
    (store.training_folder(arms["base"].id) / "done.json").unlink()  # a student that has not finished needs it again
    student = arms["mmd"]
    (store.training_folder(id) / "done.json").unlink()
    left = list(plan(load_sweep(write(tmp_path, only("base", "mmd"))), store).targets())
    assert left[0] == arms["base"] and student in left


def test_a_teacher_that_fails_blocks_its_student_alone(tmp_path: Path) -> None:
    values = yaml.safe_load(changed("mmd", distill__teacher="other"))
    values["arms"]["other"] = {"cells": False, "set": {"train.learning_rate": 1e30}}
    path = write(tmp_path, yaml.safe_dump(values, sort_keys=False))
    sweep, store = load_sweep(path), Store(tmp_path / "results")
    arms = by_arm(sweep)
    assert sweep.needs[arms["mmd"]] == (arms["base"], arms["other"])
    order = list(plan(sweep, store).targets())
    assert order.index(arms["other"]) < order.index(arms["mmd"])
    outcome = run_inline(plan(sweep, store), store, Console(quiet=True))
    assert set(outcome.failed) == {arms["other"]} and arms["mmd"] in outcome.blocked
    assert arms["base"] in outcome.done and arms["adapted"] in outcome.done
    told = json.loads(invoke("status", path, "--results", store.root, "--json"))
    states = {row["id"]: row["state"] for row in told["rows"]}
    assert states[arms["other"].id] == "failed" and states[arms["mmd"].id] == "blocked"


def test_a_sweep_says_once_for_each_arm_that_students_are_sampled_otherwise(tmp_path: Path) -> None:
    values = yaml.safe_load(only("base", "mmd", "plain"))
    values["arms"]["mmd"]["grid"] = {"sample.steps": [2, 3, 4]}
    values["arms"]["plain"]["set"]["sample.sampler"] = "ancestral"
    path = write(tmp_path, yaml.safe_dump(values, sort_keys=False))
    done = CliRunner().invoke(app, ["sweep", str(path), "--results", str(tmp_path / "r"), "--dry-run", "--json"])
    assert done.exit_code == 0
    assert json.loads(done.stdout)
    lines = [line for line in " ".join(done.stderr.split()).split("arm ") if "the student is sampled" in line]
    assert len(lines) == 2
    assert "'mmd': the student is sampled in 3 steps, it was taught 2 (distill.steps) (and 1 more cell so)" in lines[0]
    assert "'plain': the student is sampled by ancestral, regression is made for ddim" in lines[1]
