"""`harness adapt`: from a trained network to a dual-rate one, through the command line, and all that it refuses."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner

from harness.cli.app import app
from harness.config.schema import as_plain, parse_experiment
from harness.data import known_info
from harness.dispatch.adapting import LEAST_STEPS, adaptation, average_decay, parse_budget, steps_within
from harness.dispatch.sweep import load_sweep
from harness.dispatch.trained import Trained
from harness.engine import jobs
from harness.engine.build import build_model
from harness.errors import ConfigError, HarnessError
from harness.store.identity import identify
from harness.store.lease import lease
from harness.store.store import Store, Target
from harness.store.weights import load_facts, load_tensors, save_tensors
from tests.data.making import classes, write_folder
from tests.harness.processes import command_started
from tests.harness.tiny import figures, harness, weights
from tests.harness.tiny_experiments import MODEL, tiny
from tests.measure import networks

BASE_STEPS, BATCH, WARMUP = 600, 8, 60
TRAIN: dict[str, Any] = {
    "steps": BASE_STEPS, "batch": BATCH, "warmup": WARMUP, "checkpoint_every": 100, "log_every": 10,
}  # fmt: skip
SAMPLING = {"batch": 16, "seeds": [3], "sampler": "heun", "steps": 7}
SMALL = ["--set", "sample.sampler=ddim", "--set", "sample.steps=4", "--set", "sample.refreshes=2"]
"""One cell of each network."""


@dataclass(frozen=True)
class Made:
    """A trained network, in results of its own."""

    store: Store
    training: str

    @property
    def weights(self) -> Path:
        return self.store.weights_path(self.training)


def train(root: Path, experiment: Any) -> Made:
    """Train `experiment` in this process."""
    store, training = Store(root), identify(experiment)[0]
    target = Target("training", training)
    store.save_experiment(target, experiment)
    assert jobs.run(store, target)
    return Made(store, training)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return train(tmp_path_factory.mktemp("base"), tiny(train=TRAIN, sample=SAMPLING))


def lone(base: Made, folder: Path) -> Path:
    """A copy of the weights, with nothing beside them."""
    folder.mkdir(exist_ok=True)
    return Path(shutil.copy(base.weights, folder / "w.safetensors"))


def adapt(*words: object, results: Path, status: int = 0) -> Any:
    """The JSON document of the command, run in this process."""
    asked = ["adapt", *words, "--results", results, "--cluster", "inline", "--json"]
    done = CliRunner().invoke(app, [str(word) for word in asked])
    assert done.exit_code == status, (done.output, done.exception)
    return json.loads(done.stdout)


def refused(*words: object, results: Path) -> str:
    """The message of a command that must not begin, and must leave nothing that it did not find."""
    before = sorted(results.rglob("*")) if results.exists() else []
    asked = ["adapt", *words, "--results", results, "--cluster", "inline"]
    done = CliRunner().invoke(app, [str(word) for word in asked])
    assert isinstance(done.exception, HarnessError), (done.output, done.exception)
    assert (sorted(results.rglob("*")) if results.exists() else []) == before
    return str(done.exception)


# From nothing to a table.


@pytest.fixture(scope="module")
def adapted(base: Made, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """(Results, what the command said) of the whole, from a lone file of weights."""
    folder = tmp_path_factory.mktemp("adapted")
    return folder / "results", adapt(lone(base, folder), results=folder / "results")


def test_one_command_from_weights_to_a_table_before_and_after(base: Made, adapted: tuple[Path, dict[str, Any]]) -> None:
    results, told = adapted
    store, sweep = Store(results), load_sweep(Path(told["sweep_file"]))
    assert told["failures"] == {} and told["cells"] == 16 and told["base_training"] == base.training
    assert Path(told["sweep_file"]).parent == Path(told["report"]) == results / f"adapt-{base.training[:8]}"
    table = (Path(told["report"]) / "table.md").read_text(encoding="utf-8")
    assert "| base | " in table and "| dual-rate, adapted | " in table
    (before,) = (t for t in sweep.trainings.values() if t.arms == ["base"])
    (after,) = (t for t in sweep.trainings.values() if t.arms == ["adapted"])
    # the base is the trained network, and was not trained again
    assert before.id == base.training and store.weights_path(base.training).read_bytes() == base.weights.read_bytes()
    assert not store.checkpoints(base.training) and not (store.training_folder(base.training) / "log.jsonl").exists()
    assert store.read_training(base.training).steps == BASE_STEPS
    # and is the encoder of the other, as it is
    made, own = load_file(store.weights_path(after.id)), load_file(base.weights)
    assert all(made[f"encoder.{name.removeprefix('network.')}"].equal(value) for name, value in own.items())
    dual, single = after.experiment, before.experiment
    assert (dual.train.start, dual.train.freeze) == (f"training:{base.training}", ("encoder",))
    assert {key: value for key, value in as_plain(dual)["model"].items() if key not in as_plain(single)["model"]} == {
        "light_width": 0.5, "light_blocks": [1, 1], "light_levels": ["conv", "conv"], "context_levels": "all",
        "context_entry": "block", "preconditioning": "conditional",
    }  # fmt: skip
    assert as_plain(dual)["train"]["denoiser_times"] == 4
    samples = {
        (cell.rows[0][0], s.sampler, s.steps, s.refreshes)
        for cell in sweep.cells.values()
        if (s := cell.experiment.sample).seeds == (3,) and s.batch == 16
    }
    assert samples == {
        *(("base", sampler, steps, None) for sampler in ("ddim", "dpmpp_2m") for steps in (4, 6, 8, 16)),
        *(
            ("adapted", sampler, steps, refreshes)
            for sampler in ("ddim", "dpmpp_2m")
            for steps, refreshes in ((8, 4), (16, 8), (6, 3), (16, 4))
        ),
    }


def test_the_second_time_nothing_runs(base: Made, adapted: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """Whatever the weights are called by: they are those of the results by now."""
    results, told = adapted
    before = {path: path.stat().st_mtime_ns for path in results.rglob("*") if path.is_file()}
    for named in (lone(base, tmp_path), f"training:{base.training}", base.store.training_folder(base.training)):
        again = adapt(named, results=results)
        assert again == told
        assert {path: path.stat().st_mtime_ns for path in results.rglob("*") if path.is_file()} == before


def test_the_sweep_s_file_run_by_itself_is_the_same(adapted: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    results, told = adapted
    copied = Path(shutil.copy(told["sweep_file"], tmp_path / "mine.yaml"))
    done = CliRunner().invoke(app, ["sweep", str(copied), "--results", str(results), "--cluster", "inline"])
    assert done.exit_code == 0 and "all 16 cells are done; nothing runs" in done.stdout
    # and where nothing is known of the network, the base is trained to the very same
    plain = harness(tmp_path / "other", "sweep", copied, "--dry-run", "--json")
    assert {row["id"] for row in json.loads(plain.stdout)["trainings"] if row["runs"]} == set(weights(results))
    text = copied.read_text(encoding="utf-8")
    assert text.startswith("# ") and "harness sweep" in text and told["base_training"] in text
    assert "data: {name: digits}" in text and "sampler: heun" not in text  # readable: no defaults, nothing unused


def test_a_dry_run_changes_nothing_and_says_what_would_run(base: Made, tmp_path: Path) -> None:
    results, file = tmp_path / "results", tmp_path / "mine.yaml"
    told = adapt(lone(base, tmp_path), "--dry-run", results=results)
    runs = {kind: [row for row in told[kind] if row["runs"]] for kind in ("trainings", "tables", "cells")}
    assert [len(rows) for rows in runs.values()] == [1, 1, 16] and not results.exists()
    assert {row["id"]: row["done"] for row in told["trainings"]}[base.training]
    assert runs["trainings"][0]["steps"] == told["added"]["steps"]
    adapt(tmp_path / "w.safetensors", "--dry-run", "--write", file, results=results)
    assert load_sweep(file).trainings[base.training] and not results.exists()


def test_a_proposal_for_slurm_does_not_train_the_base(base: Made, tmp_path: Path) -> None:
    asked = ["adapt", lone(base, tmp_path), "--dry-run", "--results", tmp_path / "r", "--cluster", "slurm", "--json"]
    done = CliRunner().invoke(app, [str(word) for word in asked])
    arrays = json.loads(done.stdout)["slurm"]["arrays"]
    jobs_of = sorted((array["kind"], array["jobs"]) for array in arrays)
    assert jobs_of == [("cell", 8), ("cell", 8), ("table", 1), ("training", 1)]


def test_killed_at_any_moment_it_goes_on(base: Made, tmp_path: Path) -> None:
    named, undisturbed, results = lone(base, tmp_path), tmp_path / "undisturbed", tmp_path / "results"
    adapt(named, *SMALL, results=undisturbed)
    runs = results / "runs"
    for moment in (
        lambda: any(runs.glob(f"trainings/{base.training}/done.json")),
        lambda: any(runs.glob("trainings/*/checkpoint-*.safetensors")),
        lambda: any(runs.glob("partial/*/seed-*.safetensors")),
    ):
        process = command_started(results, "adapt", named, *SMALL)
        deadline = time.monotonic() + 300
        while not moment() and process.is_alive() and time.monotonic() < deadline:
            time.sleep(0.002)
        process.kill()
        process.join()
        assert moment()
    done = harness(results, "adapt", named, *SMALL)
    assert done.returncode == 0, done.stderr
    assert figures(results) == figures(undisturbed) and weights(results) == weights(undisturbed)


# What is known of the network, and where from.


def test_an_older_file_is_known_by_what_lies_beside_it_or_by_the_file_that_trained_it(
    base: Made, tmp_path: Path
) -> None:
    results, old = tmp_path / "results", tmp_path / "w.safetensors"
    save_tensors(old, load_tensors(base.weights)[0], base.training, step=str(BASE_STEPS))
    message = refused(old, results=results)
    assert "w.safetensors: has no configuration in it" in message and "--config FILE, with --arm" in message
    plain = as_plain(parse_experiment(json.loads(load_facts(base.weights)["config"]), "weights"))
    one = tmp_path / "one.yaml"
    one.write_text(json.dumps(plain), encoding="utf-8")
    sections = {key: value for key, value in plain.items() if key not in ("seed", "model")}
    arms = {"small": {"set": {"model": plain["model"]}}, "other": {"set": {"model": {**plain["model"], "width": 16}}}}
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(json.dumps({"name": "s", "base": sections, "arms": arms, "seeds": [4, 0]}), encoding="utf-8")
    assert f"(--config {sweep})" in refused(old, results=results)  # a report's folder has the sweep's file
    for given in ([one], [sweep], [sweep, "--arm", "small"]):
        assert adapt(old, "--config", *given, "--dry-run", results=results)["base_training"] == base.training
    message = refused(old, "--config", sweep, "--arm", "other", results=results)
    assert f"arm 'other' has another training than {base.training}" in message
    assert "no arm 'smal'" in refused(old, "--config", sweep, "--arm", "smal", results=results)
    assert "leave out --arm small" in refused(old, "--config", one, "--arm", "small", results=results)
    assert "--arm: names an arm of the sweep that --config gives" in refused(old, "--arm", "x", results=results)
    folder = tmp_path / base.training
    folder.mkdir()
    shutil.copy(old, folder / "weights.safetensors")
    (folder / "config.json").write_text(json.dumps(plain), encoding="utf-8")
    assert adapt(folder, "--dry-run", results=results)["base_training"] == base.training


def bare(base: Made, folder: Path, **changed: Tensor) -> Path:
    """The weights as another project writes them: tensors by name, and nothing else."""
    path = folder / "bare.safetensors"
    save_file(load_file(base.weights) | changed, path)
    return path


def test_weights_that_say_nothing_are_what_the_configuration_says(base: Made, tmp_path: Path) -> None:
    """They become the training of the configuration, as they are; it is said that nothing vouches for them."""
    results, weights = tmp_path / "results", bare(base, tmp_path)
    plain = as_plain(parse_experiment(json.loads(load_facts(base.weights)["config"]), "weights"))
    one = tmp_path / "one.yaml"
    one.write_text(json.dumps(plain), encoding="utf-8")
    message = refused(weights, results=results)
    assert "bare.safetensors: says nothing of what has made it" in message and "--config FILE, with --arm" in message
    told = adapt(weights, "--config", one, *SMALL, results=results)
    assert told["failures"] == {} and told["base_training"] == base.training and told["base_is_vouched_for"] is False
    made = Store(results).weights_path(base.training)
    assert all(load_file(made)[name].equal(value) for name, value in load_file(weights).items())
    assert load_facts(made, base.training)["origin"] == "not known"
    again = adapt(weights, "--config", one, *SMALL, results=results)
    assert again["base_training"] == base.training
    asked = ["adapt", weights, "--config", one, *SMALL, "--results", results, "--cluster", "inline", "--dry-run"]
    said = " ".join(CliRunner().invoke(app, [str(word) for word in asked]).output.split())
    assert "nothing in it vouches for where it comes from" in said and base.training in said
    assert adapt(base.weights, "--dry-run", results=tmp_path / "own")["base_is_vouched_for"] is True


def test_weights_that_say_nothing_must_fit_and_have_one_training(base: Made, tmp_path: Path) -> None:
    results, weights = tmp_path / "results", bare(base, tmp_path)
    plain = as_plain(parse_experiment(json.loads(load_facts(base.weights)["config"]), "weights"))
    sections = {key: value for key, value in plain.items() if key != "seed"}
    (tmp_path / "wide.yaml").write_text(json.dumps({**plain, "model": {**plain["model"], "width": 16}}))
    message = refused(weights, "--config", tmp_path / "wide.yaml", results=results)
    assert "bare.safetensors: does not fit: " in message and "there: in the file" in message
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(json.dumps({"name": "s", "base": sections, "arms": {"small": {}}, "seeds": [0, 4]}))
    message = refused(weights, "--config", sweep, "--arm", "small", results=results)
    assert "arm 'small' has 2 trainings, and the weights do not say of which they are" in message
    assert "choose one with --arm; choices: small" in refused(weights, "--config", sweep, results=results)
    sweep.write_text(json.dumps({"name": "s", "base": sections, "arms": {"small": {}}, "seeds": [0]}))
    words = [weights, "--config", sweep, "--arm", "small", "--dry-run"]
    assert adapt(*words, results=results)["base_training"] == base.training
    name = next(iter(load_file(weights)))
    nothing = bare(base, tmp_path, **{name: load_file(weights)[name] * float("nan")})
    message = refused(nothing, "--config", sweep, "--arm", "small", results=results)
    assert f"bare.safetensors: {name} has numbers that are not finite" in message
    other = bare(base, tmp_path, **{name: load_file(base.weights)[name] + 1})
    message = refused(other, "--config", sweep, "--arm", "small", results=base.store.root)
    assert f"bare.safetensors: {base.store.root} has training {base.training} already, with other weights" in message


IMAGES: dict[str, Any] = {
    "measure": {"features": "inception", "images": 16, "latency": {"repeats": 1, "warmup": 0}},
    "model": MODEL,
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[Made, Path]:
    """(A class-conditional network of a folder of images, the folder)."""
    place = tmp_path_factory.mktemp("pictures")
    folder = write_folder(place / "images", classes(each=8))
    experiment = tiny(
        data={"name": "images", "path": str(folder), "size": 8},
        measure=IMAGES["measure"],
        model={"class_conditional": True},
    )
    return train(place / "results", experiment), folder


def test_where_the_data_lie_is_asked_for_once_nothing_tells_it(pictures: tuple[Made, Path], tmp_path: Path) -> None:
    made, folder = pictures
    results, alone = tmp_path / "results", lone(made, tmp_path)
    message = refused(alone, results=results)
    assert "where they lie is not in the weights" in message and "--data PATH" in message
    moved = shutil.copytree(folder, tmp_path / "moved")
    for words in ([alone, "--data", moved], [made.weights], [made.store.training_folder(made.training)]):
        told = adapt(*words, "--dry-run", results=results)
        assert told["base_training"] == made.training and told["missing"] == []
    assert "no such file or folder" in (message := refused(alone, "--data", tmp_path / "gone", results=results)), (
        message
    )
    assert "--data" in message
    assert "trained on images, not on digits" in refused(alone, "--data", "digits", results=results)


def test_other_data_are_told(pictures: tuple[Made, Path], tmp_path: Path) -> None:
    made, _ = pictures
    results, alone = tmp_path / "results", lone(made, tmp_path)
    other = write_folder(tmp_path / "other", classes(each=8, first=99))
    message = refused(alone, "--data", other, results=results)
    assert f"is of training {made.training}" in message and "not the data that it was trained on" in message
    more = write_folder(tmp_path / "more", classes(("ant", "bee", "cow"), each=6))
    message = refused(alone, "--data", more, results=results)
    assert "does not fit: " in message and "there: in the file" in message
    unlabelled = write_folder(tmp_path / "unlabelled", {n.replace("/", "-"): b for n, b in classes(each=8).items()})
    message = refused(alone, "--data", unlabelled, results=results)
    assert "its images have no labels, which model.class_conditional needs" in message


def test_the_data_s_name_will_do_where_they_need_no_path(base: Made, tmp_path: Path) -> None:
    results = tmp_path / "results"
    assert adapt(base.weights, "--data", "digits", "--dry-run", results=results)["base_training"] == base.training
    assert "trained on digits, not on images" in refused(base.weights, "--data", "images", results=results)
    assert "which need no path; leave it out" in refused(base.weights, "--data", "here.zip", results=results)


# Refusals of weights.


def test_networks_that_cannot_become_dual_rate_are_refused(tmp_path: Path) -> None:
    results, facts = tmp_path / "results", {"step": "6"}
    for experiment, said in (
        (tiny("dual_rate"), "is a dual_rate network; what becomes dual-rate is a single_rate one"),
    ):
        model = build_model(experiment, known_info(experiment.data))
        config = json.dumps(as_plain(experiment))
        save_tensors(tmp_path / "w.safetensors", model.state_dict(), identify(experiment)[0], config=config, **facts)
        assert said in refused(tmp_path / "w.safetensors", results=results)


def test_what_is_no_trained_network_is_refused(base: Made, tmp_path: Path) -> None:
    results, alone = tmp_path / "results", lone(base, tmp_path)
    tensors, facts = load_tensors(base.weights)
    other = {key: value for key, value in facts.items() if key != "training"}
    rounded = {name: value.bfloat16() for name, value in tensors.items()}
    save_tensors(tmp_path / "rounded", rounded, base.training, **other, rounded_to="bfloat16")
    save_tensors(tmp_path / "checkpoint-000000006.safetensors", tensors, base.training, step="6")
    (tmp_path / "cut").write_bytes(alone.read_bytes()[:900])
    for name, change in (("half precision", Tensor.half), ("not finite", lambda tensor: tensor * float("nan"))):
        save_tensors(tmp_path / name, {n: change(t) for n, t in tensors.items()}, base.training, **other)
    save_tensors(tmp_path / "table", {"error": torch.ones(2)}, "0123456789abcdef", table="denoising_error")
    (tmp_path / "s.yaml").write_text("model: {width: 8}")
    (tmp_path / "empty").mkdir()
    (tmp_path / "half").mkdir()
    shutil.copy(alone, tmp_path / "half" / "checkpoint-000000006.safetensors")
    for named, said in (
        ("rounded", "was rounded to bfloat16"),
        ("checkpoint-000000006.safetensors", "is a checkpoint of training"),
        ("cut", "is cut short or damaged"),
        ("half precision", "is float16, not float32"),
        ("not finite", "has numbers that are not finite"),
        ("table", "is a table, denoising_error"),
        ("s.yaml", "is a configuration; give the weights that it has made"),
        ("gone", "no such file"),
        ("empty", "holds no weights.safetensors"),
        ("half", "holds a training that has not finished"),
    ):
        assert said in refused(tmp_path / named, results=results), named
    assert "has no training:0123456789abcdef" in refused("training:0123456789abcdef", results=results)
    assert "is no id of a training" in refused("training:x", results=results)


def test_weights_that_are_not_what_their_training_made_are_refused(base: Made, tmp_path: Path) -> None:
    """Beside a record of others; in results that have others; while the results' own are being made."""
    tensors, facts = load_tensors(base.weights)
    other = {key: value for key, value in facts.items() if key != "training"}
    folder, results = tmp_path / "copy", tmp_path / "results"
    shutil.copytree(base.store.training_folder(base.training), folder)
    save_tensors(folder / "weights.safetensors", {n: t + 1 for n, t in tensors.items()}, base.training, **other)
    assert f"is not what training {base.training} wrote" in refused(folder, results=results)
    (folder / "done.json").unlink()
    message = refused(folder, results=base.store.root)
    assert "already, with other weights" in message and f"harness adapt training:{base.training}" in message
    changed = parse_experiment({**json.loads(facts["config"]), "seed": 5}, "changed")
    save_tensors(tmp_path / "w", tensors, base.training, **{**other, "config": json.dumps(as_plain(changed))})
    assert f"but its configuration with digits 8×8 (1,797 images) is training {identify(changed)[0]}" in refused(
        tmp_path / "w", results=results
    )
    with lease(Store(results).lease_path(Target("training", base.training))):
        done = CliRunner().invoke(app, ["adapt", str(base.weights), "--results", str(results), "--cluster", "inline"])
    assert "is being made in" in str(done.exception)


