"""Schedules that are found: what they ask of a configuration, what their ids hold, and cells that need a table."""

from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from harness.api import load_sweep as load_study
from harness.cli.app import app
from harness.cli.schedule import show
from harness.config.scheduling import with_counts, with_schedule
from harness.config.schema import Experiment, parse_experiment
from harness.dispatch.labels import labels_of
from harness.dispatch.local import run_inline
from harness.dispatch.plan import plan
from harness.dispatch.slurm.arrays import lay_out
from harness.dispatch.sweep import Sweep, load_experiment, load_sweep
from harness.engine import jobs, pair_tables
from harness.engine.estimate import gmacs_per_image, network_costs_of, pair_table_gmacs, schedule_macs
from harness.engine.pair_tables import load_pair_table
from harness.engine.schedules import Scheduler, check_budget, drawn_refreshes, scheduled
from harness.errors import Blocked, ConfigError, Stopped
from harness.files import file_sha256
from harness.store.identity import Identifier
from harness.store.store import Store, Target
from harness.store.weights import load_tensors, save_tensors
from models.refresh import evenly_in
from models.scheduling.measure import LEVELS
from models.tables import TABLES
from tests.harness.tiny import harness, invoke

SWEEP = """
name: schedules
base:
  model: {kind: dual_rate, width: 4, multipliers: [1, 2], levels: [conv, conv], blocks: [1, 1]}
  train: {steps: 3, batch: 8, learning_rate: 1.0e-3}
  sample: {steps: 6, refreshes: 2, batch: 16}
  measure: {images: 16, latency: {repeats: 1, warmup: 0, batch: 8}}
arms:
  even: {}
  optimal: {set: {sample.schedule: optimal}}
  ddt: {set: {sample.schedule: ddt}}
  budget: {set: {sample.schedule: optimal, sample.budget: 0.0006, sample.refreshes: null}}
"""


@pytest.fixture(autouse=True)
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair_tables, "IMAGES", 8)
    monkeypatch.setattr(pair_tables, "BATCH", 4)
    monkeypatch.setattr(pair_tables, "RUN_IMAGES", 4)


def write(folder: Path, text: str = SWEEP) -> Path:
    path = folder / "s.yaml"
    path.write_text(text)
    return path


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return load_sweep(write(tmp_path))


def experiment(kind: str = "dual_rate", **sample: Any) -> Experiment:
    network = {"kind": kind, "width": 4, "multipliers": [1, 2], "levels": ["conv", "conv"], "blocks": [1, 1]}
    values = {"steps": 6, "refreshes": 2} | sample
    return parse_experiment({"model": network, "sample": {k: v for k, v in values.items() if v is not None}}, "test")


def cell_of(sweep: Sweep, arm: str) -> Any:
    return next(cell for cell in sweep.cells.values() if cell.rows[0][0] == arm)


