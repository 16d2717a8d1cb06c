"""A folder of diffusers as finished weights: from the folder to baseline rows, a cache and a dual-rate network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from harness.cli.app import app
from harness.config.schema import parse_experiment
from harness.dispatch.sweep import load_sweep
from harness.engine.given import given_problem
from harness.errors import HarnessError, MissingDataError
from harness.store.identity import UNKNOWN_ID, Identifier, identify
from tests.autoencoders import save_autoencoder
from tests.harness.tiny import harness
from tests.harness.tiny import invoke as run
from tools.made_diffusers import make

pytest.importorskip("diffusers")
SHORT = """
  train: {steps: 6, batch: 8, label_dropout: 0.1, warmup: 1, checkpoint_every: 6, log_every: 6}
  sample: {steps: 4, batch: 8, seeds: [0]}
  measure: {images: 16, latency: {batch: 4, warmup: 0, repeats: 1}}
"""
ARMS = """
arms:
  base:
    set: {model.weights: FOLDER}
    grid: {sample.sampler: [ddim, heun]}
  guided:
    set: {model.weights: FOLDER, sample.guidance: 2.0}
  cached:
    set: {model.weights: FOLDER, sample.cache_from_level: 1, sample.refreshes: 2}
  dual-rate:
    set:
      model: {kind: dual_rate, light_width: 1.0, light_blocks: [1, 1], context_entry: block}
      model.preconditioning: conditional
      train.start: base
      train.freeze: [encoder]
      sample.refreshes: 2
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("diffusers")
    make(place / "unet")
    make(place / "dit", kind="dit")
    make(place / "conditional", kind="conditional")
    make(place / "no-null", {"num_class_embeds": 10})
    return place


@pytest.fixture(autouse=True)
def _inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def shown(name: str) -> dict[str, Any]:
    """What `harness weights show` prints, as a configuration of the digits; the weights left out."""
    printed = yaml.safe_load(run("weights", "show", name))
    assert printed["model"].pop("weights") == name
    printed["data"] = {"name": "digits"}
    return dict(printed)


def write(name: str, base: dict[str, Any], arms: str = ARMS) -> Path:
    text = yaml.safe_dump({"name": f"of-{name}", "base": {**base, **yaml.safe_load(SHORT)}})
    file = Path(f"{name}.yaml")
    file.write_text(text + arms.replace("FOLDER", name))
    return file


def test_from_a_folder_to_the_table(folder: Path) -> None:
    """Of a U-Net: what `weights show` prints is the configuration of every row, and the network becomes dual-rate."""
    results, file = folder / "results", write("unet", shown("unet"))
    run("sweep", file, "--cluster", "inline", "--results", results)
    sweep = load_sweep(file, [])
    by_arm = {arm: one for one in sweep.trainings.values() for arm in one.arms}
    assert by_arm["base"] is by_arm["cached"] is by_arm["guided"]
    records = [json.loads(path.read_text()) for path in (results / "runs" / "cells").glob("*.json")]
    assert len(records) == len(sweep.cells) == 5
    for record in records:
        is_dual = record["config"]["model"]["kind"] == "dual_rate"
        assert set(record["compute"]["evaluations"]) >= ({"encoder", "denoiser"} if is_dual else {"network"})
    (report,) = results.glob("**/table.md")
    assert all(arm in report.read_text() for arm in ("base", "guided", "cached", "dual-rate"))
    planned = json.loads(run("sweep", file, "--cluster", "inline", "--results", results, "--dry-run", "--json"))
    assert all(one["done"] for kind in ("trainings", "cells") for one in planned[kind])
    words = ("--set", "train.steps=60", "--results", results, "--dry-run")
    run("adapt", f"training:{by_arm['base'].id}", *words)


def test_a_network_that_attends_to_what_stands_for_a_class(folder: Path) -> None:
    """A conditional U-Net, guided by what stands for no class; one of another number of classes is refused."""
    results = folder / "results-conditional"
    arms = "arms:\n  guided: {set: {model.weights: conditional, sample.guidance: 2.0}}\n"
    run("sweep", write("conditional", shown("conditional"), arms), "--cluster", "inline", "--results", results)
    assert len(list((results / "runs" / "cells").glob("*.json"))) == 1
    (folder / "seven").mkdir()
    shutil.copytree(folder / "conditional", folder / "seven", dirs_exist_ok=True)
    make(folder / "seven", kind="conditional", rows=7)
    with pytest.raises(HarnessError, match="classes is 7 there and 10 here"):
        given_problem(experiment("seven", model={"weights": "seven"}))


