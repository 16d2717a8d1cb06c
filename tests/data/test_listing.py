from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.config.schema import DataConfig
from harness.data import DamagedImageError, Dataset, fingerprint, open_data
from harness.errors import DataError
from tests.data.making import classes, description, encoded, noise, write_folder, write_zip


def config(path: Path | str, **more: Any) -> DataConfig:
    return DataConfig(name="images", path=str(path), **more)


def opened(path: Path | str, split: str = "train", **more: Any) -> Dataset:
    return open_data(config(path, **more), split)


def problem(path: Path | str, split: str = "train", **more: Any) -> str:
    with pytest.raises(DataError) as failure:
        opened(path, split, **more).all_uint8()
    return str(failure.value)


def test_folder_of_classes(tmp_path: Path):
    dataset = opened(write_folder(tmp_path / "animals", classes()))
    assert dataset.info.name == "animals 8×8"
    assert (dataset.info.images, dataset.info.size, dataset.info.channels, dataset.info.classes) == (6, 8, 3, 2)
    images, labels = dataset.load(range(6))
    assert labels.tolist() == [0, 0, 0, 1, 1, 1]
    for index in range(6):
        assert np.array_equal(images[index].numpy().transpose(1, 2, 0), noise(index))
    assert torch.equal(dataset.all_uint8(), images)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_zip_holds_the_same_as_the_folder(tmp_path: Path, method: int):
    folder = opened(write_folder(tmp_path / "a", classes()))
    zipped = opened(write_zip(tmp_path / "a.zip", classes(), method))
    assert torch.equal(folder.all_uint8(), zipped.all_uint8()) and torch.equal(folder.labels, zipped.labels)


def test_several_zips_are_one_data_set_whatever_their_names(tmp_path: Path):
    whole = opened(write_zip(tmp_path / "whole.zip", classes(("a", "b", "c"))))
    parts = tmp_path / "parts"
    parts.mkdir()
    files = classes(("a", "b", "c"))
    write_zip(parts / "z.zip", {k: v for k, v in files.items() if k.startswith("a")})
    write_zip(parts / "m.zip", {k: v for k, v in files.items() if not k.startswith("a")})
    for path in (parts, parts / "*.zip"):
        dataset = opened(path)
        assert torch.equal(dataset.all_uint8(), whole.all_uint8())
        assert dataset.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
        assert dataset.info.fingerprint == whole.info.fingerprint


def test_root_folders_and_hidden_files_do_not_matter(tmp_path: Path):
    plain = opened(write_zip(tmp_path / "a.zip", classes()))
    files = {f"some/root/{name}": content for name, content in classes().items()}
    files |= {"__MACOSX/some/root/ant/._0.png": b"x", "some/root/ant/.DS_Store": b"x", "some/root/readme.txt": b"x"}
    wrapped = opened(write_zip(tmp_path / "b.zip", files))
    assert wrapped.info.fingerprint == plain.info.fingerprint
    assert torch.equal(wrapped.all_uint8(), plain.all_uint8())


def test_images_below_their_class_folder(tmp_path: Path):
    files = {name.replace("/", "/images/"): content for name, content in classes().items()}
    assert opened(write_folder(tmp_path, files)).labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_images_without_folders_have_no_labels(tmp_path: Path):
    dataset = opened(write_folder(tmp_path, {f"{i}.png": encoded(noise(i)) for i in range(3)}))
    assert dataset.info.classes is None and dataset.labels.tolist() == [0, 0, 0]


def test_dataset_json_of_edm(tmp_path: Path):
    files = {f"00000/img{i:08d}.png": encoded(noise(i)) for i in range(3)}
    labels = [[name, label] for name, label in zip(files, (2, 0, 1), strict=True)]
    dataset = opened(write_zip(tmp_path / "edm.zip", files | {"dataset.json": description(labels)}))
    assert dataset.labels.tolist() == [2, 0, 1] and dataset.info.classes == 3
    unlabelled = opened(write_zip(tmp_path / "none.zip", files | {"dataset.json": description(None)}))
    assert unlabelled.info.classes is None


def test_splits_by_folder(tmp_path: Path):
    train, val = classes(), classes(("bee",), each=2, first=50)
    files = {f"train/{k}": v for k, v in train.items()} | {f"val/{k}": v for k, v in val.items()}
    for path in (write_folder(tmp_path / "a", files), write_zip(tmp_path / "a.zip", files)):
        assert opened(path).info.images == 6
        test = opened(path, "test")
        assert test.info.images == 2 and test.info.classes == 2 and test.labels.tolist() == [1, 1]
    alone = opened(write_zip(tmp_path / "t.zip", train))
    assert opened(tmp_path / "a.zip").info.fingerprint == alone.info.fingerprint, "a test split changes no training"