def test_a_network_that_has_itself_started_from_another(base: Made, tmp_path: Path) -> None:
    """Its id names what it started from: nothing of that need be there, unless it was a file."""
    first, results = tmp_path / "first", tmp_path / "results"
    shutil.copytree(base.store.root, first)
    further = train(first, tiny(train={**TRAIN, "steps": 4, "start": f"training:{base.training}"}))
    told = adapt(lone(further, tmp_path), *SMALL, "--set", "train.steps=60", results=results)
    assert told["base_training"] == further.training and told["failures"] == {}
    assert set(weights(results)) > {further.training} and base.training not in weights(results)
    file = Path(shutil.copy(base.weights, tmp_path / "start.safetensors"))
    filed = train(tmp_path / "filed", tiny(train={**TRAIN, "steps": 4, "start": str(file)}))
    file.unlink()
    message = refused(lone(filed, tmp_path), results=tmp_path / "none")
    assert message.startswith(f"train.start: {file} does not exist") and "--data" not in message


@pytest.mark.parametrize(
    "sections",
    [
        {"train": {**TRAIN, "gradient_clip": None, "ema": 0.0, "flip": True, "accumulate": 2}},
        {"diffusion": {"prediction": "x", "base_resolution": 16, "log_snr_range": [-12, 14]}},
        {"model": {"class_conditional": True, "dropout": 0.1}, "train": {**TRAIN, "label_dropout": 0.1},
         "sample": {"guidance": 1.5, "clip": False, "precision": "bfloat16"}},
        {"model": {"multipliers": [1], "levels": ["transformer"], "blocks": [2], "patch": 2}},
        {"measure": {"images": 99, "latency": {"repeats": 2, "warmup": 3}, "precision_recall": True}},
    ],
)  # fmt: skip
def test_whatever_made_the_network_is_what_the_sweep_s_base_is(sections: dict[str, Any], tmp_path: Path) -> None:
    """What a file leaves out it has by default, null included; the other network differs in what it must."""
    experiment = tiny(**sections)
    made = adaptation(Trained(Path("w"), identify(experiment)[0], experiment), "40%", [])
    made.write(tmp_path / "s.yaml")
    sweep = load_sweep(tmp_path / "s.yaml")
    for cell in sweep.cells.values():
        own, here = as_plain(experiment), as_plain(cell.experiment)
        assert here["measure"] == own["measure"] and here["diffusion"] == own["diffusion"]
        varied = {"sampler", "steps", "refreshes"}
        assert {k: v for k, v in here["sample"].items() if k not in varied} == {
            k: v for k, v in own["sample"].items() if k not in varied
        }
        if cell.rows[0][0] == "base":
            assert {**here, "sample": own["sample"]} == own and cell.training == identify(experiment)[0]
        else:
            lengths = {"steps", "warmup", "ema", "checkpoint_every", "log_every", "start", "freeze"}
            assert {k: v for k, v in own["train"].items() if k not in lengths}.items() <= here["train"].items()
            assert {k: v for k, v in own["model"].items() if k != "kind"}.items() <= here["model"].items()


