from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.config.schema import DataConfig
from harness.data import batches, loader_throughput, open_data
from harness.data.loader import epoch_order, step_indices
from harness.errors import DataError
from tests.data.making import classes, encoded, noise, write_folder, write_zip


@pytest.fixture
def digits():
    return open_data(DataConfig())


@pytest.fixture
def in_files(tmp_path: Path):
    return open_data(DataConfig(name="images", path=str(write_zip(tmp_path / "a.zip", classes(each=10)))))


def test_order_is_a_permutation_that_epoch_and_seed_change():
    orders = [epoch_order(101, seed, epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    for order in orders:
        assert np.array_equal(np.sort(order), np.arange(101))
    assert not np.array_equal(orders[0], orders[1]) and not np.array_equal(orders[0], orders[2])


@pytest.mark.parametrize("bit", [0, 31, 53, 63])
def test_every_bit_of_a_seed_changes_the_order(bit: int):
    """Up to the largest seeds, 2⁶⁴ − 1, which numbers of 53 bits do not tell apart."""
    seed = 2**64 - 1
    assert epoch_order(101, seed, 0).tolist() != epoch_order(101, seed ^ (1 << bit), 0).tolist()


def test_order_is_uniform():
    """Over many epochs each image comes first equally often: χ² with 9 degrees of freedom, 1e-6 quantile 44."""
    firsts = np.bincount([epoch_order(10, 3, epoch)[0] for epoch in range(2000)], minlength=10)
    assert ((firsts - 200) ** 2 / 200).sum() < 44


def test_order_stays_as_it_is():
    """A training that resumes under other versions sees the same images: these are fixed for good."""
    assert epoch_order(10, 7, 2).tolist() == [0, 6, 4, 5, 2, 3, 8, 1, 7, 9]


def test_epochs_follow_without_gap():
    stream = np.concatenate([step_indices(10, 4, 0, step) for step in range(15)])
    for epoch in stream.reshape(6, 10):
        assert np.array_equal(np.sort(epoch), np.arange(10))


def test_batch_larger_than_the_data():
    counts = np.bincount(step_indices(10, 25, 0, 0), minlength=10)
    assert set(counts) == {2, 3}


def test_any_step_can_be_the_first(digits):
    whole = list(batches(digits, 500, seed=1, stop_step=8))
    resumed = list(batches(digits, 500, seed=1, start_step=5, stop_step=8))
    assert len(resumed) == 3
    for before, after in zip(whole[5:], resumed, strict=True):
        assert torch.equal(before.images, after.images) and torch.equal(before.labels, after.labels)


def test_ranks_share_the_same_global_batch(digits):
    (whole,) = batches(digits, 12, seed=1, start_step=3, stop_step=4)
    parts = [next(batches(digits, 12, seed=1, start_step=3, rank=rank, world=3)) for rank in range(3)]
    for part, name in enumerate(("images", "labels", "positions")):
        assert torch.equal(torch.cat([p[part] for p in parts]), whole[part]), name
    assert whole.positions.tolist() == list(range(12))


def test_labels_go_with_images(digits):
    (batch,) = batches(digits, 64, seed=5, stop_step=1)
    images, labels = digits.load(step_indices(len(digits), 64, 5, 0))
    assert torch.equal(batch.images, images) and torch.equal(batch.labels, labels)


def test_workers_change_nothing(in_files):
    here = list(batches(in_files, 8, seed=0, stop_step=5))
    ahead = list(batches(in_files, 8, seed=0, stop_step=5, workers=2))
    assert all(torch.equal(a.images, b.images) for a, b in zip(here, ahead, strict=True))


def test_memory_changes_nothing(in_files):
    before = list(batches(in_files, 8, seed=0, stop_step=3))
    in_files.ready()
    assert in_files.in_memory
    after = list(batches(in_files, 8, seed=0, stop_step=3))
    assert all(torch.equal(a.images, b.images) for a, b in zip(before, after, strict=True))


def test_loading_leaves_the_global_generator_alone(in_files):
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    list(batches(in_files, 8, seed=0, stop_step=2))
    in_files.ready()
    assert torch.equal(torch.rand(1), expected)


def test_unequal_shares_are_refused(digits):
    with pytest.raises(DataError, match="10 images cannot be shared equally by 4 ranks"):
        batches(digits, 10, seed=0, world=4)


@pytest.mark.parametrize("workers", [0, 1])
def test_damaged_image_is_named_by_the_loader(tmp_path: Path, workers: int):
    files = classes(each=4) | {"bee/broken.png": encoded(noise(1))[:60]}
    dataset = open_data(DataConfig(name="images", path=str(write_folder(tmp_path, files)), size=8))
    with pytest.raises(DataError, match=r"bee/broken\.png: cannot be") as failure:
        list(islice(batches(dataset, 9, seed=0, workers=workers), 1))
    assert "Traceback" not in str(failure.value)


def test_ready_counts_and_names_all_damaged(tmp_path: Path):
    files = classes(each=4) | {"bee/a.png": b"", "ant/b.png": b"only text\n"}
    dataset = open_data(DataConfig(name="images", path=str(write_folder(tmp_path, files))))
    for limit in (2**30, 0):
        with pytest.raises(DataError) as failure:
            dataset.ready(memory_limit=limit)
        message = str(failure.value)
        assert "2 of 10 images cannot be used" in message
        assert "bee/a.png: is empty" in message
        assert "ant/b.png: is not an image (its content is text)" in message


def test_throughput_counts_what_came(digits):
    measured = loader_throughput(digits, 100, seconds=0.05)
    assert measured.images % 100 == 0 and measured.in_memory
    assert measured.images_per_second == pytest.approx(measured.images / measured.seconds)
