"""Images and distances during training: the figures that a cell would have, and a training that does not notice."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.config.schema import Experiment
from harness.data import open_data
from harness.data.export import save_grid
from harness.dispatch.slurm.advice import seconds_per_step
from harness.engine import training_samples
from harness.engine.cell import first_images, load_generator, reference_of
from harness.engine.train import train_network
from harness.engine.training_samples import FOLDER, TrainingSamples, drawn_as, is_due
from harness.errors import ConfigError, DataError, Stopped
from harness.measure.fidelity import measure_quality
from harness.store.identity import identify
from harness.store.store import Store
from harness.store.training_log import SAMPLES as KEY
from harness.store.training_log import newest_samples
from harness.store.weights import load_tensors
from tests.harness.test_freeze import adapted, base
from tests.harness.test_loggers import TENSORBOARD, journal, wandb_records
from tests.harness.tiny import SWEEP, harness, weights, write_sweep
from tests.harness.tiny_experiments import MODEL, tiny

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
LEARNED: dict[str, Any] = {"train": {"noise_schedule": "learned"}, "sample": {"spacing": "noise_schedule"}}
TRAINED: dict[str, Experiment] = {
    "single_rate": tiny(model=LABELLED),
    "dual_rate": tiny("dual_rate", train={"loggers": ["tensorboard"]}),
    "cached": tiny(sample={"cache_from_level": 1, "refreshes": 2}),
    "learned noise schedule": tiny(**LEARNED),
    "sampled compiled": tiny(
        sample={"compile": True, "precision": "bfloat16"}, measure={"images": 8, "latency": {"warmup": 1}}
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
    experiment = TRAINED[name]
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


def drawn_by(experiment: Experiment, folder: Path) -> Tensor:
    """The first images of the network that a training has left, as its cell draws them."""
    generator = load_generator(experiment, folder / "weights.safetensors", torch.device("cpu"))
    return first_images(generator, experiment.sample.seeds[0], LOOKING["sample_images"])


def test_the_images_and_figures_are_those_of_a_cell_with_the_weights_of_the_moment(tmp_path: Path) -> None:
    """At each step against a training that ends there, whose images are drawn and measured as a cell's are."""
    experiment = tiny(
        "dual_rate", sample={"seeds": [3, 0], "sampler": "dpmpp_2m"}, measure={"metrics": ["precision_recall"]}
    )
    train_network(looking(experiment), "t", tmp_path / "seen")
    lines = samples_in(tmp_path / "seen")
    dataset = open_data(experiment.data)
    for step in (2, 4, 6):
        ended = experiment.model_copy(update={"train": experiment.train.model_copy(update={"steps": step})})
        train_network(ended, identify(ended)[0], tmp_path / str(step))
        images = drawn_by(ended, tmp_path / str(step))
        save_grid(images.numpy(), tmp_path / "grid.png")
        assert (tmp_path / "grid.png").read_bytes() == (tmp_path / "seen" / lines[step][KEY]).read_bytes()
        found = measure_quality(images, reference_of(experiment, dataset), experiment.measure)
        told = {key: value for key, value in lines[step].items() if key.endswith(" of 6 images")}
        assert told == {
            f"{measure['label']} of 6 images": pytest.approx(found["values"][name], rel=1e-4, abs=1e-5)
            for name, measure in found["measures"].items()
        }
        assert {"FD-digits of 6 images", "KD-digits of 6 images"} < told.keys()


def killed_at(step: int) -> Any:
    def progress(done: int, total: int) -> None:
        if done == step:
            raise KeyboardInterrupt

    return progress


def test_each_set_stands_once_and_is_the_same_whatever_was_killed(tmp_path: Path) -> None:
    experiment = looking(tiny("dual_rate"), sample_every=1, checkpoint_every=3, loggers=("tensorboard",))
    train_network(experiment, "t", tmp_path / "whole")
    cut = tmp_path / "cut"
    with pytest.raises(KeyboardInterrupt):
        train_network(experiment, "t", cut, progress=killed_at(5))
    assert list(samples_in(cut)) == [1, 2, 3, 4]
    (cut / FOLDER / "step-000005.png").write_bytes(b"drawn by a run whose log was lost")
    with pytest.raises(Stopped):  # at step 4, from step 3: a stop waits for a checkpoint, and for no images
        train_network(experiment, "t", cut, should_stop=lambda: True)
    assert list(samples_in(cut)) == [1, 2, 3] and list(grids(cut)) == [f"step-00000{n}.png" for n in (1, 2, 3)]
    train_network(experiment, "t", cut)
    assert without_time(samples_in(cut)) == without_time(samples_in(tmp_path / "whole"))
    assert grids(cut) == grids(tmp_path / "whole")
    for folder in (cut, tmp_path / "whole"):
        assert logged(folder) == {
            "samples/FD-digits_of_6_images": [1, 2, 3, 4, 5, 6],
            "samples/KD-digits_of_6_images": [1, 2, 3, 4, 5, 6],
            "samples": [1, 2, 3, 4, 5, 6],
        }


