"""The miniatures of the sweeps at the paper's scale, on made images: what they share with them.

To run them takes minutes of compiling: `make miniatures`, of which CI runs a part, and on the test cluster another.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.config.schema import DataConfig
from harness.data import open_data
from harness.dispatch.sweep import Sweep, load_sweep
from tests.harness.tiny_experiments import model_of
from tools.made_images import make, make_cifar10

ROOT = Path(__file__).parents[2]
MINIATURES = {"imagenet64": 64, "imagenet128": 128, "cifar10": 32, "tiny_imagenet": 64, "imagenet64_mmd": 64}
SIZES = {
    "data.path",
    "data.label",
    "model.width",
    "model.blocks",
    "model.light_blocks",
    "model.light_width",
    "model.patch",
    "model.head_width",
    "model.embedding",
    "model.weights",
    "train.steps",
    "train.batch",
    "train.warmup",
    "train.checkpoint_every",
    "train.log_every",
    "sample.steps",
    "sample.batch",
    "sample.refreshes",
    "distill.steps",
    "distill.refreshes",
    "sample.churn",
    "measure.images",
    "measure.weights",
    "measure.latency.batch",
    "measure.latency.warmup",
    "measure.latency.repeats",
}
"""What a miniature may change: how large, how many, how often, and where the files are."""


def test_made_images_are_the_same_bytes_and_have_every_class(tmp_path: Path) -> None:
    one, other = (make(tmp_path / name, images=12, size=8, classes=5) for name in ("a.zip", "b.zip"))
    assert one.read_bytes() == other.read_bytes()
    with zipfile.ZipFile(one) as archive:
        assert len(archive.namelist()) == 13
    dataset = open_data(DataConfig(name="images", path=str(one)))
    assert (dataset.info.images, dataset.info.size, dataset.info.channels, dataset.info.classes) == (12, 8, 3, 5)
    images, labels = dataset.load(range(12))
    assert labels.tolist() == [i % 5 for i in range(12)]
    assert len(torch.unique(images.flatten(1), dim=0)) == 12


def test_a_made_cifar_archive_is_read_as_the_real_one_is(tmp_path: Path) -> None:
    archive = make_cifar10(tmp_path / "made.tar.gz", images=20)
    train, test = (open_data(DataConfig(name="cifar10", path=str(archive)), split) for split in ("train", "test"))
    assert (train.info.images, test.info.images, train.info.size, train.info.channels) == (20, 4, 32, 3)
    images, labels = train.load(range(20))
    assert labels.tolist() == [i % 10 for i in range(20)]
    assert len(torch.unique(images.flatten(1), dim=0)) == 20


def made_data(name: str, folder: Path) -> Path:
    if name == "cifar10":
        return make_cifar10(folder / "made-cifar10.tar.gz", images=20)
    return make(folder / "made.zip", images=20, size=MINIATURES[name])


def settings_of(sweep: Sweep) -> dict[tuple[str, str], set[str]]:
    """(arm, key) → values of every key that is no size, over the arm's cells."""
    found: dict[tuple[str, str], set[str]] = {}
    for cell in sweep.cells.values():
        flat = dict(every_key(cell.experiment.model_dump()))
        for arm, _ in cell.rows:
            for key, value in flat.items():
                if key not in SIZES and not key.startswith("teacher."):  # which is compared as its own arm
                    is_id = isinstance(value, str) and value.startswith("training:")
                    found.setdefault((arm, key), set()).add("another's training" if is_id else repr(value))
    return found


def every_key(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from every_key(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


@pytest.mark.parametrize("name", MINIATURES)
def test_a_miniature_differs_from_its_sweep_in_sizes_alone(name: str, tmp_path: Path) -> None:
    """Compilation, precision, guidance, workers, extractor: what fails at the paper's scale must fail here."""
    data = made_data(name, tmp_path)
    weights = tmp_path / "weights.pth"
    weights.touch()
    real, small = (
        load_sweep(ROOT / "sweeps" / file, [f"data.path={data}", f"measure.weights={weights}"])
        for file in (f"{name}.yaml", f"miniature/{name}.yaml")
    )
    shipped, stands_for_it = settings_of(real), settings_of(small)
    assert shipped.keys() == stands_for_it.keys()
    for at, values in stands_for_it.items():
        least = values if at[1] in ("sample.guidance", "sample.churn_range", "sample.churn_noise") else shipped[at]
        assert least <= shipped[at] and least <= values, at
    assert max(cell.experiment.sample.steps for cell in small.cells.values()) <= 8
    assert {cell.experiment.sample.compile for cell in small.cells.values()} == {True}
    assert shapes_of(real) == shapes_of(small)


def test_miniatures_share_their_shapes(tmp_path: Path) -> None:
    """So that each finds in torch's cache what another has compiled: that is most of the time they take."""
    shapes = set()
    for name in MINIATURES:
        data = (
            make_cifar10(tmp_path / "x.tar.gz", 20)
            if name == "cifar10"
            else make(tmp_path / f"{name}.zip", 20, MINIATURES[name])
        )
        weights = tmp_path / "weights.pth"
        weights.touch()
        sweep = load_sweep(
            ROOT / "sweeps" / "miniature" / f"{name}.yaml", [f"data.path={data}", f"measure.weights={weights}"]
        )
        for cell in sweep.cells.values():
            model, size = model_of(cell.experiment), cell.experiment.data.size or MINIATURES[name]
            batches = cell.experiment.train.batch, cell.experiment.sample.batch
            shapes.add((size // model.patch, model.width, model.multipliers[:2], model.head_width, *batches))
    assert len(shapes) == 1, shapes


def test_a_miniature_has_the_tiles_that_were_compiled_wrongly(tmp_path: Path) -> None:
    """A transformer of at least 64 channels and 64 tokens, in bfloat16 (tests/harness/test_cpp_compiler.py)."""
    data, weights = make_cifar10(tmp_path / "x.tar.gz", 20), tmp_path / "weights.pth"
    weights.touch()
    overrides = [f"data.path={data}", f"measure.weights={weights}"]
    sweep = load_sweep(ROOT / "sweeps" / "miniature" / "cifar10.yaml", overrides)
    for training in sweep.trainings.values():
        model, train = model_of(training.experiment), training.experiment.train
        assert (train.precision, train.compile) == ("bfloat16", True)
        assert any(
            kind == "transformer" and model.width * multiplier >= 64 and (32 // model.patch >> level) ** 2 >= 64
            for level, (kind, multiplier) in enumerate(zip(model.levels, model.multipliers, strict=True))
        )


def shapes_of(sweep: Sweep) -> set[tuple[int, tuple[str, ...]]]:
    """How many levels the networks of a sweep have, and of which kinds."""
    models = [model_of(cell.experiment) for cell in sweep.cells.values()]
    return {(len(model.blocks), model.levels) for model in models}
