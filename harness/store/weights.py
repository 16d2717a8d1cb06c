"""Weights and checkpoints as safetensors files that say which training they belong to."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from harness.errors import StoreError
from harness.files import atomic_path, set_aside

log = logging.getLogger("harness")

FORMAT = "dual-rate-harness/1"


class DamagedFile(StoreError):
    """A file that is cut short or is no safetensors file."""

    def __init__(self, path: Path, reason: object) -> None:
        self.path = path
        super().__init__(f"{path}: is cut short or damaged ({reason})")


def save_tensors(path: Path, tensors: Mapping[str, Tensor], training: str, **metadata: str) -> None:
    """Write `tensors` (any device, no two of one storage) atomically, marked with their training's id."""
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        # one key, for several are written in no fixed order: the same weights are the same bytes
        facts = json.dumps({"training": training, **metadata}, sort_keys=True)
        save_file(whole, temporary, metadata={FORMAT: facts})


def load_tensors(path: Path, training: str | None = None) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors on the CPU, metadata).

    Raises :class:`DamagedFile`, or :class:`StoreError` for another training's file.
    """
    with _opened(path) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        metadata = _facts(path, file.metadata(), training)
    return tensors, metadata


def load_facts(path: Path, training: str | None = None) -> dict[str, str]:
    """The metadata of `path` alone. Raises as :func:`load_tensors` does."""
    with _opened(path) as file:
        return _facts(path, file.metadata(), training)


def load_bare(path: Path) -> dict[str, Tensor] | None:
    """The tensors, on the CPU, of a safetensors file that says nothing of any training; None for one of this project.

    Raises as :func:`load_tensors` does.
    """
    with _opened(path) as file:
        if FORMAT in (file.metadata() or {}):
            return None
    return load_tensors_of(path)


def load_header(path: Path) -> dict[str, str]:
    """The metadata of any safetensors file. Raises as :func:`load_tensors` does."""
    with _opened(path) as file:
        return dict(file.metadata() or {})


def load_tensors_of(path: Path) -> dict[str, Tensor]:
    """The tensors, on the CPU, of any safetensors file. Raises as :func:`load_tensors` does."""
    with _opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping


def keep_replaced(path: Path) -> None:
    """Set a file aside that is about to be written anew, if there is one, and say so."""
    if path.exists():
        log.warning("%s is replaced; the old file is kept as %s", path, set_aside(path).name)


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """A hash of the names, types, shapes and bytes of `tensors`, on any device."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def tensor_shapes(path: Path, training: str | None = None) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor in `path`, from its header alone. Raises as :func:`load_tensors` does."""
    with _opened(path) as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        _facts(path, file.metadata(), training)
    return shapes


def training_of(path: Path) -> str:
    """The training that wrote `path`, from its header alone. Raises as :func:`load_tensors` does."""
    with _opened(path) as file:
        return _facts(path, file.metadata(), None)["training"]


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if not path.exists():
        raise StoreError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise DamagedFile(path, error) from None
    except OSError as error:  # no permission, no memory: that says nothing of what is in it
        raise StoreError(f"{path}: cannot be read ({error})") from None


def _facts(path: Path, header: Mapping[str, str] | None, training: str | None) -> dict[str, str]:
    """What the file says of itself, if it is of this project and of `training`."""
    facts = (header or {}).get(FORMAT)
    if facts is None:
        raise StoreError(f"{path}: was not written by this project (no {FORMAT!r} in its metadata)")
    metadata: dict[str, str] = json.loads(facts)
    if training is not None and metadata.get("training") != training:
        raise StoreError(
            f"{path}: belongs to training {metadata.get('training')}, not to {training}: "
            "it was made with another configuration"
        )
    return metadata
