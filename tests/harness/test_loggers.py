"""TensorBoard and W&B: each step once whatever was killed, and the training as it is without them."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from harness.engine import loggers
from harness.engine.loggers import Loggers, check_loggers, learning_rate
from harness.engine.train import build_training, train_network
from harness.errors import ConfigError, Stopped
from harness.store.identity import identify
from tests.harness.processes import command_started
from tests.harness.tiny import SWEEP, harness, invoke, weights, write_sweep
from tests.harness.tiny_experiments import tiny

TENSORBOARD = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")


def points(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of each tag in all event files of a folder, as they stand: nothing is purged by the reader."""
    found: dict[str, list[tuple[int, float]]] = {}
    for path in sorted(folder.rglob("events.*")):
        for event in TENSORBOARD.EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.tag.startswith("train/"):
                    found.setdefault(value.tag, []).append((event.step, value.tensor.float_val[0]))
    return found


def journal(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_every_line_of_the_log_is_there_once(tmp_path: Path) -> None:
    experiment = tiny("single_rate", train={"steps": 20, "log_every": 5, "warmup": 9, "loggers": ("tensorboard",)})
    train_network(experiment, "t", tmp_path)
    logged, lines = points(tmp_path), journal(tmp_path)
    assert [step for step, _ in logged["train/loss"]] == [5, 10, 15, 20] == [line["step"] for line in lines]
    assert [value for _, value in logged["train/loss"]] == pytest.approx([line["loss"] for line in lines])
    assert logged.keys() == {"train/loss", "train/learning_rate", "train/images_per_second"}


def test_the_learning_rate_is_the_optimisers(tmp_path: Path) -> None:
    """Against the rate that the optimiser has after each step."""
    from harness.data import batches, open_data
    from harness.engine.distributed import pick_device
    from harness.engine.train import optimise

    experiment = tiny("single_rate", train={"steps": 6, "warmup": 3})
    dataset = open_data(experiment.data)
    state, objective = build_training(experiment, dataset.info, pick_device())
    for batch in batches(dataset, experiment.train.batch, experiment.seed, 0, 6):
        optimise(state, objective, experiment, batch, experiment.train.batch, pick_device())
        state.step += 1
        assert learning_rate(experiment.train, state.step) == pytest.approx(state.optimizer.param_groups[0]["lr"])


def test_a_stopped_training_that_goes_on_has_each_step_once(tmp_path: Path) -> None:
    settings = {"steps": 20, "log_every": 2, "checkpoint_every": 6, "loggers": ("tensorboard",)}
    experiment = tiny("single_rate", train=settings)
    seen = []

    def stop() -> bool:
        seen.append(1)
        if len(seen) == 10:  # as a kill does: the log has step 10, the last checkpoint step 6
            raise RuntimeError("killed")
        return False

    with pytest.raises(RuntimeError, match="killed"):
        train_network(experiment, "t", tmp_path, should_stop=stop)
    assert [step for step, _ in points(tmp_path)["train/loss"]][-1] == 10
    with pytest.raises(Stopped):
        train_network(experiment, "t", tmp_path, should_stop=lambda: True)
    train_network(experiment, "t", tmp_path)
    assert [step for step, _ in points(tmp_path)["train/loss"]] == list(range(2, 21, 2))


def test_a_killed_process_that_goes_on_has_each_step_once(tmp_path: Path) -> None:
    text = SWEEP.replace("steps: 30", "steps: 150, loggers: [tensorboard]").replace(
        "checkpoint_every: 5", "checkpoint_every: 20"
    )
    sweep, results = write_sweep(tmp_path, text), tmp_path / "results"
    process = command_started(results, "train", sweep, "--arm", "base")
    deadline = time.monotonic() + 200
    while process.is_alive() and time.monotonic() < deadline:
        if list(results.rglob("checkpoint-*.safetensors")):
            break
        time.sleep(0.01)
    process.kill()
    process.join()
    assert not list(results.rglob("done.json"))
    invoke("train", sweep, "--arm", "base", "--results", results)
    (folder,) = (results / "runs" / "trainings").iterdir()
    assert [step for step, _ in points(folder)["train/loss"]] == list(range(5, 151, 5))


@pytest.mark.parametrize("kind", ["single_rate", "dual_rate"])
def test_weights_and_ids_are_the_same_with_and_without(kind: str, tmp_path: Path) -> None:
    plain = tiny(kind, train={"steps": 6, "log_every": 2})
    logged = tiny(kind, train={"steps": 6, "log_every": 2, "loggers": ("tensorboard",)})
    assert identify(plain) == identify(logged)
    hashes = [train_network(e, "t", tmp_path / str(i))["weights_sha256"] for i, e in enumerate((plain, logged))]
    from harness.store.weights import load_tensors

    one, other = (load_tensors(tmp_path / str(i) / "weights.safetensors", "t")[0] for i in range(2))
    assert one.keys() == other.keys() and all((one[name] == other[name]).all() for name in one)
    assert len(hashes) == 2


class Failing:
    """A logger that fails at a step."""

    def __init__(self, folder: Path, training: str, experiment: object, at: int = 4) -> None:
        self.at, self.steps = at, list[int]()
        if at == 0:
            raise RuntimeError("no room")

    def add(self, step: int, values: Mapping[str, float]) -> None:
        self.steps.append(step)
        if step == self.at:
            raise OSError("the server is gone")

    def close(self) -> None:
        raise AssertionError("a logger that has failed is not closed")


@pytest.mark.parametrize(("at", "said"), [(0, "no room"), (4, "the server is gone")])
def test_one_that_fails_is_said_once_and_stops_nothing(
    at: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made: list[Failing] = []

    def make(folder: Path, training: str, experiment: object) -> Failing:
        made.append(Failing(folder, training, experiment, at))
        return made[-1]

    monkeypatch.setitem(loggers.LOGGERS, "wandb", make)
    experiment = tiny("single_rate", train={"steps": 10, "log_every": 2, "loggers": ("wandb", "tensorboard")})
    with caplog.at_level(logging.WARNING, "harness"):
        train_network(experiment, "t", tmp_path)
    assert (tmp_path / "done.json").exists()
    messages = [record.getMessage() for record in caplog.records if "logger" in record.getMessage()]
    assert len(messages) == 1 and said in messages[0] and "goes on without it" in messages[0]
    assert len(points(tmp_path)["train/loss"]) == 5 and (at == 0 or made[0].steps == [2, 4])


def test_the_first_rank_alone_logs(tmp_path: Path) -> None:
    experiment = tiny("single_rate", train={"loggers": ("tensorboard",)})
    with Loggers(experiment, "t", tmp_path, [], is_first=False) as none:
        none.add({"step": 1, "loss": 1.0})
    assert list(tmp_path.iterdir()) == []


def test_off_unless_asked_for(tmp_path: Path) -> None:
    experiment = tiny("single_rate", train={"steps": 2})
    assert experiment.train.loggers is None
    train_network(experiment, "t", tmp_path)
    assert not (tmp_path / loggers.FOLDER).exists()


def test_one_that_is_not_installed_is_told_before_anything_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = tiny("single_rate", train={"loggers": ("tensorboard", "wandb")})
    monkeypatch.setattr(loggers, "find_spec", lambda name: None if name == "wandb" else object())
    with pytest.raises(ConfigError, match=r"wandb: not installed; pip install 'dual-rate-harness\[wandb\]'"):
        check_loggers([experiment])
    check_loggers([tiny("single_rate", train={"loggers": ("tensorboard",)}), tiny("single_rate")])


def test_an_unknown_one_names_the_choices(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path, SWEEP.replace("steps: 30", "steps: 30, loggers: [tensorbord]"))
    done = harness(tmp_path, "train", sweep, "--arm", "base")
    assert done.returncode == 2 and "train.loggers" in done.stderr and "tensorboard" in done.stderr
    assert weights(tmp_path) == {}


BLOCK, HEADER = 32_768, 7
WHOLE, LAST = 1, 4


def wandb_records(file: Path) -> Iterator[bytes]:
    """The records of a file of W&B's: those of LevelDB's log format, after seven bytes that name it."""
    content, at, parts = file.read_bytes(), HEADER, b""
    assert content[:4] == b":W&B"
    while at + HEADER <= len(content):
        if BLOCK - at % BLOCK < HEADER:  # too little is left in the block for a header
            at += BLOCK - at % BLOCK
            continue
        length, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        parts += content[at + HEADER : at + HEADER + length]
        at += HEADER + length
        if kind in (WHOLE, LAST):
            yield parts
            parts = b""


def test_a_run_of_wandb_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline, resumed after a kill: one file with each step once, and nothing of this machine in it."""
    new_record: Any = pytest.importorskip("wandb.proto.wandb_internal_pb2").Record

    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    settings = {"steps": 8, "log_every": 2, "checkpoint_every": 4, "loggers": ("wandb",)}
    experiment = tiny("single_rate", train=settings)
    seen = []

    def stop() -> bool:
        seen.append(1)
        if len(seen) == 6:
            raise RuntimeError("killed")
        return False

    with pytest.raises(RuntimeError, match="killed"):
        train_network(experiment, "abc123", tmp_path, should_stop=stop)
    train_network(experiment, "abc123", tmp_path)
    (file,) = tmp_path.rglob("run-abc123.wandb")
    logged, hosts = list[tuple[int, float]](), set[str]()
    for data in wandb_records(file):
        record = new_record()
        record.ParseFromString(data)
        hosts |= {record.run.host} - {""}
        items = {".".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
        if items:
            logged.append((int(items["_step"]), float(items["train/loss"])))
    assert [step for step, _ in logged] == [2, 4, 6, 8]
    assert [loss for _, loss in logged] == pytest.approx([line["loss"] for line in journal(tmp_path)])
    assert hosts == {"-"}
