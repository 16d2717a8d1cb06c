"""`harness measure IMAGES --against …` and `harness reference`: anyone's images, and statistics of data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table

from harness.cli.console import console, print_json, say
from harness.cli.experiment import bar
from harness.cli.report import width_of
from harness.errors import ConfigError, DataError
from harness.files import expanded
from harness.metrics import METRICS, metric_of
from harness.metrics.declare import Metric
from harness.wording import count_of, nearest

if TYPE_CHECKING:
    from harness.measure.features import Extractor
    from harness.measure.outside import Progress
    from harness.measure.statistics_files import StatisticsFile

INCEPTION, DIGITS = "inception", "digits"
NAMES: dict[str, tuple[str, str | None]] = {
    "fid": ("frechet", INCEPTION),
    "kid": ("kernel", INCEPTION),
    "is": ("inception_score", INCEPTION),
    "fd-dinov2": ("frechet", "dinov2"),
    "fd": ("frechet", None),
    "kd": ("kernel", None),
    "precision": ("precision_recall", None),
    "recall": ("precision_recall", None),
}
"""What the literature calls a metric → the package's name, and the one extractor that the name stands for."""
IMAGE_FILES = (".zip", ".npz", ".tgz", ".gz")


@dataclass(frozen=True)
class Extracting:
    """How features are made: options that both commands have."""

    extractor: str | None = None
    weights: Path | None = None
    split: str = "train"
    batch: int = 250
    workers: int = 0


def refuse_without_against(file: Path, metrics: Sequence[str], extractor: str | None, weights: Path | None) -> None:
    """Raise :class:`ConfigError` for images that nothing is named for to measure against, and for options of images."""
    if file.is_dir() or file.suffix.lower() in IMAGE_FILES:
        raise ConfigError("--against", [f"missing; {file} is measured against data or statistics: --against DATA"])
    given = {"--metric": metrics, "--extractor": extractor, "--weights": weights}
    named = next((name for name, value in given.items() if value), None)
    if named:
        keys = {"--metric": "measure.metrics", "--extractor": "measure.features", "--weights": "measure.weights"}
        raise ConfigError(named, [f"goes with --against; an experiment says it itself: --set {keys[named]}=…"])


def refuse_with_against(file: Path, overrides: Sequence[str], arm: str | None) -> None:
    """Raise :class:`ConfigError` for an experiment where images are expected, and for options of an experiment."""
    if file.suffix.lower() in (".yaml", ".yml"):
        raise ConfigError("--against", [f"{file} is an experiment, which says itself what it is measured against"])
    named = "--arm" if arm else "--set" if overrides else None
    if named:
        raise ConfigError(named, ["goes with an experiment, not with --against"])


def measure(images: str, against: str, metrics: Sequence[str], how: Extracting, json_output: bool) -> None:
    """Measure anyone's images against data or statistics and print the figures with their conditions."""
    from harness.data.image_sets import open_image_set
    from harness.measure.outside import check_comparable, default_metrics, measure_images, open_against

    out = console(json_output)
    chosen, wanted = _chosen(metrics, how.extractor)
    generated, real = open_image_set(images), open_against(against, how.split)
    extractor = _loaded(wanted or _usual(against, real.statistics), how)
    _check_names(metrics, extractor)
    listed = chosen or default_metrics(extractor, real)
    check_comparable(generated.info, real, extractor, listed)
    with _progress(out) as progress:
        found = measure_images(
            generated, real, extractor, listed, batch=how.batch, workers=how.workers, progress=progress
        )
    if json_output:
        print_json(found)
    else:
        show(found, out)


def reference(data: str, out_path: Path | None, how: Extracting, overwrite: bool, json_output: bool) -> None:
    """Write the statistics of data, or check a file of statistics and say what it holds."""
    from harness.data.export import check_destination
    from harness.measure.outside import open_against, statistics_of_data
    from harness.measure.statistics_files import convert_statistics, read_statistics, write_statistics

    out = console(json_output)
    if out_path is not None:
        if out_path.suffix.lower() != ".npz":
            raise ConfigError("--out", [f"{out_path}: statistics are written as .npz"])
        check_destination(out_path, overwrite)
    source = open_against(data, how.split)
    if source.statistics is not None:
        if how.extractor is not None:
            raise ConfigError("--extractor", [f"{data} holds statistics already, which are taken as they are"])
        if out_path is not None:
            convert_statistics(out_path, source.statistics)
        _tell_statistics(read_statistics(out_path or source.statistics.path), out_path, out, json_output)
        return
    assert source.data is not None
    if out_path is None:
        raise ConfigError("--out", ["missing; name the .npz that the statistics are written to"])
    extractor = _loaded(how.extractor or _usual(data, None), how)
    with _progress(out) as progress:
        found, made = statistics_of_data(source.data, extractor, how.batch, how.workers, progress)
    write_statistics(out_path, found, made)
    _tell_statistics(read_statistics(out_path), out_path, out, json_output)


