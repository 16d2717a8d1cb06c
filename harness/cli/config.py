"""`harness config`: every key that a file may have, in words; `docs/config.md` is its Markdown."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from harness.cli.console import console, print_json
from harness.config import schema
from harness.config.keys import Key, keys_of
from harness.config.methods import method_of
from harness.config.schema import nearest
from harness.dispatch.slurm.settings import ClusterConfig
from harness.dispatch.sweep import ArmConfig, SweepConfig
from harness.errors import ConfigError

TITLES = {
    "sweep": "A sweep's file",
    "arm": "An arm: what stands under `arms:` behind its name",
    "experiment": "An experiment: under `base:`, an arm's `set:` and `grid:`, and behind `--set`",
    "cluster": "A cluster: under `cluster:`, in `~/.config/harness/cluster.yaml`, and behind `--slurm`",
}
ROOMY = 60
"""Columns of a terminal from which on no key has to be broken."""


def every_key() -> dict[str, list[Key]]:
    """The keys of each kind of mapping that a file may hold."""
    return {
        "sweep": list(keys_of(SweepConfig)),
        "arm": list(keys_of(ArmConfig, "arms.NAME.")),
        "experiment": list(keys_of(schema.every_key())),
        "cluster": list(keys_of(ClusterConfig, "cluster.")),
    }


def run(key: str | None, markdown: bool, json_output: bool, kind: str | None = None) -> None:
    """Print all keys, those under a section, or one; with those of the method called `kind` among them."""
    if kind is not None:
        try:
            method_of(kind)
        except ConfigError as error:
            raise ConfigError("--kind", error.problems) from error
    chosen = every_key() if key is None else _found(key)
    if json_output:
        print_json({kind: [found.as_dict() for found in keys] for kind, keys in chosen.items()})
    elif markdown:
        console().print("\n".join(markdown_of(chosen)))
    elif sum(map(len, chosen.values())) == 1:
        _print_one(*(found for keys in chosen.values() for found in keys))
    else:
        _print_tables(chosen)


def _found(name: str) -> dict[str, list[Key]]:
    """The key called `name`, or all under it. Raises :class:`ConfigError` where there is none."""
    everything = every_key()
    for matches in (
        lambda key: key.name == name,
        lambda key: key.name.startswith(f"{name}."),
        lambda key: key.name.rpartition(".")[2] == name,
    ):
        found = {kind: [key for key in keys if matches(key)] for kind, keys in everything.items()}
        if any(found.values()):
            return {kind: keys for kind, keys in found.items() if keys}
    full = [key.name for keys in everything.values() for key in keys]
    names = [*full, *(key.rpartition(".")[2] for key in full)]
    raise ConfigError(
        "harness config",
        [
            f"{name}: unknown key{nearest(name, names)}; without a key it prints them all, "
            "with --kind package.module:Class those of a method of your own too"
        ],
    )


def _needs(key: Key) -> str:
    return f"{key.takes}, {key.range}" if key.range else key.takes


def _print_one(key: Key) -> None:
    table = Table.grid(padding=(0, 2))
    for label, text in (("key", key.name), ("takes", _needs(key)), ("default", key.default), ("meaning", key.meaning)):
        table.add_row(label, text)
    console().print(table)


def _print_tables(chosen: dict[str, list[Key]]) -> None:
    out = console()
    for kind, keys in chosen.items():
        out.print(f"\n{TITLES[kind]}\n", style="bold")
        table = Table.grid(padding=(0, 2))
        table.add_column(no_wrap=out.width >= ROOMY)
        table.add_column(overflow="fold")
        for key in keys:
            table.add_row(key.name, f"{key.meaning or 'no description'} ({_needs(key)}; {_default_words(key)})")
        out.print(table)


def markdown_of(chosen: dict[str, list[Key]]) -> Iterator[str]:
    """Lines of a Markdown page with a table of each kind of key."""
    yield "# Configuration"
    yield ""
    yield "<!-- Made by `harness config --markdown`; a test holds it to the schema. -->"
    yield ""
    yield "Every key with what it takes, its default and its meaning; `harness config KEY` prints one of them."
    yield (
        "*required*: there is no default. *unset*: it may be left out, and the meaning says what holds then; "
        "`--set key=null` unsets it."
    )
    yield "Tags such as [EDM] are resolved in [references.md](references.md)."
    for kind, keys in chosen.items():
        yield from ("", f"## {TITLES[kind]}", "", "| key | takes | default | meaning |", "|---|---|---|---|")
        for key in keys:
            cells = f"`{key.name}`", _escaped(_needs(key)), _default(key), _escaped(key.meaning)
            yield f"| {' | '.join(cells)} |"


def _default_words(key: Key) -> str:
    return key.default if key.default in ("unset", "required") else f"default {key.default}"


def _default(key: Key) -> str:
    return f"*{key.default}*" if key.default in ("unset", "required") else f"`{key.default}`"


def _escaped(text: str) -> str:
    """`text` as Markdown that shows it literally, but for what it sets in backticks."""
    for character in "\\|*_<[":
        text = text.replace(character, f"\\{character}")
    return text
