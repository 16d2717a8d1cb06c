"""Files of an extractor's weights: read without running code from them, and checked against known hashes."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from harness.errors import DataError
from harness.files import file_sha256, tried
from harness.wording import reason


def has_sha256(path: Path, beginning: str) -> bool:
    """Whether the SHA-256 of the file begins so."""
    return file_sha256(path).startswith(beginning)


def known(features: str, path: Path, sha256: str) -> Path:
    """`path` of a package's weights. Raises DataError for others than those that ids stand for."""
    if not has_sha256(path, sha256):
        raise DataError(
            f"features {features}: {path} is damaged or of another version (its SHA-256 is not "
            f"{sha256[:8]}…); install its package again, or set measure.weights to the path of others"
        )
    return path


def read_weights(path: Path) -> dict[str, Tensor]:
    """A state dict from safetensors or a torch file. Raises DataError where it is none."""
    if path.is_dir():
        raise DataError(f"measure.weights: {path} is a folder; give the path of the file of weights")
    if not path.is_file():
        raise DataError(f"measure.weights: {path} does not exist{tried(path)}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError, KeyError) as failure:
        raise DataError(f"measure.weights: {path} is damaged or no file of weights ({reason(failure)})") from failure
    except Exception as failure:  # pickle.UnpicklingError, for what weights_only refuses
        raise DataError(f"measure.weights: {path} holds more than weights ({reason(failure)})") from failure
    if not isinstance(state, dict):
        raise DataError(f"measure.weights: {path} holds a {type(state).__name__}, not a state dict")
    return state


def download(features: str, url: str, path: Path, sha256: str) -> None:
    """Fetch weights to `path`. Raises DataError where that fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(url, str(path), hash_prefix=sha256, progress=False)
    except Exception as failure:
        raise DataError(
            f"features {features}: no weights. {url} could not be downloaded ({reason(failure)}). "
            f"Put the file at {path}, or set measure.weights to its path"
        ) from failure


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Silence what torch.hub and the repositories it loads print."""
    os.environ.setdefault("XFORMERS_DISABLED", "1")
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
