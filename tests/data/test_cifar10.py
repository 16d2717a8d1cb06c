from __future__ import annotations

import hashlib
import os
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.config.schema import DataConfig
from harness.data import cifar10, fingerprint, open_data
from harness.errors import DataError
from tests.data.making import classes, write_zip

BATCHES = (*cifar10.FILES["train"], *cifar10.FILES["test"])


def batch(seed: int, images: int = 4, **changes: object) -> bytes:
    random = np.random.default_rng(seed)
    content = {
        b"batch_label": b"made for a test",
        b"labels": random.integers(0, 10, images).tolist(),
        b"data": random.integers(0, 256, (images, 3072), dtype=np.uint8),
        b"filenames": [b"x.png"] * images,
    }
    return pickle.dumps(content | {key.encode(): value for key, value in changes.items()}, protocol=4)


def write_batches(folder: Path, **replaced: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(BATCHES):
        (folder / name).write_bytes(replaced.get(name, batch(seed)))
    return folder


def write_archive(path: Path, folder: Path) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, "cifar-10-batches-py")
    return path


def config(path: Path, **more: Any) -> DataConfig:
    return DataConfig(name="cifar10", path=str(path), **more)


def problem(path: Path) -> str:
    with pytest.raises(DataError) as failure:
        open_data(config(path))
    return str(failure.value)


def test_archive_and_folder_hold_the_same(tmp_path: Path):
    folder = write_batches(tmp_path / "cifar-10-batches-py")
    archive = write_archive(tmp_path / "cifar-10-python.tar.gz", folder)
    for split, images in (("train", 20), ("test", 4)):
        sets = [open_data(config(path), split) for path in (archive, folder, tmp_path)]
        for dataset in sets:
            info = dataset.info
            assert (info.images, info.size, info.channels, info.classes) == (images, 32, 3, 10)
            assert info.name == "CIFAR-10 32×32"
            assert torch.equal(dataset.all_uint8(), sets[0].all_uint8())
            assert info.fingerprint == sets[0].info.fingerprint == fingerprint(config(archive), split)
    assert fingerprint(config(archive)) != fingerprint(config(archive), "test")


def test_pixels_are_planes_of_rows(tmp_path: Path):
    """As the archive's own page says: 1024 red, 1024 green, 1024 blue, row by row."""
    data = np.arange(3072).reshape(1, 3072).astype(np.uint8)
    write_batches(tmp_path, data_batch_1=batch(0, 1, data=data, labels=[3]))
    images, labels = open_data(config(tmp_path)).load([0])
    assert labels.tolist() == [3]
    assert images[0, 1, 2, 5] == data[0, 1024 + 2 * 32 + 5]


def test_the_real_archive_s_old_pickles_are_read(tmp_path: Path):
    """Python 2 wrote them: protocol 2, text as byte strings, numpy's names of then. This one is made by hand."""
    data = np.arange(3072, dtype=np.uint8).tobytes()
    content = (
        b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85"
        b"U\x01b\x87Rq\x05(K\x01K\x01M\x00\x0c\x86cnumpy\ndtype\nq\x06U\x02u1K\x00K\x01\x87Rq\x07(K\x03U\x01|NNNJ\xff"
        b"\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T"
        + len(data).to_bytes(4, "little")
        + data
        + b"tbU\x06labelsq\x08]q\x09K\x07au."
    )
    write_batches(tmp_path, data_batch_1=content)
    images, labels = open_data(config(tmp_path)).load([0])
    assert labels.tolist() == [7] and images.flatten().numpy().tobytes() == data


