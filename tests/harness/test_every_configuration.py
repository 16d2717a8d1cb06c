"""Every configuration that parses runs to a report, or is refused with one message before anything is trained.

Configurations are drawn from the schema itself: a key that is added to it must be drawn here too.
`HARNESS_EXAMPLES=300` runs as many.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import HealthCheck, Phase, assume, given, note, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from harness.cli.console import main_of
from harness.config.scheduling import CHOOSING
from harness.config.schema import key_types, own_keys
from harness.engine import pair_tables
from models.methods import METHODS
from models.refresh import KEYS as REFRESH_KEYS
from tests.autoencoders import save_autoencoder
from tests.data.making import classes, write_zip

FEW = 4
EXAMPLES = int(os.environ.get("HARNESS_EXAMPLES", str(FEW)))
ENDS: Counter[int] = Counter()
"""How often each exit status has been seen."""
SMALL = st.integers(1, 3)
LEVEL = st.sampled_from(["conv", "transformer"])
MULTIPLIER = st.sampled_from([0.5, 1, 2, 1.3])
NOISE = ("learned", "adaptive")
"""Of `train.noise_schedule`, those that are trained."""
SHARE = st.sampled_from([0.0, 0.1, 0.5, 1.0])


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few images of two classes, 16×16."""
    folder = tmp_path_factory.mktemp("data")
    return write_zip(folder / "images.zip", classes(each=8, side=16))


