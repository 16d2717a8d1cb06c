"""What tools/gpu.py tries of a device, item by item, with the harness's own functions."""

from __future__ import annotations

import contextlib
import gc
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from harness.benchmarks.speed import LEAST_EFFICIENCY, MOST_LOOP_SHARE, compare
from harness.config.schema import Experiment
from harness.data import batches
from harness.dispatch.sweep import load_experiment
from harness.engine.distributed import Ranks
from harness.engine.estimate import training_gmacs_per_step
from harness.engine.profiling import profile_training
from harness.engine.sampling import ImageGenerator, fresh_generator
from harness.engine.train import build_training, micro_batch_of, optimise, training_data
from harness.files import write_atomically
from models.method import RunNetwork
from models.samplers import SAMPLERS

ROOT = Path(__file__).parents[1]
SMOKE, QUALITY = ROOT / "tools" / "gpu_smoke.yaml", ROOT / "tools" / "gpu_quality.yaml"
METHODS = ("base", "dual-rate", "adapted", "cached", "forecast", "guided", "stitched", "student", "edm-unet")
"""Arms of the smoke's file."""
TOLERANCES = {"float32": 1e-3, "tf32": 1e-2, "bfloat16": 2e-2}
"""Largest mean difference from the CPU's images in float32, which lie in [-1, 1].

In bfloat16 those of a CPU differ by up to 0.005."""
LEAST_SHARE_OF_PEAK = 0.4
"""Of the device's bfloat16 peak, in training."""
CAPTURED_AFTER = 3
"""Draws after which each network has been compiled, warmed up and captured, however seldom a draw runs it."""
IMAGES = 4
SPREAD = 0.1
"""Of what is added to fresh weights: layers that begin at zero would hide what is before them."""


@dataclass(frozen=True)
class Goal:
    """A bound on a number of a result, from below unless `is_most`."""

    bound: float
    is_most: bool = False

    def is_met_by(self, value: float) -> bool:
        return value <= self.bound if self.is_most else value >= self.bound


COMPILED = "compiled"


@dataclass(frozen=True)
class Item:
    """Something to try: `run` returns its numbers, and raises where it fails."""

    name: str
    run: Callable[[], dict[str, Any]]
    needs_cuda: bool = False
    goals: Mapping[str, Goal] = field(default_factory=dict)
    """On a GPU."""


def free_memory() -> None:
    """Give back what an item has held of the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class Wrong(AssertionError):
    """What was computed is not what it should be."""


# ---- smoke -----------------------------------------------------------------------------------------------------------


def smoke_items(device: torch.device, methods: tuple[str, ...] = METHODS) -> list[Item]:
    """Every sampler × method × precision, then training steps, then the same compiled; those that tell most first."""

    def drawing(tried: Iterable[tuple[str, str, str]], way: str) -> list[Item]:
        """Of each (precision, method, sampler)."""
        return [
            Item(
                f"draw/{method}/{sampler}/{precision}/{way}",
                partial(draw, device, method, sampler, precision, way == COMPILED),
                needs_cuda=way == COMPILED or precision == "tf32",
            )
            for precision, method, sampler in tried
        ]

    def training(tried: Iterable[tuple[str, str]], way: str) -> list[Item]:
        """Of each (precision, method)."""
        return [
            Item(
                f"train/{method}/{precision}/{way}",
                partial(train_step, device, method, precision, way == COMPILED),
                needs_cuda=way == COMPILED,
            )
            for precision, method in tried
        ]

    # a compiled network is the same under every sampler, so one sampler of each method comes before all
    pairs = sorted(product(SAMPLERS, ("bfloat16", "float32", "tf32")), key=lambda pair: (pair[0] != "ddim", pair[1]))
    compiled = [(precision, method, sampler) for (sampler, precision), method in product(pairs, methods)]
    return [
        *drawing(product(("float32", "bfloat16", "tf32"), methods, SAMPLERS), "eager"),
        *training(product(("float32", "bfloat16"), methods), "eager"),
        *drawing(compiled[: len(methods)], COMPILED),
        *training((("bfloat16", method) for method in methods), COMPILED),
        *drawing(compiled[len(methods) :], COMPILED),
    ]


def smoke_experiment(method: str, sampler: str, precision: str, compiled: bool) -> Experiment:
    stored = "bfloat16" if precision == "bfloat16" else "float32"
    keys = {"sampler": sampler, "precision": stored, "compile": str(compiled).lower(), "batch": IMAGES}
    return load_experiment(SMOKE, [f"sample.{key}={value}" for key, value in keys.items()], method)


def draw(device: torch.device, method: str, sampler: str, precision: str, compiled: bool) -> dict[str, Any]:
    """Images drawn with every wait for the device an error, after draws that warm up; held against the CPU's."""
    generator = filled(smoke_experiment(method, sampler, precision, compiled), device)
    indices = torch.arange(IMAGES)
    with tensor_float_32(precision == "tf32"):
        for _ in range(CAPTURED_AFTER if compiled else 1):
            generator.draw(0, indices)
        with waiting_is_an_error(device) as watch:
            images = generator.draw(0, indices, watch=watch)
    difference = float((images.cpu() - reference(method, sampler)).abs().mean())
    result = {"difference": difference, "tolerance": TOLERANCES[precision], "cuda_graphs": generator.cuda_graphs}
    if not difference <= TOLERANCES[precision]:
        raise Wrong(f"the images differ by {difference:.2g} on average from the CPU's, over {TOLERANCES[precision]:g}")
    if compiled and device.type == "cuda" and not generator.cuda_graphs:
        raise Wrong("a network was not captured as a CUDA graph")
    return result


