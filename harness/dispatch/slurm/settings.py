"""What a job asks of the cluster, from the user's file, the sweep's `cluster:` section and the command line.

A later source overrides an earlier one, and within a source `encodings:`, `trainings:`, `tables:` and `cells:` override
what holds for all. None of it is part of an id: where a job runs changes no figure.
"""

from __future__ import annotations

import copy
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from harness.config.complaints import key_types, values_of
from harness.config.schema import NonNegativeInt, PositiveInt, Section, parse_section
from harness.config.values import decoded, from_text
from harness.config.yamlfile import load_mapping
from harness.errors import ConfigError
from harness.store.kinds import KINDS, Kind

ClusterKind = Literal["inline", "local", "slurm"]

OPTION = "--slurm"
RESERVED_OPTIONS = {
    "array", "chdir", "clusters", "comment", "error", "help", "input", "job-name", "kill-on-invalid-dep", "no-requeue",
    "open-mode", "output", "parsable", "quiet", "requeue", "signal", "test-only", "uid", "usage", "version", "wait",
    "wrap",
}  # fmt: skip
"""Options of sbatch that the harness itself depends on."""

OWN_KEYS = {
    "account": "account",
    "constraint": "constraint",
    "cpus-per-gpu": "cpus",
    "cpus-per-task": "cpus",
    "dependency": "after",
    "gpus": "gpus",
    "gpus-per-node": "gpus",
    "gpus-per-socket": "gpus",
    "gpus-per-task": "gpus",
    "mem": "memory",
    "nodes": "nodes",
    "ntasks": "tasks_per_node",
    "ntasks-per-gpu": "tasks_per_node",
    "ntasks-per-node": "tasks_per_node",
    "partition": "partition",
    "qos": "qos",
    "time": "time",
}
"""Options of sbatch that have a key of their own: here they would bypass its checks and the GPU-hours."""

RESOURCE_OPTIONS = {"gres", "tres-per-job", "tres-per-node", "tres-per-socket", "tres-per-task"}
"""Options of sbatch that may ask for GPUs among other things."""

YES_NO = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}

FLAGS = {
    "consolidate-segments", "contiguous", "exclusive", "external", "get-user-env", "hold", "ignore-pbs", "nice",
    "no-kill", "overcommit", "oversubscribe", "propagate", "reboot", "spread-job", "spread-segments", "stepmgr",
    "use-min-nodes", "verbose",
}  # fmt: skip
"""Options of sbatch that need no value: `true` sets one, `false` leaves it out."""

NUMBERS = {
    "core-spec", "cores-per-socket", "cpu-freq", "delay-boot", "extra-node-info", "gid", "mem-per-cpu", "mem-per-gpu",
    "mincpus", "nice", "ntasks-per-core", "ntasks-per-socket", "priority", "sockets-per-node", "switches",
    "thread-spec", "threads-per-core", "tmp", "wait-all-nodes",
}  # fmt: skip
"""Options of sbatch that take a plain number. To all others a number of YAML may be 0123 or 16:00 misread."""

TEXT_KEYS = ("partition", "account", "qos", "constraint", "memory", "gpu_type")
AFTER = re.compile(r"(?:(?:after|afterany|afterok|afternotok|afterburstbuffer)(?::\d+(?:_\d+)?)+|\d+(?:_\d+)?)")
"""One dependency: a job, or a kind of SLURM's and its jobs."""

Duration = Annotated[str, Field(description="a duration such as 90s, 30m, 4h, 1d12h")]
SECONDS_OF = {"s": 1, "m": 60, "h": 3600, "d": 86400}


EARLY_SECONDS = 60
"""sbatch's own word on --signal: "due to the resolution of event handling by Slurm, the signal may be sent up to 60
seconds earlier than specified"."""


def seconds_of(text: str) -> int:
    """Seconds of ``90s``, ``30m``, ``1d12h``, or of SLURM's ``[days-]hours:minutes:seconds``. Raises ValueError."""
    if match := re.fullmatch(r"(?:(\d+)-)?(\d+):(\d\d):(\d\d)", text):
        days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
        return ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    if re.fullmatch(r"(?:\d+[dhms])+", text):
        return sum(int(count) * SECONDS_OF[unit] for count, unit in re.findall(r"(\d+)([dhms])", text))
    raise ValueError(f"{text!r} is no duration; write it as 90s, 30m, 4h or 1d12h")


