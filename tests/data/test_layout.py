"""What a folder or a zip means: read as it is meant, or refused with the way to say it. No label shifts in silence."""

from __future__ import annotations

import json
import os
import sys
import warnings
import zipfile
from pathlib import Path

import pytest
import torch

from harness.config.schema import DataConfig
from harness.data import fingerprint, open_data
from harness.data.listing import list_images
from harness.errors import DataError
from tests.data.making import classes, description, encoded, noise, write_folder, write_zip

IMAGE = encoded(noise(7))
linux = pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes, and of either case, are Linux's")


def config(path: Path | str) -> DataConfig:
    return DataConfig(name="images", path=str(path))


def problem(path: Path | str, split: str = "train") -> str:
    with pytest.raises(DataError) as failure:
        open_data(config(path), split)
    return str(failure.value)


def both(tmp_path: Path, files: dict[str, bytes]) -> tuple[Path, Path]:
    """The same files as a folder and as a zip."""
    return write_folder(tmp_path / "folder", files), write_zip(tmp_path / "zipped.zip", files)


def test_a_folder_and_its_zip_are_one_data_set(tmp_path: Path) -> None:
    folder, zipped = both(tmp_path, classes())
    assert fingerprint(config(folder)) == fingerprint(config(zipped))
    packed = write_zip(tmp_path / "packed.zip", classes(), zipfile.ZIP_DEFLATED)
    assert fingerprint(config(packed)) == fingerprint(config(zipped))


# Names in zips.


def test_backslashes_of_windows_are_slashes(tmp_path: Path) -> None:
    train, val = classes(each=2), classes(each=1, first=50)
    files = {f"train/{k}": v for k, v in train.items()} | {f"val/{k}": v for k, v in val.items()}
    plain = write_zip(tmp_path / "plain.zip", files)
    windows = write_zip(tmp_path / "windows.zip", {k.replace("/", "\\"): v for k, v in files.items()})
    with zipfile.ZipFile(windows, "a") as archive:
        archive.writestr("train\\ant\\", b"")
    for split, images, labels in (("train", 4, [0, 0, 1, 1]), ("test", 2, [0, 1])):
        dataset = open_data(config(windows), split)
        assert (len(dataset), dataset.info.classes, dataset.labels.tolist()) == (images, 2, labels)
        assert dataset.info.fingerprint == open_data(config(plain), split).info.fingerprint


def test_labels_with_backslashes_are_found(tmp_path: Path) -> None:
    files = {
        "a\\1.png": IMAGE,
        "b\\2.png": encoded(noise(8)),
        "dataset.json": description([["a\\1.png", 1], ["b/2.png", 0]]),
    }
    assert open_data(config(write_zip(tmp_path / "a.zip", files))).labels.tolist() == [1, 0]


def test_dots_in_names_hide_nothing(tmp_path: Path) -> None:
    """``zip -r x.zip .`` and tools that keep ``./``."""
    dotted = write_zip(tmp_path / "dotted.zip", {f"./{name}": content for name, content in classes().items()})
    assert fingerprint(config(dotted)) == fingerprint(config(write_zip(tmp_path / "plain.zip", classes())))
    assert "leads out of the zip" in problem(write_zip(tmp_path / "out.zip", {"a/../../1.png": IMAGE}))


@pytest.mark.parametrize("second", ["ant/0.png", "./ant/0.png", "ant\\0.png"])
def test_a_name_twice_in_a_zip_is_refused(tmp_path: Path, second: str) -> None:
    path = write_zip(tmp_path / "a.zip", classes())
    with warnings.catch_warnings(), zipfile.ZipFile(path, "a") as archive:
        warnings.simplefilter("ignore")
        archive.writestr(second, IMAGE)
    assert "a.zip: holds 'ant/0.png' twice; make the zip again" in problem(path)


