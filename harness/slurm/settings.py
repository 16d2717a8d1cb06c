"""What a job asks of the cluster, from the user's file, the sweep's `cluster:` section and the command line.

A later source overrides an earlier one, and within a source the `trainings:` and `cells:` parts override what holds
for both. None of it is part of an id: where a job runs changes no figure.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator

from harness.complaints import key_types, values_of
from harness.config import NonNegativeInt, PositiveInt, Section, parse_section
from harness.errors import ConfigError
from harness.store import Kind
from harness.values import decoded, from_text
from harness.yamlfile import load_mapping

OPTION = "--slurm"
KINDS: tuple[Kind, Kind] = ("training", "cell")
RESERVED_OPTIONS = {
    "array", "chdir", "comment", "dependency", "error", "input", "job-name", "kill-on-invalid-dep", "no-requeue",
    "open-mode", "output", "parsable", "requeue", "signal", "test-only", "wait", "wrap",
}  # fmt: skip
"""Options of sbatch that the harness itself depends on."""

Duration = Annotated[str, Field(description="a duration such as 90s, 30m, 4h, 1d12h")]
SECONDS_OF = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds_of(text: str) -> int:
    """Seconds of ``90s``, ``30m``, ``1d12h``, or of SLURM's ``[days-]hours:minutes:seconds``. Raises ValueError."""
    if match := re.fullmatch(r"(?:(\d+)-)?(\d+):(\d\d):(\d\d)", text):
        days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
        return ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    if re.fullmatch(r"(?:\d+[dhms])+", text):
        return sum(int(count) * SECONDS_OF[unit] for count, unit in re.findall(r"(\d+)([dhms])", text))
    raise ValueError(f"{text!r} is no duration; write it as 90s, 30m, 4h or 1d12h")


class JobSettings(Section):
    """What a job asks for; set for both kinds of job, and again for each."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = Field(None, description="features that a node must have, as sbatch reads them")
    time: Duration = Field("4h", description="limit of one run; a job that reaches it is requeued and goes on")
    memory: str | None = Field(None, description="per node, as 16G; the partition's default if unset")
    gpus: NonNegativeInt | None = Field(None, description="per node")
    nodes: PositiveInt = 1
    tasks_per_node: PositiveInt = Field(1, description="ranks per node; one per GPU")
    cpus: PositiveInt | None = Field(None, description="cores per rank")
    array_parallelism: PositiveInt = Field(256, description="jobs of one array that may run at once")
    restarts: NonNegativeInt = Field(
        3, description="a job whose process was killed starts again unless it has been restarted this often already"
    )
    warning: Duration = Field("90s", description="time before the limit at which a job saves and is requeued")
    sbatch: dict[str, str | int | bool] = Field(default_factory=dict, description="further options of sbatch")
    setup: tuple[str, ...] = Field((), description="shell commands before the job, such as module load")
    cells_per_job: PositiveInt = Field(1, description="cells of one training that a job measures one after another")

    @field_validator("time", "warning")
    @classmethod
    def _duration(cls, text: str) -> str:
        if seconds_of(text) == 0:
            raise ValueError("is zero")
        return text

    @field_validator("memory")
    @classmethod
    def _memory(cls, text: str | None) -> str | None:
        if text is not None and not re.fullmatch(r"\d+[KMGT]B?", text):
            raise ValueError(f"{text!r} is no size; write it as 500M or 16G")
        return text

    @field_validator("sbatch")
    @classmethod
    def _options(cls, options: dict[str, str | int | bool]) -> dict[str, str | int | bool]:
        for name in options:
            if name in RESERVED_OPTIONS:
                raise ValueError(f"{name}: is set by the harness")
            if not re.fullmatch(r"[a-z][a-z0-9-]*", name):
                raise ValueError(f"{name}: is no long option of sbatch, such as mail-user")
        return options

    @property
    def minutes(self) -> int:
        """The time limit, as SLURM counts it."""
        return math.ceil(seconds_of(self.time) / 60)

    @property
    def warning_seconds(self) -> int:
        return seconds_of(self.warning)

    @property
    def ranks(self) -> int:
        return self.nodes * self.tasks_per_node

    @property
    def gpu_hours(self) -> float:
        """GPU-hours of one run that lasts to its limit."""
        return (self.gpus or 0) * self.nodes * self.minutes / 60


class ClusterConfig(JobSettings):
    """A `cluster:` section, the user's file, or what ``--slurm`` sets."""

    trainings: JobSettings = JobSettings()
    cells: JobSettings = JobSettings()