# What a configuration may ask.


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ({"schedule": "optiml"}, r"sample.schedule: 'optiml' is not one of .* \(did you mean 'optimal'\?\)"),
        ({"schedule": "optimal", "refreshes": None}, "sample.refreshes: missing; schedule: optimal .*, or budget"),
        ({"schedule": "ddt", "refreshes": None}, "sample.refreshes: missing; schedule: ddt needs to know how many"),
        (
            {"schedule": "ddt", "refreshes": None, "refresh_interval": 2},
            "refresh_interval: schedule: ddt places",
        ),
        ({"schedule": "ddt", "budget": 1.0}, "sample.budget: only schedule: optimal has it, the schedule is ddt"),
        ({"budget": 1.0}, "sample.budget: only schedule: optimal has it, the schedule is uniform"),
        ({"schedule": "optimal", "budget": 1.0}, "sample.budget: chooses the number of refreshes too"),
        ({"schedule": "optimal", "schedule_seed": 1}, "sample.schedule_seed: only schedule: random has it"),
        (
            {"schedule": "optimal", "objective": "elbo", "objective_bias": 0.0},
            "only objective: sigmoid has it",
        ),
        ({"schedule": "optimal", "steps": 2000}, "sample.steps: a schedule is found for at most 1024 steps"),
        ({"times": [1.0, 0.5]}, r"sample.times: has 2 for 6 steps \(sample.steps\)"),
        ({"times": [1.0, 0.5], "steps": 2, "spacing": "time"}, "sample.spacing: times says where the steps are"),
        ({"times": [0.5, 0.5], "steps": 2}, "sample.times: must fall strictly"),
        ({"schedule": "random", "refreshes": 7}, "refreshes: 7 is not between 1 and 6"),
    ],
)
def test_bad_keys_are_refused_with_one_message(sample: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        experiment(**sample)


@pytest.mark.parametrize(
    ("kind", "sample", "message"),
    [
        ("single_rate", {"schedule": "random"}, "a single_rate model refreshes nothing"),
        (
            "single_rate",
            {"schedule": "optimal", "cache_from_level": 1, "cache_order": 1},
            "forecasts from the last two",
        ),
        (
            "dual_rate",
            {"schedule": "optimal", "refreshes": None, "budget": 1.0, "guidance_interval": [0.1, 1.0]},
            "guid",
        ),
    ],
)
def test_networks_that_have_no_table_are_refused(kind: str, sample: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        experiment(kind, **sample)


def test_a_student_is_refused() -> None:
    values = {
        "train": {"start": "a.safetensors"},
        "distill": {"method": "moment_matching", "teacher": "a.safetensors", "steps": 4, "refreshes": 2},
        "model": {"kind": "dual_rate"},
        "sample": {"steps": 4, "refreshes": 2, "schedule": "optimal"},
    }
    with pytest.raises(ConfigError, match="which a distilled student does not make"):
        parse_experiment(values, "test")


# Ids.


def test_uniform_is_what_is_unset() -> None:
    told = Identifier()
    assert told(experiment(schedule="uniform")) == told(experiment())


def test_all_that_changes_a_schedule_is_in_the_cell_s_id() -> None:
    variants: list[dict[str, Any]] = [
        {},
        {"schedule": "optimal"},
        {"schedule": "optimal", "objective": "elbo"},
        {"schedule": "optimal", "objective_bias": 0.5},
        {"schedule": "optimal", "refreshes": None, "budget": 0.5},
        {"schedule": "optimal", "refreshes": None, "budget": 0.6},
        {"schedule": "ddt"},
        {"schedule": "uniform_log_snr"},
        {"schedule": "random"},
        {"schedule": "random", "schedule_seed": 1},
        {"times": [1.0, 0.8, 0.6, 0.4, 0.2, 0.1]},
    ]
    ids = [Identifier()(experiment(**sample)) for sample in variants]
    assert len({training for training, _ in ids}) == 1 and len({cell for _, cell in ids}) == len(variants)


def test_another_measurement_is_another_table_and_another_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, even = experiment(schedule="optimal"), experiment()
    before = Identifier()(asked)[1], Identifier().cell_table(asked), Identifier()(even)
    monkeypatch.setitem(TABLES, "pair_error", TABLES["pair_error"] + 1)
    assert Identifier()(asked)[1] != before[0] and Identifier().cell_table(asked) != before[1]
    assert Identifier()(even) == before[2] and Identifier().cell_table(even) is None


def test_a_table_s_id_has_the_network_and_how_it_is_sampled_and_nothing_of_the_schedule() -> None:
    def table(**sample: Any) -> str | None:
        return Identifier().cell_table(experiment("single_rate", cache_from_level=1, **sample))

    one = table(schedule="optimal")
    assert one == table(schedule="ddt", steps=9, sampler="ddim") == table(schedule="optimal", objective="elbo")
    assert one != table(schedule="optimal", clip=False)
    assert one != Identifier().cell_table(experiment(schedule="optimal"))


# Schedules without a table.


def test_random_refreshes_are_each_set_alike_often() -> None:
    assert drawn_refreshes(1, 1, 0) == (0,) and drawn_refreshes(4, 4, 3) == (0, 1, 2, 3)
    drawn = Counter(drawn_refreshes(5, 3, seed) for seed in range(600))
    assert len(drawn) == 6 and max(abs(count - 100) for count in drawn.values()) < 46  # five deviations
    assert drawn_refreshes(16, 4, 7) == drawn_refreshes(16, 4, 7)


def test_even_in_log_snr_leaves_each_refresh_a_step() -> None:
    assert evenly_in([0, 1, 2, 3, 4.0], 2) == (True, False, True, False)
    assert evenly_in([-15, -5, -4, -3, 15.0], 4) == (True,) * 4
    assert evenly_in([-15, -1, 0, 1, 2, 15.0], 2) == (True, False, True, False, False)
    found = scheduled(experiment(schedule="uniform_log_snr"), 8)
    assert found.sample.schedule is None and found.sample.refresh_steps == (0, 3) and found.sample.steps == 6


def test_costs_are_linear_in_steps_and_refreshes_with_every_sampler() -> None:
    for sampler in ("ancestral", "heun"):
        asked = experiment(sampler=sampler)
        macs = schedule_macs(asked)
        for steps, refreshes in ((1, 1), (4, 4), (9, 2)):
            counted = gmacs_per_image(with_counts(asked, steps, refreshes))
            assert macs(steps, refreshes) == pytest.approx(counted * 1e9)


def test_explicit_times_are_where_the_sampler_steps() -> None:
    from harness.engine.build import build_schedule, time_steps

    made = with_schedule(experiment(schedule="optimal"), (0, 2), (1.0, 0.5, 0.25))
    assert made.sample.steps == 3 and made.sample.refresh_steps == (0, 2) and made.sample.refreshes is None
    assert time_steps(made.sample, build_schedule(made.diffusion, 8)).tolist() == [1.0, 0.5, 0.25, 0.0]


# A cell needs a table.


def test_cells_of_one_network_share_a_table_and_come_after_it(sweep: Sweep, tmp_path: Path) -> None:
    ((id, table),) = sweep.tables.items()
    (training,) = sweep.trainings.values()
    assert sweep.needs[table.target] == (training.target,)
    for arm in ("optimal", "ddt", "budget"):
        assert sweep.needs[cell_of(sweep, arm).target] == (training.target, table.target)
    assert sweep.needs[cell_of(sweep, "even").target] == (training.target,)
    assert labels_of(sweep)[table.target] == "pair_error of optimal seed=0"
    planned = plan(sweep, Store(tmp_path / "results"))
    targets = planned.targets()
    assert targets.index(table.target) > targets.index(training.target)
    arrays = lay_out(targets, {target: planned.waits_for(target) for target in targets}, 1000, {}, {})
    assert Counter(array.kind for array in arrays) == {"training": 1, "table": 1, "cell": 2}
    assert sweep.quantity(table.target) == "pair_table_gmacs" and id == table.id


def test_a_table_costs_its_evaluations(sweep: Sweep) -> None:
    (table,) = sweep.tables.values()
    costs = network_costs_of(table.experiment)
    refreshes, between = LEVELS * (8 + 4), LEVELS * (LEVELS - 1) // 2 * 8
    by_hand = refreshes * (costs["encoder"].gmacs + costs["denoiser"].gmacs) + between * costs["denoiser"].gmacs
    assert pair_table_gmacs(table.experiment) == pytest.approx(by_hand)


def run(sweep: Sweep, store: Store) -> None:
    outcome = run_inline(plan(sweep, store), store, Console(quiet=True))
    assert outcome.is_complete, (outcome.failed, outcome.blocked)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Store]:
    """The sweep, run through the command line in this process."""
    place = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("IMAGES", 8), ("BATCH", 4), ("RUN_IMAGES", 4)):
            patch.setattr(pair_tables, name, value)
        invoke("sweep", write(place), "--results", place / "results", "--cluster", "inline")
    return place, Store(place / "results")


