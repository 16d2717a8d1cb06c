"""A first real result from one command: Tiny-ImageNet-100, four methods, three samplers, equal training compute.

    python tools/real_result.py --data FOLDER_OF_ZIPS --minutes 30

Measures how fast each network trains here, chooses steps so that all arms have equal training GMACs and the trainings
take about --minutes together, writes that down as a sweep file, and runs it by the harness's own functions: trainings,
images, distances in EfficientNet-Lite0 features, FLOPs, time, report. Cut off at any minute, the same command goes on:
the plan is kept, trainings have checkpoints, cells have shards. The table comes last.

On a GPU: bfloat16, compiled, the networks of sweeps/tiny_imagenet.yaml. On a CPU: small networks and few images, and
the title says so. Sampling and measuring come on top of --minutes.
"""

from __future__ import annotations

import argparse
import copy
import math
import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console

from harness.cli import experiment as single
from harness.cli import report as reporting
from harness.cli.console import console, main_of
from harness.config.values import plain
from harness.config.yamlfile import load_mapping
from harness.dispatch.checks import check_sweep
from harness.dispatch.local import run_inline
from harness.dispatch.plan import plan
from harness.dispatch.sweep import Sweep, load_experiment, load_sweep
from harness.engine.distributed import pick_device
from harness.engine.estimate import training_gmacs_per_step
from harness.engine.profiling import profile_training
from harness.errors import ConfigError
from harness.files import write_atomically, write_json
from harness.measure.latency import device_name
from harness.store.store import Store
from harness.store.weights import load_tensors, save_tensors

TEMPLATE = Path(__file__).parents[1] / "sweeps" / "tiny_imagenet.yaml"
TRAINED = ("base", "shrunk", "dual-rate")
"""Arms with a training of their own; the cached arm samples the base's."""
CHECKPOINT_SECONDS = 20.0
LARGEST_KEPT_BYTES = 5_000_000
AVERAGED_SHARE = 0.05
"""Half-life of the weights' average, as a share of the training's steps."""

ON_CPU: dict[str, Any] = {"train.precision": "float32", "train.compile": False} | {
    "sample.precision": "float32",
    "sample.compile": False,
}
SCALES: dict[str, dict[str, dict[str, Any]]] = {
    "gpu": {},
    "cpu": {
        "base": {
            **ON_CPU,
            "model.width": 48,
            "model.blocks": [1, 3],
            "model.head_width": 32,
            "model.embedding": 128,
            "train.batch": 64,
            "train.learning_rate": 1e-3,
            "sample.batch": 100,
            "measure.images": 1000,
            "measure.reference": "test",
            "measure.latency": {"batch": 50, "warmup": 1, "repeats": 3},
        },
        "shrunk": {"model.width": 24, "model.blocks": [2, 3]},
        "dual-rate": {
            "model.light_blocks": [1, 1],
            "model.light_levels": ["conv", "conv"],
            "model.context_entry": "block",
            "train.denoiser_times": 4,
        },
    },
    "trial": {
        "base": {
            **ON_CPU,
            "model.width": 8,
            "model.blocks": [1, 1],
            "model.head_width": 8,
            "model.embedding": 32,
            "train.batch": 16,
            "sample.batch": 16,
            "measure.images": 16,
            "measure.reference": "test",
            "measure.latency": {"batch": 4, "warmup": 0, "repeats": 1},
        },
        "shrunk": {"model.width": 8, "model.blocks": [1, 1], "model.multipliers": [1, 1]},
        "dual-rate": {"model.light_blocks": [1, 1]},
    },
}
"""What each scale changes of the template: for all arms (`base`), and for an arm of its own."""
GRIDS: dict[str, dict[str, list[Any]]] = {
    "cpu": {"single": [8, 16, 32], "refreshed": [[8, 4], [16, 4], [16, 8], [32, 8]]},
    "trial": {"single": [4], "refreshed": [[4, 2]]},
}
TITLES = {
    "gpu": "",
    "cpu": " (small networks, few images: sized for a CPU)",
    "trial": " (a trial of the path; the figures mean nothing)",
}


