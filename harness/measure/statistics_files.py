"""Files of statistics: the mean and covariance of a reference's features, ``mu`` (d,) and ``sigma`` (d, d).

An ``.npz`` with these two arrays is what pytorch-fid, clean-fid, ADM and EDM write; torch-fidelity keeps the same two
in a ``.pt``. None of them says what they are of. Those that are written here do, in further arrays that other programs
leave alone, and are read by all of them.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.data import DataInfo
from harness.data.image_sets import ADM_IMAGES, array_names, arrays_of
from harness.errors import DataError, MissingDataError
from harness.files import atomic_path, tried
from harness.measure.features import Extractor
from harness.metrics.extractors import EXTRACTORS
from harness.metrics.frechet_distance import Array, Statistics, statistics
from harness.wording import reason

MEAN, COVARIANCE = "mu", "sigma"
TORCH_FIDELITY = (".pt", ".pth")
MADE_BY = "dual-rate-harness"
INCEPTION = "inception"
TOLERANCE = 1e-5
"""Of symmetry and of negative eigenvalues, relative to the largest entry or eigenvalue: what float32 leaves."""
UNKNOWN = "nothing in it says which network, weights and resizing it was made with, nor of how many images"
DIFFER = (
    "the Inception networks in use (torch-fidelity's and pytorch-fid's, TensorFlow's graph, StyleGAN3's copy) and "
    "their ways of resizing give distances that differ"
)


@dataclass(frozen=True)
class Made:
    """What statistics that were written here say of themselves."""

    extractor: str
    """Name of the features."""
    extractor_id: str
    """Identity of the extractor: of its weights and preprocessing."""
    images: int
    size: int
    """Side of the images in pixels."""
    channels: int
    resizing: str
    """How the extractor's input is made of the images, in words."""
    data: str
    """Name of the data and the split."""
    fingerprint: str
    """Identity of the pixels."""


@dataclass(frozen=True)
class StatisticsFile:
    """The mean (d,) and covariance (d, d) in a file, float64, and what is known of them."""

    path: Path
    mean: Array
    covariance: Array
    rank: int
    """Eigenvalues of the covariance that are not zero; all where it was stored in float32, which does not tell."""
    made: Made | None
    """None for a file of another program's, which says nothing of itself."""
    has_images: bool = False
    """Whether the file holds images beside its statistics, as ADM's references do."""

    @property
    def width(self) -> int:
        return len(self.mean)

    @property
    def as_statistics(self) -> Statistics:
        """As the distances take them; 0 images where their number is not known."""
        return Statistics(self.mean, self.covariance, self.made.images if self.made else 0)

    @property
    def notes(self) -> tuple[str, ...]:
        """What whoever reads a distance to it must know."""
        notes: tuple[str, ...] = () if self.made else (f"{self.path.name}: {UNKNOWN}: {DIFFER}",)
        if self.rank < self.width:
            notes += (
                f"{self.path.name}: its covariance is singular ({self.rank} of {self.width} eigenvalues are not zero), "
                "as of fewer images than features",
            )
        return notes


def is_statistics(path: Path) -> bool:
    """Whether `path` names a file of statistics rather than images: torch-fidelity's, or an ``.npz`` with either array.

    Raises :class:`DataError` for an ``.npz`` that cannot be read.
    """
    suffix = path.suffix.lower()
    if suffix == ".npz":
        return not {MEAN, COVARIANCE}.isdisjoint(array_names(path))
    return suffix in TORCH_FIDELITY


def read_statistics(path: Path) -> StatisticsFile:
    """The statistics at `path`, checked: finite, symmetric, positive semidefinite, of one dimension, not all zero.

    Never runs code from the file. Raises :class:`DataError`, one message.
    """
    arrays = _torch_arrays(path) if path.suffix.lower() in TORCH_FIDELITY else _numpy_arrays(path)
    lacking = [key for key in (MEAN, COVARIANCE) if key not in arrays]
    if lacking:
        held = ", ".join(arrays) or "nothing"
        raise DataError(
            f"{path}: holds {held}, but no {lacking[0]}; statistics are {MEAN} (d,) and {COVARIANCE} (d, d)"
        )
    mean, covariance, rank = checked(path, arrays[MEAN], arrays[COVARIANCE])
    return StatisticsFile(path, mean, covariance, rank, _made(path, arrays), ADM_IMAGES in arrays)