def test_a_sweep_measures_finds_and_samples(made: tuple[Path, Store]) -> None:
    """The record says what was found, which is the best by the table, and what it cost, which is what ran."""
    place, store = made
    sweep = load_sweep(place / "s.yaml")
    (table,) = sweep.tables.values()
    loaded = load_pair_table(store.table_path(table.id), table.id)
    assert loaded.images == 8 and loaded.loss.shape == (LEVELS, LEVELS)
    optimal, budget, even = (store.read_cell(cell_of(sweep, arm).id) for arm in ("optimal", "budget", "even"))
    asked = cell_of(sweep, "optimal").experiment
    scheduler = Scheduler(asked, loaded, 8)
    assert optimal.compute.refresh_steps == scheduler.refreshes("sigmoid", 2).refresh_steps
    assert optimal.compute.evaluations == even.compute.evaluations == {"encoder": 2, "denoiser": 6}
    assert optimal.compute.gmacs_per_image == even.compute.gmacs_per_image
    assert even.compute.steps is None and optimal.compute.steps == 6
    assert budget.compute.steps is not None and budget.compute.refreshes is not None
    assert budget.compute.evaluations == {"encoder": budget.compute.refreshes, "denoiser": budget.compute.steps}
    assert budget.compute.gmacs_per_image is not None and budget.compute.gmacs_per_image <= 0.0006
    assert not store.partial_folder(table.id).exists()
    report = (store.root / "schedules" / "table.md").read_text()
    assert "optimal" in report and "ddt" in report


