"""Data are known by their content: a change in place is seen, and what is remembered of files is never wrong."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.config.schema import DataConfig, parse_experiment
from harness.data import DamagedImageError, cifar10, fingerprint, open_data
from harness.data import checksums as remembering
from harness.store.identity import identify
from tests.data.making import classes, encoded, noise, write_folder, write_zip
from tests.data.test_cifar10 import batch, write_archive, write_batches
from tests.harness.tiny_experiments import MODEL

FORMATS = {"bmp": "BMP", "ppm": "PPM", "pgm": "PPM", "png": "PNG", "tif": "TIFF"}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder of its own."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files just written count as if they had been for long."""
    monkeypatch.setattr(remembering, "SETTLED_NS", -10 * 10**9)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files whose content is read."""
    seen: list[str] = []
    read = remembering.read_file

    def counting(path: bytes) -> bytes:
        seen.append(Path(os.fsdecode(path)).name)
        return read(path)

    monkeypatch.setattr(remembering, "read_file", counting)
    return seen


def images(path: Path) -> DataConfig:
    return DataConfig(name="images", path=str(path))


def ids(data: DataConfig) -> tuple[str, str]:
    values = {"model": MODEL, "data": data.model_dump(exclude_none=True), "measure": {"features": "inception"}}
    return identify(parse_experiment(values, "test"))


@pytest.mark.parametrize("ending", FORMATS)
def test_a_change_in_place_at_equal_size_changes_ids(tmp_path: Path, ending: str) -> None:
    channels = 1 if ending == "pgm" else 3
    files = {f"{i}.{ending}": encoded(noise(i, channels=channels), FORMATS[ending]) for i in range(3)}
    folder = write_folder(tmp_path / "folder", files)
    before, first = ids(images(folder)), open_data(images(folder)).all_uint8()
    place = folder / f"1.{ending}"
    times, content = place.stat(), place.read_bytes()
    changed = encoded(255 - noise(1, channels=channels), FORMATS[ending])
    changed = changed if len(changed) == len(content) else content[:-20] + bytes(reversed(content[-20:]))
    with place.open("r+b") as file:
        file.write(changed)
    os.utime(place, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert place.stat().st_size == times.st_size and place.stat().st_mtime_ns == times.st_mtime_ns
    after = ids(images(folder))
    assert set(before).isdisjoint(after)
    if ending in ("bmp", "ppm", "pgm"):
        assert not torch.equal(open_data(images(folder)).all_uint8(), first)
    with place.open("r+b") as file:
        file.write(content)
    assert ids(images(folder)) == before, "what is again as it was has its id again"


def test_two_files_that_change_places(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, {"ant/0.bmp": encoded(noise(0), "BMP"), "bee/0.bmp": encoded(noise(1), "BMP")})
    before = fingerprint(images(folder))
    (folder / "ant/0.bmp").rename(folder / "x")
    (folder / "bee/0.bmp").rename(folder / "ant/0.bmp")
    (folder / "x").rename(folder / "bee/0.bmp")
    assert fingerprint(images(folder)) != before


@pytest.mark.usefixtures("settled")
def test_what_has_not_changed_is_not_read_again(tmp_path: Path, cache: Path, reads: list[str]) -> None:
    folder = write_folder(tmp_path / "folder", classes())
    first = fingerprint(images(folder))
    assert len(reads) == 6 and list(cache.glob("*/*.npz"))
    reads.clear()
    assert fingerprint(images(folder)) == first and not reads
    os.utime(folder / "ant/1.png")
    assert fingerprint(images(folder)) == first and reads == ["1.png"]
    reads.clear()
    (folder / "bee/9.png").write_bytes(encoded(noise(9)))
    (folder / "ant/0.png").unlink()
    assert fingerprint(images(folder)) != first and reads == ["9.png"]


def test_what_was_changed_just_now_is_not_trusted(tmp_path: Path, cache: Path, reads: list[str]) -> None:
    """The clocks of file systems are coarse: a second change may leave the times as they are."""
    folder = write_folder(tmp_path / "folder", classes())
    fingerprint(images(folder))
    reads.clear()
    fingerprint(images(folder))
    assert len(reads) == 6 and not list(cache.glob("*/*.npz"))


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("damage", ["cut", "emptied", "flipped", "text", "of other files", "a folder"])
def test_a_damaged_cache_is_a_miss(tmp_path: Path, cache: Path, damage: str) -> None:
    folder = write_folder(tmp_path / "folder", classes())
    first = fingerprint(images(folder))
    (kept,) = cache.glob("*/*.npz")
    whole = kept.read_bytes()
    if damage == "cut":
        kept.write_bytes(whole[: len(whole) // 2])
    elif damage == "emptied":
        kept.write_bytes(b"")
    elif damage == "flipped":
        for at in range(0, len(whole), 41):
            kept.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            assert fingerprint(images(folder)) == first
    elif damage == "text":
        kept.write_bytes(b"words")
    elif damage == "of other files":
        np.savez(kept, names=np.zeros(3, np.uint8), states=np.zeros((2, 4)), sums=np.zeros(9, np.int64))
    else:
        kept.unlink()
        kept.mkdir()
    assert fingerprint(images(folder)) == first


@pytest.mark.usefixtures("settled")
def test_a_wrong_checksum_in_the_cache_is_no_wrong_data_set(tmp_path: Path, cache: Path) -> None:
    """Were a file changed without its times showing it, its content would not be taken for what it was, and the cache
    forgets it."""
    folder = write_folder(tmp_path / "folder", classes())
    first = fingerprint(images(folder))
    (kept,) = cache.glob("*/*.npz")
    with np.load(kept) as file:
        content = dict(file)
    content["sums"][2] += 1
    np.savez(kept, **content)
    dataset = open_data(images(folder))
    assert dataset.info.fingerprint != first
    with pytest.raises(DamagedImageError, match=r"2\.png: was changed since its data set was looked at; run again"):
        dataset.load(range(6))
    assert fingerprint(images(folder)) == first


def test_an_image_that_changes_under_a_training_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, classes())
    dataset = open_data(images(folder))
    (folder / "ant/0.png").write_bytes(encoded(noise(99)))
    with pytest.raises(DamagedImageError, match=r"ant/0\.png: was changed since"):
        dataset.load([0])


@pytest.mark.usefixtures("settled")
def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "file" / "below"))
    folder = write_folder(tmp_path / "folder", classes())
    assert fingerprint(images(folder)) == fingerprint(images(folder))


def test_a_zip_that_is_written_over_in_place(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", classes())
    before = ids(images(path))
    content = write_zip(tmp_path / "b.zip", classes(first=1)).read_bytes()
    assert len(content) == path.stat().st_size
    with path.open("r+b") as file:
        file.write(content)
    assert set(ids(images(path))).isdisjoint(before)


@pytest.mark.parametrize("crc", [0, 12345])
def test_a_zip_whose_checksums_are_wrong_is_not_used(tmp_path: Path, crc: int) -> None:
    """So its directory's checksums tell the content: what has others is refused when it is read."""
    path = write_zip(tmp_path / "a.zip", {"0.png": encoded(noise(0))})
    content = bytearray(path.read_bytes())
    at = content.index(b"PK\x01\x02") + 16
    content[at : at + 4] = crc.to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(Exception, match="its checksum does not match"):
        open_data(images(path)).all_uint8()


