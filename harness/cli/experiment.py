"""`harness train`, `sample` and `measure`: one experiment."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from harness.cli.console import console, print_json
from harness.cli.hints import Asked, of_arm
from harness.config.distilling import student_problem
from harness.config.schema import Experiment
from harness.dispatch.checks import (
    check_compiler,
    check_data,
    check_loggers,
    check_measures,
    check_schedules,
    check_store,
    measured_in_training,
    start_problem,
)
from harness.dispatch.plan import known_training, nodes_to_run, trainings_to_run
from harness.dispatch.progress import in_words
from harness.dispatch.sweep import Training, load_experiment, load_with_starts, names_a_start
from harness.engine.progress import MAIN, JobProgress
from harness.errors import Blocked, ConfigError, StoreError
from harness.files import atomic_path, set_aside
from harness.interrupts import stop_on_interrupt
from harness.store.identity import START_TRAINING, Identifier, identify, stitched_training
from harness.store.needs import missing_need
from harness.store.records import CellRecord
from harness.store.store import Store, Target
from harness.wording import count_of
from models.distillation import DISTILLERS

if TYPE_CHECKING:
    from torch import Tensor

    from harness.engine.sampling import ImageGenerator


@contextmanager
def bar(out: Console, label: str, kind: str) -> Iterator[JobProgress]:
    """A progress bar over a training's steps, a cell's images, or whatever else is counted; it names the phase."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[text]}", markup=False),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=out, disable=not out.is_terminal) as progress:
        task = progress.add_task(label, total=1.0, text="")
        current = MAIN

        def tell(done: int, total: int, phase: str = MAIN) -> None:
            nonlocal current
            if phase != current:  # each phase has a speed of its own
                progress.reset(task, total=1.0)
                current = phase
            progress.update(task, completed=done / total if total else 0.0, text=in_words(kind, done, total, phase))

        yield tell


def run_job(store: Store, target: Target, out: Console) -> None:
    """Run a job with its bar. Ctrl-C is let through as a KeyboardInterrupt that says what is saved."""
    from harness.dispatch.local import saved
    from harness.engine import jobs

    looks = False
    store.forget_failure(target)
    with bar(out, str(target), target.kind) as progress:

        def tell(done: int, total: int, phase: str = MAIN) -> None:
            nonlocal looks
            looks = phase == MAIN
            progress(done, total, phase)

        with stop_on_interrupt(lambda: looks, out.print) as stop:
            try:
                jobs.run(store, target, tell, stop.is_set)
            except BaseException as error:
                if not (isinstance(error, KeyboardInterrupt) or stop.is_set()):
                    raise
                kept = f"stopped; {target}: {saved(store, target)}; the same command goes on from there"
                raise KeyboardInterrupt(kept) from error


def _trained(store: Store, experiment: Experiment, starts: Sequence[Training], out: Console) -> str:
    """The id of the experiment's training, once it and all that it starts from (`starts`, in their order) are done."""
    told = Identifier()
    wanted = Training.of(told(experiment)[0], experiment, told)
    if store.is_done(wanted.target):
        return wanted.id
    missing = trainings_to_run(wanted, starts, store)
    known = {training.id: training for training in [*starts, *missing]}
    check_store(store)
    check_data(training.experiment for training in missing)
    check_loggers(training.experiment for training in missing)
    check_measures(measured_in_training(training.experiment for training in missing))
    check_compiler((training.experiment for training in missing), [])
    for training in missing:
        if (problem := start_problem(training, known, store)) is not None:
            raise ConfigError(f"training {training.id}", [problem])
    for node in nodes_to_run(missing, store):
        store.save_experiment(node.target, node.experiment)
        run_job(store, node.target, out)
    return wanted.id


def _stitched_to(experiment: Experiment, starts: Sequence[Training], store: Store) -> list[Experiment]:
    """The experiment of the training that ``sample.stitch`` names, unless that is done or a file."""
    id = stitched_training(experiment)
    if id is None or store.is_trained(id):
        return []
    found = next((training for training in starts if training.id == id), None) or known_training(id, store)
    if found is None:
        raise StoreError(f"sample.stitch: {missing_need(store, Target('training', id))}")
    return [found.experiment]


def weights_of(store: Store, experiment: Experiment, command: str) -> Path:
    """Where the training's weights lie. Raises :class:`StoreError` with the `command` that trains where none are."""
    training, _ = identify(experiment)
    if not store.is_trained(training):
        reason = missing_need(store, Target("training", training))
        raise StoreError(f"{reason}; train it first: {command}, or name other weights: --weights FILE")
    return store.weights_path(training)


