"""`harness weights show`, `convert` and `adopt`: parse and print, nothing else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.group import Commands

if TYPE_CHECKING:
    from harness.store.pretrained import Pretrained

weights_app = typer.Typer(
    cls=Commands, help="Look at weights trained elsewhere, and convert them.", no_args_is_help=True
)
File = Annotated[
    Path,
    typer.Argument(
        help="a snapshot of EDM's code (.pkl), a .safetensors file, a folder of diffusers, or OWNER/NAME of the hub"
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@weights_app.command()
def show(file: File, as_json: Json = False) -> None:
    """The keys of a configuration that the network in FILE needs. Nothing of a pickle, nor of a folder, is run."""
    from harness.store.pretrained import open_pretrained

    _print(open_pretrained(file.expanduser()), as_json)


@weights_app.command()
def convert(
    file: File,
    out: Annotated[Path, typer.Option("--out", help="the safetensors file to write")],
    as_json: Json = False,
) -> None:
    """Write the network in FILE as safetensors, with its configuration in the metadata. Nothing of a pickle is run."""
    from harness.store.pretrained import convert as convert_weights

    _print(convert_weights(file.expanduser(), out.expanduser()), as_json)


def adopt(file: Path, weights: Sequence[Path], cells: bool, overrides: list[str], results: Path, as_json: bool) -> None:
    """Make `weights` trainings of the sweep in `file`, and, with `cells`, cells of what reports beside them have."""
    from harness.dispatch.adopting import adopt_cells, adopt_for
    from harness.dispatch.checks import check_store
    from harness.dispatch.labels import labels_of
    from harness.dispatch.sweep import load_sweep
    from harness.store.store import Store
    from harness.wording import count_of

    sweep, store = load_sweep(file, overrides), Store(results)
    check_store(store)
    labels, told = labels_of(sweep), []
    for path in weights:
        training, is_new = adopt_for(sweep, store, path)
        told.append({"weights": str(path), "training": training.id, "is_new": is_new})
        if not as_json:
            done = "is done with" if is_new else "has already"
            typer.echo(f"{labels[training.target]} ({training.target}) {done} {path}")
    measured = {}
    for folder in dict.fromkeys(path.parent for path in weights) if cells else ():
        measured[str(folder)] = found = adopt_cells(sweep, store, folder)
        if not as_json:
            typer.echo(f"{count_of(len(found), 'cell')} of {len(sweep.cells)} done with {folder}")
    if as_json:
        typer.echo(json.dumps({"trainings": told, "cells": measured}))


def _print(opened: Pretrained, as_json: bool) -> None:
    keys = None
    if opened.keys is not None:
        known = {key: value for key, value in opened.keys.items() if value is not None}
        keys = {**known, "model.weights": str(opened.path)}
    if as_json:
        typer.echo(json.dumps({"path": str(opened.path), "keys": keys}))
        return
    if keys is None:
        typer.echo(f"{opened.path}: tells nothing of its network")
        return
    typer.echo(f"# {opened.path}")
    for section, values in _sections(keys).items():
        typer.echo(f"{section}: {{{', '.join(f'{key}: {_plain(value)}' for key, value in values.items())}}}")


def _sections(keys: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """By section, its keys; of the data what they must be like."""
    found: dict[str, dict[str, Any]] = {}
    for dotted, value in keys.items():
        section, _, key = dotted.partition(".")
        found.setdefault(section, {})[key] = value
    return found


def _plain(value: Any) -> str:
    """As YAML writes it in one line."""
    return value if isinstance(value, str) else json.dumps(value)
