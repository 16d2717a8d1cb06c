"""The cache of reference features: what is a hit, and that a change of anything that matters is a miss."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from harness.config.schema import DataConfig, Experiment, parse_experiment
from harness.data import open_data
from harness.engine.cell import reference_of
from harness.errors import DataError
from harness.measure.features import Extractor, load_extractor
from harness.measure.fidelity import QualityMeter
from harness.measure.reference import Reference, ReferenceFeatures, reference_features
from harness.measure.train_digits_extractor import digits
from harness.metrics import METRICS
from harness.metrics.extractors import digits_network as digits_extractor
from tests.data.making import classes, encoded, noise, write_folder, write_zip
from tests.data.test_cifar10 import write_batches
from tests.harness.tiny_experiments import MODEL


class Images:
    """A set of images that counts how often it is read."""

    def __init__(self, count: int = 20) -> None:
        self.images = digits()[0][:count]
        self.reads = 0

    def __call__(self) -> Tensor:
        self.reads += 1
        return self.images


class CountingExtractor(Extractor):
    """An extractor that counts the sets it has seen."""

    def extract(self, images: Tensor, batch: int, progress: Any = None) -> dict[str, Tensor]:
        calls.append(len(images))
        return super().extract(images, batch)


calls: list[int] = []


def counting(weights: Path | None = None, **changes: str) -> CountingExtractor:
    loaded = load_extractor("digits", weights)
    fields = {field.name: getattr(loaded, field.name) for field in dataclasses.fields(loaded)}
    if "preprocessing" in changes:
        fields["kind"] = dataclasses.replace(loaded.kind, preprocessing=changes["preprocessing"])
    return CountingExtractor(**fields)


@pytest.fixture(autouse=True)
def _forget() -> None:
    calls.clear()


def extracted(reference: Reference, folder: Path, extractor: Extractor | None = None) -> ReferenceFeatures:
    return reference_features(reference, extractor or counting(), 10, folder)


def test_the_second_time_is_a_hit_and_reads_no_image(tmp_path: Path) -> None:
    images = Images()
    reference = Reference("digits", "a", images, count=20)
    first = extracted(reference, tmp_path)
    second = extracted(reference, tmp_path)
    assert (calls, images.reads) == ([20], 1)
    assert torch.equal(first.features, second.features)
    assert first.key == second.key
    assert [path.name for path in tmp_path.iterdir()] == [f"{first.key}.safetensors"]


def test_the_name_alone_changes_nothing(tmp_path: Path) -> None:
    images = Images()
    extracted(Reference("digits", "a", images), tmp_path)
    extracted(Reference("digits again", "a", images), tmp_path)
    assert calls == [20]


def test_other_data_are_a_miss(tmp_path: Path) -> None:
    extracted(Reference("digits", "a", Images()), tmp_path)
    extracted(Reference("digits", "b", Images()), tmp_path)
    assert calls == [20, 20]


def test_another_number_of_images_is_a_miss(tmp_path: Path) -> None:
    extracted(Reference("digits", "a", Images(20)), tmp_path)
    extracted(Reference("digits", "a", Images(21)), tmp_path)
    assert calls == [20, 21]


def test_other_weights_are_a_miss(tmp_path: Path) -> None:
    weights = load_file(digits_extractor.WEIGHTS)
    weights["features.bias"][0] += 1
    save_file(weights, tmp_path / "other.safetensors")
    folder = tmp_path / "cache"
    first = extracted(Reference("digits", "a", Images()), folder)
    second = extracted(Reference("digits", "a", Images()), folder, counting(tmp_path / "other.safetensors"))
    assert calls == [20, 20]
    assert not torch.equal(first.features, second.features)


def test_another_preprocessing_is_a_miss(tmp_path: Path) -> None:
    extracted(Reference("digits", "a", Images()), tmp_path)
    extracted(Reference("digits", "a", Images()), tmp_path, counting(preprocessing="another"))
    assert calls == [20, 20]


@pytest.mark.parametrize("damage", ["cut", "emptied", "of another", "overwritten"])
def test_a_damaged_file_is_replaced(damage: str, tmp_path: Path) -> None:
    reference = Reference("digits", "a", Images())
    good = extracted(reference, tmp_path)
    path = tmp_path / f"{good.key}.safetensors"
    whole = path.read_bytes()
    if damage == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "emptied":
        path.write_bytes(b"")
    elif damage == "of another":
        other = extracted(Reference("digits", "b", Images(20)), tmp_path)
        path.write_bytes((tmp_path / f"{other.key}.safetensors").read_bytes())
    else:
        save_file({"features": torch.zeros(20, 64)}, path)
    calls.clear()
    again = extracted(reference, tmp_path)
    assert calls == [20]
    assert torch.equal(again.features, good.features)
    assert path.read_bytes() == whole


def test_a_reference_that_is_not_what_it_announced_raises(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="20 images, 21 were announced"):
        extracted(Reference("digits", "a", Images(20), count=21), tmp_path)
    assert not list(tmp_path.iterdir())


def test_one_image_has_no_covariance(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least 2"):
        extracted(Reference("digits", "a", Images(1)), tmp_path)


def test_without_a_folder_nothing_is_kept() -> None:
    reference = Reference("digits", "a", Images())
    for _ in range(2):
        reference_features(reference, counting(), 10)
    assert calls == [20, 20]


# References of data sets: one id for one set of pixels, and another for any other.


class Pooled(Extractor):
    """Features of images of any size: their means over a grid of 4×4, and the deviation that smoothing takes away."""

    def extract(self, images: Tensor, batch: int, progress: Any = None) -> dict[str, Tensor]:
        values = images.float().mean(1, keepdim=True)
        rough = values.flatten(1).std(1, keepdim=True)
        grid = torch.nn.functional.adaptive_avg_pool2d(values, 4).flatten(1)
        return {"64": torch.cat([grid, rough], 1)}


def pooled() -> Pooled:
    loaded = load_extractor("digits")
    return Pooled(**{field.name: getattr(loaded, field.name) for field in dataclasses.fields(loaded)})


def experiment(path: Path | None, split: str = "train", name: str = "images", **data: object) -> Experiment:
    where = {} if path is None else {"path": str(path)}
    features = "digits" if path is None else "inception"
    values = {"data": {"name": name, **where, **data}, "measure": {"reference": split, "features": features}}
    return parse_experiment({**values, "model": MODEL}, "test")


def of_data(path: Path | None, **settings: object) -> Reference:
    chosen = experiment(path, **settings)  # type: ignore[arg-type]
    return reference_of(chosen, open_data(chosen.data))


@pytest.mark.parametrize("first", [16, 4])
def test_a_reference_at_another_size_is_another(first: int, tmp_path: Path) -> None:
    """Measured one after the other in one folder, each is at no distance from itself and far from the other."""
    path = write_zip(tmp_path / "a.zip", classes(each=40, side=16))
    for size in (first, 20 - first, first):
        reference = of_data(path, size=size)
        meter = QualityMeter(pooled(), reference, [METRICS["frechet"]], cache=tmp_path / "references")
        assert meter.measure(reference.images())["frechet"].value == pytest.approx(0, abs=1e-2)
    alone = QualityMeter(pooled(), of_data(path, size=16), [METRICS["frechet"]])
    other = of_data(path, size=4).images()
    within = QualityMeter(pooled(), of_data(path, size=16), [METRICS["frechet"]], cache=tmp_path / "references")
    assert within.measure(other)["frechet"].value == alone.measure(other)["frechet"].value > 100


def ids(*references: Reference) -> list[str]:
    return [reference_features(reference, counting(), 10).id for reference in references]


def test_what_changes_the_pixels_changes_the_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_zip(tmp_path / "a.zip", classes(each=2, side=8))
    first = of_data(path).fingerprint
    others = [of_data(path, channels=1).fingerprint, of_data(path, size=4).fingerprint]
    with monkeypatch.context() as patch:
        patch.setattr("harness.data.dataset.PIXEL_RULES", 99)
        others.append(of_data(path).fingerprint)
    others.append(of_data(write_zip(tmp_path / "b.zip", classes(each=2, side=8, first=1))).fingerprint)
    assert len({first, *others}) == 5


def test_what_does_not_change_the_pixels_does_not_change_the_id(tmp_path: Path) -> None:
    files = classes(each=2, side=8)
    path = write_zip(tmp_path / "a.zip", files)
    same = [
        of_data(path),
        of_data(path, size=8),
        of_data(path, channels=3, size=8, label="other", classes=2),
        of_data(write_zip(tmp_path / "elsewhere.zip", files)),
        of_data(write_folder(tmp_path / "folder", files)),
    ]
    assert len({reference.fingerprint for reference in same}) == 1
    assert len(set(ids(*same))) == 1
    assert [reference.data for reference in same] == ["a 8×8", "a 8×8", "other 8×8", "elsewhere 8×8", "folder 8×8"]
    assert {reference.name for reference in same} == {f"{reference.data} train" for reference in same}


def test_digits_and_cifar10_at_their_sizes_and_channels(tmp_path: Path) -> None:
    path = write_batches(tmp_path)
    references = [
        of_data(None, name="digits"),
        of_data(None, name="digits", channels=3),
        *(of_data(path, name="cifar10", **more) for more in ({}, {"size": 16}, {"channels": 1}, {"split": "test"})),
    ]
    assert len({reference.fingerprint for reference in references}) == 6
    assert [reference.name for reference in references] == [
        "digits 8×8 train",
        "digits RGB 8×8 train",
        "CIFAR-10 32×32 train",
        "CIFAR-10 16×16 train",
        "CIFAR-10 grey 32×32 train",
        "CIFAR-10 32×32 test",
    ]
    assert of_data(path, name="cifar10", size=32, channels=3).fingerprint == references[2].fingerprint


def test_a_reference_that_changes_in_place_is_extracted_anew(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "folder", {f"{i}.bmp": encoded(noise(i), "BMP") for i in range(4)})
    before = extracted(of_data(folder), tmp_path / "cache")
    (folder / "2.bmp").write_bytes(encoded(noise(9), "BMP"))
    after = extracted(of_data(folder), tmp_path / "cache")
    assert before.id != after.id and calls == [4, 4]


def test_other_software_is_a_miss_but_the_same_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = Reference("digits", "a", Images())
    first = extracted(reference, tmp_path)
    monkeypatch.setattr("harness.measure.reference.metadata.version", lambda name: "99")
    second = extracted(reference, tmp_path)
    assert calls == [20, 20]
    assert first.id == second.id and first.key != second.key


def test_the_data_of_a_configuration_that_differs_in_the_label_alone() -> None:
    assert open_data(DataConfig(label="Numbers")).info.name == "Numbers 8×8"
    assert open_data(DataConfig(label="Numbers")).info.identity == open_data(DataConfig()).info.identity