def _with_start(overrides: Sequence[str], start: str | None) -> list[str]:
    """`overrides` with ``--start``, which names a file even where an arm has its name."""
    return list(overrides) if start is None else [*overrides, f"train.start={_as_weights(start)}"]


def _as_weights(named: str) -> str:
    """A file or training named on the command line, so that no arm can be meant."""
    return named if "/" in named or named.startswith(START_TRAINING) else f"./{named}"


def train(
    file: Path, overrides: Sequence[str], arm: str | None, results: Path, json_output: bool, start: str | None = None
) -> None:
    store, out = Store(results), console(json_output)
    experiment, starts = load_with_starts(file, _with_start(overrides, start), arm)
    _train_and_tell(store, experiment, starts, out, json_output)


def _train_and_tell(
    store: Store, experiment: Experiment, starts: Sequence[Training], out: Console, json_output: bool
) -> None:
    training = _trained(store, experiment, starts, out)
    if json_output:
        print_json({**store.read_training(training).plain, "weights": str(store.weights_path(training))})
    else:
        out.print(f"training {training}: {store.weights_path(training)}")


def distill(
    file: Path, overrides: Sequence[str], arm: str | None, results: Path, json_output: bool, teacher: str | None = None
) -> None:
    store, out = Store(results), console(json_output)
    experiment, starts = load_with_starts(file, _with_teacher(file, overrides, arm, teacher), arm)
    if experiment.distill.method is None:
        choices = ", ".join(DISTILLERS)
        raise ConfigError(str(file), [f"distill.method: missing; nothing says how to distil; choices: {choices}"])
    _train_and_tell(store, experiment, starts, out, json_output)
    if (problem := student_problem(experiment)) is not None:
        out.print(problem)


def _with_teacher(file: Path, overrides: Sequence[str], arm: str | None, teacher: str | None) -> list[str]:
    """`overrides` with ``--teacher``, which the student starts from too where nothing else is named."""
    if teacher is None:
        return list(overrides)
    named = _as_weights(teacher)
    start = [] if names_a_start(file, overrides, arm) else [f"train.start={named}"]
    return [*overrides, f"distill.teacher={named}", *start]


def profile(file: Path, overrides: Sequence[str], arm: str | None, results: Path, json_output: bool) -> None:
    """Time and trace a few steps of a training; the trace goes into its folder."""
    from harness.engine.profiling import describe_profile, profile_training

    store, out = Store(results), console(json_output)
    experiment = load_experiment(file, overrides, arm)
    training, _ = identify(experiment)
    summary = profile_training(experiment, store.training_folder(training) / "trace.json")
    if json_output:
        print_json(summary)
        return
    for line in describe_profile(summary):
        out.print(line)


@dataclass(frozen=True)
class Drawing:
    """What to draw, and where to: `seed` is the first of ``sample.seeds`` if None, `only_class` None for all."""

    images: int
    out: Path
    only_class: int | None = None
    seed: int | None = None
    overwrite: bool = False


def sample(
    file: Path,
    overrides: Sequence[str],
    arm: str | None,
    results: Path,
    weights: Path | None,
    asked: Drawing,
    json_output: bool,
) -> None:
    import torch

    from harness.engine.cell import first_images, ready_generator

    _check_out(asked)
    store, out, asked_for = Store(results), console(json_output), Asked(file, overrides, results)
    experiment = load_experiment(file, overrides, arm)
    if weights is None:
        weights = weights_of(store, experiment, asked_for.command("train", *of_arm(arm)))
    id = stitched_training(experiment)
    if id is not None and not store.is_trained(id):
        reason = missing_need(store, Target("training", id))
        raise StoreError(f"sample.stitch: {reason}; train the arm that it names first")
    try:
        generator = ready_generator(store, experiment, weights)
    except Blocked as error:  # by a table alone
        wanted, measuring = experiment.sample.schedule, asked_for.command("measure", *of_arm(arm))
        raise StoreError(f"sample.schedule: {wanted}: {error}; measure it first: {measuring}") from None
    _choose_class(generator, asked.only_class)
    seed = experiment.sample.seeds[0] if asked.seed is None else asked.seed
    with bar(out, "sampling", "cell") as progress:
        drawn = first_images(generator, seed, asked.images, progress)
    labels = generator.labels(torch.arange(asked.images))
    answer = {
        **_save(drawn, labels, asked.out),
        "count": asked.images,
        "seed": seed,
        "class": asked.only_class,
        "evaluations": dict(generator.networks_run),
    }
    if json_output:
        print_json(answer)
    else:
        places = " and ".join(str(answer[key]) for key in ("grid", "images") if key in answer)
        out.print(f"{count_of(asked.images, 'image')}: {places}")


