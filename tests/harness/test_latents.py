"""Latents as a stage of the data: encoded once, trained on as they are, decoded for measuring, counted apart."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from typer.testing import CliRunner

import harness.engine.latents as engine
import harness.engine.train as training
from harness.cli.app import app
from harness.config.schema import DataConfig, Experiment
from harness.data import open_data
from harness.data.latents import Autoencoder, load_autoencoder
from harness.data.loader import step_indices
from harness.dispatch.sweep import load_sweep
from harness.engine.build import clips
from harness.engine.costs import decoding_cost, sampling_cost
from harness.engine.distilling import student_settings
from harness.engine.distributed import process_group
from harness.engine.estimate import decoder_macs, expected_runs, gmacs_per_image, network_costs_of, schedule_macs
from harness.engine.latents import PART, LatentData, measured_input, ready_latents, training_data
from harness.engine.sampling import fresh_generator
from harness.engine.train import train_network
from harness.errors import ConfigError, DataError, Stopped
from harness.files import read_json
from harness.measure.fidelity import from_uint8
from harness.measure.flops import flop_counter_macs, sampling_macs
from harness.store.identity import UNKNOWN_ID, Identifier, identify
from harness.store.lease import lease
from harness.store.store import Store
from models.noise import Stream, normal
from models.process import CosineSchedule
from tests.autoencoders import save_autoencoder, save_several
from tests.harness.processes import started
from tests.harness.tiny_experiments import TRAIN, tiny

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_several(tmp_path_factory.mktemp("autoencoders"))


@pytest.fixture(autouse=True)
def _nothing_shared() -> Iterator[None]:
    """Latents that a test has encoded are not another's."""
    engine._encoded.cache_clear()
    yield
    engine._encoded.cache_clear()


def of(path: Path, kind: str = "single_rate", **sections: Any) -> Experiment:
    data = {"latents": str(path), **sections.pop("data", {})}
    return tiny(kind, data=data, **sections)


def key_of(data: DataConfig) -> str:
    return Identifier().latents(data) or ""


def all_encoded(path: Path) -> Tensor:
    """The means of all digits, in order, by the autoencoder itself."""
    images = from_uint8(open_data(DataConfig()).all_uint8())
    return load_autoencoder(str(path), CPU).encode(images).mean


# ---------------------------------------------------------------------------------------------- what training sees


