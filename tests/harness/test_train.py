"""Training: whatever is done for speed leaves the result as it was."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.benchmarks.training import denoiser_times_cost, loader_alone
from harness.config.schema import Experiment
from harness.data import batches, open_data
from harness.engine import compiling
from harness.engine.distributed import Ranks
from harness.engine.profiling import describe_profile, profile_training
from harness.engine.train import Diverged, State, build_training, micro_batch_of, optimise, train_network
from harness.errors import Stopped, StoreError
from harness.measure.flops import network_costs, training_macs_per_step
from harness.measure.peaks import PEAK_TFLOPS, peak_tflops, reference_tflops
from harness.store import checkpoints
from harness.store.checkpoints import CheckpointWriter
from harness.store.weights import load_tensors
from tests.harness.tiny_experiments import tiny
from tests.harness.two_ranks import Training, train_by_two

KINDS = ["single_rate", "dual_rate"]
CPU = torch.device("cpu")


def trained(experiment: Experiment, folder: Path) -> dict[str, Tensor]:
    """The weights that a whole training leaves."""
    train_network(experiment, "t", folder)
    return load_tensors(folder / "weights.safetensors", "t")[0]


def close(one: dict[str, Tensor], other: dict[str, Tensor], tolerance: float) -> bool:
    return one.keys() == other.keys() and all(
        torch.allclose(one[k].float(), other[k].float(), rtol=0, atol=tolerance) for k in one
    )


def run_steps(experiment: Experiment, steps: int = 3) -> tuple[State, list[float]]:
    """A training's state and losses after a few steps."""
    dataset = open_data(experiment.data)
    state, objective = build_training(experiment, dataset.info, CPU)
    losses = []
    for batch in batches(dataset, experiment.train.batch, experiment.seed, 0, steps):
        micro_batch = micro_batch_of(experiment.train, Ranks())
        losses.append(float(optimise(state, objective, experiment, batch, micro_batch, CPU)))
        state.step += 1
    return state, losses


class StopAt:
    """Asks to stop once, when it has been looked at `calls` times."""

    def __init__(self, calls: int) -> None:
        self.calls = calls

    def __call__(self) -> bool:
        self.calls -= 1
        return self.calls == 0


@pytest.mark.parametrize("kind", KINDS)
def test_resumed_at_any_step_is_uninterrupted_bit_for_bit(kind: str, tmp_path: Path) -> None:
    experiment = tiny(kind, train={"label_dropout": 0.2, "translation": 1}, model={"class_conditional": True})
    whole = trained(experiment, tmp_path / "whole")
    for stop in (1, 4):
        folder = tmp_path / f"stopped-{stop}"
        with pytest.raises(Stopped):
            train_network(experiment, "t", folder, should_stop=StopAt(stop))
        newest = checkpoints.checkpoints(folder)[0]
        assert newest.name == f"checkpoint-{stop:09d}.safetensors"
        resumed = trained(experiment, folder)
        assert all(torch.equal(whole[name], resumed[name]) for name in whole)
        lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == [2, 4, 6]
        assert not checkpoints.checkpoints(folder)


