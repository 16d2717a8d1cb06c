"""Images for other programs: read back by those programs' own rules, whole or not there, nothing of others replaced."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from harness.data import export
from harness.data.export import check_destination, save_images
from harness.data.image_sets import array_images, open_image_set
from harness.errors import ConfigError, DataError

RANDOM = np.random.default_rng(0)
RGB = RANDOM.integers(0, 256, (5, 3, 8, 8)).astype(np.uint8)
GREY = RANDOM.integers(0, 256, (5, 1, 8, 8)).astype(np.uint8)
LABELS = np.array([3, 0, 2, 2, 1])


@pytest.mark.parametrize("images", [RGB, GREY], ids=["RGB", "grey"])
@pytest.mark.parametrize("labels", [LABELS, None], ids=["labels", "none"])
@pytest.mark.parametrize("name", ["folder", "x.zip", "x.npz"])
def test_what_is_written_is_read_back(tmp_path: Path, name: str, labels: np.ndarray | None, images: np.ndarray) -> None:
    save_images(images, labels, tmp_path / name)
    data = open_image_set(str(tmp_path / name))
    assert np.array_equal(data.all_uint8().numpy(), images)
    assert (data.info.size, data.info.channels, data.info.images) == (8, images.shape[1], 5)
    assert data.info.classes == (None if labels is None else 4)
    if labels is not None:
        assert data.labels.tolist() == labels.tolist()
    assert [path.name for path in tmp_path.iterdir()] == [name], "nothing else is left behind"


def test_a_zip_is_what_edms_training_reads(tmp_path: Path) -> None:
    """As EDM's ImageFolderDataset reads: PNGs by name in their order, labels by name from dataset.json at the root."""
    save_images(RGB, LABELS, tmp_path / "x.zip")
    with zipfile.ZipFile(tmp_path / "x.zip") as archive:
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
        names = sorted(name for name in archive.namelist() if name.endswith(".png"))
        assert names[:2] == ["00000/img00000000.png", "00000/img00000001.png"]
        read = [np.array(Image.open(io.BytesIO(archive.read(name)))).transpose(2, 0, 1) for name in names]
        labels = dict(json.loads(archive.read("dataset.json"))["labels"])
    assert np.array_equal(np.stack(read), RGB)
    assert [labels[name] for name in names] == LABELS.tolist()


def test_arrays_are_what_adms_evaluator_reads(tmp_path: Path) -> None:
    save_images(RGB, LABELS, tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz", allow_pickle=False) as file:
        assert file.files == ["arr_0", "arr_1"]
        assert file["arr_0"].dtype == np.uint8 and np.array_equal(file["arr_0"], RGB.transpose(0, 2, 3, 1))
        assert file["arr_1"].tolist() == LABELS.tolist()


def test_a_folder_is_what_the_distance_programs_look_for(tmp_path: Path) -> None:
    """pytorch-fid looks for *.png in the folder itself."""
    save_images(RGB, LABELS, tmp_path / "out")
    found = sorted((tmp_path / "out").glob("*.png"))
    assert np.array_equal(np.stack([np.array(Image.open(path)) for path in found]), RGB.transpose(0, 2, 3, 1))


@pytest.mark.parametrize("name", ["folder", "x.zip", "x.npz"])
@pytest.mark.parametrize("there", [False, True], ids=["new", "replaced"])
@pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError])
def test_an_interrupted_write_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, there: bool, failure: type[BaseException]
) -> None:
    if there:
        save_images(GREY, None, tmp_path / name)

    def stops(*arguments: object, **options: object) -> bytes:
        raise failure

    monkeypatch.setattr(export.png, "encode", stops)
    monkeypatch.setattr(export.np, "savez", stops)
    with pytest.raises(failure):
        save_images(RGB, LABELS, tmp_path / name)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ([name] if there else [])
    if there:
        assert np.array_equal(open_image_set(str(tmp_path / name)).all_uint8().numpy(), GREY)


