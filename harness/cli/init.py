"""`harness init`: a commented sweep for one's own data."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from harness.cli.console import console, print_json
from harness.dispatch.checks import check_folder
from harness.dispatch.first_sweep import facts_of, side_of, sweep_text
from harness.dispatch.sweep import load_sweep
from harness.errors import ConfigError
from harness.files import atomic_path
from harness.wording import count_of


def run(data: str, out_path: Path, json_output: bool) -> None:
    """Look at `data` and write a sweep of it to `out_path`, which must not exist. What is written loads."""
    _check_free(out_path)
    facts = facts_of(data)
    text = sweep_text(facts)
    check_folder(out_path.parent, "--out")
    with atomic_path(out_path) as temporary:
        temporary.write_text(text, encoding="utf-8")
        sweep = load_sweep(temporary)
        _check_free(out_path)
    told = {
        "sweep": str(out_path),
        "name": sweep.config.name,
        "images": facts.images,
        "size": side_of(facts),
        "channels": facts.channels,
        "classes": facts.classes,
        "features": facts.features,
        "trainings": len(sweep.trainings),
        "cells": len(sweep.cells),
    }
    if json_output:
        print_json(told)
        return
    out = console()
    counts = f"{count_of(len(sweep.trainings), 'training')} and {count_of(len(sweep.cells), 'cell')}"
    out.print(f"{out_path}: {counts} of {count_of(f'{facts.images:,}', 'image')} at {told['size']}×{told['size']}")
    out.print(f"what it costs: {shlex.join(['harness', 'sweep', os.fspath(out_path), '--dry-run'])}")


def _check_free(path: Path) -> None:
    if path.suffix not in (".yaml", ".yml"):
        raise ConfigError("--out", [f"{path}: a sweep is written as .yaml"])
    if path.exists() or path.is_symlink():
        raise ConfigError("--out", [f"{path} exists already, and is left as it is; name another"])