def test_a_transformer_divided_into_runs_is_cached_and_made_dual_rate(folder: Path) -> None:
    base = shown("dit")
    base["model"] |= {"blocks": [1, 2], "levels": ["transformer"] * 2, "multipliers": [1.0, 1.0]}
    arms = ARMS.replace("light_width: 1.0,", "light_width: 1.0, light_backbone: dit,").replace("[ddim, heun]", "[ddim]")
    arms = arms.replace("  guided:\n    set: {model.weights: FOLDER, sample.guidance: 2.0}\n", "")
    results, file = folder / "results-dit", write("dit", base, arms)
    run("sweep", file, "--cluster", "inline", "--results", results)
    records = [json.loads(path.read_text()) for path in (results / "runs" / "cells").glob("*.json")]
    per_run = {name: value for one in records for name, value in one["compute"]["gmacs_per_evaluation"].items()}
    assert len(records) == 3 and per_run["shallow"] < per_run["network"]


def experiment(name: str = "unet", given: bool = True, **changes: Any) -> Any:
    values = shown(name)
    if name == "unet":
        values["model"]["weights"] = name if given else None
    for section, own in changes.items():
        values[section] = {**values.get(section, {}), **own} if isinstance(own, dict) else own
    return parse_experiment(values, "test")


def test_an_id_knows_a_folder_by_what_is_read_of_it(folder: Path) -> None:
    shutil.copytree(folder / "unet", folder / "copied", dirs_exist_ok=True)
    config = folder / "copied" / "unet" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "_name_or_path": "elsewhere"}))
    own, network = identify(experiment()), identify(experiment(given=False))
    assert identify(experiment(model={"folder": "copied", "weights": "copied"})) == own
    assert identify(experiment(given=False, model={"folder": "copied"})) == network != own
    make(folder / "steeper", beta_end=0.03)
    others = [experiment(model={"folder": "steeper"}), experiment(given=False, model={"folder": "steeper"})]
    (folder / "copied" / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"other")
    others += [experiment(model={"weights": "copied"})]
    assert len({own, network, *map(identify, others)}) == 5
    with pytest.raises(MissingDataError, match=r"model.folder: gone: no such folder .*hf download OWNER/NAME"):
        identify(experiment(model={"folder": "gone"}))
    assert Identifier(without_data=True)(experiment(model={"folder": "gone"}))[0].startswith(UNKNOWN_ID)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": {"width": 16}}, r"channels of the levels is \[8, 16\] there and \[16, 32\] here"),
        ({"model": {"blocks": [1, 2]}}, r"model.blocks is \[1, 1\] there and \[1, 2\] here"),
        ({"model": {"class_conditional": False}}, "classes is 11 there and not set here"),
        ({"diffusion": {"prediction": "v"}}, "diffusion.prediction is epsilon there and v here"),
        ({"diffusion": {"preconditioning": "edm", "prediction": None}}, "diffusion.preconditioning is none there"),
        ({"data": {"size": 16}}, "data"),
        ({"model": {"folder": "dit"}}, "unet is another network than that of model.folder: dit"),
        ({"model": {"weights": "dit"}}, "dit is another network than that of model.folder: unet"),
        ({"model": {"folder": None}}, "folder: missing; model.backbone: diffusers needs the folder"),
        ({"model": {"backbone": "adm"}}, "folder: only model.backbone: diffusers reads it"),
        ({"model": {"backbone": None, "folder": None}}, "unet is a folder of diffusers; set model.backbone: diffusers"),
        ({"model": {"mlp_ratio": 2.0}}, "mlp_ratio: diffusers does not read it"),
        ({"model": {"embedding": 8}}, "embedding: diffusers does not read it"),
        ({"model": {"dropout": 0.1}}, "dropout: diffusers does not read it"),
        ({"model": {"noise_input": "vp"}}, "noise_input: only a U-Net of EDM's has it"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_made(change: dict[str, Any], said: str) -> None:
    with pytest.raises(HarnessError, match=said):
        given_problem(experiment(**change))


def test_guidance_without_a_null_class_stops_a_sweep_before_anything_is_made(folder: Path) -> None:
    results, file = folder / "none", write("no-null", shown("no-null"))
    result = CliRunner().invoke(app, ["sweep", str(file), "--cluster", "inline", "--results", str(results)])
    assert "arm 'guided': sample.guidance: the network in no-null embeds its 10 classes and no null class" in str(
        result.exception
    )
    assert not list(results.glob("runs/trainings/*/weights.safetensors"))


def test_a_light_denoiser_that_halves_beside_a_transformer_of_several_runs_is_refused(folder: Path) -> None:
    model = {"kind": "dual_rate", "blocks": [1, 2], "levels": ["transformer"] * 2, "multipliers": [1.0, 1.0]}
    drawn = experiment("dit", model=model, sample={"refreshes": 2})
    from harness.engine.start import network_shapes

    with pytest.raises(HarnessError, match="light_backbone: the network in dit keeps one resolution on its 2 levels"):
        network_shapes(drawn)


def test_a_folder_is_not_converted() -> None:
    with pytest.raises(HarnessError, match=r"is a folder of diffusers, which model[.]weights and model[.]folder take"):
        run("weights", "convert", "unet", "--out", "out.safetensors")


def test_a_network_of_latents(folder: Path) -> None:
    """The usual case of such folders: the network is of the latents' side and channels, not of the images'."""
    save_autoencoder(Path("autoencoder"), "AutoencoderTiny", scaling_factor=6.0)  # 8×8×1 to 4×4×2
    make(Path("latent"), {"sample_size": 4, "in_channels": 2, "out_channels": 2})
    base = shown("latent") | {"data": {"name": "digits", "latents": "autoencoder"}}
    sweep = write("latent", base, "arms:\n  base: {set: {model.weights: latent}}\n")
    run("sweep", sweep, "--cluster", "inline", "--results", "latent-results")
    (record,) = Path("latent-results").glob("runs/cells/*.json")
    assert json.loads(record.read_text())["data"]["latents"]["shape"] == [2, 4, 4]


def hub_cache(place: Path, folder: Path, name: str = "made/unet") -> Path:
    """A cache as the hub's client leaves it after a download of `folder` as `name`."""
    repository, commit = place / f"models--{name.replace('/', '--')}", "0" * 40
    shutil.copytree(folder, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    return repository / "snapshots" / commit


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, without a network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def test_a_name_of_the_hub_is_the_folder_in_its_cache(folder: Path, cache: Path) -> None:
    hub_cache(cache, folder / "unet", "google/made")
    by_name = experiment(model={"folder": "google/made", "weights": "google/made"})
    assert identify(by_name) == identify(experiment())
    given_problem(by_name)
    assert shown("google/made")["model"]["folder"] == "google/made"


def test_a_name_of_the_hub_that_cannot_be_had_is_one_message(cache: Path) -> None:
    said = (
        r"model.folder: google/none: no such folder, and as a model of the Hugging Face hub it is not in its cache .* "
        r"and cannot be downloaded \(.+\); with a network, once: hf download google/none$"
    )
    named = experiment(given=False, model={"folder": "google/none"})
    with pytest.raises(MissingDataError, match=said):
        identify(named)
    assert Identifier(without_data=True)(named)[0].startswith(UNKNOWN_ID)
    with pytest.raises(HarnessError, match="hf download google/none"):
        run("weights", "show", "google/none")


def test_no_pickle_of_the_hub_is_taken(folder: Path, cache: Path) -> None:
    """Though the same file in a folder of one's own is read, by torch's reader of tensors."""
    snapshot = hub_cache(cache, folder / "unet", "google/pickled")
    (file,) = snapshot.rglob("diffusion_pytorch_model.safetensors")
    file.rename(file.with_suffix(".bin"))
    given = {"folder": "google/pickled", "weights": "google/pickled"}
    with pytest.raises(
        HarnessError, match=r"has no diffusion_pytorch_model.safetensors; it has .*[.]bin; of the hub only"
    ):
        identify(experiment(model=given))
    identify(experiment(model={"folder": str(snapshot), "weights": str(snapshot)}))


def test_the_hub_s_own_setting_of_its_cache_is_heeded(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "home" / "hub").mkdir(parents=True)
    hub_cache(tmp_path / "home" / "hub", folder / "dit", "made/dit")
    told = "import sys; from models.diffusers_folder import read_folder; print(read_folder('made/dit').place)"
    own = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        own.pop(name, None)
    printed = subprocess.run([sys.executable, "-c", told], env=own, check=True, capture_output=True, text=True).stdout
    assert printed.strip().endswith(f"home/hub/models--made--dit/snapshots/{'0' * 40}/transformer")


@pytest.mark.parametrize("arguments", [["sweep"], ["report"], ["status"], ["train", "--arm", "base"]], ids=" ".join)
@pytest.mark.parametrize("place", ["gone", "."], ids=["missing", "of no network"])
def test_what_is_wrong_with_a_folder_is_said_with_file_and_key(
    place: str, arguments: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "folders.yaml"
    named = tmp_path / place
    path.write_text(f"name: folders\narms: {{base: {{set: {{model: {{backbone: diffusers, folder: '{named}'}}}}}}}}\n")
    refused = harness(tmp_path / "results", arguments[0], path, *arguments[1:])
    assert refused.returncode == 2 and f"error: {path}: " in refused.stderr, refused.stderr
    assert f"model.folder: {named}: " in refused.stderr and "Traceback" not in refused.stderr
