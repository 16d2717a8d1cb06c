"""`harness data prepare`, `info` and `throughput`: parse and print, nothing else.

Heavy imports wait until a command needs them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.group import Commands
from harness.wording import count_of

if TYPE_CHECKING:
    from rich.progress import TaskID

    from harness.data.prepare import PrepareProgress

data_app = typer.Typer(cls=Commands, help="Prepare and look at data.", no_args_is_help=True, rich_markup_mode=None)
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, and no progress.")]


@data_app.command()
def prepare(
    src: Annotated[str, typer.Argument(help="folder or zip of images, a pattern of zips, or CIFAR-10's archive")],
    dst: Annotated[str, typer.Argument(help="zip to write, as EDM and StyleGAN read it")],
    size: Annotated[int | None, typer.Option(help="side in pixels; by default that of the images")] = None,
    split: Annotated[str, typer.Option(help="train or test")] = "train",
    channels: Annotated[int | None, typer.Option(help="1 grey, 3 RGB; by default what the images have")] = None,
    name: Annotated[str | None, typer.Option(help="name of the data in reports")] = None,
    workers: Annotated[int | None, typer.Option(help="processes; by default one per core")] = None,
    allow_damaged: Annotated[int, typer.Option(help="images that may be left out because they are damaged")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace another file at DST")] = False,
    as_json: Json = False,
) -> None:
    """Crop to the centre, reduce by area averaging as ADM and EDM do, and write one zip. A rerun goes on."""
    from harness.data.prepare import prepare as prepare_images

    with _progress(shown=not as_json) as progress:
        made = prepare_images(
            src,
            dst,
            size,
            split=split,
            channels=channels,
            name=name,
            workers=workers,
            allow_damaged=allow_damaged,
            overwrite=overwrite,
            progress=progress,
        )
    if as_json:
        _print_json(asdict(made))
        return
    classes = "no labels" if made.classes is None else count_of(made.classes, "class")
    colour = "grey" if made.channels == 1 else "RGB"
    typer.echo(f"{made.path}: {count_of(made.images, 'image')}, {made.size}×{made.size} {colour}, {classes}")
    if made.damaged:
        typer.echo(f"left out as damaged: {len(made.damaged)}, listed in {made.path}.damaged.tsv")


@data_app.command()
def info(
    path: Annotated[str, typer.Argument(help="folder or zip of images, a pattern of zips, or CIFAR-10's archive")],
    check: Annotated[bool, typer.Option("--check", help="decode every image, count and name the damaged")] = False,
    as_json: Json = False,
) -> None:
    """What lies at PATH: splits, images, classes, sizes, fingerprints."""
    from harness.data.describe import info as describe

    with _progress(shown=check and not as_json) as progress:
        described = describe(path, check=check, progress=progress)
    if as_json:
        _print_json(described)
    else:
        _print_info(described)
    if any(split.get("damaged") for split in described["splits"].values()):
        raise typer.Exit(1)


@data_app.command()
def throughput(
    path: Annotated[str | None, typer.Argument(help="as for `info`; the digits if left out")] = None,
    size: Annotated[int | None, typer.Option(help="side in pixels, as data.size of an experiment")] = None,
    batch: Annotated[int, typer.Option(min=1, help="images per batch")] = 256,
    workers: Annotated[int, typer.Option(min=0, help="loader processes")] = 0,
    seconds: Annotated[float, typer.Option(min=0.1, help="how long to measure")] = 5.0,
    memory: Annotated[bool, typer.Option("--memory", help="decode all into memory first, as a training does")] = False,
    as_json: Json = False,
) -> None:
    """Images per second of the loader alone."""
    from harness.config.schema import DataConfig, parse_section
    from harness.data import loader_throughput, open_data

    kind = "digits" if path is None else "cifar10" if path.endswith((".tar.gz", ".tgz")) else "images"
    config: DataConfig = parse_section(DataConfig, {"name": kind, "path": path, "size": size}, "data")
    dataset = open_data(config)
    if memory:
        dataset.all_uint8()
    measured = loader_throughput(dataset, batch, workers=workers, seconds=seconds)
    if as_json:
        _print_json({"data": asdict(dataset.info), **measured.as_dict()})
        return
    source = "memory" if measured.in_memory else f"files, {workers} loader processes"
    typer.echo(
        f"{dataset.info.name}: {measured.images_per_second:,.0f} images/s in batches of {batch} from {source} "
        f"({count_of(measured.images, 'image')} in {measured.seconds:.1f} s)"
    )


@contextmanager
def _progress(shown: bool) -> Iterator[PrepareProgress | None]:
    """A progress bar per phase on stderr; what a rerun finds done does not count towards the time left."""
    if not shown:
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description:10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("[red]{task.fields[damaged]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    tasks: dict[str, TaskID] = {}
    bars = Progress(*columns, console=Console(stderr=True), speed_estimate_period=60)

    def update(phase: str, done: int, total: int, damaged: int) -> None:
        note = f"{damaged} damaged" if damaged else ""
        if phase not in tasks:
            bars.start()
            tasks[phase] = bars.add_task(phase, total=total, completed=done, damaged=note)
        bars.update(tasks[phase], completed=done, total=total, damaged=note)

    try:
        yield update
    finally:
        bars.stop()


def _print_json(values: dict[str, Any]) -> None:
    typer.echo(json.dumps(values, indent=1))  # escaped: any terminal can carry it


def _print_info(described: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("", *described["splits"], title=f"{described['name']} ({described['kind']})", title_justify="left")
    rows = {
        "images": lambda s: f"{s['images']:,}",
        "classes": lambda s: "none" if s["classes"] is None else str(s["classes"]),
        "images per class": lambda s: "–".join(str(n) for n in dict.fromkeys(s.get("images_per_class", ()))),
        "sizes": _sizes,
        "channels": lambda s: str(s["channels"]),
        "formats": lambda s: ", ".join(s.get("formats", ())),
        "fingerprint": lambda s: s["fingerprint"],
        "damaged": lambda s: str(len(s["damaged"])) if "damaged" in s else "not looked for (--check)",
    }
    for title, cell in rows.items():
        table.add_row(title, *(cell(split) for split in described["splits"].values()))
    Console(markup=False, emoji=False, highlight=False).print(table)
    if described.get("other_files"):
        typer.echo(f"{described['other_files']} other files are not images by their names and are not used")
    for split in described["splits"].values():
        for file, reason in split.get("damaged", ()):
            typer.echo(f"{file}: {reason}", err=True)


def _sizes(split: dict[str, Any]) -> str:
    shown = ", ".join(list(split["sizes"])[:4]) + (", …" if len(split["sizes"]) > 4 else "")
    looked_at = split["sizes_looked_at"]
    return shown if looked_at == split["images"] else f"{shown} (of {looked_at} looked at)"
