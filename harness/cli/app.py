"""The command line: parses and prints, nothing else. Heavy imports wait until a command needs them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.cli.console import COMPUTING, console, main_of
from harness.cli.data import data_app
from harness.cli.group import Commands
from harness.cli.hints import RESULTS
from harness.cli.weights import weights_app
from harness.errors import ConfigError, told_of
from harness.shipped import path_of
from harness.store.folder import check_results_folder
from harness.threads import choose_wait_policy

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: importing what rich draws it with takes longer than all the rest
    help="Benchmarks and ablations of Dual-Rate Diffusion: from a sweep file to its tables and figures.",
)
app.add_typer(data_app, name="data")
app.add_typer(weights_app, name="weights")


def _tell_version(wanted: bool) -> None:
    if wanted:
        import harness

        print(f"harness {harness.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_tell_version, help="print the version and leave")
    ] = False,
) -> None:
    """What stands before a command."""


def _expanded(path: Path | None) -> Path | None:
    """`path` with `~` expanded, which the shell leaves alone in a variable or after `=`."""
    try:
        return path and path.expanduser()
    except RuntimeError as error:
        raise ConfigError(str(path), [str(error).rstrip(".").lower()]) from None


def _named_file(path: Path | None) -> Path | None:
    """`path` expanded, or the sweep of that name that comes with the harness where there is no such file."""
    expanded = _expanded(path)
    return expanded if expanded is None or expanded.is_dir() else path_of(expanded)


def _named_sweep(path: Path) -> Path:
    """As :func:`_named_file`, where a folder of that name cannot be meant."""
    return path_of(_expanded(path) or path)


def _results_folder(path: Path) -> Path:
    from harness.config.values import decoded  # imported here: help and status need no schema

    folder = _expanded(path) or path
    check_results_folder(folder)
    decoded(str(folder.absolute()), "--results")  # safetensors cannot read from a path that is not UTF-8
    return folder


SweepFile = Annotated[
    Path,
    typer.Argument(help="a sweep file (YAML), or one that comes with harness, as quickstart", callback=_named_sweep),
]
ExperimentFile = Annotated[
    Path, typer.Argument(help="an experiment's YAML file, or a sweep with --arm", callback=_named_sweep)
]
Overrides = Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="override a key everywhere")]
Results = Annotated[
    Path,
    typer.Option("--results", envvar="HARNESS_RESULTS", help="folder of the results", callback=_results_folder),
]
AsJson = Annotated[bool, typer.Option("--json", help="print one JSON document for a script")]
Cluster = Annotated[
    str | None,
    typer.Option(
        envvar="HARNESS_CLUSTER", help="slurm, local or inline; else cluster.kind of the file, else slurm if it is here"
    ),
]
SlurmOptions = Annotated[
    list[str],
    typer.Option("--slurm", metavar="KEY=VALUE", help="a cluster setting, as partition=gpu or cells.time=30m"),
]
Targets = Annotated[list[str] | None, typer.Argument(metavar="ID", help="trainings and cells, by id or its start")]
Arm = Annotated[str | None, typer.Option("--arm", help="the arm to take from a sweep file")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="replace what is there")]
Extractor = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="inception, dinov2, efficientnet_lite0, digits, or package.module:NAME"),
]
ExtractorWeights = Annotated[
    Path | None, typer.Option("--weights", help="the extractor's weights, where they are not found", callback=_expanded)
]
Split = Annotated[str, typer.Option(help="split of the data: train or test")]
ExtractorBatch = Annotated[int, typer.Option(min=1, help="images through the extractor at once")]
DecodingWorkers = Annotated[int, typer.Option(min=0, help="processes that decode images")]


def main() -> None:
    """Entry point."""
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # looking for some reads every installed package
    arguments = sys.argv[1:]
    computes = COMPUTING.intersection(arguments[:1]) and "--help" not in arguments
    chosen = choose_wait_policy() if computes else None
    if chosen is not None:
        console(json_output=True).print(chosen)
    main_of(lambda arguments: app(arguments, standalone_mode=True), arguments)


@app.command()
def sweep(
    file: SweepFile,
    overrides: Overrides = [],  # noqa: B006 - typer copies it
    results: Results = RESULTS,
    cluster: Cluster = None,
    workers: Annotated[int | None, typer.Option(min=1, help="processes of --cluster local; 1 if not given")] = None,
    slurm: SlurmOptions = [],  # noqa: B006
    wait: Annotated[bool, typer.Option("--wait", help="on SLURM: wait for all jobs, then report")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print what would run; run nothing")] = False,
    json_output: AsJson = False,
) -> None:
    """Run what is missing of a sweep, then make its report. On SLURM: submit it and return."""
    from harness.cli import sweep as sweeping

    sweeping.run(file, overrides, results, cluster, workers, slurm, wait, dry_run, json_output)


@app.command()
def init(
    data: Annotated[str, typer.Argument(metavar="DATA", help="folder or zip of images, CIFAR-10's archive, or digits")],
    out: Annotated[
        Path, typer.Option("--out", help="the file to write; never over another", callback=_expanded)
    ] = Path("mysweep.yaml"),
    json_output: AsJson = False,
) -> None:
    """Write a commented sweep for your own images, with networks of a size that fits them."""
    from harness.cli import init as beginning

    beginning.run(data, out, json_output)


@app.command()
def adapt(
    weights: Annotated[
        str,
        typer.Argument(
            metavar="WEIGHTS", help="a trained network: its weights.safetensors, its training's folder, or training:ID"
        ),
    ],
    data: Annotated[
        str | None, typer.Option(metavar="PATH|NAME", help="the data it was trained on, if nothing else says where")
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(metavar="SHARE", help="of the network's training to add, as 10% (if not given) or 0.1"),
    ] = None,
    overrides: Annotated[
        list[str],
        typer.Option(
            "--set", metavar="KEY=VALUE", help="a key: of train and model for the dual-rate network, else for both"
        ),
    ] = [],  # noqa: B006
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="the file that trained it, where the weights do not say", callback=_expanded),
    ] = None,
    arm: Annotated[str | None, typer.Option("--arm", help="its arm, if that file is a sweep with several")] = None,
    write: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="where the sweep is written; beside its report if not given", callback=_expanded
        ),
    ] = None,
    results: Results = RESULTS,
    cluster: Cluster = None,
    workers: Annotated[int | None, typer.Option(min=1, help="processes of --cluster local; 1 if not given")] = None,
    slurm: SlurmOptions = [],  # noqa: B006
    wait: Annotated[bool, typer.Option("--wait", help="on SLURM: wait for all jobs, then report")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print what would run; run nothing, write only what --write names")
    ] = False,
    json_output: AsJson = False,
) -> None:
    """Make a trained network dual-rate for a few per cent more training, with a table before and after."""
    from harness.cli import adapt as adapting

    asked = adapting.Asking(weights, data, budget, overrides, config, arm, write)
    adapting.run(asked, results, cluster, workers, slurm, wait, dry_run, json_output)


@app.command()
def status(
    file: Annotated[
        Path | None, typer.Argument(help="a sweep file; without one: all that was submitted", callback=_named_file)
    ] = None,
    overrides: Overrides = [],  # noqa: B006
    results: Results = RESULTS,
    watch: Annotated[bool, typer.Option("--watch", help="a live table until nothing runs any more")] = False,
    json_output: AsJson = False,
) -> None:
    """State, progress and errors of a sweep's trainings and cells, wherever they run; or the jobs of all sweeps."""
    from harness.cli import status as status_command

    status_command.run(file, overrides, results, watch, json_output)