@lru_cache(maxsize=64)
def reference(method: str, sampler: str) -> Tensor:
    """The images in float32 on the CPU, not compiled."""
    generator = filled(smoke_experiment(method, sampler, "float32", False), torch.device("cpu"))
    return generator.draw(0, torch.arange(IMAGES))


def filled(experiment: Experiment, device: torch.device) -> ImageGenerator:
    """A generator of fresh weights, the same on every device, of which none are zero."""
    generator = fresh_generator(experiment, device)
    random = torch.Generator().manual_seed(1)
    networks = [generator.trained_model, *([] if generator.second is None else [generator.second])]
    for parameter in (parameter for network in networks for parameter in network.parameters()):
        parameter.add_(SPREAD * torch.randn(parameter.shape, generator=random).to(device))
    return generator


def train_step(device: torch.device, method: str, precision: str, compiled: bool) -> dict[str, Any]:
    """Two iterations, the second with every wait for the device an error: losses are finite and weights move."""
    experiment = load_experiment(
        SMOKE, [f"train.precision={precision}", f"train.compile={str(compiled).lower()}"], method
    )
    dataset = training_data(experiment)
    state, objective = build_training(experiment, dataset.info, device)
    micro_batch = micro_batch_of(experiment.train, Ranks())
    before = {name: value.detach().clone() for name, value in state.average.items()}
    pinned = device.type == "cuda"
    stream = batches(dataset, experiment.train.batch, experiment.seed, 0, 2, pin_memory=pinned)
    losses = []
    for step, batch in enumerate(stream):
        with synchronous_calls_raise(device) if step else contextlib.nullcontext():
            losses.append(optimise(state, objective, experiment, batch, micro_batch, device))
        state.step += 1
    told = [float(loss) for loss in losses]
    moved = max(float((state.average[name] - value).abs().max()) for name, value in before.items())
    if not all(map(math.isfinite, told)) or not moved > 0:
        raise Wrong(f"losses {told}, the average moved by {moved:.2g}")
    return {"loss": told[-1], "moved": moved}


@contextlib.contextmanager
def tensor_float_32(allowed: bool) -> Iterator[None]:
    """TF32 in matrix products and convolutions, or in neither: PyTorch's default is in convolutions alone."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


@contextlib.contextmanager
def synchronous_calls_raise(device: torch.device) -> Iterator[None]:
    """Whatever makes the host wait for the device raises within the block; nothing on a CPU."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.synchronize(device)
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@contextlib.contextmanager
def waiting_is_an_error(device: torch.device) -> Iterator[Callable[[RunNetwork], RunNetwork]]:
    """What to put around a :class:`RunNetwork` so that from the first evaluation on nothing may wait for the device."""
    with contextlib.ExitStack() as stack:
        entered: list[bool] = []

        def around(run: RunNetwork) -> RunNetwork:
            def watched(name: str, function: Callable[..., Any], *inputs: Any) -> Any:
                if not entered:
                    entered.append(True)
                    stack.enter_context(synchronous_calls_raise(device))
                return run(name, function, *inputs)

            return watched

        yield around
    if not entered:
        raise Wrong("the sampling loop ran no network")