@pytest.fixture(scope="module")
def autoencoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By what is drawn of ``data.latents``: for grey images and for RGB, of either class."""
    folder = tmp_path_factory.mktemp("autoencoders")
    return {
        "GREY": save_autoencoder(folder / "grey", "AutoencoderTiny", channels=1),
        "GREY_KL": save_autoencoder(folder / "grey_kl", "AutoencoderKL", channels=1),
        "RGB_KL": save_autoencoder(folder / "rgb_kl", "AutoencoderKL", channels=3),
    }


def per_level(draw: st.DrawFn, values: st.SearchStrategy[Any], levels: int) -> list[Any]:
    return draw(st.lists(values, min_size=levels, max_size=levels))


def rising(low: float, high: float) -> st.SearchStrategy[list[float]]:
    ends = st.floats(low, high, allow_subnormal=False).map(lambda value: round(value, 3))
    return st.lists(ends, min_size=2, max_size=2, unique=True).map(sorted)


def maybe(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """The key left out, as often as not."""
    return st.none() | values


def schedule_keys(draw: st.DrawFn, steps: int) -> dict[str, Any]:
    """A schedule that is found."""
    name = draw(st.sampled_from(["uniform", "uniform_log_snr", "ddt", "random", *["optimal"] * 4]))
    budget = draw(st.sampled_from([None, 1e-9, 1e-3, 10.0])) if name == "optimal" else None
    bias = st.sampled_from([None, -5.0, 0.0, 2.5])
    objective = draw(st.sampled_from([None, "sigmoid", "elbo"])) if name == "optimal" else None
    return {
        "sample.schedule": name,
        "sample.refreshes": None if budget else draw(st.integers(1, steps)),
        "sample.budget": budget,
        "sample.objective": objective,
        "sample.objective_bias": draw(bias) if name == "optimal" and objective != "elbo" else None,
        "sample.schedule_seed": draw(maybe(st.integers(0, 3))) if name == "random" else None,
    }


AT_TIMES = st.integers(0, 9).map(lambda n: n == 0)


@st.composite
def configurations(draw: st.DrawFn, latent: st.SearchStrategy[bool] = AT_TIMES) -> dict[str, Any]:
    """Dotted keys and values, most of them of configurations that run; every key of the schema is drawn at times."""
    digits, dual = draw(st.booleans()), draw(st.booleans())
    levels = draw(st.integers(1, 2))
    labelled = draw(st.booleans())
    cached = not dual and levels > 1 and draw(st.booleans())
    edm = draw(st.integers(0, 3)) == 0
    backbone = draw(maybe(st.sampled_from(["ddpmpp", "ncsnpp", "adm", "dit", "dit"])))
    of_dit = backbone == "dit"
    of_unet = backbone is not None and not of_dit
    sampler = draw(st.sampled_from(["ancestral", "ddim", "heun", "dpmpp_2m"]))
    steps = draw(st.integers(1, 4))
    batch = draw(st.integers(1, 4))
    low, high = draw(rising(-40.0, 40.0))
    noise = None if edm else draw(st.sampled_from([None, "fixed", *NOISE]))
    latents = draw(st.sampled_from(["GREY", "GREY_KL"] if digits else ["RGB_KL"])) if draw(latent) else None
    values: dict[str, Any] = {
        "data.name": "digits" if digits else "images",
        "data.path": None if digits else "ARCHIVE",
        "data.size": draw(st.sampled_from([None, 8])) if digits else draw(st.sampled_from([None, 8, 16])),
        "data.channels": draw(st.sampled_from([None, 1] if digits else [None, 1, 3])),
        "data.classes": draw(st.sampled_from([None, 10 if digits else 2])),
        "data.latents": latents,
        "data.posterior": draw(st.sampled_from([None, "mean", "sample"])) if str(latents).endswith("KL") else None,
        "data.label": draw(maybe(st.sampled_from(["made", "run #3", "x [/b]", "naïve"]))),
        "model.kind": "dual_rate" if dual else "single_rate",
        "model.backbone": backbone,
        "model.noise_input": draw(maybe(st.sampled_from(["vp", "ve", "iddpm"]))) if of_unet and not edm else None,
        "model.patch": None if of_unet else draw(st.sampled_from([1, 2])),
        "model.width": draw(st.integers(1, 20)),
        "model.multipliers": [draw(MULTIPLIER)] * levels if of_dit else per_level(draw, MULTIPLIER, levels),
        "model.blocks": per_level(draw, st.integers(1, 2), levels),
        "model.levels": ["transformer"] * levels if of_dit else per_level(draw, LEVEL, levels),
        "model.head_width": None if backbone in ("ddpmpp", "ncsnpp") else draw(st.sampled_from([1, 3, 8, 64])),
        "model.mlp_ratio": None if of_unet else draw(st.sampled_from([0.01, 0.5, 4])),
        "model.embedding": draw(maybe(st.integers(1, 20))),
        "model.dropout": draw(SHARE),
        "model.class_conditional": labelled,
        "diffusion.schedule": "cosine",
        "diffusion.base_resolution": draw(maybe(st.sampled_from([1, 8, 32, 1024]))),
        "diffusion.log_snr_range": draw(st.sampled_from([None, [low, high]])),
        "diffusion.prediction": None if edm else draw(st.sampled_from([None, "v", "x", "epsilon"])),
        "diffusion.preconditioning": "edm" if edm else "none",
        "diffusion.loss_bias": draw(st.floats(-10, 10)),
        "diffusion.sigma_data": draw(st.sampled_from([0.01, 0.5, 3.0])),
        "diffusion.log_sigma_mean": draw(st.floats(-3, 3)) if edm else None,
        "diffusion.log_sigma_std": draw(st.floats(0.1, 2)) if edm else None,
        "train.steps": draw(SMALL),
        "train.batch": batch,
        "train.accumulate": draw(st.sampled_from([n for n in range(1, batch + 1) if batch % n == 0])),
        "train.learning_rate": draw(st.sampled_from([1e-5, 1e-3])),
        "train.warmup": draw(st.integers(0, 5)),
        "train.adam_betas": draw(st.sampled_from([None, [0.0, 0.0], [0.9, 0.999]])),
        "train.gradient_clip": draw(st.sampled_from([None, 0.1, 10])),
        "train.ema": draw(SHARE),
        "train.translation": 0 if latents else draw(st.sampled_from([0, 1, 30])),
        "train.flip": draw(st.booleans()) and not latents,
        "train.label_dropout": draw(st.sampled_from([0.0, 0.5, 1.0])) if labelled else None,
        "train.precision": draw(st.sampled_from(["float32", "bfloat16"])),
        "train.compile": draw(st.integers(0, 4)) == 0,
        "train.checkpoint_activations": draw(st.booleans()),
        "train.checkpoint_every": draw(SMALL),
        "train.log_every": draw(SMALL),
        "train.loggers": draw(st.sampled_from([None, None, ["tensorboard"]])),
        "train.sample_every": draw(st.sampled_from([None, 1, 2])),
        "train.sample_images": draw(st.sampled_from([None, 4, 8])),
        "train.workers": draw(st.sampled_from([0, 0, 0, 1])),
        "train.noise_schedule": noise,
        "train.noise_knots": draw(st.sampled_from([None, 2, 9])) if noise in NOISE else None,
        "train.noise_learning_rate": draw(st.sampled_from([None, 0.1])) if noise == "learned" else None,
        "sample.sampler": sampler,
        "sample.steps": steps,
        "sample.cache_from_level": 1 if cached else None,
        "sample.cache_order": draw(st.sampled_from([None, 0, 1])) if cached else None,
        "sample.spacing": draw(
            st.sampled_from([None, "time", "karras", "log_snr", *(["noise_schedule"] * (noise in NOISE))])
        ),
        "sample.clip": draw(st.sampled_from([None, False] if latents else [None, True, False])),
        "sample.seeds": draw(st.sampled_from([None, [2**64 - 1], [3, 0]])),
        "sample.batch": draw(st.integers(1, 8)),
        "sample.precision": draw(st.sampled_from(["float32", "bfloat16"])),
        "sample.compile": draw(st.integers(0, 4)) == 0,
        "measure.images": draw(st.integers(1, 8)),
        "measure.features": "digits" if digits else draw(st.sampled_from(["efficientnet_lite0", "digits"])),
        "measure.reference": "train",
        "measure.inception_score": False,
        "measure.metrics": draw(st.sampled_from([None, ["precision_recall"]])),
        "measure.precision_recall": draw(st.booleans()),
        "measure.batch": draw(st.integers(1, 8)),
        "measure.latency.batch": draw(maybe(st.integers(1, 4))),
        "measure.latency.warmup": draw(st.integers(0, 1)),
        "measure.latency.repeats": draw(st.integers(1, 2)),
        "seed": draw(st.sampled_from([0, 2**64 - 1])),
    }
    if values["train.sample_every"] is None:
        values["train.sample_images"] = None
    if values["model.noise_input"] is not None:
        values["diffusion.prediction"] = "epsilon"
    if not digits and values["measure.features"] == "digits":
        values["data.size"] = 8
    if dual:
        values |= dual_rate_keys(draw, levels, of_dit=of_dit)
        if noise in NOISE:
            values |= {"train.states": None, "train.grid_steps": None}
            own = draw(st.sampled_from([None, "process", "own"]))
            values["train.noise_refreshes"] = None if values["train.pairs"] == "same" else own
    if dual or cached:
        key, strategy = draw(
            st.sampled_from(
                [
                    ("sample.refresh_interval", st.integers(1, steps)),
                    ("sample.refreshes", st.integers(1, steps)),
                    ("sample.schedule", st.just(None)),
                    ("sample.refresh_steps", st.sets(st.integers(0, steps - 1)).map(lambda s: sorted(s | {0}))),
                ]
            )
        )
        values[key] = draw(strategy)
        if key == "sample.schedule":
            values |= schedule_keys(draw, steps)
    options: dict[str, dict[str, st.SearchStrategy[Any]]] = {
        "ancestral": {"sample.variance": SHARE},
        "ddim": {"sample.eta": SHARE},
        "heun": {
            "sample.churn": st.sampled_from([0.0, 1.0, 1e3]),
            "sample.churn_range": rising(0.0, 100.0),
            "sample.churn_noise": st.sampled_from([0.9, 1.003]),
        },
        "dpmpp_2m": {},
    }
    for key, strategy in options[sampler].items():
        values[key] = draw(maybe(strategy))
    if values["sample.spacing"] == "karras" or (values["sample.spacing"] is None and sampler == "heun"):
        values["sample.rho"] = draw(maybe(st.sampled_from([1, 7.0, 100])))
        values["sample.sigma_range"] = draw(maybe(rising(0.002, 80.0)))
    if values.get("sample.budget") is None and draw(st.integers(0, 4)) == 0:
        times = draw(st.sets(st.integers(1, 1000), min_size=steps, max_size=steps))
        values |= {"sample.times": sorted((t / 1000 for t in times), reverse=True)}
        values |= {"sample.spacing": None, "sample.rho": None, "sample.sigma_range": None}
    if labelled and draw(st.booleans()):
        values["sample.guidance"] = draw(st.sampled_from([0.0, 1, 3.0]))
        values["sample.guidance_interval"] = draw(maybe(rising(0.0, 100.0)))
    if draw(st.integers(0, 2)) == 0:
        values |= distillation_keys(draw, refreshes=dual or cached, labelled=labelled)
        values |= dict.fromkeys(key for key in values if key.startswith("train.noise_"))
        if values["sample.spacing"] == "noise_schedule":
            values["sample.spacing"] = None
    elif not dual and not cached and draw(st.integers(0, 3)) == 0:
        values |= {"sample.stitch": SECOND, "sample.stitch_share": draw(SHARE)}
        values |= {"sample.stitch_at": draw(st.sampled_from([None, "first", "last"]))}
    values["measure.weights"] = None
    return {key: value for key, value in values.items() if value is not None or key == "train.gradient_clip"}


def dual_rate_keys(draw: st.DrawFn, levels: int, *, of_dit: bool) -> dict[str, Any]:
    pairs = draw(st.sampled_from([None, "range", "grid", "same"]))
    refreshes = {None: None, "range": [1, 50], "grid": draw(st.integers(1, 50)), "same": None}[pairs]
    started = draw(st.booleans())
    frozen = started and draw(st.booleans())
    preconditioning = draw(maybe(st.sampled_from(["conditional", "input", "anchor", "unscaled"])))
    target = draw(st.sampled_from([None, None, "data", "encoder"]))
    context = draw(st.sampled_from([None, "all", "last", "output"]))
    headed = preconditioning is not None or target == "encoder" or context == "output"
    return {
        "model.preconditioning": preconditioning,
        "train.start": START if started else None,
        "train.freeze": ["encoder"] if frozen else None,
        "train.start_denoiser": draw(st.sampled_from([None, "random", "encoder"])) if started else None,
        "train.target": target,
        "train.states": "rollout" if target == "encoder" and pairs != "same" and draw(st.booleans()) else None,
        "train.encoder_learning_rate": None if frozen else draw(st.sampled_from([None, 1e-4])),
        "train.encoder_loss": draw(st.sampled_from([None, 0.0, 0.5])) if headed and not frozen else None,
        "sample.denoise_at_refresh": draw(st.sampled_from([None, True, False])) if headed else None,
        "model.light_backbone": draw(maybe(st.sampled_from(["uvit", "dit"] if of_dit else ["uvit", "adm"]))),
        "model.light_width": draw(maybe(st.sampled_from([0.01, 0.5, 1, 3.0]))),
        "model.light_blocks": draw(maybe(st.just([1] * levels))),
        "model.light_levels": None if of_dit else draw(maybe(st.lists(LEVEL, min_size=levels, max_size=levels))),
        "model.context_channels": None if context == "output" else draw(maybe(st.integers(1, 9))),
        "model.context_levels": context,
        "model.context_entry": draw(st.sampled_from([None, "level", "block"])),
        "train.context_dropout": draw(maybe(SHARE)),
        "train.pairs": pairs,
        "train.refreshes": refreshes,
        "train.grid_steps": draw(maybe(st.integers(refreshes, 60))) if isinstance(refreshes, int) else None,
        "train.denoiser_times": None if pairs == "same" else draw(maybe(SMALL)),
    }


def distillation_keys(draw: st.DrawFn, *, refreshes: bool, labelled: bool) -> dict[str, Any]:
    """Of a student that starts from its teacher."""
    steps = draw(st.integers(1, 4))
    rollout = draw(st.sampled_from([None, "data", "full"]))
    guidance = draw(st.sampled_from([None, 1, 3.0])) if labelled else None
    own: dict[str, Any] = {"distill.teacher_steps": draw(maybe(SMALL))}
    method = draw(st.sampled_from(["moment_matching", "moment_matching", "regression"]))
    if method == "moment_matching":
        variant = draw(st.sampled_from([None, "alternating", "instant"]))
        rate = None if variant == "instant" else draw(st.sampled_from([None, 1e-4]))
        own = {"distill.variant": variant, "distill.auxiliary_learning_rate": rate}
    return {
        "distill.method": method,
        "distill.teacher": START,
        "train.start": START,
        "diffusion.prediction": None,
        "distill.steps": steps,
        "distill.refreshes": draw(st.integers(1, steps)) if refreshes else None,
        "distill.times": draw(st.sampled_from([None, "discrete"] + ["continuous"] * (rollout != "full"))),
        "distill.rollout": rollout,
        "distill.guidance": guidance,
        "distill.guidance_interval": None if guidance is None else draw(maybe(rising(0.0, 100.0))),
        **{f"train.{key}": None for key in METHODS["dual_rate"].loss_keys},
        **own,
    }


START = "start"
"""The arm that a drawn training starts from, or is distilled from: a single network."""
SECOND = "second"
"""The arm whose network runs a share of a stitched sampling: as the drawn one, but trained at another rate."""


def arms_of(values: dict[str, Any]) -> dict[str, Any]:
    """The one arm that is drawn, and what it starts from or is stitched to, if there is such."""
    if values.get("sample.stitch") == SECOND:
        stitching = ("sample.stitch", "sample.stitch_share", "sample.stitch_at")
        alone = {**dict.fromkeys(stitching), "train.learning_rate": 1e-4}
        return {"only": {}, SECOND: {"cells": False, "set": alone}}
    if values.get("train.start") != START:
        return {"only": {}}
    of_dual = own_keys()["dual_rate"].keys() - own_keys()["single_rate"].keys()
    caching = {"sample.cache_from_level", "sample.cache_order"}
    placing = {f"sample.{key}" for key in (*REFRESH_KEYS, *CHOOSING)}
    others = {*of_dual, *caching, *placing, "train.start", "train.freeze"}
    nothing = {key: None for key in values if key in others or key.startswith(("distill.", "sample.stitch"))}
    return {"only": {}, START: {"cells": False, "set": {**nothing, "model.kind": "single_rate"}}}


@pytest.fixture(scope="module", autouse=True)
def _eager_compiler() -> Iterator[None]:
    """What torch.compile captures runs as it was captured: C++ is compiled elsewhere, and takes its time."""
    original = torch.compile

    def compile_eagerly(function: Any, dynamic: bool, mode: str | None = None) -> Any:
        return original(function, backend="eager", dynamic=dynamic)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", compile_eagerly)
        yield


@pytest.fixture(autouse=True)
def _few_images_in_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair_tables, "IMAGES", 4)


class EnoughSeen(Exception):
    """Ends the drawing, which hypothesis would go on with."""


def test_every_key_of_the_schema_is_drawn() -> None:
    filled_in = {"measure.weights", "model.folder", "model.weights", "stitched", "teacher"}
    """Files, and what a sweep fills in."""
    seen: set[str] = set()

    @settings(max_examples=1000, database=None, deadline=None, phases=[Phase.generate])
    @given(configurations())
    def collect(values: dict[str, Any]) -> None:
        seen.update(values)
        if seen >= set(key_types()) - filled_in:
            raise EnoughSeen

    with suppress(EnoughSeen):
        collect()
    assert set(key_types()) - seen == filled_in


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],
    print_blob=True,
)
@given(values=configurations())
def test_what_parses_runs_to_a_report_or_is_refused_before_training(
    values: dict[str, Any], archive: Path, autoencoders: dict[str, Path]
) -> None:
    runs_to_a_report_or_is_refused(values, archive, autoencoders)


@settings(
    max_examples=max(EXAMPLES // 4, 2),
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],
    print_blob=True,
)
@given(values=configurations(latent=st.just(True)))
def test_so_does_one_of_latents(values: dict[str, Any], archive: Path, autoencoders: dict[str, Path]) -> None:
    runs_to_a_report_or_is_refused(values, archive, autoencoders)


def runs_to_a_report_or_is_refused(values: dict[str, Any], archive: Path, autoencoders: dict[str, Path]) -> None:
    if "data.latents" in values:
        values["data.latents"] = str(autoencoders[values["data.latents"]])
    if values.get("data.path") is not None:
        values["data.path"] = str(archive)
    note(yaml.safe_dump(values, allow_unicode=True))
    with tempfile.TemporaryDirectory() as folder:
        file, results = Path(folder) / "sweep.yaml", Path(folder) / "results"
        sweep = {"name": "drawn", "base": values, "arms": arms_of(values), "seeds": [values.pop("seed")]}
        file.write_text(yaml.safe_dump(sweep, allow_unicode=True), encoding="utf-8")
        status, said = run_sweep(file, results)
        trainings = list((results / "runs" / "trainings").glob("*/log.jsonl"))
        ENDS[status] += 1
        if EXAMPLES > FEW:
            print(f"\r{ENDS[0]} ran, {ENDS[2]} refused ", end="", file=sys.__stderr__, flush=True)
        if status == 2:
            assert not trainings, f"refused after the training: {said}"
            assert "error: " in said
            assume(False)  # is no example of one that runs: another is drawn
        assert status == 0, said
        (record_path,) = (results / "runs" / "cells").glob("*.json")
        record = json.loads(record_path.read_text(encoding="utf-8"))
        assert record["compute"]["gmacs_per_image"] > 0
        assert record["time"]["seconds_per_image"] > 0
        assert record["quality"]["per_seed"][0]["values"]["frechet"] >= 0


def run_sweep(file: Path, results: Path) -> tuple[int, str]:
    """Exit status and what was printed, through the command line's own way to end."""
    from harness.cli.app import app

    def program() -> None:
        main_of(lambda arguments: app(arguments, standalone_mode=False), sys_arguments)

    sys_arguments = ["sweep", str(file), "--results", str(results), "--cluster", "inline", "--json"]
    runner = CliRunner()
    with runner.isolation() as streams:
        try:
            program()
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        said = b"".join(stream.getvalue() for stream in streams[:2]).decode("utf-8", errors="replace")
    return status, said