@app.command()
def logs(
    file: SweepFile,
    target: Annotated[str, typer.Argument(metavar="ID", help="a training's or cell's id, or its start")],
    overrides: Overrides = [],  # noqa: B006
    results: Results = RESULTS,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="keep printing until the job has ended")] = False,
    every_attempt: Annotated[bool, typer.Option("--all", help="of all its jobs, not only of the last")] = False,
    json_output: AsJson = False,
) -> None:
    """What the last job of a training or cell printed, and the traceback of its error."""
    from harness.cli import logs as logs_command

    logs_command.run(file, target, overrides, results, follow, every_attempt, json_output)


@app.command()
def retry(
    file: SweepFile,
    targets: Targets = None,
    failed: Annotated[
        bool, typer.Option("--failed", help="all that did not end well (the default without ids)")
    ] = False,
    overrides: Overrides = [],  # noqa: B006
    results: Results = RESULTS,
    cluster: Cluster = None,
    slurm: SlurmOptions = [],  # noqa: B006
    json_output: AsJson = False,
) -> None:
    """Run again what has failed, was cancelled, is blocked or lost."""
    from harness.cli import cluster as cluster_commands

    names = [] if failed else targets or []
    cluster_commands.retry(file, names, overrides, results, cluster, slurm, json_output)