class JobSettings(Section):
    """What a job asks for; set for all kinds of job, and again for each."""

    partition: str | None = Field(None, description="SLURM's partition")
    account: str | None = Field(None, description="that the time is charged to")
    qos: str | None = Field(None, description="quality of service")
    constraint: str | None = Field(None, description="features that a node must have, as sbatch reads them")
    time: Duration = Field("4h", description="limit of one run; a job that reaches it is requeued and goes on")
    memory: str | None = Field(None, description="per node, as 16G; the partition's default if unset")
    gpus: NonNegativeInt | None = Field(None, description="per node")
    gpu_type: str | None = Field(
        None, pattern=r"^[A-Za-z0-9_.-]+$", description="of GPU, as the cluster names it: a100"
    )
    nodes: PositiveInt = Field(1, description="that one job runs on")
    tasks_per_node: PositiveInt = Field(1, description="ranks per node; one per GPU")
    cpus: PositiveInt | None = Field(None, description="cores per rank")
    array_parallelism: PositiveInt = Field(256, description="jobs of one array that may run at once")
    restarts: NonNegativeInt = Field(
        3, description="a job whose process was killed starts again unless it has been restarted this often already"
    )
    warning: Duration = Field("90s", description="time before the limit at which a job saves and is requeued")
    after: int | str | tuple[int | str, ...] | None = Field(
        None, description="jobs of others to wait for: 12345 (until it has ended well), afterany:12345, or a list"
    )
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

    @field_validator("after")
    @classmethod
    def _after(cls, value: int | str | tuple[int | str, ...] | None) -> int | str | tuple[int | str, ...] | None:
        for dependency in _dependencies(value):
            if not AFTER.fullmatch(dependency):
                raise ValueError(f"{dependency!r} is no job to wait for; write it as 12345 or afterany:12345")
        return value

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
    def dependencies(self) -> list[str]:
        """What `after` names, each as SLURM writes it: ``afterok:12345``."""
        return [text if text.startswith("after") else f"afterok:{text}" for text in _dependencies(self.after)]

    @property
    def gpu_hours(self) -> float:
        """GPU-hours of one run that lasts to its limit."""
        return (self.gpus or 0) * self.nodes * self.minutes / 60


class ClusterConfig(JobSettings):
    """A `cluster:` section, the user's file, or what ``--slurm`` sets."""

    kind: ClusterKind | None = Field(
        None, description="where a sweep runs unless --cluster or HARNESS_CLUSTER says otherwise"
    )
    encodings: JobSettings = Field(
        JobSettings(),
        description="the keys above, for encodings (the latents of a data set's images, once), ahead of `trainings`",
    )
    trainings: JobSettings = Field(JobSettings(), description="the keys above, for trainings, and for encodings")
    tables: JobSettings = Field(
        JobSettings(),
        description="the keys above, for tables (what is measured of a trained network, in seconds), ahead of `cells`",
    )
    cells: JobSettings = Field(JobSettings(), description="the keys above, for cells, and for tables")

    def own(self, kind: Kind) -> list[JobSettings]:
        """What it says of one kind of job alone, the later first overriding the earlier."""
        parts: dict[Kind, list[JobSettings]] = {
            "encoding": [self.trainings, self.encodings],
            "training": [self.trainings],
            "table": [self.cells, self.tables],
            "cell": [self.cells],
        }
        return parts[kind]


@dataclass(frozen=True)
class ClusterSettings:
    """The settings of each kind of job, all sources merged."""

    encoding: JobSettings
    training: JobSettings
    table: JobSettings
    cell: JobSettings

    def of(self, kind: Kind) -> JobSettings:
        found: JobSettings = getattr(self, kind)
        return found

    @property
    def per_job(self) -> dict[Kind, int]:
        """How many targets one job makes, by their kind."""
        return {**dict.fromkeys(KINDS, 1), "cell": self.cell.cells_per_job}


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
    return ClusterSettings(**{kind: _merged(layers, kind) for kind in KINDS})


def preferred_place(section: Mapping[str, Any], source: str) -> tuple[ClusterKind, str] | None:
    """The `kind` of the sweep's `cluster:` section, else of the user's file, and which of them said it."""
    path = user_file()
    asked = parse_layer(section, f"{source}: cluster").kind
    if asked is not None:
        return asked, source
    usual = parse_layer(load_mapping(path), str(path)).kind if path.exists() else None
    return None if usual is None else (usual, str(path))


def parse_layer(values: Mapping[str, Any], source: str) -> ClusterConfig:
    """One source, checked by itself so that a message names it. Raises :class:`ConfigError` with all its problems."""
    values = copy.deepcopy(dict(values))
    problems: list[str] = []
    for prefix, part in (("", values), *((f"{kind}s.", values.get(f"{kind}s")) for kind in KINDS)):
        if not isinstance(part, dict):
            continue
        part |= {key: _as_written(key, part[key]) for key in (*TEXT_KEYS, "time", "warning") if key in part}
        if isinstance(part.get("sbatch"), dict):
            part["sbatch"] = {name: _as_written(name, value) for name, value in part["sbatch"].items()}
        for key, problem in [*_misread(part), *_odd_options(part.get("sbatch"))]:
            problems.append(f"{prefix}{problem}")
            _drop(part, key)  # told already
    try:
        layer: ClusterConfig = parse_section(ClusterConfig, values, source)
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError(source, problems)
    return layer


def _drop(values: dict[str, Any], dotted: str) -> None:
    first, _, rest = dotted.partition(".")
    if rest:
        values[first] = {key: value for key, value in values[first].items() if key != rest}
    else:
        values.pop(first)