def test_official_archive_is_known_by_its_sum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With the sums of a made archive in the place of the official ones, archive and folder still agree."""
    folder = write_batches(tmp_path / "cifar-10-batches-py")
    archive = write_archive(tmp_path / "a.tar.gz", folder)
    by_content = fingerprint(config(archive))
    cifar10._known.clear()
    md5 = hashlib.md5(archive.read_bytes()).hexdigest()
    monkeypatch.setattr(cifar10, "OFFICIAL_ARCHIVE_MD5", md5)
    sums = {name: hashlib.md5((folder / name).read_bytes()).hexdigest() for name in BATCHES}
    monkeypatch.setattr(cifar10, "OFFICIAL_MD5", sums)
    monkeypatch.setattr(cifar10, "_contents", lambda *_: pytest.fail("unpacked"))
    assert fingerprint(config(archive)) == by_content


def test_size_and_channels(tmp_path: Path):
    dataset = open_data(config(write_batches(tmp_path), size=8, channels=1))
    assert dataset.all_uint8().shape == (20, 1, 8, 8)
    with pytest.raises(DataError, match="needs a square of a multiple of 12"):
        open_data(config(tmp_path, size=12))


class Tampered:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.target),)


def test_code_in_a_tampered_archive_does_not_run(tmp_path: Path):
    target = tmp_path / "made-by-the-pickle"
    folder = write_batches(tmp_path / "b", data_batch_3=pickle.dumps({b"data": Tampered(target), b"labels": []}))
    message = problem(folder)
    assert "data_batch_3" in message and "mkdir, which no image archive needs" in message
    assert not target.exists()


def test_label_out_of_range(tmp_path: Path):
    write_batches(tmp_path, data_batch_2=batch(1, 2, labels=[0, 10]))
    assert "data_batch_2: label 10 is out of range, the 10 classes are 0..9" in problem(tmp_path)


def test_wrong_shape(tmp_path: Path):
    write_batches(tmp_path, data_batch_2=batch(1, 2, labels=[0, 1, 2]))
    assert "does not hold 3072 bytes for each of its 3 labels" in problem(tmp_path)


def test_damaged_missing_and_absent(tmp_path: Path):
    folder = write_batches(tmp_path / "b", data_batch_4=batch(0)[:100])
    assert "data_batch_4: is not a batch of CIFAR-10's python archive" in problem(folder)
    (folder / "data_batch_5").unlink()
    assert "data_batch_5 of CIFAR-10's python archive is not in it" in problem(folder)
    assert "no such file or folder" in problem(tmp_path / "c.tar.gz")


def test_archive_cut_short(tmp_path: Path):
    archive = write_archive(tmp_path / "a.tar.gz", write_batches(tmp_path / "b"))
    archive.write_bytes(archive.read_bytes()[:2000])
    assert "cut short in a download?" in problem(archive)


def test_other_archives_are_told_apart(tmp_path: Path):
    other = tmp_path / "other"
    other.mkdir()
    for name in ("train", "test", "data_batch_1.bin"):
        (other / name).write_bytes(b"x")
    archive = write_archive(tmp_path / "cifar-100-python.tar.gz", other)
    for path in (archive, other):
        message = problem(path)
        assert "is not in it; cifar10 reads cifar-10-python.tar.gz (not the binary or Matlab version" in message
        assert "set data.name: images" in message
    zipped = write_zip(tmp_path / "images.zip", classes())
    assert "is a zip, CIFAR-10's archive is a tar; for images in a zip set data.name: images" in problem(zipped)
    (tmp_path / "words.tar.gz").write_bytes(b"words")
    assert "is not a whole tar archive" in problem(tmp_path / "words.tar.gz")


def test_a_batch_twice_in_the_archive(tmp_path: Path):
    folder = write_batches(tmp_path / "b")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(folder, "cifar-10-batches-py")
        archive.add(folder / "data_batch_2", "again/data_batch_2")
    assert "holds data_batch_2 twice" in problem(tmp_path / "a.tar")


def test_missing_path_says_where_it_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert f"tried {tmp_path / 'c.tar.gz'}, relative to the folder the command runs in" in problem(Path("c.tar.gz"))
    monkeypatch.setenv("HOME", str(tmp_path))
    write_batches(tmp_path / "b")
    assert fingerprint(config(Path("~/b"))) == fingerprint(config(tmp_path / "b"))