@app.command()
def cancel(
    file: SweepFile,
    targets: Targets = None,
    overrides: Overrides = [],  # noqa: B006
    results: Results = RESULTS,
    earlier: Annotated[
        bool,
        typer.Option(
            "--earlier", help="only jobs of earlier versions of the file, which the present one no longer asks for"
        ),
    ] = False,
    json_output: AsJson = False,
) -> None:
    """Cancel a sweep's jobs on SLURM. What they have done is kept; `harness retry` continues from there."""
    from harness.cli import cluster as cluster_commands

    cluster_commands.cancel(file, targets or [], overrides, results, earlier, json_output)


@weights_app.command()
def adopt(
    file: SweepFile,
    weights: Annotated[
        list[Path], typer.Argument(help="weights of its trainings, as a published report has them beside it")
    ],
    cells: Annotated[
        bool, typer.Option("--cells", help="and what the reports beside them have measured: only the rest is sampled")
    ] = False,
    overrides: Overrides = [],  # noqa: B006
    results: Results = RESULTS,
    json_output: AsJson = False,
) -> None:
    """Copy published WEIGHTS to where a sweep looks for its trainings' own, so that it trains only the rest."""
    from harness.cli import weights as weights_commands

    paths = [_expanded(path) or path for path in weights]
    weights_commands.adopt(file, paths, cells, overrides, results, json_output)


@app.command()
def report(
    file: Annotated[
        Path,
        typer.Argument(help="a sweep file, or the folder of a report (from its cells.json)", callback=_named_file),
    ],
    overrides: Overrides = [],  # noqa: B006
    results: Results = RESULTS,
    publish: Annotated[
        bool, typer.Option("--publish", help="write RESULTS/NAME as a published report: no sweep's own takes its place")
    ] = False,
    metric: Annotated[
        str | None, typer.Option("--metric", help="rank and compare by this measure instead of the Fréchet distance")
    ] = None,
    json_output: AsJson = False,
) -> None:
    """Make a sweep's tables and figures from the results that are there. Never trains or samples."""
    from harness.cli import report as reporting

    reporting.run(file, overrides, results, json_output, publish, metric)


@app.command()
def train(
    file: ExperimentFile,
    overrides: Overrides = [],  # noqa: B006
    arm: Arm = None,
    results: Results = RESULTS,
    start: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="begin with the weights in this file; as --set train.start=FILE"),
    ] = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="time and trace a few steps, print achieved FLOP/s; train nothing")
    ] = False,
    json_output: AsJson = False,
) -> None:
    """Train one experiment's network."""
    from harness.cli import experiment as single

    if profile:
        single.profile(file, overrides, arm, results, json_output)
    else:
        single.train(file, overrides, arm, results, json_output, start)


