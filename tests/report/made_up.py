"""Made-up cells in the form of records of schema 1: for tests alone, they measure nothing."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.metrics import DEFAULT
from harness.report import load_rows, panel, write
from harness.report.options import ReportOptions
from harness.report.rows import ReportCell
from harness.store.records import parse_cell

HEAVY, LIGHT = 0.0189, {0.25: 0.0011, 0.5: 0.0027}
BASE: dict[str, Any] = {
    "data": {"name": "digits"},
    "model": {"kind": "single_rate", "width": 64, "blocks": [1, 4], "levels": ["conv", "transformer"]},
    "diffusion": {"schedule": "cosine", "loss_bias": -1.0, "preconditioning": "none"},
    "train": {"steps": 1500, "batch": 128, "learning_rate": 0.0001},
    "sample": {"sampler": "ancestral", "steps": 32, "seeds": [0, 1]},
    "measure": {"images": 2000, "features": "digits", "reference": "train", "latency": {"warmup": 1, "repeats": 5}},
}


def digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def cell(
    arm: str,
    varied: dict[str, Any] | None = None,
    *,
    frechet: float | list[float] = 1.0,
    gmacs: float = 1.0,
    seconds: float | None = None,
    seed: int = 0,
    standard_error: float | None = 0.02,
    label: str | None = None,
    fixed: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """One input row of a report. `frechet` is one value or one per sampling seed."""
    varied = varied or {}
    config = copy.deepcopy(BASE)
    for key, value in {**(fixed or {}), **varied}.items():
        section, name = key.split(".")
        config.setdefault(section, {})[name] = value
    values = frechet if isinstance(frechet, list) else [frechet]
    config["seed"] = seed
    per_seed = []
    for index, value in enumerate(values):
        entry = {"seed": index, "frechet": value, "kernel": value / 100, "kernel_std": value / 1000}
        if standard_error is not None:
            entry["frechet_standard_error"] = standard_error
        per_seed.append(entry)
    trained = {key: config[key] for key in ("data", "model", "diffusion", "train", "seed")}
    record = {
        "schema": 1,
        "id": digest(config),
        "training": digest(trained),
        "config": config,
        "quality": {
            "features": config["measure"]["features"],
            "images": config["measure"]["images"],
            "reference": {"name": "digits train", "images": 1797, "id": "made-up"},
            "per_seed": per_seed,
        },
        "compute": {
            "gmacs_per_image": gmacs,
            "gflops_per_image": 2 * gmacs,
            "evaluations": {"network": 32},
            "gmacs_per_evaluation": {"network": HEAVY},
            "parameters": {"network": 1_000_000},
            "training_gmacs_per_step": 7.0,
            "training_steps": config["train"]["steps"],
        },
        "time": {
            "device": "cpu made-up",
            "dtype": "float32",
            "compiled": False,
            "threads": 2,
            "batch": 250,
            "seconds_per_image": seconds if seconds is not None else gmacs * 0.01 + 0.0004,
            "repeats": 5,
            "seconds_per_image_quartiles": [gmacs * 0.0099, gmacs * 0.0103],
            "images_per_second": 100.0,
            "latency_seconds": gmacs * 0.03 + 0.002,
            "peak_memory_bytes": None,
        },
        "samples": f"samples/{digest(config)}.npz",
        "provenance": {
            "commit": "0123456789abcdef",
            "dirty": False,
            "versions": {"torch": "2.0", "numpy": "2.0"},
            "started": 1767225600.0,
            "finished": 1767225660.5,
            "training_images_per_second": 2000.0,
        },
    }
    return {"arm": arm, "label": label or arm, "varied": varied, "record": record}


def missing(arm: str, varied: dict[str, Any], status: str = "missing") -> dict[str, Any]:
    config = cell(arm, varied)["record"]["config"]
    return {"arm": arm, "label": arm, "varied": varied, "record": None, "config": config, "status": status}


def quickstart(seeds: tuple[int, ...] = (0, 1), noise: float = 0.04) -> list[dict[str, Any]]:
    """A sweep like the quickstart's, with distances that look like a small trial's."""
    return [row for seed in seeds for row in _quickstart(seed, np.random.default_rng(seed), noise)]


def _quickstart(seed: int, generator: np.random.Generator, noise: float) -> Iterator[dict[str, Any]]:
    def draw(value: float) -> list[float]:
        return [float(value * np.exp(noise * generator.standard_normal())) for _ in range(2)]

    floor = {"ancestral": 1.1, "ddim": 0.62, "heun": 0.6, "dpmpp_2m": 0.58}
    for sampler in ("ancestral", "ddim", "heun", "dpmpp_2m"):
        for steps in (8, 16, 32, 64):
            evaluations = 2 * steps - 1 if sampler == "heun" else steps
            value = floor[sampler] * (1 + (9 / steps) ** 1.2)
            varied: dict[str, Any] = {"sample.sampler": sampler, "sample.steps": steps}
            yield cell("base", varied, frechet=draw(value), gmacs=HEAVY * evaluations, seed=seed)
    for steps in (8, 16, 32):
        yield cell(
            "edm",
            {"sample.steps": steps},
            frechet=draw(0.66 * (1 + (10 / steps) ** 1.2)),
            gmacs=HEAVY * (2 * steps - 1),
            seed=seed,
            label="EDM",
            fixed={"diffusion.preconditioning": "edm", "sample.sampler": "heun"},
        )
    for steps in (8, 16, 32):
        yield cell(
            "shrunk",
            {"sample.steps": steps},
            frechet=draw(1.9 * (1 + (9 / steps) ** 1.2)),
            gmacs=0.0048 * steps,
            seed=seed,
            fixed={"model.width": 32},
        )
    for steps, interval in ((16, 2), (16, 4), (32, 4), (32, 8)):
        refreshes = steps // interval
        yield cell(
            "cached",
            {"sample.steps": steps, "sample.refresh_interval": interval},
            frechet=draw(1.3 * (1 + (7 / refreshes) ** 1.5)),
            gmacs=HEAVY * refreshes + 0.004 * (steps - refreshes),
            seed=seed,
            label="feature cache",
            fixed={"sample.cache_from_level": 1},
        )
    for width in (0.25, 0.5):
        for sampler in ("ancestral", "ddim"):
            for steps, interval in ((16, 2), (16, 4), (32, 4), (32, 8), (64, 8)):
                refreshes = steps // interval
                value = floor[sampler] * (1.25 if width < 0.5 else 1.1) * (1 + (4 / refreshes) ** 1.2 + 2 / steps)
                varied = {
                    "model.light_width": width,
                    "sample.sampler": sampler,
                    "sample.steps": steps,
                    "sample.refresh_interval": interval,
                }
                yield cell(
                    "dual-rate",
                    varied,
                    frechet=draw(value),
                    gmacs=HEAVY * refreshes + LIGHT[width] * steps,
                    seed=seed,
                    fixed={"model.kind": "dual_rate"},
                )


def write_samples(rows: list[dict[str, Any]], root: Path, seed: int = 0) -> None:
    """Real-looking images for each record under `root`: smooth noise, the same start for every cell."""
    (root / "samples").mkdir(parents=True, exist_ok=True)
    common = np.random.default_rng(seed).integers(0, 256, (64, 8, 8, 1), dtype=np.uint8)
    for row in rows:
        if row["record"] is not None:
            np.savez(root / row["record"]["samples"], images=common)


def typed(rows: Iterable[dict[str, Any]]) -> list[ReportCell]:
    """The rows as a report takes them: each record is upgraded and checked."""
    return [
        ReportCell(
            arm=row["arm"],
            varied=row["varied"],
            record=None if row["record"] is None else parse_cell(row["record"], f"cell {row['record'].get('id')}"),
            label=row.get("label") or row["arm"],
            config=row.get("config"),
            status=row.get("status"),
        )
        for row in rows
    ]


def panels(rows: Iterable[dict[str, Any]], arms: Sequence[str] = (), metric: str = DEFAULT) -> tuple[panel.Panel, ...]:
    """The panels of made-up rows."""
    return panel.panels(typed(rows), arms, metric)


def write_report(
    name: str,
    title: str,
    rows: Iterable[dict[str, Any]],
    out_dir: Path,
    options: ReportOptions | None = None,
    samples_root: Path | None = None,
    reported: Path | None = None,
) -> write.Report:
    """The report of made-up rows."""
    return write.write_report(name, title, typed(rows), out_dir, options, samples_root, reported)


def plain_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a ``cells.json`` as plain values that a test may change."""
    return [
        {
            "arm": cell.arm,
            "varied": cell.varied,
            "record": None if cell.record is None else cell.record.plain,
            "label": cell.label,
            "config": cell.config,
            "status": cell.status,
        }
        for cell in load_rows(path)
    ]
