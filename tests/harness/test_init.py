"""`harness init`: what it writes fits the data, loads, runs, and never takes another file's place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from harness.config.schema import parse_experiment
from harness.dispatch.first_sweep import Facts, scale_of, side_of, sweep_text
from harness.dispatch.sweep import load_experiment, load_sweep
from harness.errors import ConfigError
from tests.data.making import classes, encoded, noise, write_folder, write_zip
from tests.harness.tiny import harness


def facts(side: int, **changes: object) -> Facts:
    values = {
        "path": None,
        "kind": "digits",
        "label": "digits",
        "images": 1797,
        "sides": (side, side),
        "channels": 1,
        "classes": 10,
        "features": "digits",
    }
    return Facts(**{**values, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("side", [4, 8, 12, 16, 20, 28, 32, 36, 48, 60, 64, 72, 96, 128, 224, 256, 512, 1024])
def test_every_arm_takes_images_of_that_side(side: int, tmp_path: Path) -> None:
    made = facts(side)
    seen = side_of(made)
    assert seen <= 64 and side % seen == 0 and (seen == side) == (side <= 64)
    (tmp_path / "sweep.yaml").write_text(sweep_text(made))
    for arm in ("base", "shrunk", "cached", "dual-rate"):
        experiment = load_experiment(tmp_path / "sweep.yaml", (), arm)
        experiment.model.check_size(seen)
        assert experiment.model.class_conditional
    assert scale_of(seen).side == seen


@pytest.mark.parametrize(("sides", "said"), [((30, 40), "not squares"), ((45, 45), "sides of 45"), ((3, 3), "of 3 p")])
def test_images_that_must_be_prepared_are_told_how(sides: tuple[int, int], said: str) -> None:
    with pytest.raises(ConfigError, match=r"harness data prepare '?/my data'? images.zip --size") as caught:
        side_of(facts(8, sides=sides, path="/my data"))
    assert said in str(caught.value)


def test_labels_of_users_are_text(tmp_path: Path) -> None:
    """A folder may be called anything: what it is called stays one value, and the name of the sweep is one."""
    for label in ('a: "b" # c', "- x\n[y", "runs", "été", "{{x}}", "@!%"):
        values = yaml.safe_load(sweep_text(facts(8, label=label, path=f"/data/{label}", kind="images")))
        assert values["base"]["data"]["label"] == label and values["base"]["data"]["path"] == f"/data/{label}"
        assert values["name"] not in ("runs", "local") and values["name"].strip("-")
        parse_experiment(values["base"] | {"measure": {"features": "inception"}}, "test")


def test_a_folder_of_images_becomes_a_sweep_that_is_planned(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "my images", classes(("ant", "bee", "cat"), each=12, side=16))
    file = tmp_path / "mine.yaml"
    made = harness(tmp_path / "results", "init", data, "--out", file, "--json")
    assert made.returncode == 0, made.stderr
    told = json.loads(made.stdout)
    assert (told["images"], told["size"], told["channels"], told["classes"]) == (36, 16, 3, 3)
    planned = harness(tmp_path / "results", "sweep", file, "--dry-run", "--json")
    assert planned.returncode == 0, planned.stderr
    plan = json.loads(planned.stdout)
    assert (len(plan["trainings"]), len(plan["cells"])) == (told["trainings"], told["cells"]) == (3, 15)
    assert not (tmp_path / "results").exists()
    assert sum(line.lstrip().startswith("#") or "  # " in line for line in file.read_text().splitlines()) > 15


def test_images_without_labels_in_a_zip(tmp_path: Path) -> None:
    images = {f"{index}.png": encoded(noise(index, 128, 128, 1)) for index in range(40)}
    file = tmp_path / "grey.yaml"
    made = harness(tmp_path, "init", write_zip(tmp_path / "grey.zip", images), "--out", file)
    assert made.returncode == 0, made.stderr
    assert "40 images at 64×64" in made.stdout and "3 trainings and 15 cells" in made.stdout
    values = yaml.safe_load(file.read_text())
    assert values["base"]["data"]["channels"] == 1 and values["base"]["data"]["size"] == 64
    assert values["base"]["model"]["class_conditional"] is False
    assert len(load_sweep(file).cells) == 15


def test_the_digits_are_trained_and_measured(tmp_path: Path) -> None:
    file = tmp_path / "d.yaml"
    assert harness(tmp_path, "init", "digits", "--out", file).returncode == 0
    small = ["train.steps=2", "measure.images=40", "sample.seeds=[0]", "sample.steps=2", "measure.latency.repeats=1"]
    done = harness(tmp_path, "measure", file, "--arm", "dual-rate", *(w for s in small for w in ("--set", s)))
    assert done.returncode == 0, done.stderr
    assert "FD-digits" in done.stdout


def test_it_writes_over_nothing_and_says_what_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("mine")
    (tmp_path / "link.yaml").symlink_to(tmp_path / "nowhere")
    empty = tmp_path / "empty"
    empty.mkdir()
    for arguments, said in (
        (("digits", "--out", file), "exists already"),
        (("digits", "--out", tmp_path / "link.yaml"), "exists already"),
        (("digits", "--out", tmp_path / "sweep.txt"), "as .yaml"),
        ((tmp_path / "none", "--out", tmp_path / "new.yaml"), "none"),
        ((empty, "--out", tmp_path / "new.yaml"), "empty"),
    ):
        done = harness(tmp_path, "init", *arguments)
        assert done.returncode == 2 and said in " ".join(done.stderr.split()), (arguments, done.stderr)
        assert "Traceback" not in done.stderr
    assert file.read_text() == "mine" and not (tmp_path / "new.yaml").exists()
    assert not list(tmp_path.glob(".*.tmp"))