# ---- speed -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Size:
    """Networks whose speed is measured: an arm of a file, what is set of it, and what of it for training alone."""

    name: str
    file: Path
    keys: tuple[str, ...]
    train: tuple[str, ...]


def sizes(tiny: bool) -> list[Size]:
    """Small networks and the paper's, both at 64×64; with `tiny` their miniatures, at 16×16."""
    folder = ROOT / "sweeps" / "miniature" if tiny else ROOT / "sweeps"
    plain = (f"data.size={16 if tiny else 64}", "sample.sampler=ddim")
    cut: tuple[str, ...]
    if tiny:
        cut = (*plain, "sample.steps=2", "sample.refreshes=1", "sample.batch=2", "measure.latency.batch=2")
        cut += ("measure.latency.warmup=1", "measure.latency.repeats=1")
        of = {"small": ("train.batch=2",), "imagenet64": ("train.batch=2", "train.workers=0")}
    else:
        cut = (*plain, "sample.steps=16", "sample.refreshes=4", "measure.latency.warmup=2", "measure.latency.repeats=3")
        of = {"small": ("train.batch=256",), "imagenet64": ("train.batch=32", "train.workers=0")}
    batch = {"small": 256, "imagenet64": 64}
    files = {"small": "tiny_imagenet.yaml", "imagenet64": "imagenet64.yaml"}
    return [
        Size(
            name,
            folder / files[name],
            cut if tiny else (*cut, f"sample.batch={batch[name]}", "measure.latency.batch=null"),
            of[name],
        )
        for name in files
    ]


def speed_items(device: torch.device, data: Path, tiny: bool) -> list[Item]:
    """Sampling of dual-rate against base, and training: small networks first, the paper's compiled last."""
    small, paper = sizes(tiny)
    goals = {"efficiency": Goal(LEAST_EFFICIENCY), "loop_share": Goal(MOST_LOOP_SHARE, is_most=True)}
    share = {"share_of_reference": Goal(LEAST_SHARE_OF_PEAK)}

    def sampling(size: Size, compiled: bool) -> Item:
        name = f"sampling/{size.name}/{_word(compiled)}"
        return Item(name, partial(sampling_speed, size, data, compiled), compiled, goals)

    def training(size: Size, arm: str, compiled: bool) -> Item:
        name = f"training/{size.name}, {arm}/{_word(compiled)}"
        return Item(name, partial(training_speed, size, arm, data, compiled), compiled, share)

    return [
        sampling(small, False),
        training(small, "base", False),
        sampling(paper, False),
        training(paper, "base", False),
        training(small, "base", True),
        sampling(small, True),
        training(small, "dual-rate", True),
        training(paper, "base", True),
        sampling(paper, True),
        training(paper, "dual-rate", True),
    ]


def _word(compiled: bool) -> str:
    return "compiled" if compiled else "eager"


def _set(size: Size, data: Path, section: str, compiled: bool) -> list[str]:
    on = {"sample.compile": False, "train.compile": False, f"{section}.compile": compiled}
    return [f"data.path={data}", *size.keys, *(f"{key}={str(value).lower()}" for key, value in on.items())]


def sampling_speed(size: Size, data: Path, compiled: bool) -> dict[str, Any]:
    """The speed-up of dual-rate over base at equal steps against the ratio of their FLOPs."""
    keys = _set(size, data, "sample", compiled)
    of_base = [key for key in keys if not key.startswith("sample.refreshes=")]
    found = compare(load_experiment(size.file, of_base, "base"), load_experiment(size.file, keys, "dual-rate"))
    kept = ("flops_ratio", "speed_up", "efficiency", "loop_share")
    subject, base = found["subject"], found["base"]
    return {
        **{key: found[key] for key in kept},
        "images_per_second": subject["images_per_second"],
        "base_images_per_second": base["images_per_second"],
        "gmacs_per_image": subject["gmacs_per_image"],
        **{key: subject[key] for key in ("device", "dtype", "cuda_graphs", "batch", "trusted", "peak_memory_bytes")},
    }