def test_training_sees_the_very_latents(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment, seen = of(folder / "tiny"), []
    forward = training.TrainingLoss.forward

    def watched(self: Any, images: Tensor, *rest: Any) -> Tensor:
        seen.append(images.clone())
        return forward(self, images, *rest)

    monkeypatch.setattr(training.TrainingLoss, "forward", watched)
    latents = ready_latents(Store(tmp_path), experiment.data)
    train_network(experiment, "t", tmp_path / "t", latents=latents)
    assert latents is not None
    (part,) = latents.glob("from-*")
    whole = load_file(part)["mean"]
    assert torch.allclose(whole, all_encoded(folder / "tiny"), atol=1e-5)
    for step, x in enumerate(seen):
        assert torch.equal(x, whole[step_indices(1797, TRAIN["batch"], experiment.seed, step)])
    assert len(seen) == TRAIN["steps"] and float(whole.abs().max()) > 1, "and they are not clipped"


def test_without_a_folder_they_are_encoded_in_memory(folder: Path, tmp_path: Path) -> None:
    experiment = of(folder / "kl", data={"posterior": "sample"})
    in_memory = training_data(experiment)
    of_files = training_data(experiment, ready_latents(Store(tmp_path), experiment.data))
    assert torch.equal(in_memory.load([5, 1796])[0], of_files.load([5, 1796])[0])


def test_those_too_many_for_memory_are_read_one_by_one(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "PART", 500)
    experiment = of(folder / "kl", data={"posterior": "sample"})
    latents = ready_latents(Store(tmp_path), experiment.data)
    whole = training_data(experiment, latents)
    engine._encoded.cache_clear()
    monkeypatch.setattr(engine, "MEMORY_LIMIT_BYTES", 1)
    one_by_one = training_data(experiment, latents)
    chosen = [1796, 0, 499, 500, 3]
    assert isinstance(one_by_one, LatentData) and whole.in_memory and not one_by_one.in_memory
    for here, there in zip(whole.load(chosen), one_by_one.load(chosen), strict=True):
        assert torch.equal(here, there)


def test_a_posterior_is_drawn_from_at_each_step(folder: Path) -> None:
    experiment = of(folder / "kl", data={"posterior": "sample"})
    images = from_uint8(open_data(experiment.data).load(range(4))[0])
    posterior = load_autoencoder(str(folder / "kl"), CPU).encode(images)
    assert posterior.std is not None
    loaded = training_data(experiment).load(range(4))[0]
    positions = torch.arange(4)
    drawn = [engine.network_input(experiment, loaded, training.Randomness(7, step, positions, 4)) for step in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    noise = normal(7, positions, 0, posterior.mean.shape[1:], Stream.POSTERIOR)
    assert torch.allclose(drawn[0], posterior.mean + posterior.std * noise, atol=1e-6)
    mean = engine.network_input(of(folder / "kl"), training_data(of(folder / "kl")).load(range(4))[0], None)  # type: ignore[arg-type]
    assert torch.allclose(mean, posterior.mean, atol=1e-6)


def test_what_is_measured_of_a_network_is_measured_on_latents(folder: Path) -> None:
    images, places = open_data(DataConfig()).load(range(6))[0], torch.arange(6)
    for name in ("tiny", "kl"):
        data = of(folder / name).data
        assert torch.allclose(measured_input(data, images, CPU, 0, places), all_encoded(folder / name)[:6], atol=1e-6)
    data = of(folder / "kl", data={"posterior": "sample"}).data
    whole = measured_input(data, images, CPU, 0, places)
    part = measured_input(data, images[2:4], CPU, 0, places[2:4])
    assert torch.allclose(whole[2:4], part, atol=1e-6), "an image's draw is its own"
    assert torch.equal(measured_input(DataConfig(), images, CPU, 0, places), from_uint8(images))


# --------------------------------------------------------------------------------------------------------- the cache


def test_another_cache_for_whatever_changes_the_latents(folder: Path) -> None:
    def key(path: str, **data: Any) -> str:
        config = DataConfig(latents=str(folder / path), **data)
        return key_of(config)

    kept = key("tiny")
    assert key("tiny", label="by another name", classes=10) == kept
    assert len({kept, key("other"), key("kl"), key("tiny", channels=3)}) == 4
    assert key("kl", posterior="sample") == key("kl"), "mean and deviation are both kept"


def test_it_is_encoded_once(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, store = of(folder / "tiny").data, Store(tmp_path)
    first = ready_latents(store, data)
    assert first is not None and read_json(first / "facts.json")["shape"] == [2, 4, 4]
    told = read_json(first / "facts.json")
    whole = all_encoded(folder / "tiny")
    assert told["mean"] == pytest.approx(float(whole.mean()), abs=1e-5)
    assert told["standard_deviation"] == pytest.approx(float(whole.std()), rel=1e-3)
    monkeypatch.setattr(Autoencoder, "encode", lambda *_: pytest.fail("encoded again"))
    assert ready_latents(store, data) == first


def test_latents_that_are_scaled_badly_are_told_of(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_autoencoder(tmp_path / "ae", scaling_factor=60.0)
    ready_latents(Store(tmp_path), of(tmp_path / "ae").data)
    assert "networks expect about 1: scaling_factor" in caplog.text
    caplog.clear()
    ready_latents(Store(tmp_path), of(folder / "tiny").data)
    assert not caplog.text


def test_a_part_that_is_cut_short_is_encoded_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(engine, "PART", 500)
    data, store = of(folder / "tiny").data, Store(tmp_path)
    latents = ready_latents(store, data)
    assert latents is not None
    part = sorted(latents.glob("from-*.safetensors"))[2]
    whole = part.read_bytes()
    part.write_bytes(whole[:-100])
    ready_latents(store, data)
    assert part.read_bytes() == whole and "encoded again" in caplog.text


def test_stopped_between_two_parts_it_goes_on(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "PART", 500)
    data, store = of(folder / "tiny").data, Store(tmp_path)
    asked = iter([False, False, True])
    with pytest.raises(Stopped, match="1000 of 1797 images encoded"):
        ready_latents(store, data, should_stop=lambda: next(asked))
    told: list[tuple[int, int, str]] = []
    latents = ready_latents(store, data, progress=lambda done, total, phase="": told.append((done, total, phase)))
    assert told[0] == (1000, 1797, "encoding") and told[-1] == (1797, 1797, "encoding")
    assert latents is not None
    assert_as_of_one_run(latents, tmp_path, data)


def assert_as_of_one_run(latents: Path, tmp_path: Path, data: DataConfig) -> None:
    """What was encoded in several runs is, to the bit, what one run encodes."""
    undisturbed = ready_latents(Store(tmp_path / "undisturbed"), data)
    assert undisturbed is not None
    names = [path.name for path in undisturbed.glob("from-*")]
    assert len(names) == 4
    assert all((undisturbed / name).read_bytes() == (latents / name).read_bytes() for name in names)


def encode_until_killed(results: Path, latents: str) -> None:
    def dies(self: engine.Parts, start: int, encoded: Any) -> None:
        if start == 1000:
            path = self.path(start)
            path.with_name(f".{path.name}.half.tmp").write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
        save(self, start, encoded)

    save, engine.PART, engine.Parts.save = engine.Parts.save, 500, dies  # type: ignore[method-assign]
    engine.ready_latents(Store(results), DataConfig(latents=latents))


def test_killed_in_the_middle_it_heals(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed = started(encode_until_killed, tmp_path, str(folder / "tiny"))
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    monkeypatch.setattr(engine, "PART", 500)
    data, store = of(folder / "tiny").data, Store(tmp_path)
    left = sorted(path.name for path in store.latents_folder(key_of(data)).glob("from-*"))
    assert left == ["from-00000000.safetensors", "from-00000500.safetensors"]
    latents = ready_latents(store, data)  # its lease is a dead process's
    assert latents is not None
    assert_as_of_one_run(latents, tmp_path, data)


def encode_as_a_rank(results: Path, latents: str) -> None:
    own: list[int] = []

    def noted(self: engine.Parts, start: int, encoded: Any) -> None:
        own.append(start)
        save(self, start, encoded)

    save, engine.PART, engine.Parts.save = engine.Parts.save, 500, noted  # type: ignore[method-assign]
    with process_group():
        engine.ready_latents(Store(results), DataConfig(latents=latents))
    print(own)


def test_the_ranks_of_a_job_share_the_work(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = str(20_000 + (os.getpid() + 7) % 20_000)
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    asked, logs = (tmp_path, str(folder / "tiny")), [tmp_path / f"rank-{rank}" for rank in range(2)]
    ranks = [
        started(encode_as_a_rank, *asked, environment={**group, "RANK": str(rank)}, log=log)
        for rank, log in enumerate(logs)
    ]
    for rank in ranks:
        rank.join(300)
    assert [log.read_text().splitlines()[-1] for log in logs] == ["[0, 1000]", "[500, 1500]"]
    monkeypatch.setattr(engine, "PART", 500)
    data = of(folder / "tiny").data
    assert_as_of_one_run(ready_latents(Store(tmp_path), data) or tmp_path, tmp_path, data)


def test_of_two_jobs_one_encodes(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, store = of(folder / "tiny").data, Store(tmp_path)
    monkeypatch.setattr(engine, "WAIT_SECONDS", 0.01)
    waits = threading.Event()
    said: list[str] = []

    def told(done: int, total: int, phase: str = "") -> None:
        said.append(phase)
        waits.set()

    with lease(store.latents_lease(key_of(data))):
        second = threading.Thread(target=ready_latents, args=(store, data, 0, told))
        second.start()
        assert waits.wait(30) and said[0].startswith("waiting for the latents, encoded by process")
        assert not (store.runs / "latents").exists()
        assert engine.ready_latents(store, DataConfig()) is None, "those of images wait for nobody"
        with pytest.raises(Stopped, match="while another job encodes"):
            ready_latents(store, data, should_stop=lambda: True)
    second.join(60)
    assert said[-1] == "encoding" and len(list((store.runs / "latents").glob("*/from-*"))) == -(-1797 // PART)


# ----------------------------------------------------------------------------------------- nothing assumes pixels


def test_latents_are_never_clipped(folder: Path) -> None:
    pixels, latents = tiny(), of(folder / "tiny")
    assert clips(pixels) and not clips(latents)
    taught: dict[str, Any] = {
        "train": {"start": "a.st"},
        "distill": {"method": "regression", "teacher": "a.st", "steps": 2},
    }
    assert student_settings(tiny(**taught), CosineSchedule()).clips
    assert not student_settings(of(folder / "tiny", **taught), CosineSchedule()).clips


def test_what_is_drawn_is_decoded(folder: Path) -> None:
    experiment = of(folder / "tiny", sample={"sampler": "ddim"})
    torch.manual_seed(0)
    generator = fresh_generator(experiment)
    assert generator.image_shape == (2, 4, 4) and generator.decoder is not None
    states: list[Tensor] = []
    images = generator.draw(0, torch.arange(5), callback=lambda step, z, x: states.append(x))
    assert images.shape == (5, 1, 8, 8) and float(images.abs().max()) <= 1
    decoded = generator.decoder.decode(states[-1])  # the last step of DDIM ends at x̂
    assert torch.allclose(images, decoded.clamp(-1, 1), atol=1e-5)
    alone = torch.cat([generator.draw(0, torch.tensor([index])) for index in range(5)])
    assert torch.allclose(images, alone, atol=1e-5), "an image depends on its seed and index alone"


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"train": {"flip": True}}, "train.flip: changes pixels, and the images are encoded once"),
        ({"train": {"translation": 1}}, "train.translation: changes pixels"),
        ({"sample": {"clip": True}}, "sample.clip: latents have no range to clip to"),
        ({"diffusion": {"preconditioning": "edm"}}, "diffusion.sigma_data: 0.5 is the standard deviation of pixels"),
        ({"data": {"latents": None, "posterior": "sample"}}, "posterior: is of latents; set data.latents"),
    ],
)
def test_what_is_said_of_pixels_is_refused(sections: dict[str, Any], words: str, folder: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        of(folder / "tiny", **sections)


def test_a_deviation_that_is_said_is_taken(folder: Path) -> None:
    for value in (0.5, 1.0):
        said = of(folder / "tiny", diffusion={"preconditioning": "edm", "sigma_data": value})
        assert said.diffusion.sigma_data == value
        assert Experiment(**said.model_dump(mode="json", exclude_none=True)) == said


# ------------------------------------------------------------------------------------------------------------ costs


@pytest.mark.parametrize("kind", ["tiny", "kl"])
@pytest.mark.parametrize("model", ["single_rate", "dual_rate"])
def test_costs_are_told_with_and_without_the_decoder(kind: str, model: str, folder: Path) -> None:
    experiment = of(folder / kind, model)
    generator = fresh_generator(experiment)
    runs = expected_runs(experiment)
    told = sampling_cost(generator, runs)
    assert generator.decoder is not None
    decoder = flop_counter_macs(generator.decoder.decode, (torch.zeros(1, 2, 4, 4),), model=generator.decoder)
    networks = told["gmacs_per_evaluation"]
    without = sum(networks[name] * count for name, count in runs.items())
    assert decoding_cost(generator.decoder, (2, 4, 4)).macs == decoder_macs(experiment) == decoder > 0
    assert told["decoder_gmacs_per_image"] == decoder / 1e9 == networks["decoder"]
    assert told["gmacs_per_image"] == pytest.approx(without + decoder / 1e9, rel=1e-12)
    assert gmacs_per_image(experiment) == pytest.approx(told["gmacs_per_image"], rel=1e-12)
    assert "decoder" not in told["evaluations"] and "decoder" not in told["parameters"]
    assert told["training_gmacs_per_step"] == sampling_cost(generator, runs)["training_gmacs_per_step"]


def test_a_budget_pays_for_the_decoder_once(folder: Path) -> None:
    experiment = of(folder / "tiny", "dual_rate")
    macs = schedule_macs(experiment)
    assert macs(4, 2) == round(gmacs_per_image(experiment) * 1e9)
    alone = sampling_macs(network_costs_of(experiment), expected_runs(experiment))
    assert macs(4, 2) - decoder_macs(experiment) == alone


# -------------------------------------------------------------------------------------------------------------- ids


def test_ids_are_of_the_autoencoder_wherever_it_lies(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "tiny", tmp_path / "moved")
    kept = identify(of(folder / "tiny"))
    assert identify(of(tmp_path / "moved")) == kept
    others = [tiny(), of(folder / "other"), of(folder / "kl"), of(folder / "kl", data={"posterior": "sample"})]
    ids = [kept, *map(identify, others)]
    assert len({training for training, _ in ids}) == len({cell for _, cell in ids}) == 5
    assert identify(of(folder / "kl", data={"posterior": "mean"})) == identify(of(folder / "kl"))


def test_one_that_is_missing_has_placeholder_ids(tmp_path: Path) -> None:
    missing = of(tmp_path / "none")
    with pytest.raises(DataError, match=r"data\.latents: "):
        identify(missing)
    identifier = Identifier(without_data=True)
    assert all(id.startswith(UNKNOWN_ID) for id in identifier(missing)) and "data.latents" in identifier.missing[0]


# ----------------------------------------------------------------------------------------------- end to end, by CLI

SWEEP: dict[str, Any] = {
    "name": "latents",
    "base": {
        "model": {"width": 8, "blocks": [1, 1], "head_width": 8},
        "train": {"steps": 4, "batch": 8, "checkpoint_every": 2, "log_every": 2},
        "sample": {"sampler": "ddim", "steps": 3, "batch": 16},
        "measure": {"images": 32, "latency": {"repeats": 1, "batch": 4}},
    },
    "arms": {
        "base": {},
        "dual-rate": {"set": {"model.kind": "dual_rate", "sample.refreshes": 2}},
        "scheduled": {"set": {"model.kind": "dual_rate", "sample.refreshes": 2, "sample.schedule": "optimal"}},
        "edm": {"set": {"diffusion": {"preconditioning": "edm", "sigma_data": 1.0}}},
    },
}


def sweep_file(path: Path, autoencoder: Path, **data: Any) -> Path:
    base: Any = {**SWEEP["base"], "data": {"latents": str(autoencoder), **data}}
    path.write_text(yaml.safe_dump({**SWEEP, "base": base}), encoding="utf-8")
    return path


def harness(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments), catch_exceptions=True)


def test_a_sweep_of_latents_ends_with_both_costs(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.engine.pair_tables.IMAGES", 8)
    file, results = sweep_file(tmp_path / "sweep.yaml", folder / "kl", posterior="sample"), tmp_path / "results"
    ran = harness("sweep", str(file), "--results", str(results), "--cluster", "inline")
    assert ran.exit_code == 0, ran.output
    store = Store(results)
    records = [store.read_cell(path.stem) for path in (results / "runs" / "cells").glob("*.json")]
    assert len(records) == 4 and len(list((results / "runs" / "latents").iterdir())) == 1
    for record in records:
        compute, time, told = record.compute, record.time, record.quality.reconstruction
        assert time is not None and told is not None and record.data.latents is not None
        assert 0 < (compute.decoder_gmacs_per_image or 0) < (compute.gmacs_per_image or 0)
        assert 0 < (time.decoder_seconds_per_image or 0) < (time.seconds_per_image or 0)
        assert 0 < (time.decoder_latency_seconds or 0) < (time.latency_seconds or 0)
        assert set(time.share) >= {"decoder", "loop"}
        assert record.data.latents.shape == (2, 4, 4) and record.data.latents.posterior == "sample"
        assert (record.data.size, record.data.channels) == (8, 1), "the data are still the images"
        assert told.images == 32 and told.values["frechet"] == records[0].quality.reconstruction.values["frechet"]  # type: ignore[union-attr]
        assert record.quality.reference.fingerprint == open_data(DataConfig()).info.identity
    place = results / "latents"
    for again in (False, True):  # of the runs, and of the report's own cells
        if again:
            assert harness("report", str(place)).exit_code == 0
        table = (place / "table.md").read_text(encoding="utf-8")
        assert "| GMACs/image | sampling GMACs | s/image | sampling s |" in table
        assert "count the decoder, which makes images of latents" in table
        assert "What perfect samples of the latents would have: 32 images of the reference through the" in table
    rerun = harness("sweep", str(file), "--results", str(results), "--cluster", "inline")
    assert rerun.exit_code == 0 and "all 4 cells are done; nothing runs" in rerun.output


def test_samples_of_a_training_are_images(folder: Path, tmp_path: Path) -> None:
    experiment = of(folder / "tiny", train={"steps": 2, "sample_every": 1, "sample_images": 8})
    train_network(experiment, "t", tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    told = [line for line in lines if "samples" in line]
    assert [line["step"] for line in told] == [1, 2] and all(line["FD-digits of 8 images"] > 0 for line in told)
    with Image.open(tmp_path / told[0]["samples"]) as grid:
        assert grid.mode == "L" and grid.width >= 3 * 8


def test_images_are_sampled_and_costs_are_told(folder: Path, tmp_path: Path) -> None:
    file = sweep_file(tmp_path / "sweep.yaml", folder / "tiny")
    told = harness("flops", str(file), "--arm", "base", "--json")
    assert told.exit_code == 0, told.output
    costs = json.loads(told.stdout)
    assert costs["decoder_gmacs_per_image"] == decoder_macs(of(folder / "tiny")) / 1e9
    timed = json.loads(harness("latency", str(file), "--arm", "base", "--json").stdout)
    assert timed["decoder_seconds_per_image"] == pytest.approx(timed["share"]["decoder"] * timed["seconds_per_image"])
    at = ["--results", str(tmp_path / "results"), "--arm", "base"]
    assert harness("train", str(file), *at).exit_code == 0
    out = tmp_path / "images.zip"
    drawn = harness("sample", str(file), *at, "--images", "4", "--out", str(out))
    assert drawn.exit_code == 0 and out.exists(), drawn.output


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"channels": 3}, "takes grey images, those of digits RGB 8×8 are RGB"),
        ({"posterior": "sample"}, "which encodes to a point"),
        ({"latents": "nowhere"}, "data.latents: nowhere does not exist"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_trained(
    data: dict[str, Any], words: str, folder: Path, tmp_path: Path
) -> None:
    file, results = sweep_file(tmp_path / "sweep.yaml", folder / "tiny", **data), tmp_path / "results"
    refused = harness("sweep", str(file), "--results", str(results), "--cluster", "inline")
    assert isinstance(refused.exception, ConfigError | DataError) and words in str(refused.exception)
    assert not list(results.glob("runs/trainings/*/log.jsonl")) and not (results / "runs" / "latents").exists()


def test_a_training_on_latents_is_adapted(folder: Path, tmp_path: Path) -> None:
    """A network that predicts v reads no deviation; the light denoiser beside it is told that of scaled latents."""
    file, results = sweep_file(tmp_path / "sweep.yaml", folder / "tiny"), tmp_path / "results"
    made = harness("train", str(file), "--arm", "base", "--results", str(results), "--json")
    training = f"training:{json.loads(made.stdout)['training']}"
    for more, deviation in (([], 1.0), (["--set", "diffusion.sigma_data=0.8"], 0.8)):
        written = tmp_path / f"{deviation}.yaml"
        asked = ("adapt", training, "--results", str(results), "--set", "train.steps=10", "--dry-run", *more)
        told = harness(*asked, "--write", str(written))
        assert told.exit_code == 0, told.output + str(told.exception)
        cells = load_sweep(written).cells.values()
        assert {cell.experiment.diffusion.sigma_data for cell in cells if cell.rows[0][0] == "adapted"} == {deviation}


def test_weights_do_not_say_where_the_autoencoder_lies(folder: Path, tmp_path: Path) -> None:
    from harness.store.weights import load_facts

    shutil.copytree(folder / "tiny", tmp_path / "moved")
    for name, path in (("here", folder / "tiny"), ("there", tmp_path / "moved")):
        train_network(of(path), "t", tmp_path / name)
    files = [tmp_path / name / "weights.safetensors" for name in ("here", "there")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert "latents" not in json.loads(load_facts(files[0])["config"])["data"]