def _misread(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(key, problem) of text that YAML has read as something else: 4:00:00 as 14400, 0123 as 83, no as false."""
    for key in ("time", "warning"):
        value = values.get(key)
        if isinstance(value, int | float):
            yield key, f"{key}: {value!r} has no unit; write it as 90s, 30m, 4h or 1d12h"
    for key in TEXT_KEYS:
        value = values.get(key)
        if isinstance(value, int | float):
            cure = "write it as 500M or 16G" if key == "memory" else "text is needed: write it in quotes"
            yield key, f"{key}: {value!r} {_read_as(value)}; {cure}"
    after = values.get("after")
    for job in after if isinstance(after, list) else [] if after is None else [after]:
        if isinstance(job, bool) or not isinstance(job, int | str):
            yield "after", f"after: {job!r} is no job to wait for; write it as 12345 or afterany:12345"
            break


def _as_written(name: object, value: Any) -> Any:
    """The text of a number where the loader has kept it; true or false for a flag."""
    if isinstance(value, str) and name in FLAGS:
        return YES_NO.get(value.lower(), value)
    return getattr(value, "text", value)


def _read_as(value: object) -> str:
    if isinstance(value, bool):
        return "is a yes or no to YAML"
    return "is a number to YAML" if isinstance(value, int | float) else "is no text"


def _odd_options(options: Any) -> Iterator[tuple[str, str]]:
    """(key, problem) of what the free map `sbatch` may not hold."""
    if not isinstance(options, dict):
        return
    for name, value in options.items():
        problem = _name_problem(str(name)) or _value_problem(str(name), value)
        if problem:
            yield f"sbatch.{name}", f"sbatch.{name}: {problem}"


def _name_problem(name: str) -> str | None:
    hyphened = name.replace("_", "-").lower()
    if name in RESERVED_OPTIONS:
        return "is set by the harness"
    if hyphened in OWN_KEYS:
        return f"has a key of its own here: {OWN_KEYS[hyphened]}"
    if name in JobSettings.model_fields:
        return f"is no option of sbatch but a key of its own here: {name}"
    if not re.fullmatch(r"[a-z][a-z0-9-]*", name):
        return "is no long option of sbatch, such as mail-user"
    known = sorted({*RESERVED_OPTIONS, *OWN_KEYS, *RESOURCE_OPTIONS} - {name})
    if full := [option for option in known if option.startswith(name)]:  # sbatch takes any beginning that is unique
        return f"is an abbreviation ({', '.join(full)}); write an option of sbatch in full"
    return None


def _value_problem(name: str, value: object) -> str | None:
    if isinstance(value, bool):
        return None if name in FLAGS else f"{value!r} {_read_as(value)}; text is needed: write it in quotes"
    if isinstance(value, int) and name not in NUMBERS:
        return f"{value!r} {_read_as(value)}; text is needed: write it in quotes"
    if value is None or value == "":
        return f"has no value{'; true sets it' if name in FLAGS else ''}"
    if not isinstance(value, str | int):
        return f"{value!r} {_read_as(value)}; write it in quotes"
    if name in RESOURCE_OPTIONS and "gpu" in str(value):
        return "GPUs have keys of their own here: gpus, gpu_type"
    return None


def _dependencies(after: int | str | tuple[int | str, ...] | None) -> list[str]:
    """Each dependency of `after`, as it was written."""
    if after is None:
        return []
    given = after if isinstance(after, tuple) else (after,)
    return [part.strip() for text in given for part in str(text).split(",")]


def _nested(options: Iterable[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for text in options:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(OPTION, [f"{text!r} is not key=value"])
        *parents, last = key.strip().split(".")
        if key.strip() == "kind":
            raise ConfigError(OPTION, [f"kind: where a sweep runs is said by --cluster {value}"])
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
        common = layer.model_dump(exclude_unset=True, exclude={"kind", *(f"{kind}s" for kind in KINDS)})
        for part in (common, *(own.model_dump(exclude_unset=True) for own in layer.own(kind))):
            options |= part.pop("sbatch", {})
            values |= part
    given = {name: value for name, value in options.items() if value is not False}
    merged = JobSettings.model_validate({**values, "sbatch": given})
    if problems := list(_contradictions(merged)):
        raise ConfigError(f"cluster settings of {kind}s", problems)
    return merged


def _contradictions(settings: JobSettings) -> Iterator[str]:
    """What no source says alone."""
    time, warning = seconds_of(settings.time), settings.warning_seconds
    if time <= warning + EARLY_SECONDS:  # a shorter job would be told to stop when it has hardly begun
        cure = f"set time to more than {warning + EARLY_SECONDS}s"
        if time > EARLY_SECONDS:
            cure += f", or warning to less than {time - EARLY_SECONDS}s"
        said = f"warning: {settings.warning} is not less than the time of {settings.time}"
        yield f"{said} by more than the {EARLY_SECONDS} s that SLURM may send it early; {cure}"
    if settings.gpu_type is not None and not settings.gpus:
        yield f"gpu_type: {settings.gpu_type} needs gpus, how many of them per node"
    for option in sorted({"mem-per-cpu", "mem-per-gpu"} & settings.sbatch.keys()):
        if settings.memory is not None:
            yield f"sbatch.{option}: memory is {settings.memory} per node already; SLURM takes one of the two"