def scaled(scale: str, data: Path, size: int) -> dict[str, Any]:
    """The template at `scale`, as a sweep's mapping."""
    sweep = plain(load_mapping(TEMPLATE))
    sweep["title"] = f"Tiny-ImageNet-100 at {size}×{size} at equal training compute{TITLES[scale]}"
    changes = copy.deepcopy(SCALES[scale])
    _override(sweep["base"], {**changes.pop("base", {}), "data.path": str(data), "data.size": size})
    for arm, values in changes.items():
        sweep["arms"][arm]["set"] |= values
    if scale in GRIDS:
        for name, arm in sweep["arms"].items():
            if name in ("base", "shrunk"):
                arm["grid"]["sample.steps"] = GRIDS[scale]["single"]
            else:
                arm["grid"]["sample.steps, sample.refreshes"] = GRIDS[scale]["refreshed"]
        sweep["report"]["base_row"]["sample.steps"] = GRIDS[scale]["single"][-1]
    sweep["cluster"] = {}
    return sweep


def _override(base: dict[str, Any], values: dict[str, Any]) -> None:
    for dotted, value in values.items():
        section, _, key = dotted.partition(".")
        base[section][key] = value


def equal_compute_steps(
    gmacs_per_step: dict[str, float], seconds_per_step: dict[str, float], seconds: float
) -> dict[str, int]:
    """Steps of each arm so that all have equal GMACs, and take `seconds` together."""
    seconds_per_gmac = sum(seconds_per_step[arm] / gmacs_per_step[arm] for arm in gmacs_per_step)
    gmacs = seconds / seconds_per_gmac
    return {arm: max(1, round(gmacs / per_step)) for arm, per_step in gmacs_per_step.items()}


def make_plan(path: Path, scale: str, data: Path, size: int, minutes: float, out: Console) -> dict[str, Any]:
    """Measure each arm's training throughput, write the sweep file to `path`; returns what was measured and chosen."""
    sweep = scaled(scale, data, size)
    draft = path.with_suffix(".draft.yaml")
    write_atomically(draft, yaml.safe_dump(sweep, sort_keys=False, allow_unicode=True))
    measured: dict[str, dict[str, Any]] = {}
    for arm in TRAINED:
        experiment = load_experiment(draft, [], arm)
        summary = profile_training(experiment, None, timed=3 if scale == "trial" else 10)
        measured[arm] = {**summary, "gmacs_per_step": training_gmacs_per_step(experiment)}
        speed, flops = summary["images_per_second"], summary["tflops_achieved"]
        out.print(f"{arm}: training at {speed:,.0f} images/s, {flops:.3g} TFLOP/s", highlight=False)
    draft.unlink()
    steps = equal_compute_steps(
        {arm: m["gmacs_per_step"] for arm, m in measured.items()},
        {arm: m["seconds_per_step"] for arm, m in measured.items()},
        60 * minutes,
    )
    for arm, count in steps.items():
        every = max(1, round(CHECKPOINT_SECONDS / measured[arm]["seconds_per_step"]))
        _train_for(sweep["arms"][arm], count, every)
    sweep["arms"]["cached"]["set"] |= {k: v for k, v in sweep["arms"]["base"]["set"].items() if k.startswith("train.")}
    sweep["name"] = path.stem
    write_atomically(path, yaml.safe_dump(sweep, sort_keys=False, allow_unicode=True))
    return {
        "device": device_name(pick_device()),
        "planned": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "minutes": minutes,
        "steps": steps,
        "training_gmacs": {arm: steps[arm] * m["gmacs_per_step"] for arm, m in measured.items()},
        "measured": measured,
    }