def test_splits_by_name_of_zip(tmp_path: Path):
    write_zip(tmp_path / "toy-train.zip", classes())
    write_zip(tmp_path / "toy-val.zip", classes(each=1, first=50))
    assert opened(tmp_path).info.images == 6
    assert opened(tmp_path / "toy-*.zip", "test").info.images == 2
    assert opened(tmp_path / "toy-val.zip").info.images == 2, "alone, it is what there is to train on"
    assert "has no test split" in problem(tmp_path / "toy-train.zip", "test")


def test_class_that_training_lacks(tmp_path: Path):
    write_zip(tmp_path / "train.zip", classes())
    write_zip(tmp_path / "val.zip", classes(("beee",), first=50))
    message = problem(tmp_path, "test")
    assert "'beee' is none of the 2 classes" in message and "did you mean 'bee'?" in message


def test_fingerprint_follows_the_content_and_not_the_place(tmp_path: Path):
    first = write_zip(tmp_path / "a.zip", classes())
    (tmp_path / "elsewhere").mkdir()
    moved = Path(shutil.copy(first, tmp_path / "elsewhere" / "b.zip"))
    assert fingerprint(config(first)) == fingerprint(config(moved))
    other_pixels = write_zip(tmp_path / "c.zip", classes(first=1))
    other_labels = write_zip(tmp_path / "d.zip", {k.replace("bee", "wasp"): v for k, v in classes().items()})
    one_less = write_zip(tmp_path / "e.zip", dict(list(classes().items())[:-1]))
    prints = {fingerprint(config(path)) for path in (first, other_pixels, other_labels, one_less)}
    assert len(prints) == 4