def test_images_of_the_schedule_written_out_are_those_of_the_one_that_was_found(
    made: tuple[Path, Store], tmp_path: Path
) -> None:
    place, store = made
    sweep = load_sweep(place / "s.yaml")
    found = store.read_cell(cell_of(sweep, "budget").id)
    keys = {"steps": found.compute.steps, "times": found.compute.times, "refresh_steps": found.compute.refresh_steps}
    text = SWEEP.partition("arms:")[0] + "arms:\n  explicit: {set: {sample: " + json.dumps(keys) + "}}\n"
    written = load_sweep(write(tmp_path, text.replace("refreshes: 2, ", "")))
    run(written, store)
    explicit = store.read_cell(next(iter(written.cells)))
    assert explicit.quality.per_seed == found.quality.per_seed


def test_the_command_finds_the_sweep_s_schedule_and_draws_it(made: tuple[Path, Store], tmp_path: Path) -> None:
    place, store = made
    sweep = load_sweep(place / "s.yaml")
    words = ("schedule", place / "s.yaml", "--arm", "even", "--results", store.root, "--out", tmp_path / "map.png")
    told = json.loads(invoke(*words, "--json"))
    optimal = store.read_cell(cell_of(sweep, "optimal").id)
    assert tuple(told["sample"]["refresh_steps"]) == optimal.compute.refresh_steps
    assert told["split"] == "train" and told["images"] == 8
    bounds = {name: row["bound"] for name, row in told["schedules"].items()}
    assert bounds["optimal"] == min(bounds.values()) and set(bounds) == {"optimal", "uniform", "uniform_log_snr", "ddt"}
    assert told["gain"]["value"] == pytest.approx(bounds["uniform"] - bounds["optimal"])
    assert json.loads((tmp_path / "map.json").read_text())["sample"] == told["sample"]
    assert (tmp_path / "map.png").read_bytes()[:4] == b"\x89PNG"
    again = CliRunner().invoke(app, [str(word) for word in words])
    assert again.exit_code != 0 and "--overwrite" in str(again.exception)
    shown = invoke(*words, "--budget", "0.0006", "--overwrite")
    assert "predicted gain over uniform" in shown and "a better bound need not be a better distance" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--budget", "0.000001"], "are too few: one step, which refreshes, costs"),
        (["--budget", "1", "--refreshes", "2"], "leave out --refreshes"),
        (["--refreshes", "9"], "refreshes: 9 is not between 1 and 6"),
        (["--out", "map.jpg"], "the map is written as .png"),
        (["--set", "train.steps=5"], "train it first: harness train"),
        (["--weights", "none.safetensors"], "none.safetensors: no such file"),
    ],
)
def test_bad_input_of_the_command_is_one_message(made: tuple[Path, Store], words: list[str], message: str) -> None:
    place, store = made
    done = CliRunner().invoke(
        app, ["schedule", str(place / "s.yaml"), "--arm", "even", "--results", str(store.root), *words]
    )
    assert done.exit_code != 0 and message in " ".join(str(done.exception).split())


