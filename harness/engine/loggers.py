"""Loggers of other projects, fed from the training's own log: TensorBoard and W&B.

The training's log is the truth, and a logger a copy of it that is made anew from the log when a training is resumed: so
each step stands in it once, whatever was killed. A logger gets numbers and gives nothing back; one that fails is left
out, which is said, and the training goes on.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from harness.config.schema import Experiment, TrainConfig, as_plain
from harness.errors import ConfigError
from harness.store.training_log import SAMPLES, SECONDS

log = logging.getLogger("harness")

FOLDER = "loggers"
"""In a training's folder, with a folder of each logger."""
NOT_LOGGED = ("step", "seconds", SECONDS)
OFFLINE = "offline"


class Logger(Protocol):
    """Takes the numbers of a step, in the order of the steps."""

    def add(self, step: int, values: Mapping[str, float]) -> None: ...

    def add_samples(self, step: int, distances: Mapping[str, float], grid: Path) -> None:
        """Of images that were drawn at a step, and the PNG that shows them, if it is still there."""

    def close(self) -> None: ...


class TensorBoard:
    """Event files in `folder`; those of an earlier run of the training are replaced."""

    def __init__(self, folder: Path, training: str, experiment: Experiment) -> None:
        from torch.utils.tensorboard import SummaryWriter

        shutil.rmtree(folder, ignore_errors=True)
        self._writer = SummaryWriter(str(folder))
        self._writer.add_text("configuration", f"```json\n{json.dumps(as_plain(experiment), indent=1)}\n```", 0)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(f"train/{name}", value, step)
        self._writer.flush()

    def add_samples(self, step: int, distances: Mapping[str, float], grid: Path) -> None:
        import numpy as np
        from PIL import Image

        for name, value in distances.items():
            self._writer.add_scalar(f"samples/{re.sub(r'[^-/.A-Za-z0-9_]', '_', name)}", value, step)
        if grid.exists():
            with Image.open(grid) as image:
                self._writer.add_image("samples", np.asarray(image.convert("RGB")), step, dataformats="HWC")
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run of W&B whose id is the training's; offline unless the variable ``WANDB_MODE`` says otherwise.

    Offline, the folder of an earlier run of the training is replaced. Online, the server says which step it has last,
    and gets what comes after it. Neither host, code nor environment are sent.
    """

    def __init__(self, folder: Path, training: str, experiment: Experiment) -> None:
        import wandb

        mode = os.environ.get("WANDB_MODE", OFFLINE)
        if mode == OFFLINE:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        settings = wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,
            save_code=False,
            x_disable_stats=True,
            x_disable_meta=True,
            host="-",
        )
        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "dual-rate-harness"),
            id=training,
            dir=str(folder),
            mode=mode,  # type: ignore[arg-type]
            resume=None if mode == OFFLINE else "allow",
            reinit="finish_previous",  # trainings follow one another in a process
            config=as_plain(experiment),
            settings=settings,
        )
        self._next = self._run.step if self._run.resumed else 0

    def add(self, step: int, values: Mapping[str, float]) -> None:
        if step >= self._next:
            self._run.log({f"train/{name}": value for name, value in values.items()}, step=step)

    def add_samples(self, step: int, distances: Mapping[str, float], grid: Path) -> None:
        import wandb

        if step >= self._next:
            shown = {"samples": wandb.Image(str(grid))} if grid.exists() else {}
            self._run.log({**{f"samples/{name}": value for name, value in distances.items()}, **shown}, step=step)

    def close(self) -> None:
        self._run.finish()


LOGGERS: dict[str, Callable[[Path, str, Experiment], Logger]] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}
"""By the name in ``train.loggers``, which is that of the package too."""


def check_loggers(experiments: Iterable[Experiment]) -> None:
    """Raise :class:`ConfigError` for a logger whose package is not installed, with the command that does."""
    asked = dict.fromkeys(name for experiment in experiments for name in experiment.train.loggers or ())
    missing = [name for name in asked if find_spec(name) is None]
    if missing:
        extras = ",".join(missing)
        cure = f"pip install 'dual-rate-harness[{extras}]', or leave train.loggers out"
        raise ConfigError("train.loggers", [f"{', '.join(missing)}: not installed; {cure}"])


def learning_rate(settings: TrainConfig, step: int) -> float:
    """Of the step that has just ended as number `step`, counted from 1."""
    return settings.learning_rate * min(1.0, step / (settings.warmup + 1))


class Loggers:
    """The loggers of a training, as a context that closes them. `is_first` is the rank that logs."""

    def __init__(
        self,
        experiment: Experiment,
        training: str,
        folder: Path,
        entries: Iterable[Mapping[str, Any]],
        is_first: bool = True,
    ) -> None:
        """`entries` are the lines of the training's log up to the step that it goes on from."""
        self._settings, self._folder = experiment.train, folder
        self._loggers: dict[str, Logger] = {}
        names = (experiment.train.loggers or ()) if is_first else ()
        before = list(entries) if names else []
        for name in names:
            with self._kept_apart(name):
                self._loggers[name] = LOGGERS[name](folder / FOLDER / name, training, experiment)
        for entry in before:
            self.add(entry)

    def __enter__(self) -> Loggers:
        return self

    def __exit__(self, *error: object) -> None:
        for name, logger in list(self._loggers.items()):
            with self._kept_apart(name):
                logger.close()

    def add(self, entry: Mapping[str, Any]) -> None:
        """A line of the training's log."""
        step = int(entry["step"])
        numbers = {
            name: float(value)
            for name, value in entry.items()
            if name not in NOT_LOGGED and isinstance(value, int | float)
        }
        values = {**numbers, "learning_rate": learning_rate(self._settings, step)}
        for name, logger in list(self._loggers.items()):
            with self._kept_apart(name):
                if SAMPLES in entry:
                    logger.add_samples(step, numbers, self._folder / str(entry[SAMPLES]))
                else:
                    logger.add(step, values)

    @contextlib.contextmanager
    def _kept_apart(self, name: str) -> Iterator[None]:
        """Whatever goes wrong with a logger, the training goes on without it, and says so once."""
        try:
            yield
        except Exception as error:
            self._loggers.pop(name, None)
            said = (str(error).splitlines() or [""])[0]
            log.warning("logger %s: %s: %s; the training goes on without it", name, type(error).__name__, said)
