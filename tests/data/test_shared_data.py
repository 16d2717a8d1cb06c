"""Real images, where they are at hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harness.config.schema import DataConfig
from harness.data import open_data
from harness.dispatch.sweep import load_experiment
from harness.store.identity import identify
from harness.store.weights import load_tensors

FOLDER = Path(__file__).parents[3] / "shared" / "data"


@pytest.mark.skipif(not FOLDER.is_dir(), reason="needs Tiny ImageNet's zips in ../shared/data, which are not there")
def test_tiny_imagenet_from_several_zips():
    config = DataConfig(name="images", path=str(FOLDER), size=32, label="Tiny-ImageNet-100")
    train, test = open_data(config), open_data(config, "test")
    assert (train.info.images, test.info.images, train.info.classes, test.info.classes) == (50_000, 5_000, 100, 100)
    assert torch.bincount(train.labels).unique().tolist() == [500]
    assert torch.bincount(test.labels).unique().tolist() == [50]
    images, labels = train.load(range(0, 50_000, 2_500))
    assert images.shape == (20, 3, 32, 32) and labels.tolist() == [index // 500 for index in range(0, 50_000, 2_500)]
    full, _ = open_data(config.model_copy(update={"size": None})).load(range(0, 50_000, 2_500))
    means = full.double().reshape(20, 3, 32, 2, 32, 2).mean(dim=(3, 5))
    assert (images.double() - means).abs().max() <= 0.5


@pytest.mark.skipif(not FOLDER.is_dir(), reason="needs Tiny ImageNet's zips in ../shared/data, which are not there")
@pytest.mark.parametrize("arm", ["base", "shrunk", "dual-rate"])
def test_published_weights_are_of_their_sweep(arm: str):
    """Ids change when :data:`harness.dispatch.sweep.SCHEMA` or the schema do: the weights must then be marked anew."""
    report = Path(__file__).parents[2] / "results" / "tiny-imagenet-32-cpu-22min"
    experiment = load_experiment(report / "sweep.yaml", [f"data.path={FOLDER}"], arm)
    load_tensors(report / f"{arm}.safetensors", identify(experiment)[0])