def _chosen(names: Sequence[str], extractor: str | None) -> tuple[list[Metric], str | None]:
    """The metrics that are asked for, and the extractor that they and ``--extractor`` name, if they do.

    Raises :class:`ConfigError`: no other features' distance is called FID.
    """
    wanted, chosen = extractor, dict[str, Metric]()
    for name in names:
        own, needs = NAMES.get(name.lower(), (name, None))
        if needs is not None and wanted not in (None, needs):
            what = "FID" if name.lower() == "fid" else name
            raise ConfigError(
                "--metric", [f"{name}: {what} is of {needs}'s features, not of {wanted}'s; say {own} instead"]
            )
        wanted = needs or wanted
        try:
            chosen[own] = metric_of(own)
        except ValueError as error:
            if ":" in own:
                raise ConfigError("--metric", [str(error)]) from None
            known = [*NAMES, *METRICS]
            choices = f"{', '.join(known)}, nor of the form package.module:NAME"
            raise ConfigError(
                "--metric",
                [f"{name!r} is not one of {choices}{nearest(name, known)}"],
            ) from None
    return list(chosen.values()), wanted


def _usual(against: str, known: StatisticsFile | None) -> str:
    """The extractor where none is named: the digits' for the digits, that of statistics that say it, or Inception."""
    from harness.measure.statistics_files import likely_extractor

    if known is not None:
        likely = likely_extractor(known)
        if likely is None:
            raise ConfigError(
                "--extractor",
                [f"missing; {known.path} is of {known.width} features, and does not say of which network"],
            )
        return likely
    return DIGITS if against == DIGITS and not expanded(against).exists() else INCEPTION


def _loaded(name: str, how: Extracting) -> Extractor:
    """The extractor, on the device that there is. Raises before any image is decoded."""
    from harness.engine.distributed import pick_device
    from harness.measure.features import load_extractor

    try:
        return load_extractor(name, how.weights, pick_device())
    except ConfigError as error:
        raise ConfigError("--extractor", error.problems) from None
    except DataError as error:
        raise DataError(str(error).replace("measure.weights", "--weights")) from None


def _check_names(names: Sequence[str], extractor: Extractor) -> None:
    """Raise :class:`ConfigError` where a name stands for the official weights and these are others."""
    named = next((name for name in names if name.lower() in ("fid", "kid")), None)
    if named is not None and not extractor.is_official_inception:
        own = NAMES[named.lower()][0]
        raise ConfigError("--metric", [f"{named}: the weights are not the official ones; say {own} instead"])


@contextmanager
def _progress(out: Console) -> Iterator[Progress]:
    with bar(out, "features", "cell") as tell:
        yield lambda whose, done, total: tell(done, total, whose)


def show(found: dict[str, Any], out: Console) -> None:
    """The figures with their conditions, for people."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for head in ("measure", "value", "standard error", "better"):
        table.add_column(head.replace(" ", "\n"), justify="left" if head in ("measure", "better") else "right")
    values, errors = found["values"], found["standard_errors"]
    for name, measure in found["measures"].items():
        error = errors.get(name, values.get(f"{name}_std"))
        kind = "" if name in errors or error is None else " (spread)"
        table.add_row(
            measure["label"], f"{values[name]:.4g}", "–" if error is None else f"{error:.2g}{kind}", measure["better"]
        )
    Console(file=out.file, emoji=False, width=width_of(out) or 100).print(table)
    images, against, known = found["images"], found["against"], found["against"]["statistics"]
    say(f"images: {_counted(images)} of {images['name']}", out)
    if against["images"] is not None:
        say(f"against: {count_of(against['images'], 'image')} of {against['name']}", out)
    if known is not None:
        made = known["made"]
        of = f", {count_of(made['images'], 'image')} of {made['data']}" if made else ""
        say(f"against: statistics in {known['file']}{of}", out)
    say(f"features: {found['features_label']}, {found['resizing']}; weights {found['extractor'][:12]}", out)
    for note in found["notes"]:
        say(f"note: {note}", out)


def _counted(images: dict[str, Any]) -> str:
    colour = "grey" if images["channels"] == 1 else "RGB"
    return f"{count_of(images['images'], 'image')} {images['size']}×{images['size']} {colour}"


def _tell_statistics(known: StatisticsFile, written: Path | None, out: Console, json_output: bool) -> None:
    facts = {
        "file": str(known.path),
        "width": known.width,
        "rank": known.rank,
        "made": vars(known.made) if known.made else None,
        "notes": list(known.notes),
    }
    if json_output:
        print_json(facts)
        return
    head = "written: " if written else ""
    say(f"{head}{known.path}: mean and covariance of {count_of(known.width, 'feature')}", out)
    if known.made is not None:
        made = known.made
        colour = "grey" if made.channels == 1 else "RGB"
        say(f"of {count_of(made.images, 'image')} {made.size}×{made.size} {colour}: {made.data}", out)
        say(f"features: {made.extractor}, {made.resizing}; weights {made.extractor_id[:12]}", out)
    for note in known.notes:
        say(f"note: {note}", out)