@dataclass(frozen=True)
class ClusterSettings:
    """The settings of each kind of job, all sources merged."""

    training: JobSettings
    cell: JobSettings

    def of(self, kind: Kind) -> JobSettings:
        return self.training if kind == "training" else self.cell


def user_file() -> Path:
    """``$XDG_CONFIG_HOME/harness/cluster.yaml``, by default under ``~/.config``."""
    home = os.environ.get("XDG_CONFIG_HOME")
    return (Path(home) if home else Path.home() / ".config") / "harness" / "cluster.yaml"


def load_settings(section: Mapping[str, Any], source: str, options: Iterable[str] = ()) -> ClusterSettings:
    """Merge the user's file, a sweep's `cluster:` section (of the file `source`) and ``key=value`` texts.

    Raises :class:`ConfigError` naming the source, the key, the value and the choices.
    """
    path = user_file()
    layers = [
        parse_layer(load_mapping(path, may_be_empty=True) if path.exists() else {}, str(path)),
        parse_layer(section, f"{source}: cluster"),
        parse_layer(_nested(options), OPTION),
    ]
    return ClusterSettings(*(_merged(layers, kind) for kind in KINDS))


def parse_layer(values: Mapping[str, Any], source: str) -> ClusterConfig:
    """One source, checked by itself so that a message names it. Raises :class:`ConfigError`."""
    for key in ("time", "warning"):
        for part in (values, values.get("trainings"), values.get("cells")):
            value = part.get(key) if isinstance(part, Mapping) else None
            if isinstance(value, int | float):  # YAML 1.1 reads 4:00:00 as the number 14400
                raise ConfigError(source, [f"{key}: {value!r} has no unit; write it as 90s, 30m, 4h or 1d12h"])
    layer: ClusterConfig = parse_section(ClusterConfig, values, source)
    return layer


def _nested(options: Iterable[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for text in options:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(OPTION, [f"{text!r} is not key=value"])
        *parents, last = key.strip().split(".")
        level = values
        for parent in parents:
            level = level.setdefault(parent, {})
            if not isinstance(level, dict):
                raise ConfigError(OPTION, [f"{key}: {parent} has a value already"])
        level[last] = from_text(_type_of(key.strip()), decoded(value, OPTION), f"{OPTION} {key}")
    return values


def _type_of(key: str) -> Any:
    types = key_types(ClusterConfig)
    return types.get(key) or values_of(types.get(key.rpartition(".")[0], Any)) or Any


def _merged(layers: Iterable[ClusterConfig], kind: Kind) -> JobSettings:
    values: dict[str, Any] = {}
    options: dict[str, str | int | bool] = {}
    for layer in layers:
        common = layer.model_dump(exclude_unset=True, exclude={"trainings", "cells"})
        own = (layer.trainings if kind == "training" else layer.cells).model_dump(exclude_unset=True)
        for part in (common, own):
            options |= part.pop("sbatch", {})
            values |= part
    merged = JobSettings.model_validate({**values, "sbatch": options})
    if merged.warning_seconds >= 60 * merged.minutes:
        raise ConfigError(
            f"cluster settings of {kind}s", [f"warning: {merged.warning} is not less than the time of {merged.time}"]
        )
    return merged