def checked(path: Path, mean: np.ndarray, covariance: np.ndarray) -> tuple[Array, Array, int]:
    """Both as float64, the covariance symmetric to the last bit, and its rank. Raises :class:`DataError`."""
    for key, array in ((MEAN, mean), (COVARIANCE, covariance)):
        if array.dtype.kind != "f":
            raise DataError(f"{path}: {key} holds {array.dtype}, not floating-point numbers")
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)) or not len(mean):
        shapes = f"{MEAN} {mean.shape} and {COVARIANCE} {covariance.shape}"
        raise DataError(f"{path}: {shapes} do not go together; a mean is (d,), its covariance (d, d)")
    for key, array in ((MEAN, mean), (COVARIANCE, covariance)):
        if not np.isfinite(array).all():
            raise DataError(f"{path}: {key} holds values that are not finite")
    precise = covariance.dtype.itemsize >= 8  # rounding to float32 fills what is singular
    mean, covariance = mean.astype(np.float64), covariance.astype(np.float64)
    largest = float(np.abs(covariance).max())
    if largest == 0:
        raise DataError(f"{path}: {COVARIANCE} is zero: statistics of one image, or of images that are all the same")
    skew = float(np.abs(covariance - covariance.T).max())
    if skew > TOLERANCE * largest:
        raise DataError(f"{path}: {COVARIANCE} is not symmetric (by {skew / largest:.2g} of its largest entry)")
    covariance = (covariance + covariance.T) / 2
    values = np.linalg.eigvalsh(covariance)
    if values[0] < -TOLERANCE * values[-1]:
        raise DataError(
            f"{path}: {COVARIANCE} is no covariance: it has the eigenvalue {values[0]:.3g}, beside {values[-1]:.3g}"
        )
    zero = values[-1] * len(values) * np.finfo(np.float64).eps
    rank = int((values > zero).sum()) if precise else len(values)
    return mean, covariance, rank


def _numpy_arrays(path: Path) -> dict[str, np.ndarray]:
    """Every array but the images, of which only the name is told."""
    with arrays_of(path) as file:
        return {key: np.empty(0) if key == ADM_IMAGES else file[key] for key in file.files if key != "arr_1"}


def _torch_arrays(path: Path) -> dict[str, np.ndarray]:
    """What torch-fidelity keeps: a dictionary of arrays, of which nothing else is unpickled."""
    if not path.exists():
        raise MissingDataError(f"{path}: there is no such file{tried(path)}")
    try:
        with torch.serialization.safe_globals(_numpy_globals()):
            kept = torch.load(io.BytesIO(path.read_bytes()), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise DataError(f"{path}: holds more than arrays, or is damaged; nothing of it was run") from None
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, AttributeError) as failure:
        raise DataError(f"{path}: cannot be read as torch-fidelity's statistics ({reason(failure)})") from None
    if not isinstance(kept, dict):
        raise DataError(f"{path}: holds a {type(kept).__name__}, not torch-fidelity's statistics")
    return {str(key): np.asarray(value) for key, value in kept.items() if isinstance(value, np.ndarray | torch.Tensor)}


def _numpy_globals() -> list[Any]:
    """What a pickled array of floating-point numbers is made of."""
    dtypes = [type(np.dtype(kind)) for kind in (np.float32, np.float64)]
    array = np.zeros(1)
    return [array.__reduce__()[0], np.ndarray, np.dtype, *dtypes]


def _made(path: Path, arrays: Mapping[str, np.ndarray]) -> Made | None:
    """What the file says of itself, if it was written here. Raises :class:`DataError` where that is damaged."""
    if str(arrays.get("made_by", "")) != MADE_BY:
        return None
    try:
        kinds = {field.name: int if field.type == "int" else str for field in fields(Made)}
        return Made(**{name: kind(arrays[name].item()) for name, kind in kinds.items()})  # type: ignore[arg-type]
    except (KeyError, ValueError, TypeError) as failure:
        raise DataError(f"{path}: what it says of itself is damaged ({failure}); write it again") from None