def logged(folder: Path) -> dict[str, list[int]]:
    """The steps of each tag of samples in the event files."""
    found: dict[str, list[int]] = {}
    for path in sorted(folder.rglob("events.*")):
        for event in TENSORBOARD.EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.tag.startswith("samples"):
                    found.setdefault(value.tag, []).append(event.step)
    return found


def test_a_run_of_wandb_has_each_set_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new_record: Any = pytest.importorskip("wandb.proto.wandb_internal_pb2").Record
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    experiment = looking(tiny(), loggers=("wandb",))
    with pytest.raises(KeyboardInterrupt):
        train_network(experiment, "abc123", tmp_path, progress=killed_at(5))
    train_network(experiment, "abc123", tmp_path)
    (file,) = tmp_path.rglob("run-abc123.wandb")
    steps, keys = list[int](), set[str]()
    for data in wandb_records(file):
        record = new_record()
        record.ParseFromString(data)
        items = {".".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
        if "samples/FD-digits of 6 images" in items:
            steps.append(int(items["_step"]))
            keys |= items.keys()
    assert steps == [2, 4, 6] and any(key.startswith("samples") and "path" in key for key in keys), keys
    shown = [path.name for path in tmp_path.rglob("media/images/samples_*.png")]
    assert sorted(int(name.split("_")[1]) for name in shown) == [2, 4, 6]


def test_a_kill_between_a_checkpoint_and_its_images_loses_neither(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = looking(tiny())
    take = TrainingSamples.take

    def killed(self: TrainingSamples, step: int, weights: Any) -> Any:
        if step == 4:
            raise KeyboardInterrupt
        return take(self, step, weights)

    monkeypatch.setattr(TrainingSamples, "take", killed)
    with pytest.raises(KeyboardInterrupt):
        train_network(experiment, "t", tmp_path)
    assert list(samples_in(tmp_path)) == [2] and list(tmp_path.glob("checkpoint-*4.safetensors"))
    monkeypatch.setattr(TrainingSamples, "take", take)
    train_network(experiment, "t", tmp_path)
    assert list(samples_in(tmp_path)) == [2, 4, 6]


def test_the_random_numbers_of_the_training_are_left_alone(tmp_path: Path) -> None:
    experiment = looking(tiny(model={"class_conditional": True}, train={"label_dropout": 0.5}, sample={"guidance": 2}))
    train_network(experiment, "t", tmp_path)
    samples = TrainingSamples(experiment, open_data(experiment.data), tmp_path, torch.device("cpu"))
    tensors, _ = load_tensors(tmp_path / "weights.safetensors", "t")
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert samples.take(6, tensors) is not None
    assert torch.equal(torch.get_rng_state(), before)


def test_its_time_is_not_the_trainings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second per set, against the wall: neither the record, nor what checkpoints keep, nor the log has it."""
    experiment, images = looking(tiny(), log_every=1), training_samples.first_images

    def slow(*arguments: Any) -> Tensor:
        time.sleep(1)
        return images(*arguments)

    monkeypatch.setattr(training_samples, "first_images", slow)
    started = time.monotonic()
    done = train_network(experiment, "t", tmp_path)
    wall = time.monotonic() - started
    rates = sum(line["seconds"] for line in journal(tmp_path) if "loss" in line)
    assert max(done["seconds"], done["seconds_of_last_run"], rates) <= wall - 3
    assert all(line["sample_seconds"] >= 1 for line in samples_in(tmp_path).values())
    assert done["images_per_second"] == pytest.approx(6 * 8 / done["seconds_of_last_run"], rel=0.01)


def test_a_failure_on_the_way_is_said_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*arguments: Any) -> Tensor:
        raise torch.OutOfMemoryError("tried to allocate 20 GiB")

    monkeypatch.setattr(training_samples, "first_images", full)
    with caplog.at_level(logging.WARNING, "harness"):
        train_network(looking(tiny()), "t", tmp_path)
    assert (tmp_path / "done.json").exists() and samples_in(tmp_path) == {}
    said = [record.getMessage() for record in caplog.records if "samples at step" in record.getMessage()]
    assert len(said) == 3 and "tried to allocate 20 GiB; the training goes on" in said[0]


def test_weights_of_the_extractor_that_are_missing_are_told_before_anything_is_trained(tmp_path: Path) -> None:
    looks = SWEEP.replace("steps: 30", "steps: 30, sample_every: 10").replace(
        "measure: {", "measure: {features: inception, weights: nowhere.pt, "
    )
    sweep, results = write_sweep(tmp_path, looks), tmp_path / "results"
    for arguments in (("train", sweep, "--arm", "base"), ("sweep", sweep)):
        done = harness(results, *arguments)
        assert done.returncode == 2 and "nowhere.pt" in done.stderr, done.stderr
    assert not list(tmp_path.rglob("log.jsonl")) and weights(results) == {}
    experiment = looking(tiny(measure={"images": 50, "features": "inception", "weights": "nowhere.pt"}))
    with pytest.raises(DataError, match="nowhere"):  # as on a node that lacks them
        train_network(experiment, "t", tmp_path / "t")
    assert not (tmp_path / "t").exists()


def test_through_the_command_line(tmp_path: Path) -> None:
    text = SWEEP.replace("steps: 30", "steps: 9, sample_every: 4, sample_images: 9").replace(
        "log_every: 5", "log_every: 2"
    )
    results = tmp_path / "results"
    done = harness(results, "train", write_sweep(tmp_path, text), "--arm", "dual-rate")
    assert done.returncode == 0, done.stderr
    (folder,) = (results / "runs" / "trainings").iterdir()
    assert list(samples_in(folder)) == [4, 8, 9] and list(grids(folder)) == [f"step-00000{n}.png" for n in (4, 8, 9)]
    assert len(list((results / "runs" / "references").iterdir())) == 1
    (folder / "done.json").rename(folder / "done.json.away")
    paces = [line["seconds"] for line in journal(folder) if "loss" in line]
    pace = seconds_per_step(Store(results), folder.name)
    assert pace is not None and min(paces) / 2 <= pace <= max(paces), "lines of samples have no pace"


STITCHED: dict[str, Any] = {
    "sample": {"stitch": "training:0123456789abcdef", "stitch_share": 0.5, "stitch_at": "last", "compile": True},
    "stitched": {"model": {**MODEL, "width": 16}},
    "measure": {"images": 8, "latency": {"warmup": 1}},
}


def test_what_needs_more_than_the_training_is_drawn_without_it() -> None:
    def sampled(experiment: Experiment) -> dict[str, Any]:
        return drawn_as(looking(experiment), 8).sample.model_dump(exclude_none=True)

    stitched = sampled(tiny(**STITCHED))
    assert not any(key.startswith("stitch") for key in stitched)
    assert not stitched["compile"] and stitched["steps"] == 4 and stitched["batch"] == 4
    for schedule in ("optimal", "ddt"):
        even = sampled(tiny("dual_rate", sample={"schedule": schedule, "refreshes": 3}))
        assert "schedule" not in even and even["refreshes"] == 3
    budget = sampled(tiny("dual_rate", sample={"schedule": "optimal", "budget": 1.0, "refreshes": None, "steps": 9}))
    assert budget["steps"] == 9 and budget["refreshes"] == 3
    placed = sampled(tiny("dual_rate", sample={"schedule": "random", "schedule_seed": 3, "refreshes": 3}))
    assert len(placed["refresh_steps"]) == 3
    assert sampled(tiny(sample={"batch": 500}))["batch"] == 6


def test_when() -> None:
    settings = looking(tiny(), sample_every=4, steps=10).train
    assert [step for step in range(11) if is_due(settings, step)] == [4, 8, 10]
    assert not any(is_due(tiny().train, step) for step in range(7))


def test_too_few_images_and_images_that_nobody_draws_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"train.sample_images: 2 are too few, .*precision_recall .*at least 4"):
        tiny(train={"sample_every": 2, "sample_images": 2}, measure={"images": 8, "precision_recall": True})
    with pytest.raises(ConfigError, match=r"sample_images: needs train.sample_every"):
        tiny(train={"sample_images": 8})
    assert tiny(train={"sample_every": 2}).train.samples == 64


def test_the_newest_are_told(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    assert newest_samples(log) == ""
    train_network(looking(tiny()), "t", tmp_path)
    line = samples_in(tmp_path)[6]
    with log.open("a") as file:
        file.write('{"step": 7, "loss": 1.0}\n{"step": 8, "sam')
    told = newest_samples(log)
    assert told.startswith(f"step 6: FD-digits of 6 images {line['FD-digits of 6 images']:.4g}, KD-digits of 6 images ")


def test_status_shows_them_while_a_training_runs(tmp_path: Path) -> None:
    """Held as by a job that is at work."""
    from harness.dispatch.plan import plan
    from harness.dispatch.status import read_status
    from harness.dispatch.sweep import load_sweep
    from harness.store.lease import lease

    sweep = load_sweep(write_sweep(tmp_path, SWEEP.replace("steps: 30", "steps: 30, sample_every: 20")), [])
    store = Store(tmp_path / "results")
    training = next(iter(sweep.trainings.values()))
    train_network(looking(training.experiment, steps=4), training.id, store.training_folder(training.id))
    (store.training_folder(training.id) / "done.json").unlink()
    store.set_state(training.target, state="running", started=time.time(), progress=[4, 30])
    with lease(store.lease_path(training.target)):
        rows = read_status(plan(sweep, store), store).rows
    assert rows[training.target].samples.startswith("step 4: FD-digits of 6 images ")
    assert not any(row.samples for target, row in rows.items() if target != training.target)