def test_a_million_files_are_looked_up_at_once(tmp_path: Path, cache: Path) -> None:
    """Without a look at any of them: names and states in one piece each, not a dictionary of files."""
    count = 200_000
    names = [b"%07d.png" % i for i in range(count)]
    states = np.arange(4 * count, dtype=np.int64).reshape(count, 4)
    kept = remembering._Cache(os.fsencode(tmp_path))
    kept.save(names, states, np.arange(count, dtype=np.int64))
    started = time.process_time()
    found = kept.look_up(names, states)
    assert time.process_time() - started < 2
    assert np.array_equal(found, np.arange(count))
    states[7, 1] += 1
    assert np.flatnonzero(kept.look_up(names, states) == remembering.UNKNOWN).tolist() == [7]
    assert kept.look_up(names[5:9], states[5:9]).tolist() == [5, 6, remembering.UNKNOWN, 8]


# CIFAR-10.


@pytest.mark.parametrize("archived", [False, True])
def test_cifar10_changed_in_place(tmp_path: Path, archived: bool) -> None:
    folder = write_batches(tmp_path / "b")
    path = write_archive(tmp_path / "a.tar", folder) if archived else folder
    data = DataConfig(name="cifar10", path=str(path))
    before = fingerprint(data)
    write_batches(folder, data_batch_3=batch(99))
    if archived:
        write_archive(path, folder)
    assert fingerprint(data) != before
    write_batches(folder)
    if not archived:
        assert fingerprint(data) == before


@pytest.mark.usefixtures("settled")
def test_cifar10_is_read_once_for_its_fingerprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = DataConfig(name="cifar10", path=str(write_batches(tmp_path)))
    before = fingerprint(data)
    monkeypatch.setattr(cifar10, "_contents", lambda *_: pytest.fail("read again"))
    assert fingerprint(data) == before


# Single files.


def test_the_digest_of_a_file_follows_it(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    digests = []
    for content in (b"one", b"two", b"one"):
        path.write_bytes(content)
        digests.append(remembering.file_digest(path))
    assert digests[0] == digests[2] != digests[1]


@pytest.mark.usefixtures("settled")
def test_a_file_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    first = remembering.file_digest(path)
    monkeypatch.setattr(remembering.hashlib, "file_digest", lambda *_: pytest.fail("hashed again"))
    assert remembering.file_digest(path) == first