def statistics_of(features: torch.Tensor, name: str) -> Statistics:
    """Of features (N, d), N ≥ 2. Raises :class:`DataError` where no distance could be told with them."""
    if len(features) < 2:
        raise DataError(f"{name}: at least 2 images are needed for a covariance, not {len(features)}")
    found = statistics(features.numpy())
    if not np.isfinite(found.mean).all() or not np.isfinite(found.covariance).all():
        raise DataError(f"{name}: features that are not finite")
    if not found.covariance.any():
        raise DataError(f"{name}: all of its {len(features)} images are the same, so their covariance is zero")
    return found


def write_statistics(out: Path, found: Statistics, made: Made) -> None:
    """Write an ``.npz`` that pytorch-fid, clean-fid, ADM and EDM read, with what it is of beside it; whole or not at
    all."""
    about = {field.name: np.asarray(getattr(made, field.name)) for field in fields(Made)}
    _write(out, found.mean, found.covariance, {**about, "made_by": np.asarray(MADE_BY)})


def convert_statistics(out: Path, known: StatisticsFile) -> None:
    """Write statistics that were read from any program's file as an ``.npz``; what is known of them goes with them."""
    if known.made is not None:
        write_statistics(out, known.as_statistics, known.made)
    else:
        _write(out, known.mean, known.covariance, {})


def _write(out: Path, mean: Array, covariance: Array, more: Mapping[str, np.ndarray]) -> None:
    with atomic_path(out) as temporary, temporary.open("wb") as stream:
        np.savez(stream, allow_pickle=False, **{MEAN: mean, COVARIANCE: covariance, **more})


def made_of(info: DataInfo, extractor: Extractor) -> Made:
    """What statistics of the data `info` under the extractor are of."""
    return Made(
        extractor=extractor.features,
        extractor_id=extractor.identity,
        images=info.images,
        size=info.size,
        channels=info.channels,
        resizing=extractor.kind.preprocessing,
        data=f"{info.name} {info.split}",
        fingerprint=info.identity,
    )


def likely_extractor(known: StatisticsFile) -> str | None:
    """The extractor that statistics are of: as they say, or Inception for its 2 048 features; None if that is open.

    Other dimensions say too little: 64 are the digits' extractor's, and those of a layer that pytorch-fid offers.
    """
    if known.made is not None:
        return known.made.extractor
    return INCEPTION if known.width == EXTRACTORS[INCEPTION].width else None


def _of_width(width: int) -> list[str]:
    return [name for name, kind in EXTRACTORS.items() if kind.width == width]


def check_fits(known: StatisticsFile, extractor: Extractor, info: DataInfo) -> None:
    """Raise :class:`DataError` unless distances to the statistics may be told of images like `info`."""
    path, made, kind = known.path, known.made, extractor.kind
    if known.width != kind.width:
        fitting = _of_width(known.width)
        cure = f"--extractor {fitting[0]} has as many" if fitting else "no extractor of this package has as many"
        raise DataError(f"{path}: is of {known.width} features, {extractor.features} has {kind.width}; {cure}")
    if made is None:
        return
    if made.extractor != extractor.features:
        raise DataError(
            f"{path}: is of {made.extractor}'s features, not {extractor.features}'s; --extractor {made.extractor}"
        )
    if made.extractor_id != extractor.identity:
        raise DataError(
            f"{path}: was made with other weights of {made.extractor}, or another way of resizing; write it again with "
            "`harness reference`, or give the weights that it was made with: --weights FILE"
        )
    if (made.size, made.channels) != (info.size, info.channels):
        raise DataError(
            f"{info.name}: {form_of(info.size, info.channels)} images against statistics of "
            f"{form_of(made.size, made.channels)} ones ({path})"
        )


def form_of(size: int, channels: int) -> str:
    """``32×32 RGB``."""
    return f"{size}×{size} {'grey' if channels == 1 else 'RGB'}"