def test_a_refusal_is_one_message_and_status_2(tmp_path: Path) -> None:
    done = harness(tmp_path / "results", "adapt", tmp_path / "gone", "--json")
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"error: {tmp_path / 'gone'}: no such file\n")


# The budget.


@pytest.mark.parametrize(
    ("text", "share"), [("10%", 0.1), ("0.1", 0.1), (" 10 % ", 0.1), ("1", 1.0), ("2.5%", 0.025), ("150%", 1.5)]
)
def test_a_budget_is_a_share(text: str, share: float) -> None:
    assert parse_budget(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["", "ten", "-10%", "nan", "inf", "0", "0%", "10", "1e1%", "10%%", "10 %x"])
def test_a_budget_that_is_no_share_is_refused(text: str, base: Made, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^--budget: .*10%"):
        parse_budget(text)
    if text in ("10", "ten"):
        assert "--budget" in refused(base.weights, "--budget", text, results=tmp_path / "results")


def test_a_budget_in_steps_is_a_count_by_hand(base: Made, tmp_path: Path) -> None:
    """3·B·E a step of the base; B·(E + 3·P + 3·4·g) of the other: encoder, projections, light network."""
    told = adapt(base.weights, "--budget", "50%", "--dry-run", results=tmp_path / "results")
    file = tmp_path / "s.yaml"
    adapt(base.weights, "--budget", "50%", "--dry-run", "--write", file, results=tmp_path / "results")
    sweep = load_sweep(file)
    (after,) = (t for t in sweep.trainings.values() if t.arms == ["adapted"])
    info = known_info(after.experiment.data)
    dual: Any = build_model(after.experiment, info)
    single: Any = build_model(sweep.trainings[base.training].experiment, info)
    heavy, light = dual.encoder.config, dual.denoiser.config
    of_base = 3 * BATCH * networks.evaluation(single.network.config)
    of_step = BATCH * (
        networks.evaluation(heavy) + 3 * networks.context(heavy, light) + 3 * 4 * networks.evaluation(light)
    )
    steps = BASE_STEPS * of_base // (2 * of_step)
    assert steps > LEAST_STEPS  # so that the budget decides
    assert told["added"] == {
        "steps": steps,
        "batch": BATCH,
        "share_of_training": pytest.approx(steps * of_step / (BASE_STEPS * of_base)),
    }
    train = after.experiment.train
    assert (train.steps, train.batch, train.learning_rate) == (steps, BATCH, tiny(train=TRAIN).train.learning_rate)
    assert train.warmup == round(WARMUP * steps / BASE_STEPS)
    assert train.ema ** (steps / 20) == pytest.approx(0.5, rel=1e-3)  # half-life: a twentieth of the training


def test_a_whole_number_of_steps_stays_whole() -> None:
    assert steps_within(0.1, 30.0, 0.1) == 30 and steps_within(0.1, 30.0, 0.101) == 29


def test_an_average_is_never_longer_than_the_base_s() -> None:
    assert average_decay(10**6, 0.99) == 0.99 and average_decay(100, 0.0) == 0.0
    assert average_decay(2000, 0.9999) == pytest.approx(0.5 ** (1 / 100), abs=1e-6)


def test_a_budget_that_is_too_small_trains_the_least_and_says_so(base: Made, tmp_path: Path) -> None:
    asked = ["adapt", str(base.weights), "--budget", "1%", "--dry-run", "--results", str(tmp_path / "results")]
    done = CliRunner().invoke(app, [*asked, "--cluster", "inline"])
    assert done.exit_code == 0
    assert f"50 steps of {BATCH}, the fewest that teach it anything (1 % would be fewer)" in done.stdout
    enough = CliRunner().invoke(app, [*asked[:3], "50%", *asked[4:], "--cluster", "inline"])
    assert "adds 50 % of the base's training: " in enough.stdout or "adds 49." in enough.stdout


# What can be set.


def test_keys_go_to_the_network_that_they_are_about(base: Made, tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    given = (
        "measure.images=32", "sample.seeds=[1, 2]", "sample.refresh_interval=2", "model.light_width=0.75",
        "train.batch=4", "train.learning_rate=0.002", "train.steps=70", "diffusion.loss_bias=-1",
    )  # fmt: skip
    words = [word for text in given for word in ("--set", text)]
    told = adapt(base.weights, *words, "--dry-run", "--write", file, results=tmp_path / "results")
    sweep = load_sweep(file)
    assert base.training in sweep.trainings  # which none of them has changed
    assert told["added"]["steps"] == 70 and told["added"]["batch"] == 4
    for cell in sweep.cells.values():
        dual, experiment = cell.training != base.training, cell.experiment
        assert experiment.measure.images == 32 and experiment.sample.seeds == (1, 2)
        assert experiment.train.batch == (4 if dual else BATCH)
        assert experiment.diffusion.loss_bias == (-1 if dual else tiny().diffusion.loss_bias)
        assert experiment.sample.refresh_interval == (2 if dual else None)
    steps = [cell.experiment.sample.steps for cell in sweep.cells.values() if cell.training != base.training]
    assert sorted(steps) == [6, 6, 8, 8, 16, 16]  # each once, now that the refreshes are the same
    assert load_sweep(file).config.name.startswith(f"adapt-{base.training[:8]}-set-")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("model.width=16", "model.width: is the trained network's"),
        ("model.kind=single_rate", "model.kind: is the trained network's"),
        ("diffusion.prediction=x", "diffusion.prediction: is the trained network's"),
        ("train.start=w.safetensors", "train.start: it starts from the network that is adapted"),
        ("data.path=x", "data.path: --data says where the data lie"),
        ("seed=3", "seed: the trained network has one, 0"),
        ("seeds=[1, 2]", "seeds: the trained network has one, 0"),
        ("sample.cache_from_level=1", "sample.cache_from_level: is no part of an adaptation"),
        ("data.size=8", "data.size: would change the data that the network was trained on"),
        ("measure.images=1", "measure.images: "),
        ("measure.weights=gone.pt", "measure.weights: gone.pt does not exist"),
        ("sample.refreshes=40", "sample.refreshes: "),
        ("train.pears=grid", "train.pears: unknown key (did you mean 'train.pairs'?)"),
        ("train.steps=0", "train.steps: "),
        ("sample.sampler=dim", "sampler: 'dim' is not one of"),
        ("nonsense", "'nonsense' is not key=value"),
    ],
)
def test_keys_that_cannot_be_set_are_refused(given: str, said: str, base: Made, tmp_path: Path) -> None:
    assert said in refused(base.weights, "--set", given, results=tmp_path / "results")


def test_a_length_is_said_once(base: Made, tmp_path: Path) -> None:
    words = (base.weights, "--budget", "5%", "--set", "train.steps=100")
    assert "so does --budget; give one of them" in refused(*words, results=tmp_path / "results")


def test_a_file_that_was_edited_is_never_overwritten(base: Made, tmp_path: Path) -> None:
    file, results = tmp_path / "s.yaml", tmp_path / "results"
    words = (base.weights, "--dry-run", "--write", file)
    adapt(*words, results=results)
    edited = file.read_text(encoding="utf-8").replace("light_width: 0.5", "light_width: 0.25")
    file.write_text(edited, encoding="utf-8")
    message = refused(*words, results=results)
    assert "is another sweep than this command makes" in message and f"harness sweep {file}" in message
    assert file.read_text(encoding="utf-8") == edited
