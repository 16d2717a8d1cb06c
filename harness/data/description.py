"""``dataset.json``, which gives labels as EDM and StyleGAN write them: ``{"labels": [[name, label], …]}``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from harness.data.containers import Container
from harness.errors import DataError, printable

DESCRIPTION = "dataset.json"
FORM = 'is not JSON of the form {"labels": [[name, label], …]}'
MOST_CLASSES = 100_000
"""More classes than any data set has: larger labels must mean something else."""


@dataclass(frozen=True)
class Description:
    """What a ``dataset.json`` says: labels by member name (None: no labels) and, where the project wrote it, more."""

    file: str
    labels: dict[str, int] | None
    extra: dict[str, Any]


def descriptions(path: str, containers: Sequence[Container]) -> list[Description | None]:
    """The description of each container; all have one or none has. Raises :class:`DataError`."""
    found = [_description(container) for container in containers]
    known = [d for d in found if d is not None]
    if known and len(known) < len(containers):
        bare = next(c.path for c, d in zip(containers, found, strict=True) if d is None)
        raise DataError(f"{path}: {known[0].file} gives labels, but {bare} has no {DESCRIPTION}; prepare them together")
    for key in ("class_names", "size", "channels"):
        values = {json.dumps(d.extra.get(key)) for d in known}
        if len(values) > 1:
            raise DataError(f"{path}: its zips disagree on {key!r} in {DESCRIPTION}; prepare them together")
    return found


def is_description(name: str) -> bool:
    """Whether a member of this name is a description, wherever it lies."""
    end = name[-len(DESCRIPTION) - 1 :].lower()
    return end == DESCRIPTION or end == f"/{DESCRIPTION}"


def _description(container: Container) -> Description | None:
    members = [i for i, member in enumerate(container.members) if is_description(member.name)]
    if not members:
        return None
    depths = {i: container.members[i].name.count("/") for i in members}
    highest = [i for i in members if depths[i] == min(depths.values())]
    file = container.label(highest[0])
    if len(highest) > 1:
        raise DataError(f"{file} and {container.label(highest[1])}: one {DESCRIPTION} is needed, for all images")
    folder = container.members[highest[0]].name.rpartition("/")[0]
    content = _parsed(file, container.read(highest[0]))
    labels = content["labels"]
    extra = {key: value for key, value in content.items() if key != "labels"}
    if labels is None:
        return Description(file, None, extra)
    names = {member.name for member in container.members}
    by_name: dict[str, int] = {}
    for row in _rows(file, labels):
        name, label = _row(file, row)
        full = _member(folder, name)
        if full not in names:
            raise DataError(f"{file}: labels {name!r}, which is not there")
        if full in by_name:
            raise DataError(f"{file}: labels {name!r} twice, as {by_name[full]} and as {label}; keep one of the two")
        by_name[full] = label
    return Description(file, by_name, extra)


def _parsed(file: str, content: bytes) -> dict[str, Any]:
    def without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            keys = [key for key, _ in pairs]
            twin = next(key for key in keys if keys.count(key) > 1)
            raise DataError(f"{file}: has the key {twin!r} twice; keep one of the two")
        return found

    try:
        parsed = json.loads(content, object_pairs_hook=without_twins)
    except (ValueError, RecursionError):
        raise DataError(f"{file}: {FORM}") from None
    if not isinstance(parsed, dict) or "labels" not in parsed:
        raise DataError(f"{file}: {FORM}")
    return parsed


def _rows(file: str, labels: Any) -> Iterable[Any]:
    if isinstance(labels, dict):
        return labels.items()
    if isinstance(labels, list):
        return labels
    raise DataError(f"{file}: {FORM}")


def _row(file: str, row: Any) -> tuple[str, int]:
    if not (isinstance(row, (list, tuple)) and len(row) == 2 and isinstance(row[0], str)):
        raise DataError(f"{file}: {row!r} is not a pair [name, label]")
    name, label = row
    if isinstance(label, bool) or not isinstance(label, int):
        raise DataError(f"{file}: label {label!r} of {printable(name)!r} is not a whole number")
    if label >= MOST_CLASSES:
        raise DataError(
            f"{file}: label {label} of {printable(name)!r} is no number of a class; classes count from 0, "
            f"and at most {MOST_CLASSES} are taken"
        )
    return name, label


def _member(folder: str, name: str) -> str:
    """The member's path that `name` means, which is relative to the description's folder."""
    plain = name.replace("\\", "/") if "\\" in name else name
    plain = plain.removeprefix("./")
    return f"{folder}/{plain}" if folder else plain
