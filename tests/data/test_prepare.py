from __future__ import annotations

import io
import json
import multiprocessing
import os
import signal
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from harness.config.schema import DataConfig
from harness.data import open_data
from harness.data import prepare as preparing
from harness.data.describe import info
from harness.data.prepare import prepare
from harness.errors import DataError
from tests.data.making import classes, encoded, noise, write_folder, write_zip
from tests.data.test_cifar10 import write_batches


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Twelve images of different sizes and kinds in two classes."""
    shapes = [(40, 30), (16, 16), (64, 64), (33, 80), (17, 19), (20, 20)]
    files = {}
    for index, (height, width) in enumerate(shapes):
        files[f"ant/{index}.png"] = encoded(noise(index, height, width))
        files[f"bee/{index}.jpg"] = encoded(noise(50 + index, height, width), "JPEG")
    files["ant/0.png"] = encoded(noise(0, 40, 30, channels=1))
    return write_folder(tmp_path / "photographs", files)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparing, "PART_BYTES", 5 * 3 * 16 * 16)  # five images in a part


def published_recipe(image: Image.Image, size: int) -> np.ndarray:
    """ADM's, as its authors describe it."""
    while min(*image.size) >= 2 * size:
        image = image.resize([side // 2 for side in image.size], resample=Image.Resampling.BOX)
    scale = size / min(*image.size)
    image = image.resize([round(side * scale) for side in image.size], resample=Image.Resampling.BICUBIC)
    array = np.array(image)
    top, left = (array.shape[0] - size) // 2, (array.shape[1] - size) // 2
    return array[top : top + size, left : left + size]


def test_zip_is_what_edm_reads(photographs: Path, tmp_path: Path):
    made = prepare(str(photographs), tmp_path / "out.zip", 16, workers=1)
    assert (made.images, made.size, made.channels, made.classes, made.damaged) == (12, 16, 3, 2, ())
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        assert archive.testzip() is None
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}
        labels = json.loads(archive.read("dataset.json"))["labels"]
        names = sorted(name for name in archive.namelist() if name.endswith(".png"))
        assert [name for name, _ in labels] == names == [f"00000/img{i:08d}.png" for i in range(12)]
        assert [label for _, label in labels] == [0] * 6 + [1] * 6
        sources = sorted(photographs.rglob("*.*g"))
        for name, source in zip(names, sources, strict=True):
            with Image.open(source) as image:
                expected = published_recipe(image.convert("RGB"), 16)
            assert np.array_equal(np.asarray(Image.open(io.BytesIO(archive.read(name)))), expected), source


def test_prepared_data_open_as_they_were_made(photographs: Path, tmp_path: Path):
    prepare(str(photographs), tmp_path / "out.zip", 16, workers=1, name="Photographs")
    dataset = open_data(DataConfig(name="images", path=str(tmp_path / "out.zip")))
    assert dataset.info.name == "Photographs 16×16" and dataset.info.classes == 2
    assert dataset.labels.tolist() == [0] * 6 + [1] * 6
    dataset.ready(memory_limit=0)
    assert not dataset.in_memory, "too large for the memory allowed, and known to be whole"


def test_same_bytes_by_any_number_of_processes(photographs: Path, tmp_path: Path, small_parts: None):
    first, second = tmp_path / "one.zip", tmp_path / "two.zip"
    prepare(str(photographs), first, 16, workers=1)
    prepare(str(photographs), second, 16, workers=2)
    assert first.read_bytes() == second.read_bytes()


def test_same_bytes_from_a_zip_and_after_a_move(tmp_path: Path):
    folder = write_folder(tmp_path / "x" / "toy", classes())
    moved = write_folder(tmp_path / "y" / "toy", classes())
    prepare(str(folder), tmp_path / "a.zip", 8, workers=1)
    time.sleep(0.01)
    prepare(str(moved), tmp_path / "b.zip", 8, workers=1)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def _prepare_and_die(src: str, dst: str, phase: str, done: int) -> None:
    def kill(now: str, images: int, total: int, damaged: int) -> None:
        if (now, images) == (phase, done):
            os.kill(os.getpid(), signal.SIGKILL)

    prepare(src, dst, 16, workers=1, progress=kill)


@pytest.mark.parametrize(("phase", "done", "resumed"), [("decoding", 5, 5), ("writing", 10, 12)])
def test_killed_and_resumed(photographs: Path, tmp_path: Path, small_parts: None, phase: str, done: int, resumed: int):
    prepare(str(photographs), tmp_path / "whole.zip", 16, workers=1)
    killed = tmp_path / "killed.zip"
    process = multiprocessing.get_context("fork").Process(
        target=_prepare_and_die, args=(str(photographs), str(killed), phase, done)
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL and not killed.exists()
    seen: list[tuple[str, int]] = []
    made = prepare(
        str(photographs), killed, 16, workers=1, progress=lambda now, images, total, bad: seen.append((now, images))
    )
    assert made.resumed == resumed and seen[0] == ("decoding", resumed)
    assert killed.read_bytes() == (tmp_path / "whole.zip").read_bytes()
    assert not list(tmp_path.glob(".killed.zip.parts-*"))


def test_finished_preparation_is_not_done_again(photographs: Path, tmp_path: Path):
    destination = tmp_path / "out.zip"
    first = prepare(str(photographs), destination, 16, workers=1)
    written = destination.stat().st_mtime_ns
    again = prepare(str(photographs), destination, 16, workers=1)
    assert destination.stat().st_mtime_ns == written
    assert (again.images, again.content, again.resumed) == (12, first.content, 12)
    with pytest.raises(DataError, match=r"out\.zip: exists and is something else"):
        prepare(str(photographs), destination, 8, workers=1)
    assert prepare(str(photographs), destination, 8, workers=1, overwrite=True).size == 8


def test_damaged_images_are_named_counted_and_left_out_only_when_allowed(photographs: Path, tmp_path: Path):
    write_folder(photographs, {"ant/9.png": b"text\n", "bee/9.jpg": encoded(noise(1, 30, 30), "JPEG")[:900]})
    destination = tmp_path / "out.zip"
    with pytest.raises(DataError) as failure:
        prepare(str(photographs), destination, 16, workers=1, allow_damaged=1)
    message = str(failure.value)
    assert "2 of 14 images cannot be used" in message and "--allow-damaged 2" in message
    assert "ant/9.png: is not an image" in message and "bee/9.jpg: cannot be decoded" in message
    assert not destination.exists()
    listed = (tmp_path / "out.zip.damaged.tsv").read_text().splitlines()
    assert [line.split("\t")[0] for line in listed] == ["ant/9.png", "bee/9.jpg"]
    made = prepare(str(photographs), destination, 16, workers=1, allow_damaged=2)
    assert made.images == 12 and [item.file for item in made.damaged] == ["ant/9.png", "bee/9.jpg"]
    dataset = open_data(DataConfig(name="images", path=str(destination)))
    assert dataset.labels.tolist() == [0] * 6 + [1] * 6
    assert [file for file, _ in info(str(destination))["splits"]["train"]["left_out_at_preparation"]] == [
        "ant/9.png",
        "bee/9.jpg",
    ]


def test_mended_image_is_taken_up_by_the_rerun(tmp_path: Path):
    folder = write_folder(tmp_path / "a", classes())
    whole = (folder / "ant/1.png").read_bytes()
    (folder / "ant/1.png").write_bytes(bytes(len(whole)))
    with pytest.raises(DataError, match="1 of 6 images"):
        prepare(str(folder), tmp_path / "out.zip", workers=1)
    (folder / "ant/1.png").write_bytes(whole)
    made = prepare(str(folder), tmp_path / "out.zip", workers=1)
    assert made.images == 6 and not made.damaged and not (tmp_path / "out.zip.damaged.tsv").exists()
    images = open_data(DataConfig(name="images", path=str(tmp_path / "out.zip"))).all_uint8()
    assert torch.equal(images, open_data(DataConfig(name="images", path=str(folder))).all_uint8())


def test_grey_stays_grey_and_channels_can_be_chosen(tmp_path: Path):
    files = {f"{i}.png": encoded(noise(i, 20, 20, channels=1)) for i in range(3)}
    folder = str(write_folder(tmp_path / "grey", files))
    assert prepare(folder, tmp_path / "a.zip", 8, workers=1).channels == 1
    made = prepare(folder, tmp_path / "b.zip", 8, channels=3, workers=1)
    assert (made.channels, made.classes) == (3, None)
    with pytest.raises(DataError, match=r"4 channels: choose 1"):
        prepare(folder, tmp_path / "c.zip", 8, channels=4)


def test_splits_are_prepared_apart_and_opened_together(tmp_path: Path):
    write_zip(tmp_path / "train.zip", classes(("ant", "bee")))
    write_zip(tmp_path / "val.zip", classes(("bee",), first=50))
    out = tmp_path / "out"
    for split in ("train", "test"):
        prepare(str(tmp_path / "*.zip"), out / f"toy-{split}.zip", 4, split=split, workers=1)
    test = open_data(DataConfig(name="images", path=str(out)), "test")
    assert test.labels.tolist() == [1, 1, 1] and test.info.classes == 2
    assert open_data(DataConfig(name="images", path=str(out))).info.images == 6


def test_cifar10_archive(tmp_path: Path):
    made = prepare(str(write_batches(tmp_path / "c")), tmp_path / "cifar.zip", workers=1)
    assert (made.images, made.size, made.classes) == (20, 32, 10)
    original = open_data(DataConfig(name="cifar10", path=str(tmp_path / "c")))
    prepared = open_data(DataConfig(name="images", path=str(tmp_path / "cifar.zip")))
    assert torch.equal(prepared.all_uint8(), original.all_uint8()) and torch.equal(prepared.labels, original.labels)


def test_problems_before_any_work(photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(DataError, match="several sizes or are not square; choose --size"):
        prepare(str(photographs), tmp_path / "out.zip")
    with pytest.raises(DataError, match="the destination is a zip"):
        prepare(str(photographs), tmp_path / "out", 16)
    with pytest.raises(DataError, match="at least 1 pixel"):
        prepare(str(photographs), tmp_path / "out.zip", -1)
    usage = preparing.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(preparing.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DataError, match=r"0\.0 GB are free"):
        prepare(str(photographs), tmp_path / "out.zip", 16)
    assert not list(tmp_path.glob("*out*"))