@linux
def test_backslashes_in_a_folder_are_refused(tmp_path: Path) -> None:
    """A zip of Windows unpacked by a tool that knows no backslashes: all names of one folder, no classes."""
    path = write_folder(tmp_path, {name.replace("/", "\\"): content for name, content in classes().items()})
    assert "holds a backslash" in problem(path) and "use the zip itself" in problem(path)


@linux
def test_names_that_are_no_utf_8(tmp_path: Path) -> None:
    """Latin-1 names: the same data set in a folder as under other names, and messages that can be printed."""
    folder = write_folder(tmp_path / "folder", classes(("ant", "caf\udce9")))
    dataset = open_data(config(folder))
    assert dataset.labels.tolist() == [0, 0, 0, 1, 1, 1] and len(dataset.all_uint8()) == 6
    assert dataset.info.fingerprint == fingerprint(config(folder))
    names = list_images(str(folder), "train").class_names
    assert json.loads(json.dumps(names)) == ["ant", "caf\udce9"]
    (tmp_path / "folder" / "caf\udce9" / "0.png").write_bytes(b"words")
    with pytest.raises(DataError) as failure:
        open_data(config(folder)).all_uint8()
    assert "caf\\xe9/0.png: is not an image" in str(failure.value)
    str(failure.value).encode()