def test_killed_between_checkpoints_is_uninterrupted_bit_for_bit(tmp_path: Path) -> None:
    experiment = tiny()
    whole = trained(experiment, tmp_path / "whole")

    def die(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_network(experiment, "t", tmp_path / "killed", progress=die)
    assert checkpoints.checkpoints(tmp_path / "killed")[0].name == "checkpoint-000000004.safetensors"
    resumed = trained(experiment, tmp_path / "killed")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize("kind", KINDS)
def test_accumulation_changes_nothing_but_rounding(kind: str, tmp_path: Path) -> None:
    options = {"translation": 1, "flip": True, "steps": 3}
    whole = trained(tiny(kind, train=options), tmp_path / "whole")
    parts = trained(tiny(kind, train=options | {"accumulate": 4}), tmp_path / "parts")
    assert close(whole, parts, 1e-5)
    assert not close(whole, trained(tiny(kind, train=options | {"batch": 4}), tmp_path / "smaller"), 1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_activation_checkpointing_gives_the_same_gradients(kind: str) -> None:
    plain, _ = run_steps(tiny(kind))
    saving, _ = run_steps(tiny(kind, train={"checkpoint_activations": True}))
    gradients = [[p.grad for p in state.model.parameters()] for state in (plain, saving)]
    for one, other in zip(*gradients, strict=True):
        assert (one is None and other is None) or torch.equal(one, other)


def test_bfloat16_has_float32_master_weights_and_is_near_float32() -> None:
    half, losses = run_steps(tiny("dual_rate", train={"precision": "bfloat16"}))
    _, exact = run_steps(tiny("dual_rate"))
    assert {v.dtype for v in half.tensors().values() if v.is_floating_point()} == {torch.float32}
    assert losses != exact and losses == pytest.approx(exact, rel=0.02)


def test_average_is_the_ramped_exponential_average() -> None:
    experiment = tiny(train={"ema": 0.3})
    name = "network.embed.weight"
    dataset = open_data(experiment.data)
    state, objective = build_training(experiment, dataset.info, CPU)
    expected = state.model.state_dict()[name].clone()
    for step, batch in enumerate(batches(dataset, 8, 0, 0, 4)):
        optimise(state, objective, experiment, batch, 8, CPU)
        decay = min(0.3, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * state.model.state_dict()[name]
        state.step += 1
    torch.testing.assert_close(state.average[name], expected)
    assert not torch.equal(state.average[name], state.model.state_dict()[name])


def test_compiled_networks_train_the_same_and_compile_once(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs: list[object] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        graphs.append(graph)
        return graph.forward

    original = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda function, dynamic, mode: original(function, backend=backend, dynamic=dynamic)
    )
    experiment = tiny("dual_rate")
    plain, _ = run_steps(experiment, 4)
    compiled, _ = run_steps(tiny("dual_rate", train={"compile": True}), 4)
    compiling.prepare_dynamo()
    assert len(graphs) == 2  # encoder and denoiser, once each, however many steps
    assert close(plain.model.state_dict(), compiled.model.state_dict(), 1e-6)
    assert plain.tensors().keys() == compiled.tensors().keys()


def test_two_processes_train_what_one_does(tmp_path: Path) -> None:
    options = {"steps": 3, "accumulate": 2, "translation": 1, "context_dropout": 0.0}  # an unused parameter, too
    experiment = tiny("dual_rate", train=options)
    train_by_two(Training(experiment, tmp_path / "two"))
    one = trained(experiment, tmp_path / "one")
    two, _ = load_tensors(tmp_path / "two" / "weights.safetensors", "t")
    assert close(one, two, 1e-5)
    assert json.loads((tmp_path / "two" / "done.json").read_text())["ranks"] == 2


def test_a_checkpoint_is_a_snapshot_and_never_two_are_written_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing, most = 0, 0
    lock = threading.Lock()
    save = checkpoints.save_tensors

    def slow_save(*arguments: Any, **options: Any) -> None:
        nonlocal writing, most
        with lock:
            writing += 1
            most = max(most, writing)
        time.sleep(0.05)
        save(*arguments, **options)
        with lock:
            writing -= 1

    monkeypatch.setattr(checkpoints, "save_tensors", slow_save)
    value = torch.zeros(3)
    with CheckpointWriter(tmp_path, "t", kept=2) as writer:
        for step in range(1, 5):
            writer.write({"value": value}, step)
            assert writing <= 1
            value += 1  # while the thread sleeps: what is written must not see it
    assert most == 1
    assert [path.name[11:20] for path in checkpoints.checkpoints(tmp_path)] == ["000000004", "000000003"]
    for path, expected in zip(checkpoints.checkpoints(tmp_path), (3.0, 2.0), strict=True):
        assert load_tensors(path, "t")[0]["value"].tolist() == [expected] * 3


def test_a_failed_write_ends_the_training_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "save_tensors", full)
    with pytest.raises(StoreError, match=r"checkpoint-000000002.*could not be written: No space left on device"):
        train_network(tiny(), "t", tmp_path)
    assert not (tmp_path / "done.json").exists()


def test_what_ended_a_training_comes_before_a_failed_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any, **options: Any) -> None:
        time.sleep(0.2)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "save_tensors", full)
    with pytest.raises(Diverged), CheckpointWriter(tmp_path, "t") as writer:
        writer.write({"value": torch.zeros(1)}, 1)
        raise Diverged


def test_profile_states_flops_of_the_model_and_leaves_a_trace(tmp_path: Path) -> None:
    experiment = tiny("dual_rate", train={"denoiser_times": 2})
    summary = profile_training(experiment, tmp_path / "trace.json", timed=2)
    model = build_training(experiment, open_data(experiment.data).info, CPU)[0].model
    costs = network_costs(model, (1, 8, 8), training=True)
    assert summary["gmacs_per_step"] * 1e9 == 3 * 8 * (costs["encoder"].macs + 2 * costs["denoiser"].macs)
    assert summary["gmacs_per_step"] * 1e9 == training_macs_per_step(costs, 8, runs={"denoiser": 2})
    expected = 2 * summary["gmacs_per_step"] / summary["seconds_per_step"] / 1e3
    assert summary["tflops_achieved"] == pytest.approx(expected)
    assert 0 < summary["share_of_reference"] < 1 and "measured here" in summary["reference"]
    assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert any("TFLOP/s" in line for line in describe_profile(summary))


def test_reusing_an_encoder_pass_lowers_the_cost_per_denoiser_time() -> None:
    one, four = denoiser_times_cost(tiny("dual_rate"), [1, 4], steps=1)
    experiment = tiny("dual_rate")
    model = build_training(experiment, open_data(experiment.data).info, CPU)[0].model
    encoder, denoiser = (cost.macs for cost in network_costs(model, (1, 8, 8), training=True).values())
    saving = (encoder / 4 + denoiser) / (encoder + denoiser)
    assert four["gmacs_per_time"] / one["gmacs_per_time"] == pytest.approx(saving)
    assert four["seconds_per_time"] == four["seconds_per_step"] / 32
    assert loader_alone(experiment, seconds=0.05)["images_per_second"] > 0


def test_peaks_are_known_or_said_to_be_unknown() -> None:
    assert peak_tflops("NVIDIA H100 80GB HBM3", "bfloat16") == 989.4
    assert peak_tflops("NVIDIA A100-SXM4-80GB", "float32") == 19.5
    assert peak_tflops("NVIDIA L40S", "bfloat16") == PEAK_TFLOPS["L40S"].bfloat16
    assert peak_tflops("NVIDIA L4", "bfloat16") == PEAK_TFLOPS["L4"].bfloat16
    assert peak_tflops("NVIDIA H1000", "bfloat16") is None
    peak, what = reference_tflops(torch.device("cuda"), "Some Card", "bfloat16")
    assert peak is None and what == "peak unknown for Some Card"