@app.command()
def distill(
    file: ExperimentFile,
    overrides: Overrides = [],  # noqa: B006
    arm: Arm = None,
    results: Results = RESULTS,
    teacher: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="the weights that teach, and that the student starts from unless train.start names others; as --set "
            "distill.teacher=FILE",
        ),
    ] = None,
    json_output: AsJson = False,
) -> None:
    """Teach a trained network to sample in a few steps: one experiment's training, of which `distill` says how."""
    from harness.cli import experiment as single

    single.distill(file, overrides, arm, results, json_output, teacher)


@app.command()
def sample(
    file: ExperimentFile,
    overrides: Overrides = [],  # noqa: B006
    arm: Arm = None,
    results: Results = RESULTS,
    weights: Annotated[
        Path | None, typer.Option(help="weights file; the training's own if not given", callback=_expanded)
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="how many images")] = 64,
    out: Annotated[
        Path,
        typer.Option(
            help="a .png: a grid, with the images beside it as .npz; else a folder of PNGs, a .zip as EDM has it, or "
            "an .npz as ADM has it",
            callback=_expanded,
        ),
    ] = Path("samples.png"),
    only_class: Annotated[
        int | None,
        typer.Option("--class", min=0, help="draw this class alone; all, in the data's proportions, without"),
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="sampling seed; the first of sample.seeds if not given")
    ] = None,
    overwrite: Overwrite = False,
    json_output: AsJson = False,
) -> None:
    """Draw images from a trained network, as a grid, or as files for other programs; never trains."""
    from harness.cli import experiment as single

    asked = single.Drawing(images, out, only_class, seed, overwrite)
    single.sample(file, overrides, arm, results, weights, asked, json_output)


@app.command()
def schedule(
    file: ExperimentFile,
    overrides: Overrides = [],  # noqa: B006
    arm: Arm = None,
    results: Results = RESULTS,
    weights: Annotated[
        Path | None, typer.Option(help="weights file; the training's own if not given", callback=_expanded)
    ] = None,
    budget: Annotated[
        float | None, typer.Option(help="GMACs per image: choose steps and refreshes, the steps of those of --steps")
    ] = None,
    refreshes: Annotated[int | None, typer.Option(help="how many refreshes")] = None,
    steps: Annotated[int | None, typer.Option(help="how many steps; with --budget to choose from")] = None,
    objective: Annotated[str | None, typer.Option(help="sigmoid (if not given) or elbo")] = None,
    bias: Annotated[
        float | None, typer.Option(help="of the sigmoid objective; diffusion.loss_bias if not given")
    ] = None,
    out: Annotated[
        Path, typer.Option(help="PNG of the map; the schedule goes beside it as .json", callback=_expanded)
    ] = Path("schedule.png"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace what is there under --out")] = False,
    json_output: AsJson = False,
) -> None:
    """Find when a trained network is best refreshed, by its measured errors; never trains."""
    from harness.cli import schedule as scheduling

    asking = scheduling.Asking(budget, refreshes, steps, objective, bias)
    scheduling.schedule(file, overrides, arm, results, weights, asking, out, overwrite, json_output)


@app.command()
def measure(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE|IMAGES",
            help="an experiment's YAML file, or a sweep with --arm; with --against a folder, zip or .npz of images",
            callback=_expanded,
        ),
    ],
    overrides: Overrides = [],  # noqa: B006
    arm: Arm = None,
    results: Results = RESULTS,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="DATA|STATISTICS",
            help="measure IMAGES against these: a folder, zip, .npz or name of data, or a file of mu and sigma",
        ),
    ] = None,
    metrics: Annotated[
        list[str],
        typer.Option(
            "--metric", metavar="NAME", help="fid, kid, frechet, kernel, precision_recall, inception_score, …"
        ),
    ] = [],  # noqa: B006
    extractor: Extractor = None,
    weights: ExtractorWeights = None,
    split: Split = "train",
    batch: ExtractorBatch = 250,
    workers: DecodingWorkers = 0,
    json_output: AsJson = False,
) -> None:
    """Draw and measure one experiment, training it first if it must be; or, with --against, measure anyone's images."""
    from harness.cli import experiment as single
    from harness.cli import images

    if against is None:
        images.refuse_without_against(file, metrics, extractor, weights)
        single.measure(path_of(file), overrides, arm, results, json_output)
        return
    images.refuse_with_against(file, overrides, arm)
    how = images.Extracting(extractor, weights, split, batch, workers)
    images.measure(str(file), against, metrics, how, json_output)