def _check_out(asked: Drawing) -> None:
    """Raise before anything is drawn where the images cannot be written. Makes nothing."""
    from harness.data.export import check_destination

    path = asked.out
    check_destination(path, asked.overwrite)
    if path.suffix.lower() == ".png":
        check_destination(path.with_suffix(".npz"), asked.overwrite)
    place = path if path.is_dir() else path.absolute().parent
    if not os.access(place, os.W_OK | os.X_OK):
        raise StoreError(f"--out: {place}: cannot be written: {os.strerror(errno.EACCES)}")


def _choose_class(generator: ImageGenerator, only_class: int | None) -> None:
    """Have the generator draw one class alone. Raises :class:`ConfigError` for one that it does not know."""
    if only_class is None:
        return
    if generator.classes is None:
        raise ConfigError("--class", ["the network knows no classes: model.class_conditional is false"])
    if only_class >= generator.classes:
        raise ConfigError("--class", [f"{only_class}: the data's classes are 0 to {generator.classes - 1}"])
    generator.only_class = only_class


def _save(drawn: Tensor, labels: Tensor | None, path: Path) -> dict[str, Any]:
    """Write the images in the form that the ending of `path` says, and tell where they are."""
    import numpy as np

    from harness.data.export import save_grid, save_images

    if path.suffix.lower() != ".png":
        save_images(drawn.numpy(), None if labels is None else labels.numpy(), path)
        return {"images": str(path)}
    array_path = path.with_suffix(".npz")
    save_grid(drawn.numpy(), path)
    with atomic_path(array_path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, images=drawn.numpy())
    return {"grid": str(path), "images": str(array_path)}


def measure(file: Path, overrides: Sequence[str], arm: str | None, results: Path, json_output: bool) -> None:
    store, out = Store(results), console(json_output)
    experiment, starts = load_with_starts(file, overrides, arm)
    check_store(store)
    cell = identify(experiment)[1]
    target = Target("cell", cell)
    for reason in store.damaged_cells([cell] if store.is_done(target) else []).values():
        out.print(f"{reason}: set aside as {set_aside(store.cell_path(cell)).name}, and measured again")
    if not store.is_done(target):
        check_measures([experiment])
        check_schedules([experiment])
        check_compiler([], [experiment])
        for network in (experiment, *_stitched_to(experiment, starts, store)):
            _trained(store, network, starts, out)
        if (table := Identifier().cell_table(experiment)) is not None and not store.is_measured(table):
            store.save_experiment(Target("table", table), experiment)
            run_job(store, Target("table", table), out)
        store.save_experiment(target, experiment)
        run_job(store, target, out)
    record = store.read_cell(cell)
    if json_output:
        print_json(record.plain)
        return
    show_record(record, store, out)


def show_record(record: CellRecord, store: Store, out: Console) -> None:
    """A cell's figures with their conditions, for people."""
    from rich.table import Table

    from harness.report.rows import mistrust

    quality, compute, timing = record.quality, record.compute, record.time
    table = Table(show_header=False, title=f"cell {record.id}", title_justify="left")
    for seed in quality.per_seed:
        for name, measure in quality.measures.items():
            value, error = seed.values.get(name), seed.standard_errors.get(name)
            shown = "–" if value is None else f"{value:.4g}"
            table.add_row(
                f"{measure.label}, sampling seed {seed.seed}", f"{shown} (se {error:.2g})" if error else shown
            )
    table.add_row("images", f"{quality.images} against {quality.reference.images} of {quality.reference.name}")
    table.add_row("GMACs per image", f"{compute.gmacs_per_image:.4g}")
    if compute.decoder_gmacs_per_image is not None:
        table.add_row("of these the decoder's", f"{compute.decoder_gmacs_per_image:.4g}")
    table.add_row("GFLOPs per image", f"{compute.gflops_per_image:.4g}")
    table.add_row("evaluations", ", ".join(f"{name} {count}" for name, count in compute.evaluations.items()))
    if timing is not None:
        table.add_row("seconds per image", f"{timing.seconds_per_image:.4g} (batch {timing.batch}, {timing.device})")
        if timing.decoder_seconds_per_image is not None:
            table.add_row("of these the decoder's", f"{timing.decoder_seconds_per_image:.4g}")
        if reasons := mistrust(timing):
            table.add_row("a time not to be trusted", "; ".join(reasons))
    if quality.reconstruction is not None:
        told = quality.reconstruction
        for name, measure in quality.measures.items():
            if (value := told.values.get(name)) is not None:
                table.add_row(f"{measure.label} of {told.images} reconstructions", f"{value:.4g}")
        table.add_row("PSNR of reconstructions", f"{told.psnr:.3g} dB")
    out.print(table)
    out.print(f"record: {store.cell_path(record.id)}")