def test_another_network_s_weights_are_refused_beside_its_table(made: tuple[Path, Store], tmp_path: Path) -> None:
    place, store = made
    sweep, other = load_sweep(place / "s.yaml"), tmp_path / "other.safetensors"
    weights = store.weights_path(cell_of(sweep, "even").training)
    save_tensors(other, load_tensors(weights)[0], "another")
    words = ("schedule", place / "s.yaml", "--arm", "even", "--results", store.root, "--out", tmp_path / "map.png")
    refused = CliRunner().invoke(app, [str(word) for word in (*words, "--weights", other)])
    assert refused.exit_code != 0 and "other.safetensors: " in str(refused.exception)
    assert not (tmp_path / "map.png").exists()
    invoke(*words, "--weights", weights)


def test_sampling_without_the_table_says_what_measures_it(made: tuple[Path, Store], tmp_path: Path) -> None:
    place, store = made
    sweep = load_sweep(place / "s.yaml")
    (table,) = sweep.tables.values()
    path = store.table_path(table.id)
    aside = path.rename(tmp_path / path.name)
    try:
        words = ["sample", str(place / "s.yaml"), "--arm", "optimal", "--results", str(store.root), "--images", "1"]
        done = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "x.png")])
        assert "measure it first: harness measure" in str(done.exception)
        with pytest.raises(Blocked, match=f"table {table.id} has not finished"):
            cell = cell_of(sweep, "optimal")
            other = Store(tmp_path / "other")
            other.training_folder(cell.training).parent.mkdir(parents=True)
            other.training_folder(cell.training).symlink_to(store.training_folder(cell.training).resolve())
            other.save_experiment(cell.target, cell.experiment)
            jobs.run(other, cell.target)
    finally:
        aside.rename(path)


def test_a_table_that_is_stopped_goes_on_and_is_the_same(made: tuple[Path, Store], tmp_path: Path) -> None:
    """After the first of two batches; a damaged batch is set aside and measured again."""
    place, store = made
    (table,) = load_sweep(place / "s.yaml").tables.values()
    other = Store(tmp_path / "other")
    training = next(need.id for need in table.needs)
    other.training_folder(training).parent.mkdir(parents=True)
    other.training_folder(training).symlink_to(store.training_folder(training).resolve())
    other.save_experiment(table.target, table.experiment)
    seen: list[int] = []
    with pytest.raises(Stopped, match="1 of 2 batches"):
        jobs.run(other, table.target, lambda done, total, phase="": seen.append(done), lambda: LEVELS in seen)
    (kept,) = other.partial_folder(table.id).glob("*.safetensors")
    written = kept.stat().st_mtime_ns
    assert jobs.run(other, table.target, lambda done, total, phase="": seen.append(done))
    assert not other.partial_folder(table.id).exists() and written > 0
    first, again = (load_pair_table(s.table_path(table.id), table.id) for s in (store, other))
    np.testing.assert_array_equal(first.losses, again.losses)
    np.testing.assert_array_equal(first.dissimilarity, again.dissimilarity)
    assert file_sha256(other.table_path(table.id))
    other.table_path(table.id).unlink()
    folder = other.partial_folder(table.id)
    folder.mkdir(parents=True)
    (folder / "from-0000000.safetensors").write_bytes(b"cut short")
    assert jobs.run(other, Target("table", table.id))
    assert (load_pair_table(other.table_path(table.id), table.id).losses == first.losses).all()


