"""What cannot be measured is refused before anything is trained, with the least that can and the cure."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from harness.cli.app import app
from harness.config.schema import Experiment, parse_experiment
from harness.data import known_info
from harness.dispatch.checks import check_compiler, check_data, check_measures, check_sweep
from harness.dispatch.plan import plan
from harness.dispatch.sweep import load_sweep
from harness.errors import ConfigError, DataError, HarnessError
from harness.measure.fidelity import measure_quality
from harness.measure.reference import Reference
from harness.measure.train_digits_extractor import digits
from harness.store.store import Store
from tests.data.making import classes, encoded, noise, write_folder, write_zip
from tests.harness import tiny as small
from tests.harness.tiny_experiments import tiny

IMAGES = digits()[0]


def parsed(**sections: Any) -> Experiment:
    return parse_experiment(sections, "test")


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        ({"images": 1}, "measure.images: 1 are too few, a covariance needs at least 2"),
        (
            {"images": 3, "precision_recall": True},
            r"measure.images: 3 are too few, measure.precision_recall \(.*least 4",
        ),
        ({"images": 1, "precision_recall": True}, "needs at least 4"),
        (
            {"images": 9, "inception_score": True, "features": "inception"},
            r"inception_score \(of 10 splits\) needs at least 10",
        ),
    ],
)
def test_too_few_images_are_refused_by_the_schema(measure: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parsed(measure=measure, data={"name": "cifar10", "path": "x"} if "features" in measure else {})


@pytest.mark.parametrize("measure", [{"images": 2}, {"images": 4, "precision_recall": True}])
def test_the_least_number_can_be_measured(measure: dict[str, Any]) -> None:
    settings = parsed(measure=measure).measure
    least, _ = settings.least_images
    assert least == settings.images
    reference = Reference("few", "few", lambda: IMAGES[:least])
    values = measure_quality(IMAGES[100 : 100 + least], reference, settings)["values"]
    assert torch.isfinite(torch.tensor(list(values.values()))).all()


@pytest.mark.parametrize(("images", "precision"), [(1, False), (3, True)])
def test_too_small_a_reference_is_refused(tmp_path: Path, images: int, precision: bool) -> None:
    path = write_folder(tmp_path, {f"{i}.png": encoded(noise(i)) for i in range(images)})
    data = {"name": "images", "path": str(path)}
    chosen = parsed(data=data, measure={"features": "inception", "precision_recall": precision})
    few = "1 image is" if images == 1 else f"{images} images are"
    with pytest.raises(DataError, match=rf"{few} too few, at least {4 if precision else 2} are needed"):
        check_measures([chosen])
    reference = Reference("few", "few", lambda: IMAGES[:images])
    with pytest.raises(DataError):
        measure_quality(IMAGES, reference, parsed(measure={"precision_recall": precision}).measure)


def test_labels_that_are_not_there(tmp_path: Path) -> None:
    path = write_folder(tmp_path, {f"{i}.png": encoded(noise(i)) for i in range(4)})
    data = {"name": "images", "path": str(path)}
    check_data([parsed(data=data, measure={"features": "inception"})])
    with pytest.raises(DataError, match=r"have no labels, which model\.class_conditional needs"):
        check_data([parsed(data=data, measure={"features": "inception"}, model={"class_conditional": True})])


def test_classes_are_held_against_the_data(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", classes())
    data = {"name": "images", "path": str(path)}
    for count in (None, 2):
        check_data([parsed(data={**data, "classes": count}, measure={"features": "inception"})])
    chosen = parsed(data={**data, "classes": 3}, measure={"features": "inception"})
    with pytest.raises(DataError, match=r"has 2 classes, but data\.classes is 3; set data\.classes: 2"):
        check_data([chosen])
    with pytest.raises(DataError, match="has 2 classes"):
        known_info(chosen.data)
    bare = write_folder(tmp_path / "bare", {"0.png": encoded(noise(0))})
    with pytest.raises(DataError, match="has no labels, but"):
        check_data([parsed(data={**data, "path": str(bare), "classes": 3}, measure={"features": "inception"})])
    with pytest.raises(ConfigError, match=r"data\.classes: digits has 10"):
        parsed(data={"classes": 3})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"path": "x.zip"}, r"data\.path: .*set data\.name: images"),
        ({"path": "~/cifar-10-python.tar.gz"}, r"set data\.name: cifar10"),
        ({"name": "images"}, r"data\.path: images needs the path"),
        ({"name": "images", "path": ""}, r"data\.path: images needs the path"),
        (
            {"name": "images", "path": "caf\udce9.zip"},
            r"data\.path: 'caf\\\\xe9\.zip' is not UTF-8; name the file by a",
        ),
    ],
)
def test_data_without_their_kind_or_path(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as failure:
        parsed(data=data)
    str(failure.value).encode()


def test_messages_can_be_printed_whatever_files_are_called() -> None:
    for message in ("caf\udce9.png: gone", "\ud800"):
        str(HarnessError(message)).encode()
    assert str(DataError("caf\udce9.png: gone")) == "caf\\xe9.png: gone"


@pytest.mark.parametrize("command", ["sweep", "measure"])
def test_nothing_is_trained_for_what_cannot_be_measured(tmp_path: Path, command: str) -> None:
    path = write_folder(tmp_path / "one", {"ant/0.png": encoded(noise(0))})
    text = small.SWEEP.replace("{name: digits}", f"{{name: images, path: {path}}}")
    text = text.replace("{images: 80,", "{images: 80, features: inception,")
    file = small.write_sweep(tmp_path, text)
    arm = ["--arm", "base"] if command == "measure" else []
    done = small.harness(tmp_path / "results", command, file, *arm)
    assert done.returncode == 2
    assert "one 8×8, split train: 1 image is too few, at least 2 are needed" in done.stderr
    assert not (tmp_path / "results" / "runs" / "trainings").exists()


@pytest.mark.parametrize(("section", "key"), [("train", "train.compile"), ("sample", "sample.compile")])
def test_compiling_on_a_cpu_needs_a_compiler(section: str, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setenv("CXX", "no-such-compiler")
    sections: dict[str, Any] = {section: {"compile": True}, "measure": {"latency": {"repeats": 1, "warmup": 1}}}
    compiled = tiny("single_rate", **sections)
    with pytest.raises(ConfigError, match=rf"{key}: true needs a C\+\+ compiler on a CPU, and there is no no-such"):
        check_compiler([compiled], [compiled])
    check_compiler([tiny()], [tiny()])
    if section == "train":
        check_compiler([], [compiled])  # its training is done
    monkeypatch.setenv("CXX", sys.executable)
    check_compiler([compiled], [compiled])


@pytest.mark.parametrize("place", ["inline", "slurm"])
def test_a_number_of_processes_is_refused_where_it_has_no_meaning(place: str, tmp_path: Path) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(small.SWEEP, encoding="utf-8")
    command = ["sweep", str(file), "--workers", "3", "--cluster", place, "--dry-run", "--results", str(tmp_path / "r")]
    with pytest.raises(ConfigError, match=r"--workers: has no meaning where a sweep .*; --cluster local takes it"):
        CliRunner().invoke(app, command, catch_exceptions=False)


def test_a_size_that_does_not_divide_is_told_with_the_arm_and_the_cure(tmp_path: Path) -> None:
    """Of the digits when the sweep is read, of a person's images before anything is trained."""
    file = tmp_path / "sizes.yaml"
    model = "model: {width: 8, patch: 4, multipliers: [1, 1, 1], levels: [conv, conv, conv], blocks: [1, 1, 1]}"
    file.write_text(f"name: sizes\nbase:\n  {model}\narms:\n  deep: {{}}\n", encoding="utf-8")
    cure = "the side must be a multiple of 16; choose a smaller model.patch, fewer model.levels, or data.size: 16"
    expected = "images of 8×8 do not divide into patches of 4 and halve 2 times (3 levels): "
    with pytest.raises(ConfigError) as read:
        load_sweep(file)
    assert str(read.value) == f"{file}: arm 'deep': model.patch: {expected}{cure}"
    images = write_zip(tmp_path / "images.zip", classes(each=2, side=24))
    overrides = ["data.name=images", f"data.path={images}", "measure.images=4", "measure.features=efficientnet_lite0"]
    store = Store(tmp_path / "results")
    with pytest.raises(ConfigError) as checked:
        check_sweep(plan(load_sweep(file, overrides), store), store)
    expected = expected.replace("8×8", "24×24")
    assert str(checked.value) == f"{file}: arm 'deep': model.patch: {expected}{cure}"
