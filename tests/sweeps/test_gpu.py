"""What a GPU is tried with, tried on a CPU: that each check can fail, and that nothing is lost when it is cut off."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.dispatch.sweep import load_experiment, load_sweep
from harness.errors import ConfigError
from models.samplers import SAMPLERS
from tools import gpu, gpu_items
from tools.gpu import Results
from tools.gpu_items import METHODS, QUALITY, SMOKE, TOLERANCES, Goal, Wrong, steps_within
from tools.made_images import make

CPU = torch.device("cpu")


def test_every_method_sampler_and_precision_is_tried_once() -> None:
    names = [item.name for item in gpu_items.smoke_items(CPU)]
    assert len(names) == len(set(names))
    drawn = {name for name in names if name.startswith("draw/")}
    ways = ("eager", "compiled")
    assert drawn == {f"draw/{m}/{s}/{p}/{way}" for m in METHODS for s in SAMPLERS for p in TOLERANCES for way in ways}
    assert {arm for arm, keys in load_sweep(SMOKE, []).config.arms.items() if keys.cells} == set(METHODS)
    trained = [name for name in names if name.startswith("train/")]
    assert len(trained) == 3 * len(METHODS)
    first_compiled = next(place for place, name in enumerate(names) if name.endswith("compiled"))
    assert not any(name.endswith("eager") for name in names[first_compiled:])
    assert {name.split("/")[1] for name in names[first_compiled : first_compiled + len(METHODS)]} == set(METHODS)


@pytest.mark.parametrize("method", METHODS)
def test_each_method_draws_and_learns(method: str) -> None:
    exact = gpu_items.draw(CPU, method, "ddim", "float32", False)
    assert exact["difference"] == 0 and not exact["cuda_graphs"]
    assert 0 < gpu_items.draw(CPU, method, "ddim", "bfloat16", False)["difference"] <= TOLERANCES["bfloat16"]
    assert gpu_items.train_step(CPU, method, "float32", False)["moved"] > 0


def test_compiled_and_tf32_take_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch.compile captures runs as it was captured, and TF32 is a setting that a CPU has no use for."""
    original = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, dynamic, mode=None: original(f, backend="eager", dynamic=dynamic))
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    assert gpu_items.draw(CPU, "base", "ddim", "tf32", True)["difference"] < 1e-5
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == before


def test_other_images_and_weights_that_do_not_move_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    reference = gpu_items.reference("base", "ddim")
    assert float(reference.std()) > 0.1, "images that are all the same would hide much"
    monkeypatch.setattr(gpu_items, "reference", lambda method, sampler: reference + 0.01)
    with pytest.raises(Wrong, match=r"differ by 0\.01 on average from the CPU's, over 0\.001"):
        gpu_items.draw(CPU, "base", "ddim", "float32", False)
    monkeypatch.setattr(gpu_items, "optimise", lambda *arguments: torch.tensor(1.0))
    with pytest.raises(Wrong, match="the average moved by 0"):
        gpu_items.train_step(CPU, "base", "float32", False)


def test_waiting_is_an_error_from_the_first_evaluation_to_the_end_of_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", told.append)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: told.append("synchronized"))

    def run(name: str, function: Any, *inputs: Any) -> Any:
        told.append(name)
        return function(*inputs)

    with gpu_items.waiting_is_an_error(torch.device("cuda")) as watch:
        watched = watch(run)
        assert told == []
        assert watched("first", max, 1, 2) == 2 and watched("second", max, 1, 2) == 2
    assert told == ["synchronized", "error", "first", "second", "default"]
    with pytest.raises(RuntimeError), gpu_items.synchronous_calls_raise(torch.device("cuda")):
        raise RuntimeError("called a synchronizing CUDA operation")
    assert told[-1] == "default"
    with pytest.raises(Wrong, match="ran no network"), gpu_items.waiting_is_an_error(CPU):
        pass


def test_steps_take_the_time_and_the_adaptation_its_share_of_the_compute() -> None:
    measured = {
        "base": {"seconds_per_step": 0.02, "gmacs_per_step": 400.0},
        "adapted": {"seconds_per_step": 0.05, "gmacs_per_step": 800.0},
    }
    steps = steps_within(measured, 300.0)
    assert sum(steps[arm] * measured[arm]["seconds_per_step"] for arm in steps) == pytest.approx(300, rel=1e-3)
    added = steps["adapted"] * 800.0 / (steps["base"] * 400.0)
    assert added == pytest.approx(gpu_items.ADDED, rel=1e-2)
    assert load_experiment(QUALITY, [], "adapted").train.freeze == ("encoder",)


def test_a_goal_from_below_and_from_above() -> None:
    assert Goal(0.85).is_met_by(0.85) and not Goal(0.85).is_met_by(0.84)
    assert Goal(0.03, is_most=True).is_met_by(0.03) and not Goal(0.03, is_most=True).is_met_by(0.031)


