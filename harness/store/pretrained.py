"""Files of finished weights that ``model.weights`` can name, and what each tells of its network."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from harness.config.dotted import flatten
from harness.errors import StoreError
from harness.files import atomic_path
from harness.store.pickled import PickledNetwork, read_network
from harness.store.weights import FORMAT, load_header, load_tensors_of
from models.diffusers_folder import Folder, read_folder, weights_file
from models.edm_weights import Described, described, renamed
from models.hub import is_hub_id

NETWORK = "dual-rate-harness/network"
"""The key of a converted file's metadata that has the configuration of its network."""
TELLING = ("diffusion.preconditioning", "diffusion.prediction", "diffusion.sigma_data")
"""Beside the keys of the model, those that a network's output means nothing without."""
FREE = {"model.dropout", "model.weights", "model.folder"}
"""Keys of the model that do not change what a finished network says."""
PREFIX = "network."


@dataclass(frozen=True)
class Pretrained:
    """A file of finished weights.

    Attributes:
        path: of the file.
        keys: of the configuration, dotted, as far as the file tells them; None where it tells none.
        read: the tensors by their names in the model, float32 on the CPU. Raises :class:`StoreError`.
        folder: what lies in a folder of diffusers; then the network is built from it, and checked against it.
    """

    path: Path
    keys: Mapping[str, Any] | None
    read: Callable[[], dict[str, Tensor]]
    folder: Folder | None = None


def open_pretrained(path: Path) -> Pretrained:
    """What the file at `path` is: a snapshot of EDM's code, a safetensors file, or a folder of diffusers, or one on the
    hub.

    Raises :class:`StoreError` for anything else, :class:`harness.store.pickled.UntrustedPickle` for a pickle that
    wants more than tensors and plain data.
    """
    if path.is_dir() or is_hub_id(path):
        return _of_folder(path)
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except FileNotFoundError:
        raise StoreError(f"{path}: no such file") from None
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror})") from None
    if start[:1] == b"\x80":
        return _of_pickle(path)
    if start[8:9] == b"{":
        return _of_safetensors(path)
    kind = "a zip, as torch.save writes" if start[:2] == b"PK" else "of no known format"
    raise StoreError(
        f"{path}: is {kind}; model.weights takes a snapshot of EDM's (.pkl), a .safetensors file or a folder of "
        "diffusers"
    )


def _of_pickle(path: Path) -> Pretrained:
    network = read_network(path)
    try:
        told = described(
            network.outer.class_name,
            network.outer.state,
            network.inner.class_name,
            network.inner.state.get("_init_kwargs") or {},
        )
    except (ValueError, TypeError, KeyError) as error:
        raise StoreError(f"{path}: {error}") from None
    return Pretrained(path, told.keys, lambda: _read_pickled(path, network, told))


def _read_pickled(path: Path, network: PickledNetwork, told: Described) -> dict[str, Tensor]:
    try:
        tensors = {name: stored.tensor() for name, stored in network.tensors.items()}
        return {f"{PREFIX}{name}": tensor for name, tensor in renamed(told.network, tensors).items()}
    except Exception as error:  # a storage that torch refuses, or tensors that are not what they say
        raise StoreError(f"{path}: is damaged, or another network than it says ({error})") from None


def _of_safetensors(path: Path) -> Pretrained:
    header = load_header(path)
    keys: dict[str, Any] | None = None
    if NETWORK in header:
        keys = json.loads(header[NETWORK])
    elif FORMAT in header and "config" in (facts := json.loads(header[FORMAT])):
        config = json.loads(facts["config"])
        flat = flatten({section: config.get(section) or {} for section in ("model", "diffusion")}, str(path))
        keys = {key: flat.get(key) for key in [*(k for k in flat if k.startswith("model.")), *TELLING]}
        keys = {key: value for key, value in keys.items() if key not in FREE}
    return Pretrained(path, keys, lambda: load_tensors_of(path))


def _of_folder(path: Path) -> Pretrained:
    """A network of diffusers. Of its steps the range of log-SNRs is told, to be sampled inside."""
    from models.diffusers_networks import log_snrs

    try:
        folder = read_folder(path)
        weights, levels = weights_file(folder), log_snrs(folder)
    except ValueError as error:
        raise StoreError(str(error)) from None
    inside = [math.ceil(100 * levels[-1]) / 100, math.floor(100 * levels[0]) / 100]
    return Pretrained(
        path, {**folder.keys, "diffusion.log_snr_range": inside}, lambda: _read_folder(folder, weights), folder
    )


def _read_folder(folder: Folder, weights: Path) -> dict[str, Tensor]:
    from models.diffusers_networks import renamed

    tensors = load_tensors_of(weights) if weights.suffix == ".safetensors" else _read_bin(weights)
    try:
        return {f"{PREFIX}{name}": tensor for name, tensor in renamed(folder, tensors).items()}
    except ValueError as error:
        raise StoreError(str(error)) from None


def _read_bin(path: Path) -> dict[str, Tensor]:
    """The tensors that torch.save has written, by torch's own reader of tensors alone."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # anything but tensors and plain data, and whatever a damaged file raises
        raise StoreError(f"{path}: holds more than weights, or is damaged ({str(error).splitlines()[0]})") from None
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise StoreError(f"{path}: holds no mapping of names to tensors")
    return found


def convert(path: Path, out: Path) -> Pretrained:
    """Write the network at `path` to the safetensors file `out`, with its configuration in the metadata.

    Raises :class:`StoreError` where either cannot be done.
    """
    opened = open_pretrained(path)
    if opened.folder is not None:
        raise StoreError(f"{path}: is a folder of diffusers, which model.weights and model.folder take as it is")
    if opened.keys is None:
        raise StoreError(f"{path}: is a safetensors file already, and tells nothing of its network")
    tensors = opened.read()
    try:
        with atomic_path(out) as temporary:
            save_file(tensors, temporary, metadata={NETWORK: json.dumps(dict(opened.keys), sort_keys=True)})
    except OSError as error:
        raise StoreError(f"{out}: cannot be written ({error.strerror})") from None
    return open_pretrained(out)