def test_zips_of_any_encoding(tmp_path: Path) -> None:
    """UTF-8 that is not marked as such is UTF-8; else the format's code page 437 holds."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("été/1.png", "zoo/1.png"):
            archive.writestr(name, IMAGE)
    marked = list_images(str(path), "train")
    content = path.read_bytes()
    for start, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = content.index(start) + flags
        assert content[at : at + 2] == b"\x00\x08"
        content = content[:at] + b"\x00\x00" + content[at + 2 :]
    path.write_bytes(content)
    unmarked = list_images(str(path), "train")
    assert unmarked.class_names == marked.class_names == ("zoo", "été")
    path.write_bytes(content.replace("été".encode(), b"\x82t\x82\x82\x82"))
    assert list_images(str(path), "train").class_names == ("zoo", "étééé")


def test_names_marked_as_utf_8_that_are_none(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"é/1.png": IMAGE})
    path.write_bytes(path.read_bytes().replace("é".encode(), b"\xe9\xe9"))
    assert "is marked as UTF-8 and is not" in problem(path)


# Classes.


@pytest.mark.parametrize("content", [{"bee/0.heic": b"x", "bee/1.heic": b"x"}, {"bee/0.xyz": b"x"}, {"bee/0": IMAGE}])
def test_a_class_of_unknown_endings_does_not_vanish(tmp_path: Path, content: dict[str, bytes]) -> None:
    for path in both(tmp_path, classes(("ant", "cow")) | content):
        message = problem(path)
        assert "bee" in message or ".heic" in message
        assert "convert" in message


def test_an_empty_class_does_not_vanish(tmp_path: Path) -> None:
    folder, zipped = both(tmp_path, classes(("ant", "cow")))
    (folder / "bee").mkdir()
    with zipfile.ZipFile(zipped, "a") as archive:
        archive.writestr("bee/", b"")
    for path in (folder, zipped):
        message = problem(path)
        assert "the folder 'bee' beside those of the classes holds no image that is read (it is empty)" in message


@pytest.mark.parametrize("top", ["", "wrapped/", "train/", "wrapped/train/"])
def test_a_class_does_not_vanish_below_other_folders(tmp_path: Path, top: str) -> None:
    """Nor does the class that is left become the folder that holds all."""
    nested = {f"{top}ant/images/0.png": IMAGE, f"{top}bee/images/0.xyz": b"x"}
    for path in both(tmp_path, nested):
        assert "bee" in problem(path)


def test_jpegs_called_jfif_are_read(tmp_path: Path) -> None:
    jpeg = encoded(noise(3), "JPEG")
    for path in both(tmp_path, classes(("ant", "cow"), each=1) | {"bee/0.jfif": jpeg, "bee/1.JPE": jpeg}):
        assert open_data(config(path)).labels.tolist() == [0, 1, 1, 2]


def test_images_that_are_not_read_beside_others_are_told(tmp_path: Path) -> None:
    for path in both(tmp_path, classes() | {"bee/9.HEIC": b"x"}):
        assert "1 of .heic are images that are not read here" in problem(path)


def test_what_describes_a_class_is_none(tmp_path: Path) -> None:
    files = classes() | {"readme.txt": b"x", "ant/boxes.txt": b"x", "labels.csv": b"x"}
    for path in both(tmp_path, files):
        assert open_data(config(path)).info.classes == 2
    wrapped = {f"archive/{name}": content for name, content in files.items()} | {"docs/readme.md": b"x"}
    assert open_data(config(write_folder(tmp_path / "wrapped", wrapped))).labels.tolist() == [0, 0, 0, 1, 1, 1]


@linux
@pytest.mark.parametrize("names", [("ant", "Ant"), ("caf\u00e9", "cafe\u0301")])
def test_classes_that_differ_in_case_or_accents_only(tmp_path: Path, names: tuple[str, str]) -> None:
    for path in both(tmp_path, classes(names)):
        assert "one class or two?" in problem(path)


def test_hidden_and_systems_folders_are_no_classes(tmp_path: Path) -> None:
    extra = {
        ".ipynb_checkpoints/0.png": IMAGE,
        "ant/.thumbs/0.png": IMAGE,
        "@eaDir/0.jpg": IMAGE,
        "__MACOSX/ant/._0.png": b"x",
    }
    for path in both(tmp_path, classes() | extra):
        dataset = open_data(config(path))
        assert (len(dataset), dataset.info.classes) == (6, 2)


def test_edm_s_numbered_folders_are_no_classes(tmp_path: Path) -> None:
    files = {f"{i:05d}/img{i * 1000 + j:08d}.png": encoded(noise(10 * i + j)) for i in range(2) for j in range(2)}
    for path in both(tmp_path, files):
        assert "there is no dataset.json" in problem(path)


def test_a_wrapping_folder_with_a_stray_image(tmp_path: Path) -> None:
    """It would make one class of all, validation images included."""
    files = {f"all/train/{k}": v for k, v in classes().items()} | {
        f"all/val/{k}": v for k, v in classes(first=50).items()
    }
    for path in both(tmp_path, files | {"all/overview.png": IMAGE}):
        assert "holds images beside folders of images" in problem(path)


def test_a_link_to_a_folder_above(tmp_path: Path) -> None:
    path = write_folder(tmp_path, classes())
    (path / "ant" / "more").symlink_to(path, target_is_directory=True)
    assert "more: links to a folder that it lies in; remove the link" in problem(path)


def test_a_pipe_is_no_image(tmp_path: Path) -> None:
    path = write_folder(tmp_path, classes())
    os.mkfifo(path / "ant" / "9.png")
    with pytest.raises(DataError, match=r"9\.png: cannot be read \(Is not a regular file\)"):
        open_data(config(path)).all_uint8()


# Splits.


@pytest.mark.parametrize(("one", "other"), [("train", "Train"), ("val", "validation"), ("train", "training")])
def test_one_split_under_two_names(tmp_path: Path, one: str, other: str) -> None:
    if one.lower() == other.lower() and sys.platform != "linux":
        pytest.skip("is one folder there")
    splits = dict.fromkeys(("train", one, other))
    files = {f"{split}/{name}": content for split in splits for name, content in classes().items()}
    for path in both(tmp_path, files):
        assert f"both the {'val' if one == 'val' else 'train'} split; keep one" in problem(path)


@pytest.mark.parametrize("extra", ["unlabelled/0.png", "ant/0.png"])
@pytest.mark.parametrize("splits", [("train", "val"), ("val",), ("train", "test")])
def test_a_split_beside_something_else_is_no_class(tmp_path: Path, extra: str, splits: tuple[str, ...]) -> None:
    files = {f"{split}/{name}": content for split in splits for name, content in classes().items()}
    for path in both(tmp_path, files | {extra: IMAGE}):
        assert "is a split by its name" in problem(path)


def test_trains_are_a_class_among_vehicles(tmp_path: Path) -> None:
    for path in both(tmp_path, classes(("boat", "car", "train"))):
        assert open_data(config(path)).info.classes == 3


def test_an_image_beside_the_splits(tmp_path: Path) -> None:
    files = {"train/0.png": IMAGE, "val/0.png": IMAGE, "overview.png": IMAGE}
    for path in both(tmp_path, files):
        assert "images lie beside the folder train/" in problem(path)


def test_the_validation_split_is_not_trained_on_for_want_of_another(tmp_path: Path) -> None:
    files = {f"val/{name}": content for name, content in classes().items()} | {"train/ant/0.xyz": b"x"}
    for path in both(tmp_path, files):
        assert "train/ holds no image that is read" in problem(path)
    folder = tmp_path / "zips"
    folder.mkdir()
    write_zip(folder / "train.zip", {"ant/0.xyz": b"x"})
    write_zip(folder / "val.zip", classes())
    assert "train.zip: holds no images" in problem(folder)


def test_training_and_testing_are_splits(tmp_path: Path) -> None:
    files = {f"{split}/{name}": content for split in ("training", "testing") for name, content in classes().items()}
    for path in both(tmp_path, files):
        assert (len(open_data(config(path))), len(open_data(config(path), "test"))) == (6, 6)


def test_inexact_names_of_splits_are_no_classes(tmp_path: Path) -> None:
    files = {f"{split}/0.png": IMAGE for split in ("train_64x64", "valid_64x64")}
    for path in both(tmp_path, files):
        assert "look like splits and not like classes; call them train/ and val/" in problem(path)


def test_a_zip_of_no_split_beside_one_of_training(tmp_path: Path) -> None:
    write_zip(tmp_path / "train.zip", classes())
    write_zip(tmp_path / "extra.zip", classes(first=50))
    assert "is of the train split by its name" in problem(tmp_path) and "say which by a pattern" in problem(tmp_path)


def test_imagenet_s_flat_validation_images(tmp_path: Path) -> None:
    files = {f"train/{name}": content for name, content in classes(("n01", "n02")).items()}
    files |= {f"val/ILSVRC2012_val_{i:08d}.png": encoded(noise(60 + i)) for i in range(3)}
    for path in both(tmp_path, files):
        assert open_data(config(path)).info.classes == 2
        assert "lies in no folder of a class, as ImageNet's validation images come" in problem(path, "test")


def test_imagenet_as_kaggle_has_it(tmp_path: Path) -> None:
    top = "ILSVRC/Data/CLS-LOC"
    files = {f"{top}/{split}/{name}": content for split in ("train", "val") for name, content in classes().items()}
    files |= {f"{top}/test/0.png": IMAGE, "ILSVRC/Annotations/CLS-LOC/train/ant/0.xml": b"x", "LOC_synset.txt": b"x"}
    for path in both(tmp_path, files):
        assert open_data(config(path)).labels.tolist() == [0, 0, 0, 1, 1, 1]
        assert len(open_data(config(path), "test")) == 6


def test_a_validation_split_may_lack_classes_but_has_no_others(tmp_path: Path) -> None:
    files = {f"train/{name}": content for name, content in classes(("ant", "bee", "cow")).items()}
    some = {f"val/{name}": content for name, content in classes(("bee",), first=50).items()}
    for path in both(tmp_path, files | some):
        assert open_data(config(path), "test").labels.tolist() == [1, 1, 1]
    assert "none of the 3 classes" in problem(write_folder(tmp_path / "more", files | {"val/dog/0.png": IMAGE}), "test")


# dataset.json


def described(tmp_path: Path, text: bytes) -> Path:
    return write_zip(tmp_path / "a.zip", {"a.png": IMAGE, "b.png": encoded(noise(8)), "dataset.json": text})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (description([["a.png", 0], ["b.png", 1], ["a.png", 1]]), "labels 'a.png' twice, as 0 and as 1; keep one"),
        (description([["a.png", 0], ["b.png", 1], ["a.png", 0]]), "labels 'a.png' twice"),
        (description([["a.png", 0], ["b.png", 1], ["./a.png", 1]]), "labels './a.png' twice"),
        (b'{"labels": {"a.png": 0, "b.png": 1, "a.png": 1}}', "has the key 'a.png' twice"),
        (b'{"labels": null, "labels": [["a.png", 0], ["b.png", 1]]}', "has the key 'labels' twice"),
        (description([["a.png", 0]]), "gives no label for"),
        (description([["a.png", 0], ["b.png", 1], ["c.png", 1]]), "labels 'c.png', which is not there"),
        (description([["a.png", True], ["b.png", 1]]), "is not a whole number"),
        (description([["a.png", [0, 1]], ["b.png", [1, 0]]]), "is not a whole number"),
        (description([["a.png", "0"], ["b.png", "1"]]), "is not a whole number"),
        (description([["a.png", -1], ["b.png", 1]]), "label -1 is out of range"),
        (description([["a.png", 20200101], ["b.png", 1]]), "is no number of a class"),
        (description(3), "is not JSON of the form"),
        (b"[]", "is not JSON of the form"),
        (b"[" * 100_000, "is not JSON of the form"),
        (b"\xff\xfe", "is not JSON of the form"),
    ],
)
def test_labels_that_contradict_or_lack(tmp_path: Path, text: bytes, message: str) -> None:
    assert message in problem(described(tmp_path, text))


def test_a_description_in_capitals_is_one(tmp_path: Path) -> None:
    files = {"a.png": IMAGE, "b.png": encoded(noise(8)), "DATASET.JSON": description([["a.png", 1], ["b.png", 0]])}
    assert open_data(config(write_zip(tmp_path / "a.zip", files))).labels.tolist() == [1, 0]


def test_two_descriptions(tmp_path: Path) -> None:
    files = {f"{split}/a.png": IMAGE for split in ("train", "val")}
    files |= {f"{split}/dataset.json": description([["a.png", 0]]) for split in ("train", "val")}
    for path in both(tmp_path, files):
        assert "one dataset.json is needed, for all images" in problem(path)


# Paths.


def test_a_relative_path_says_where_it_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    message = problem("data/images.zip")
    assert f"tried {tmp_path / 'data' / 'images.zip'}, relative to the folder the command runs in" in message
    assert "tried" not in problem(tmp_path / "images.zip")


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_zip(tmp_path / "images.zip", classes())
    assert torch.equal(
        open_data(config("~/images.zip")).all_uint8(), open_data(config(tmp_path / "images.zip")).all_uint8()
    )
    assert fingerprint(config("~/images.zip")) == fingerprint(config("~/*.zip"))
    assert open_data(config("~/images.zip")).info.name == "images 8×8"
    assert "no such file" in problem("~nobody-of-this-name/images.zip")


def test_the_folder_the_command_runs_in_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(write_folder(tmp_path / "animals", classes()))
    assert open_data(config(".")).info.name == "animals 8×8"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("one.png", "is one image; a folder or a zip of images is needed"),
        ("images.tar", "is neither a folder nor a zip of images; unpack it"),
        ("cifar-10-python.tar.gz", "set data.name: cifar10"),
        ("images.7z", "unpack it"),
        ("notes.txt", "is neither a folder nor a zip of images"),
    ],
)
def test_files_of_other_kinds(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / name).write_bytes(b"content")
    assert message in problem(tmp_path / name)


def test_a_zip_by_another_name(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", classes()).rename(tmp_path / "images.data")
    assert open_data(config(path)).info.images == 6
