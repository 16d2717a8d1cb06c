from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from harness.config.schema import DataConfig
from harness.data import digits, fingerprint, open_data
from harness.errors import DataError

ROOT = Path(__file__).parents[2]


def test_bytes_go_back_to_the_very_values():
    images = open_data(DataConfig()).all_uint8()
    assert images.dtype == torch.uint8 and images.shape == (1797, 1, 8, 8)
    assert np.array_equal((images[:, 0].numpy().astype(np.int64) * 32 + 255) // 510, load_digits().images)


def test_bytes_are_the_nearest_to_the_scaled_values():
    values = np.arange(17)
    assert np.array_equal(digits.to_uint8(values), np.floor(values * 255 / 16 + 0.5))


def test_info_and_labels():
    dataset = open_data(DataConfig())
    info = dataset.info
    assert (info.images, info.size, info.channels, info.classes, info.split) == (1797, 8, 1, 10, "train")
    assert info.name == "digits 8×8" and info.fingerprint == fingerprint(DataConfig())
    images, labels = dataset.load([5, 3, 5])
    assert torch.equal(images[0], images[2]) and labels.tolist() == load_digits().target[[5, 3, 5]].tolist()


def test_three_channels_repeat_the_grey():
    images, _ = open_data(DataConfig(channels=3)).load(range(4))
    assert images.shape == (4, 3, 8, 8)
    assert torch.equal(images[:, 0], images[:, 2])


def test_there_is_no_test_split():
    with pytest.raises(DataError, match="one split, train"):
        open_data(DataConfig(), "test")


def test_unknown_split_lists_the_choices():
    with pytest.raises(DataError, match="choices: train, test"):
        open_data(DataConfig(), "validation")


def test_too_few_images_for_a_purpose():
    with pytest.raises(DataError, match=r"1797 images are too few, at least 2000 are needed for the statistics"):
        open_data(DataConfig()).require(2000, "for the statistics")


def test_index_outside():
    with pytest.raises(IndexError, match=r"0\.\.1796"):
        open_data(DataConfig()).load([1797])


def test_other_digits_are_refused(monkeypatch: pytest.MonkeyPatch):
    """The fingerprint is a constant: what it stands for is held against it."""
    monkeypatch.setattr(digits, "CONTENT", "another")
    with pytest.raises(DataError, match="are not those that are known here"):
        digits.load.__wrapped__()


def test_they_are_the_same_where_their_file_lies_elsewhere(monkeypatch: pytest.MonkeyPatch):
    """Then scikit-learn is asked for them."""
    images, labels = digits.load()
    monkeypatch.setattr(digits, "FILE", ("elsewhere",))
    there, labels_there = digits.load.__wrapped__()
    assert np.array_equal(images, there) and np.array_equal(labels, labels_there)


def test_scikit_learn_is_not_imported_for_them():
    """That would take more than a second of every process."""
    code = "import sys; from harness.data import digits; digits.load(); sys.exit('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
