"""The cache of reference features: what is a hit, and that a change of anything that matters is a miss."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from harness.errors import DataError
from harness.measure import digits_extractor
from harness.measure.features import Extractor, load_extractor
from harness.measure.reference import Reference, ReferenceFeatures, reference_features
from harness.measure.train_digits_extractor import digits


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

    def extract(self, images: Tensor, batch: int) -> dict[str, Tensor]:
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