@app.command()
def reference(
    data: Annotated[
        str, typer.Argument(metavar="DATA|STATISTICS", help="a folder, zip, .npz or name of data; or mu and sigma")
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.npz", help="file of statistics to write", callback=_expanded)
    ] = None,
    extractor: Extractor = None,
    weights: ExtractorWeights = None,
    split: Split = "train",
    batch: ExtractorBatch = 250,
    workers: DecodingWorkers = 0,
    overwrite: Overwrite = False,
    json_output: AsJson = False,
) -> None:
    """Write the statistics of data, which Fréchet distances are taken to; or check and describe a file of them."""
    from harness.cli import images

    how = images.Extracting(extractor, weights, split, batch, workers)
    images.reference(data, out, how, overwrite, json_output)


@app.command()
def compare(
    before: Annotated[Path, typer.Argument(metavar="REPORT", help="folder of a report", callback=_expanded)],
    after: Annotated[Path, typer.Argument(metavar="REPORT", help="folder of another", callback=_expanded)],
    metric: Annotated[
        str | None, typer.Option("--metric", help="compare by this measure instead of the one rows are ranked by")
    ] = None,
    json_output: AsJson = False,
) -> None:
    """What changed from one report to another, beyond noise or not. Exit status 1 if something did, 0 if nothing."""
    from harness.cli import compare as comparing

    if comparing.run(before, after, metric, json_output):
        raise typer.Exit(1)


@app.command("time")
def time_(
    file: SweepFile,
    overrides: Overrides = [],  # noqa: B006
    results: Results = RESULTS,
    untrusted: Annotated[bool, typer.Option("--untrusted", help="only the times that are not to be trusted")] = False,
    json_output: AsJson = False,
) -> None:
    """Time a sweep's finished cells again, on this machine as it is now; their images and quality stay as they are."""
    from harness.cli import time as timing

    timing.run(file, overrides, results, untrusted, json_output)


@app.command()
def flops(
    file: ExperimentFile,
    overrides: Overrides = [],  # noqa: B006
    arm: Arm = None,
    json_output: AsJson = False,
) -> None:
    """Multiply-adds of each network by module and operator, per image and for training."""
    from harness.cli import costs

    costs.flops(file, overrides, arm, json_output)


@app.command()
def latency(
    file: ExperimentFile,
    overrides: Overrides = [],  # noqa: B006
    arm: Arm = None,
    json_output: AsJson = False,
) -> None:
    """Time sampling by the common protocol, with freshly initialised weights: time does not depend on their values."""
    from harness.cli import costs

    costs.latency(file, overrides, arm, json_output)


@app.command("config")
def config_(
    key: Annotated[
        str | None, typer.Argument(metavar="KEY", help="a key, its last part, or a section; all without")
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option("--kind", metavar="METHOD", help="with the keys of this method too, as package.module:Class"),
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="print the page docs/config.md")] = False,
    json_output: AsJson = False,
) -> None:
    """What the keys of a configuration take, their defaults and their meaning."""
    from harness.cli import config

    config.run(key, markdown, json_output, kind)


def _telling_of_file(command: Callable[..., None]) -> Callable[..., None]:
    """`command`, whose messages about a key say in which file it is: the one that the command takes."""

    @wraps(command)
    def told(**arguments: Any) -> None:
        file = arguments["file"]
        with nullcontext() if file is None else told_of(file):
            command(**arguments)

    return told


for registered in app.registered_commands:
    if registered.callback is not None and "file" in signature(registered.callback).parameters:
        registered.callback = _telling_of_file(registered.callback)