STUB = """
import json, os, sys, time
place = sys.argv[sys.argv.index("--out") + 1] + "/results.jsonl"
lines = open(place).read() if os.path.exists(place) else ""
def tell(item, state):
    with open(place, "a") as file:
        file.write(json.dumps({"item": item, "state": state}) + "\\n")
if "a" not in [json.loads(line)["item"] for line in lines.splitlines()]:
    tell("a", "begun")
    os._exit(7)
tell("b", "begun"); tell("b", "ok"); tell("c", "begun")
time.sleep(60)
"""


def test_an_item_that_kills_its_process_has_failed_and_one_that_hangs_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = tmp_path / "stub.py"
    stub.write_text(STUB)
    monkeypatch.setattr(gpu, "__file__", str(stub))
    monkeypatch.setattr(gpu, "GRACE", 0.5)
    started = time.monotonic()
    gpu.watched("smoke", tmp_path, 3.0, tiny=True)
    assert time.monotonic() - started < 30
    found = Results(tmp_path).newest()
    assert {item: line["state"] for item, line in found.items()} == {"a": "failed", "b": "ok", "c": "not reached"}
    assert found["a"]["error"] == "its process ended with 7"


def test_a_line_that_was_cut_off_in_writing_is_passed_over(tmp_path: Path) -> None:
    results = Results(tmp_path)
    results.add("one", "begun")
    results.add("one", "ok", value=3)
    results.add("two", "begun")
    with results.path.open("a") as file:
        file.write('{"item": "three", "sta')
    assert results.newest()["one"]["value"] == 3 and results.begun() == ["two"]
    results.add("four", "ok")
    assert list(results.newest()) == ["one", "two", "four"]


def test_from_one_command_to_its_table_and_on_from_where_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    asked = ["--out", str(out), "--tiny", "--minutes", "20", "--only", "dual-rate/ddim"]
    with pytest.raises(SystemExit) as ended:
        gpu.main([*asked, "--parts", "smoke", "quality"])
    told = capsys.readouterr()
    assert ended.value.code == 0, told.err
    found = Results(out).newest()
    states = {item: line["state"] for item, line in found.items()}
    assert states["smoke/draw/dual-rate/ddim/float32/eager"] == "ok"
    assert states["smoke/draw/dual-rate/ddim/tf32/eager"] == "needs CUDA"
    assert states["quality/plan"] == states["quality/sweep"] == "ok"
    rows = [item for item in found if item.startswith("quality/") and " steps" in item]
    assert rows == ["quality/base/2 steps", "quality/adapted/2 steps, 1 refreshes"]
    assert all(found[row]["FD-digits"] > 0 for row in rows)
    for word in ("needs CUDA", "smoke", "quality", "FD-digits"):
        assert word in told.out
    gpu.work("smoke", out, time.time() + 60, tiny=True, only="dual-rate/ddim")
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert sum(line["item"] == "smoke/draw/dual-rate/ddim/float32/eager" for line in lines) == 2, "begun and ok, once"


@pytest.mark.parametrize("arm", ["base", "dual-rate"])
def test_what_is_timed_is_told_with_its_goals(arm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU alone: the goals of a CPU's result are left open."""
    data = make(tmp_path / "made64.zip", 16, 64)
    small, paper = gpu_items.sizes(tiny=True)
    if arm == "base":
        told = gpu_items.sampling_speed(small, data, False)
        assert told["efficiency"] == pytest.approx(told["speed_up"] / told["flops_ratio"])
        assert told["flops_ratio"] > 1 and 0 < told["loop_share"] < 1 and told["dtype"] == "bfloat16"
    else:
        told = gpu_items.training_speed(paper, arm, data, False)
        assert told["images_per_second"] > 0 and told["precision"] == "bfloat16" and not told["compiled"]
    item = gpu_items.Item("timed", lambda: told, goals={"efficiency": Goal(0.85), "share_of_reference": Goal(0.4)})
    for device in ("cpu", "cuda"):
        gpu._try(item, f"speed/sampling/{device}", Results(tmp_path), torch.device(device))
    found = Results(tmp_path).newest()
    key = "efficiency" if arm == "base" else "share_of_reference"
    assert found["speed/sampling/cpu"]["goals"] == {}
    bound = 0.85 if arm == "base" else 0.4
    expected = {"bound": bound, "is_most": False, "met": told[key] >= bound}
    assert found["speed/sampling/cuda"]["goals"] == {key: expected}


def test_bad_input_and_a_folder_of_another_device_are_refused(tmp_path: Path) -> None:
    for key, value in (("--minutes", "0"), ("--data", str(tmp_path / "nowhere"))):
        with pytest.raises(ConfigError, match=key):
            gpu.main(["--out", str(tmp_path / "out"), key, value])
    assert not (tmp_path / "out").exists()
    Results(tmp_path).add("conditions", "ok", device="NVIDIA H100 80GB HBM3", commit="0" * 40)
    with pytest.raises(ConfigError, match="has results of device NVIDIA H100 80GB HBM3, this is"):
        gpu.main(["--out", str(tmp_path), "--tiny"])