def training_speed(size: Size, arm: str, data: Path, compiled: bool) -> dict[str, Any]:
    """What a few training steps take, and the share of the device's peak that they reach."""
    keys = [*_set(size, data, "train", compiled), *size.train]
    if arm == "base":
        keys = [key for key in keys if not key.startswith("sample.refreshes=")]
    return profile_training(
        load_experiment(size.file, keys, arm), None, timed=3 if "miniature" in size.file.parts else 8
    )


# ---- quality ---------------------------------------------------------------------------------------------------------

ARMS = ("base", "adapted")
ADDED = 0.25
"""What the adaptation may cost, of the base's training compute."""
TRAINING_SHARE = 0.6
"""Of the time that is left; the rest draws and measures."""
AVERAGED_SHARE = 0.05
"""Half-life of the weights' average, of the training's steps."""
CHECKPOINTS = 20
TINY_SECONDS = 1.5
"""What is planned where only the path is tried."""
TINY: dict[str, Any] = {
    "data": {"name": "digits", "path": None, "size": None, "channels": None, "label": None},
    "model": {"width": 8, "blocks": [1, 1], "head_width": 8, "embedding": 16},
    "train": {"batch": 16, "precision": "float32", "compile": False, "flip": False},
    "sample": {"batch": 50, "precision": "float32", "steps": 2},
    "measure": {"images": 70, "features": "digits", "latency": {"batch": 4, "warmup": 0, "repeats": 1}},
}
TINY_GRIDS: dict[str, dict[str, Any]] = {
    "base": {"sample.sampler": ["dpmpp_2m"], "sample.steps": [2]},
    "adapted": {"sample.sampler": ["dpmpp_2m"], "sample.steps, sample.refreshes": [[2, 1]]},
}


def write_quality_plan(path: Path, data: str | None, seconds: float, tiny: bool) -> dict[str, Any]:
    """Measure how fast base and adaptation train here and write the sweep that fits into `seconds` to `path`."""
    base: dict[str, Any] = TINY if tiny else {"data": {"path": data}}
    grids = TINY_GRIDS if tiny else {}
    arms: dict[str, Any] = {arm: {"grid": grids[arm]} if tiny else {} for arm in ARMS}
    title = {"title": "8×8 digits at the smallest sizes: the figures mean nothing"} if tiny else {}
    sweep = {"name": path.stem, **title, "extends": str(QUALITY), "base": base, "arms": arms}
    started, draft = time.monotonic(), path.with_suffix(".draft.yaml")
    write_atomically(draft, yaml.safe_dump(sweep, sort_keys=False))
    measured: dict[str, dict[str, Any]] = {}
    for arm in ARMS:
        experiment = load_experiment(draft, [], arm)
        measured[arm] = profile_training(experiment, None, timed=2 if tiny else 8)
        measured[arm]["gmacs_per_step"] = training_gmacs_per_step(experiment)
        free_memory()
    draft.unlink()
    steps = steps_within(measured, TRAINING_SHARE * (TINY_SECONDS if tiny else seconds - (time.monotonic() - started)))
    for arm, count in steps.items():
        arms[arm]["set"] = {
            "train.steps": count,
            "train.warmup": min(500, count // 20),
            "train.ema": round(math.exp(-math.log(2) / max(1.0, AVERAGED_SHARE * count)), 6),
            "train.checkpoint_every": max(1, count // CHECKPOINTS),
            "train.log_every": max(1, count // CHECKPOINTS),
        }
    write_atomically(path, yaml.safe_dump(sweep, sort_keys=False))
    return {
        "steps": steps,
        "images_per_second": {arm: measured[arm]["images_per_second"] for arm in ARMS},
        "share_of_reference": {arm: measured[arm]["share_of_reference"] for arm in ARMS},
        "device": measured["base"]["device"],
    }


def steps_within(measured: Mapping[str, Mapping[str, float]], seconds: float) -> dict[str, int]:
    """Steps of base and adaptation that take `seconds` together; the latter has :data:`ADDED` of the base's GMACs."""
    base, adapted = (measured[arm] for arm in ARMS)
    per_base_step = ADDED * base["gmacs_per_step"] / adapted["gmacs_per_step"]  # steps of the adaptation
    count = seconds / (base["seconds_per_step"] + per_base_step * adapted["seconds_per_step"])
    return {"base": max(4, round(count)), "adapted": max(4, round(count * per_base_step))}