def test_fingerprint_does_not_wait_for_torch(tmp_path: Path):
    write_zip(tmp_path / "a.zip", classes())
    code = (
        "import sys; from harness.config.schema import DataConfig; from harness.data import fingerprint;"
        f"fingerprint(DataConfig(name='images', path={str(tmp_path)!r})); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0


def test_fingerprint_sees_a_file_that_was_replaced(tmp_path: Path):
    path = write_zip(tmp_path / "a.zip", classes())
    before = fingerprint(config(path))
    write_zip(path, classes(each=4))
    assert fingerprint(config(path)) != before


def test_size_reduces_by_exact_means(tmp_path: Path):
    path = write_folder(tmp_path, classes(each=1, side=12))
    reduced = opened(path, size=4).all_uint8().double()
    exact = opened(path).all_uint8().double().reshape(2, 3, 4, 3, 4, 3).mean(dim=(3, 5))
    assert reduced.shape == (2, 3, 4, 4) and (reduced - exact).abs().max() <= 0.5


def test_label_names_the_data(tmp_path: Path):
    path = write_folder(tmp_path, classes())
    assert opened(path, label="Tiny").info.name == "Tiny 8×8"


def test_grey_and_mixed_channels(tmp_path: Path):
    grey = {f"{i}.png": encoded(noise(i, channels=1)) for i in range(3)}
    assert opened(write_folder(tmp_path / "grey", grey)).info.channels == 1
    mixed = write_folder(tmp_path / "mixed", grey | {"9.png": encoded(noise(9))})
    assert opened(mixed).info.channels == 3
    assert opened(mixed, channels=1).all_uint8().shape == (4, 1, 8, 8)


def test_colour_that_the_sample_missed_is_not_made_grey_in_silence(tmp_path: Path):
    files = {f"{i:04d}.png": encoded(noise(i, 2, 2, channels=1)) for i in range(130)}
    files["0001.png"] = encoded(noise(1, 2, 2))
    path = write_zip(tmp_path / "a.zip", files)
    assert "0001.png: is in colour" in problem(path)


def test_size_that_the_sample_missed_is_named(tmp_path: Path):
    files = {f"{i:04d}.png": encoded(noise(i, 2, 2)) for i in range(130)} | {"0001.png": encoded(noise(1, 4, 4))}
    assert "0001.png: is 4×4, others are 2×2" in problem(write_zip(tmp_path / "a.zip", files))


# Bad data: one message each, with the file.


def test_missing_path_has_the_nearest_match(tmp_path: Path):
    write_zip(tmp_path / "imagenet.zip", classes())
    assert "imagenet.zip'?" in problem(tmp_path / "imagnet.zip")
    assert "there is no such file" in problem(tmp_path / "imagnet.zip")
    assert "no file matches" in problem(tmp_path / "other-*.zip")
    assert "no such file or folder" in problem(tmp_path / "no" / "such" / "place")


def test_empty_folder(tmp_path: Path):
    assert "holds no images" in problem(tmp_path)
    write_folder(tmp_path, {"notes.txt": b"x", "a/b.csv": b"x"})
    assert "found 2 other files" in problem(tmp_path)


def test_neither_folder_nor_zip(tmp_path: Path):
    (tmp_path / "data.rar").write_bytes(b"Rar!")
    assert "data.rar: is neither a folder nor a zip" in problem(tmp_path / "data.rar")


def test_truncated_zip(tmp_path: Path):
    path = write_zip(tmp_path / "a.zip", classes())
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert "a.zip: is not a whole zip" in problem(path)
    path.write_bytes(b"")
    assert "it has 0 bytes" in problem(path)


def test_zip_with_a_flipped_byte(tmp_path: Path):
    path = write_zip(tmp_path / "a.zip", classes())
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    dataset = opened(path)
    with pytest.raises(DamagedImageError, match=r"ant/0\.png: cannot be read \(its checksum does not match"):
        dataset.load([0])


def test_text_file_called_png(tmp_path: Path):
    path = write_folder(tmp_path, classes() | {"bee/notes.png": b"just words\n"})
    message = problem(path)
    assert "1 of 7 images cannot be used" in message and "notes.png: is not an image (its content is text)" in message


def test_nothing_but_text_files_called_png(tmp_path: Path):
    path = write_folder(tmp_path, {f"{i}.png": b"just words\n" for i in range(3)})
    assert "0.png: is not an image (its content is text)" in problem(path)


def test_dangling_link(tmp_path: Path):
    path = write_folder(tmp_path, classes())
    (tmp_path / "ant" / "link.png").symlink_to(tmp_path / "gone.png")
    assert "link.png: cannot be read (No such file or directory)" in problem(path)


def test_mixed_sizes(tmp_path: Path):
    files = classes() | {"ant/large.png": encoded(noise(1, 16, 16))}
    message = problem(write_folder(tmp_path, files))
    assert "8×8" in message and "large.png is 16×16" in message and "data.size" in message
    assert opened(tmp_path, size=8).all_uint8().shape == (7, 3, 8, 8)
    assert "is 8×8; area averaging to 16×16" in problem(tmp_path, size=16)


def test_not_square(tmp_path: Path):
    message = problem(write_folder(tmp_path, {"a.png": encoded(noise(0, 8, 10))}))
    assert "a.png is 10×8, not square" in message and "harness data prepare" in message


def test_size_that_does_not_divide(tmp_path: Path):
    assert "needs a multiple of 3" in problem(write_folder(tmp_path, classes()), size=3)


def test_image_outside_the_class_folders(tmp_path: Path):
    path = write_folder(tmp_path, classes() | {"stray.png": encoded(noise(0))})
    assert "stray.png lies outside the folders of the classes" in problem(path)


def test_same_zip_twice(tmp_path: Path):
    path = write_zip(tmp_path / "a.zip", classes())
    shutil.copy(path, tmp_path / "b.zip")
    assert "are the same image: is a zip there twice?" in problem(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"not json", "is not JSON of the form"),
        (b"{}", "is not JSON of the form"),
        (description([["x.png"]]), "is not a pair"),
        (description([["gone.png", 1]]), "labels 'gone.png', which is not there"),
        (description([["a.png", 1.5], ["b.png", 0]]), "label 1.5 of 'a.png' is not a whole number"),
        (description([["a.png", 1]]), "gives no label for"),
        (description([["a.png", -1], ["b.png", 0]]), "label -1 is out of range"),
        (description([["a.png", 7], ["b.png", 0]], class_names=["x", "y"]), "label 7 is out of range, the 2 classes"),
    ],
)
def test_bad_dataset_json(tmp_path: Path, text: bytes, message: str):
    files = {"a.png": encoded(noise(0)), "b.png": encoded(noise(1)), "dataset.json": text}
    assert message in problem(write_zip(tmp_path / "a.zip", files))


def test_labels_for_one_zip_only(tmp_path: Path):
    described = {"a.png": encoded(noise(0)), "dataset.json": description([["a.png", 0]])}
    write_zip(tmp_path / "a.zip", described)
    write_zip(tmp_path / "b.zip", {"b.png": encoded(noise(1))})
    assert "b.zip has no dataset.json" in problem(tmp_path)