def test_numbers_of_a_table_do_not_depend_on_the_batch(
    made: tuple[Path, Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, store = made
    (table,) = load_sweep(place / "s.yaml").tables.values()
    monkeypatch.setattr(pair_tables, "BATCH", 8)
    other = Store(tmp_path / "other")
    training = next(need.id for need in table.needs)
    pair_tables.measure_pair_table(other, table.id, table.experiment, weights=store.weights_path(training))
    first, again = (load_pair_table(s.table_path(table.id), table.id) for s in (store, other))
    assert torch.allclose(torch.from_numpy(first.losses), torch.from_numpy(again.losses), rtol=1e-4)


def test_images_from_python_have_the_schedule_of_the_cell(tmp_path: Path) -> None:
    study = load_study(write(tmp_path), results=tmp_path / "results")
    record = study.measure("optimal", quiet=True)
    with np.load(study.store.samples_path(record["id"])) as kept:
        images = kept["images"].transpose(0, 2, 3, 1)
    assert (study.sample("optimal", images=len(images)) == images).all()


def answer_of(schedules: dict[str, tuple[int, float, list[int]]]) -> dict[str, Any]:
    """What the command prints, made up: (steps, GMACs, refresh steps) of each schedule."""
    return {
        "schedules": {
            name: {
                "bound": 0.2 + 0.01 * place,
                "standard_error": 0.0131,
                "gmacs_per_image": gmacs,
                "steps": steps,
                "refresh_steps": refreshes,
            }
            for place, (name, (steps, gmacs, refreshes)) in enumerate(schedules.items())
        },
        "bias": -1.0,
        "gain": {"value": 0.0123, "standard_error": 0.0011, "share": 0.051, "on_other_images": 0.0121},
        "interpolation_error": {"mean": 0.012, "largest": 0.08},
        "images": 256,
        "split": "test",
        "assumes_additivity": False,
    }


OF_REFRESHES = {
    "optimal": (64, 0.05614, [0, 5, 9, 12]),
    "uniform": (64, 0.05614, [0, 4, 8, 12]),
    "uniform_log_snr": (64, 0.05614, [0, 1, 2, 15]),
    "ddt": (64, 0.05614, list(range(0, 64, 3))),
}
OF_BUDGET = {"optimal": (28, 0.0897, [0, 3, 9, 12, 17, 22]), "uniform": (16, 0.05614, [0, 4, 8, 12])}


@pytest.mark.parametrize("width", [60, 80, 100])
@pytest.mark.parametrize("schedules", [OF_REFRESHES, OF_BUDGET], ids=["refreshes", "budget"])
def test_schedules_are_printed_one_a_line_at_the_width_of_the_terminal(
    schedules: dict[str, tuple[int, float, list[int]]], width: int
) -> None:
    """What is the same of all stands above; names, numbers and steps are whole."""
    out = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    show(answer_of(schedules), out)
    assert isinstance(out.file, io.StringIO)
    printed = out.file.getvalue()
    assert max(map(len, printed.splitlines())) <= width
    lines = {name: next(line for line in printed.splitlines() if line.startswith(f"{name} ")) for name in schedules}
    for place, (name, (steps, gmacs, refreshes)) in enumerate(schedules.items()):
        assert f" {0.2 + 0.01 * place:.4g} ± 0.013 " in lines[name]
        assert " ".join(map(str, refreshes[:4])) in printed[printed.index(lines[name]) :]
        if schedules is OF_BUDGET:
            assert f" {steps} " in lines[name] and f" {gmacs:g} " in lines[name]
    said = "64 steps and 0.05614 GMACs per image in each"
    assert (said in " ".join(printed.split())) == (schedules is OF_REFRESHES)
    assert "63" in printed or schedules is OF_BUDGET


@pytest.mark.parametrize("command", ["sweep", "schedule", "measure"])
def test_a_budget_that_is_too_small_is_refused_with_file_key_value_and_what_would_do(
    command: str, tmp_path: Path
) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(SWEEP.replace("0.0006", "1.0e-7"))
    chosen = [] if command == "sweep" else ["--arm", "budget"]
    at = ["--results", tmp_path / "results"]
    if command == "schedule":
        at += ["--out", tmp_path / "map.png"]
    refused = harness(tmp_path, command, path, *chosen, *at)
    assert refused.returncode == 2
    arm = "arm 'budget': " if command == "sweep" else ""
    begin = f"error: {path}: {arm}sample.budget: 1e-07 GMACs are too few: one step, which refreshes, costs "
    assert begin in refused.stderr
    least = float(refused.stderr.partition("costs ")[2].partition(";")[0])
    check_budget(load_experiment(path, [f"sample.budget={least}"], "budget"))
    assert not (tmp_path / "results" / "runs" / "trainings").exists()