def test_a_folder_comes_back_if_moving_the_new_files_in_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    save_images(GREY, LABELS, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    rename, calls = Path.rename, []

    def fails(self: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) == 8:
            raise OSError("no more")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(OSError, match="no more"):
        save_images(RGB[:3], None, out)
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    save_images(RGB[:3], None, out)
    assert sorted(path.name for path in out.iterdir()) == [f"{i:08d}.png" for i in range(3)]


def test_nothing_is_replaced_unasked_and_nothing_of_others_at_all(tmp_path: Path) -> None:
    for name in ("out", "x.zip", "x.npz"):
        check_destination(tmp_path / name, overwrite=False)
        save_images(RGB, None, tmp_path / name)
        with pytest.raises(ConfigError, match=r"--out: .*--overwrite"):
            check_destination(tmp_path / name, overwrite=False)
        check_destination(tmp_path / name, overwrite=True)
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match=r"holds thesis\.tex, which was not written here"):
        check_destination(tmp_path / "out", overwrite=True)
    for bad, reason in (("a/b/x.zip", "make it first"), ("x.jpg", "folder of PNGs"), ("x.zip/y", "is no folder")):
        with pytest.raises(ConfigError, match=reason):
            check_destination(tmp_path / bad, overwrite=True)
    (tmp_path / "empty").mkdir()
    check_destination(tmp_path / "empty", overwrite=False)
    save_images(RGB, None, tmp_path / "empty")
    assert len(list((tmp_path / "empty").iterdir())) == 5
    assert not (tmp_path / "a").exists()


ARRAYS = {
    "floats": ({"arr_0": np.zeros((2, 8, 8, 3), np.float32)}, "holds float32; images are uint8"),
    "channels first": ({"arr_0": np.zeros((2, 3, 8, 8), np.uint8)}, "its channels must come last"),
    "one image": ({"arr_0": np.zeros((8, 8, 3), np.uint8)}, "is 8×8×3; images are"),
    "oblong": ({"arr_0": np.zeros((2, 8, 6, 3), np.uint8)}, "square images"),
    "no images": ({"arr_0": np.zeros((0, 8, 8, 3), np.uint8)}, "holds no image"),
    "another array": ({"x": np.zeros(3)}, "holds no array arr_0 of images, only x"),
    "statistics": ({"mu": np.zeros(3), "images": np.asarray(5)}, "holds statistics of images, and no images"),
    "objects": ({"arr_0": np.array([{}], object)}, "cannot be read as a file of arrays"),
    "labels": (
        {"arr_0": np.zeros((2, 8, 8, 3), np.uint8), "arr_1": np.zeros(3, int)},
        "one class from 0 for each of 2",
    ),
}


@pytest.mark.parametrize("case", ARRAYS)
def test_arrays_that_are_no_images(tmp_path: Path, case: str) -> None:
    arrays, message = ARRAYS[case]
    np.savez(tmp_path / "x.npz", allow_pickle=True, **arrays)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=message):
        array_images(tmp_path / "x.npz")


def test_a_file_of_arrays_that_is_damaged_or_not_there(tmp_path: Path) -> None:
    save_images(RGB, None, tmp_path / "x.npz")
    content = (tmp_path / "x.npz").read_bytes()
    for damaged in (content[:-50], b"", b"no zip at all", content[:200] + b"\xff" * 40 + content[240:]):
        (tmp_path / "bad.npz").write_bytes(damaged)
        with pytest.raises(DataError, match=r"bad\.npz: cannot be read"):
            array_images(tmp_path / "bad.npz")
    with pytest.raises(DataError, match=r"none\.npz: there is no such file"):
        array_images(tmp_path / "none.npz")


def test_images_in_chunks_are_all_of_them_in_order_and_damage_is_named(tmp_path: Path) -> None:
    save_images(RGB, None, tmp_path / "out")
    data = open_image_set(str(tmp_path / "out"))
    assert torch.equal(torch.cat(list(data.chunks())), torch.from_numpy(RGB)) and not data.in_memory
    (tmp_path / "out" / "00000003.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"1 of 5 images cannot be used:\n.*00000003\.png: is not an image"):
        list(open_image_set(str(tmp_path / "out")).chunks())