def _train_for(arm: dict[str, Any], steps: int, checkpoint_every: int) -> None:
    arm.setdefault("set", {}).update(
        {
            "train.steps": steps,
            "train.warmup": min(500, steps // 20),
            "train.ema": round(math.exp(-math.log(2) / max(1.0, AVERAGED_SHARE * steps)), 6),
            "train.checkpoint_every": checkpoint_every,
            "train.log_every": max(1, checkpoint_every // 4),
        }
    )


def kept_plan(path: Path, data: Path) -> None:
    """Point the plan of an earlier call at where the data lie now."""
    sweep = plain(load_mapping(path))
    if sweep["base"]["data"]["path"] != str(data):
        sweep["base"]["data"]["path"] = str(data)
        write_atomically(path, yaml.safe_dump(sweep, sort_keys=False, allow_unicode=True))


def keep_weights(sweep: Sweep, store: Store, folder: Path, out: Console) -> None:
    """Copy each trained arm's weights beside the report: as they are, or in bfloat16 if only that is small enough."""
    for arm in TRAINED:
        training = next(c.training for c in sweep.cells.values() if any(name == arm for name, _ in c.rows))
        source = store.weights_path(training)
        if not store.is_trained(training):
            continue
        target = folder / f"{arm}.safetensors"
        if source.stat().st_size <= LARGEST_KEPT_BYTES:
            shutil.copyfile(source, target)
            continue
        tensors, metadata = load_tensors(source, training)
        rounded = {name: value.bfloat16() if value.is_floating_point() else value for name, value in tensors.items()}
        size = sum(value.nbytes for value in rounded.values())
        if size <= LARGEST_KEPT_BYTES:
            save_tensors(target, rounded, training, step=metadata["step"], rounded_to="bfloat16")
        else:
            out.print(f"{arm}: its weights stay at {source} ({size / 1e6:.0f} MB even in bfloat16)", highlight=False)


def run(scale: str, data: Path, size: int, minutes: float, results: Path) -> None:
    """All of it; exits with 1 if a training or a cell failed."""
    out, store = console(), Store(results)
    name = f"tiny-imagenet-{size}-{scale}-{minutes:g}min"
    path = store.runs / "real" / f"{name}.yaml"
    if path.exists():
        out.print(f"going on with the plan in {path}", highlight=False)
        kept_plan(path, data)
    else:
        write_json(path.with_suffix(".json"), make_plan(path, scale, data, size, minutes, out))
    sweep = load_sweep(path)
    planned = plan(sweep, store)
    failures: dict[str, str] = {}
    if planned.missing_cells:
        check_sweep(planned, store)
        outcome = run_inline(planned, store, out)
        failures = {str(target): why for group in (outcome.failed, outcome.blocked) for target, why in group.items()}
    made = reporting.make(sweep, store, failures, again=True)
    for file in (path, path.with_suffix(".json")):
        if file.exists():
            shutil.copyfile(file, made.folder / f"sweep{file.suffix}")
    keep_weights(sweep, store, made.folder, out)
    weights = made.folder / "dual-rate.safetensors"
    if weights.exists():
        file = made.folder / "sweep.yaml"
        asked = single.Drawing(64, made.folder / "dual-rate.png", overwrite=True)
        single.sample(file, [], "dual-rate", results, weights, asked, False)
        command = shlex.join(["harness", "sample", str(file), "--arm", "dual-rate", "--weights", str(weights)])
        out.print(f"draw more: {command}", highlight=False, markup=False)
    reporting.show(made, out)
    if failures:
        sys.exit(1)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of Tiny ImageNet's zips, train and val")
    parser.add_argument("--minutes", type=float, required=True, help="of training, all arms together")
    parser.add_argument("--size", type=int, default=32, help="side in pixels, by area downsampling")
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument(
        "--scale", choices=["auto", *SCALES], default="auto", help="auto: gpu if there is one, else cpu"
    )
    given = parser.parse_args(arguments)
    if given.minutes <= 0:
        raise ConfigError("--minutes", [f"{given.minutes:g} is not more than 0"])
    scale = given.scale if given.scale != "auto" else "gpu" if torch.cuda.is_available() else "cpu"
    run(scale, given.data, given.size, given.minutes, given.results)


if __name__ == "__main__":
    main_of(main, sys.argv[1:])
