"""A sweep small enough for tests, and how to run the command line on it."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

from typer.testing import CliRunner

from harness.cli import app
from harness.dispatch.sweep import Sweep
from harness.store.store import Target

SWEEP = """
name: tiny
title: A tiny sweep
base:
  data: {name: digits}
  model: {kind: single_rate, patch: 2, width: 16, multipliers: [1, 2], levels: [conv, transformer], blocks: [1, 1]}
  train: {steps: 30, batch: 16, learning_rate: 1.0e-3, checkpoint_every: 5, log_every: 5}
  sample: {sampler: ancestral, steps: 4, batch: 8, seeds: [0, 1]}
  measure: {images: 80, latency: {batch: 4, repeats: 2}}
arms:
  base: {grid: {sample.sampler: [ancestral, heun]}}
  dual-rate:
    set: {model.kind: dual_rate}
    grid: {"sample.steps, sample.refresh_interval": [[4, 2]]}
"""


def write_sweep(folder: Path, text: str = SWEEP, name: str = "tiny.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def by_arm(sweep: Sweep) -> dict[str, Target]:
    """The training of each arm that has one."""
    return {arm: training.target for training in sweep.trainings.values() for arm in training.arms}


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "harness.cli", *map(str, arguments)]


def environment(results: Path) -> dict[str, str]:
    return {
        **os.environ,
        "HARNESS_RESULTS": str(results),
        "HARNESS_CLUSTER": "inline",
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "200",
    }


def harness(results: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The command line as a program of its own would run it, in this process: torch is imported once, not each time."""
    asked = ["harness", *map(str, arguments)]
    with (
        mock.patch.dict(os.environ, environment(results)),
        mock.patch.object(sys, "argv", asked),
        mock.patch.object(logging.getLogger(), "handlers", []),  # the program sets up its own, on this stderr
        CliRunner().isolation() as streams,
    ):
        try:
            app.main()
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        sys.stdout.flush()
        sys.stderr.flush()
        said, complaints = (stream.getvalue().decode("utf-8", errors="replace") for stream in streams[:2])
    return subprocess.CompletedProcess(asked, status, said, complaints)


def invoke(*words: object, status: int = 0) -> str:
    """What a command prints, by typer's own runner; it ends with `status`. Where that is 0 what it raises is raised."""
    done = CliRunner().invoke(app.app, [str(word) for word in words], catch_exceptions=status != 0)
    assert done.exit_code == status, (done.output, done.exception)
    return done.stdout


def figures(results: Path) -> dict[str, Any]:
    """What must be the same in each cell's record whenever and wherever it is made: all but time and place."""
    cells = sorted((results / "runs" / "cells").glob("*.json"))
    records = {path.stem: json.loads(path.read_text()) for path in cells}
    kept = ("quality", "compute", "config", "training")
    return {id: {key: record[key] for key in kept} for id, record in records.items()}


def weights(results: Path) -> dict[str, str]:
    """Hash of each training's weights."""
    done = sorted((results / "runs" / "trainings").glob("*/done.json"))
    return {path.parent.name: json.loads(path.read_text())["weights_sha256"] for path in done}
