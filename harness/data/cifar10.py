"""CIFAR-10 from its standard python archive: ``cifar-10-python.tar.gz`` or the folder it unpacks to.

The archive holds pickles, and a pickle may name any function to be called while it is read. So they are read by an
unpickler that knows three names, those that rebuild a numpy array, and refuses every other: a tampered archive ends in
a message, not in foreign code.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import tarfile
import time
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.config.schema import DataConfig
from harness.data.checksums import State, file_digest, is_settled, state_of
from harness.data.sets import DataSet
from harness.errors import DataError, MissingDataError
from harness.files import expanded, tried

if TYPE_CHECKING:
    from harness.data.dataset import DataInfo, Dataset

SIZE = 32
CLASSES = 10
CLASS_NAMES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
FILES = {"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)}
OFFICIAL_ARCHIVE_MD5 = "c58f30108f718f92721af3b95e74349a"
OFFICIAL_MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
ALLOWED_GLOBALS = {
    (module, name)
    for module, name in (
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "_reconstruct"),
    )
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED_GLOBALS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no image archive needs")
        if name == "_reconstruct":
            return np.zeros(0).__reduce__()[0]
        return getattr(np, name)


def load(path: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (N, 3, 32, 32) and labels int64 (N,) of `split` (train or test), in the archive's order."""
    parts = [_parse(where, content) for where, content in _contents(path, FILES[split])]
    return np.concatenate([images for images, _ in parts]), np.concatenate([labels for _, labels in parts])


_known: dict[tuple[str, str], tuple[tuple[State, ...], str]] = {}


def fingerprint(path: str, split: str) -> str:
    """Hash of the MD5 sums of the split's files: the same for archive and folder. The official archive is known by its
    own sum and not unpacked for it. Remembered for as long as the files stay as they are."""
    place = _place(path)
    files = [place] if place.is_file() else [_folder(place) / name for name in FILES[split]]
    looked_at = time.time_ns()
    states = tuple(state_of(file.stat()) for file in files if file.is_file())
    known = _known.get((path, split))
    if known is not None and known[0] == states:
        return known[1]
    found = _fingerprint(place, split)
    if all(is_settled(state, looked_at) for state in states):
        _known[path, split] = states, found
    return found


def _fingerprint(place: Path, split: str) -> str:
    if place.is_file() and file_digest(place, "md5") == OFFICIAL_ARCHIVE_MD5:
        sums = [OFFICIAL_MD5[name] for name in FILES[split]]
    else:
        sums = [_md5(content) for _, content in _contents(str(place), FILES[split])]
    return hashlib.sha256("\n".join(["cifar10", split, *sums]).encode()).hexdigest()[:32]


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _place(path: str) -> Path:
    place = expanded(path)
    if place.exists():
        return place
    raise MissingDataError(
        f"{path}: there is no such file or folder{tried(place)}; CIFAR-10's archive is cifar-10-python.tar.gz"
    )


def _contents(path: str, names: tuple[str, ...]) -> list[tuple[str, bytes]]:
    place = _place(path)
    found = _from_folder(place, names) if place.is_dir() else _from_archive(place, names)
    missing = [name for name in names if name not in found]
    if missing:
        raise DataError(
            f"{path}: {', '.join(missing)} of CIFAR-10's python archive is not in it; cifar10 reads "
            "cifar-10-python.tar.gz (not the binary or Matlab version, nor CIFAR-100) or the folder it unpacks to; "
            "for other images, in a folder or a zip, set data.name: images"
        )
    return [(f"{path}/{name}", found[name]) for name in names]


def _folder(place: Path) -> Path:
    inner = place / "cifar-10-batches-py"
    return inner if inner.is_dir() else place


def _from_folder(place: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    folder = _folder(place)
    return {name: (folder / name).read_bytes() for name in names if (folder / name).is_file()}


def _from_archive(place: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    if zipfile.is_zipfile(place):
        raise DataError(f"{place}: is a zip, CIFAR-10's archive is a tar; for images in a zip set data.name: images")
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(place) as archive:
            for member in archive:
                name = PurePosixPath(member.name).name
                if name not in names or not member.isfile():
                    continue
                if name in found:
                    raise DataError(f"{place}: holds {name} twice; fetch the archive again")
                content = archive.extractfile(member)
                assert content is not None
                found[name] = content.read()
    except (tarfile.TarError, EOFError, OSError, zlib.error) as failure:
        raise DataError(
            f"{place}: is not a whole tar archive ({failure}); cut short in a download? Or another kind of file?"
        ) from None
    return found


def _parse(where: str, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    try:
        batch = _ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
        pixels, labels = batch[b"data"], np.asarray(batch[b"labels"], dtype=np.int64)
    except Exception as failure:  # a damaged pickle may raise anything
        raise DataError(f"{where}: is not a batch of CIFAR-10's python archive ({failure})") from None
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape != (len(labels), 3 * SIZE**2):
        raise DataError(f"{where}: does not hold 3072 bytes for each of its {len(labels)} labels")
    if len(labels) and not (labels.min() >= 0 and labels.max() < CLASSES):
        wrong = int(labels[(labels < 0) | (labels >= CLASSES)][0])
        raise DataError(f"{where}: label {wrong} is out of range, the 10 classes are 0..9")
    return pixels.reshape(-1, 3, SIZE, SIZE), labels


def is_archive(path: str) -> bool:
    """Whether `path` looks like CIFAR-10's archive or the folder it unpacks to."""
    place = expanded(path)
    if place.is_file():
        return place.name.lower().endswith((".tar.gz", ".tgz", ".tar"))
    return any((place / name).exists() for name in ("data_batch_1", "cifar-10-batches-py"))


def _identity(config: DataConfig, split: str) -> str:
    return fingerprint(config.path or "", split)


def _info(config: DataConfig, split: str = "train", images: int = 0, fingerprint: str = "") -> DataInfo:
    from harness.data.dataset import DataInfo, display_name
    from harness.data.pixels import check_averaging

    size, channels = config.size or SIZE, config.channels or 3
    try:
        check_averaging(SIZE, SIZE, size)
    except ValueError as failure:
        raise DataError(f"{config.path}: every image {failure}") from None
    name = display_name(config.label or "CIFAR-10", size, channels, 3)
    return DataInfo(name, split, images, size, channels, CLASSES, fingerprint)


def _opened(config: DataConfig, split: str) -> Dataset:
    from harness.data.dataset import ArrayPixels, Dataset
    from harness.data.pixels import area_average, with_channels

    assert config.path is not None
    images, labels = load(config.path, split)
    info = _info(config, split, len(images), fingerprint(config.path, split))
    return Dataset(info, labels, ArrayPixels(with_channels(area_average(images, info.size), info.channels)))


DATA_SET = DataSet(_identity, _info, _opened)
