"""Anyone's images: the figures of the original programs, the conditions they hold for, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
import torch_fidelity
from torch import Tensor
from torch_fidelity.registry import register_feature_extractor

from harness.config.schema import MeasureConfig
from harness.data.export import save_images
from harness.data.image_sets import open_image_set
from harness.errors import ConfigError, DataError
from harness.measure.features import Extractor, load_extractor
from harness.measure.fidelity import measure_quality
from harness.measure.outside import check_comparable, default_metrics, measure_images, open_against, statistics_of_data
from harness.measure.reference import Reference
from harness.measure.statistics_files import write_statistics
from harness.measure.train_digits_extractor import digits
from harness.metrics import METRICS
from harness.metrics.declare import Metric
from harness.metrics.extractors import EXTRACTORS
from tests.measure.test_features import Registered

IMAGES, CLASSES = digits()
GENERATED = IMAGES[:400].flip(-1)
DIGITS = load_extractor("digits")
FRECHET, PRECISION = METRICS["frechet"], METRICS["precision_recall"]


def features_of(images: Tensor) -> np.ndarray:
    return DIGITS.extract(images, 250)["64"].numpy()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of a generator as a folder, and the real ones as ADM's arrays, EDM's zip, and statistics."""
    place = tmp_path_factory.mktemp("images")
    save_images(GENERATED.numpy(), None, place / "generated")
    save_images(IMAGES.numpy(), CLASSES.numpy(), place / "real.zip")
    save_images(IMAGES.numpy(), CLASSES.numpy(), place / "real.npz")
    found, made = statistics_of_data(open_image_set("digits"), DIGITS, 250, 0, lambda whose, done, total: None)
    write_statistics(place / "own.npz", found, made)
    features = features_of(IMAGES)
    np.savez(place / "pytorch-fid.npz", mu=np.mean(features, axis=0), sigma=np.cov(features, rowvar=False))
    return place


def measured(folder: Path, against: str, *metrics: Metric, images: str = "generated") -> dict[str, Any]:
    real = open_against(against if against == "digits" else str(folder / against))
    chosen = metrics or default_metrics(DIGITS, real)
    return measure_images(open_image_set(str(folder / images)), real, DIGITS, chosen)


def test_figures_are_those_of_a_cell(folder: Path) -> None:
    """The same images measured as a cell's are, wherever the reference lies."""
    reference = Reference("digits train", "digits", lambda: IMAGES)
    cell = measure_quality(GENERATED, reference, MeasureConfig(precision_recall=True))
    for against in ("digits", "real.zip", "real.npz"):
        found = measured(folder, against)
        assert found["values"] == pytest.approx(cell["values"], rel=1e-5)
        assert found["standard_errors"] == pytest.approx(cell["standard_errors"], rel=1e-5)
        assert found["kernel_subsets"] == cell["kernel_subsets"]
        assert (found["images"]["images"], found["against"]["images"]) == (400, 1797)
    labels = [measure["label"] for measure in found["measures"].values()]
    assert labels == ["FD-digits", "KD-digits", "precision", "recall"]


def test_torch_fidelity_says_the_same_of_the_same_folders(folder: Path, tmp_path: Path) -> None:
    """Its own front door, on the folders that were written here; KID to the noise of its subsets."""
    save_images(IMAGES[:600].numpy(), None, tmp_path / "real")
    register_feature_extractor("harness-digits-outside", Registered)
    theirs = torch_fidelity.calculate_metrics(
        input1=str(folder / "generated"), input2=str(tmp_path / "real"), feature_extractor="harness-digits-outside",
        fid=True, kid=True, prc=True, kid_subset_size=200, kid_subsets=20, prc_neighborhood=3, prc_batch_size=1000,
        cuda=False, cache=False, save_cpu_ram=True, verbose=False,
    )  # fmt: skip
    real = open_against(str(tmp_path / "real"))
    ours = measure_images(open_image_set(str(folder / "generated")), real, DIGITS, default_metrics(DIGITS, real))[
        "values"
    ]
    assert ours["frechet"] == pytest.approx(theirs["frechet_inception_distance"], rel=1e-4)
    assert ours["kernel"] == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-4)
    assert (ours["precision"], ours["recall"]) == pytest.approx((theirs["precision"], theirs["recall"]))


def original_distance(real: str) -> Any:
    """``calculate_frechet_distance`` of the program that is named; skips where it is not installed."""
    if real == "pytorch-fid":
        return pytest.importorskip("pytorch_fid.fid_score").calculate_frechet_distance
    if real == "clean-fid":
        return pytest.importorskip("cleanfid.fid").frechet_distance

    def edm(mu: np.ndarray, sigma: np.ndarray, mu_ref: np.ndarray, sigma_ref: np.ndarray) -> float:
        """``calculate_fid_from_inception_stats`` of EDM's fid.py."""
        s = scipy.linalg.sqrtm(np.dot(sigma, sigma_ref))
        return float(np.real(np.square(mu - mu_ref).sum() + np.trace(sigma + sigma_ref - s * 2)))

    return edm


@pytest.mark.parametrize("program", ["pytorch-fid", "clean-fid", "edm"])
@pytest.mark.parametrize("against", ["own.npz", "pytorch-fid.npz"])
def test_distances_to_statistics_are_the_original_programs(
    folder: Path, against: str, program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scipy import linalg

    distance = original_distance(program)
    if program != "edm":  # the programs ask for an estimate of the error, which newer versions of SciPy do not give
        plain = scipy.linalg.sqrtm
        monkeypatch.setattr(linalg, "sqrtm", lambda matrix, disp=True: (plain(matrix), 0.0))
    features = features_of(GENERATED)
    with np.load(folder / against, allow_pickle=False) as file:
        theirs = distance(np.mean(features, axis=0), np.cov(features, rowvar=False), file["mu"], file["sigma"])
    found = measured(folder, against)
    assert found["values"]["frechet"] == pytest.approx(theirs, rel=1e-5)
    assert found["values"]["frechet_float64"] == pytest.approx(theirs, rel=1e-5)
    assert list(found["measures"]) == ["frechet"] and found["standard_errors"]["frechet"] > 0


def test_statistics_say_as_much_as_the_images_they_are_of(folder: Path) -> None:
    whole, own = measured(folder, "digits", FRECHET), measured(folder, "own.npz", FRECHET)
    assert own["values"] == pytest.approx(whole["values"], rel=1e-5)
    assert own["standard_errors"] == pytest.approx(whole["standard_errors"], rel=1e-5)
    assert own["notes"] == [] and own["against"]["statistics"]["made"]["data"] == "digits 8×8 train"
    foreign = measured(folder, "pytorch-fid.npz", FRECHET)
    assert "nothing in it says which network" in foreign["notes"][0]


def test_of_adms_references_the_statistics_serve_the_distance_and_the_images_the_rest(
    folder: Path, tmp_path: Path
) -> None:
    features = features_of(IMAGES)
    some = IMAGES[:300].permute(0, 2, 3, 1).numpy()
    np.savez(tmp_path / "adm.npz", arr_0=some, mu=features.mean(0), sigma=np.cov(features, rowvar=False))
    real = open_against(str(tmp_path / "adm.npz"))
    images = open_image_set(str(folder / "generated"))
    found = measure_images(images, real, DIGITS, default_metrics(DIGITS, real))
    assert found["values"]["frechet"] == pytest.approx(measured(folder, "digits")["values"]["frechet"], rel=1e-5)
    fewer = measure_quality(GENERATED, Reference("x", "x", lambda: IMAGES[:300]), MeasureConfig(precision_recall=True))
    for name in ("kernel", "precision", "recall"):
        assert found["values"][name] == pytest.approx(fewer["values"][name], rel=1e-5)
    assert any("as ADM has it" in note for note in found["notes"])


class StandIn(Extractor):
    """Calls itself Inception, and has the digits' features, with logits."""

    def extract(self, images: Tensor, batch: int, progress: Any = None) -> dict[str, Tensor]:
        logits = 100.0 * torch.nn.functional.one_hot(torch.arange(len(images)) % 4, 1008)
        return {"64": DIGITS.extract(images, batch)["64"], "logits": logits}


@pytest.mark.parametrize("official", [True, False])
def test_the_official_inceptions_distance_alone_is_called_fid(folder: Path, official: bool) -> None:
    kind = dataclasses.replace(EXTRACTORS["inception"], width=64)
    stand_in = StandIn("inception", kind, DIGITS.module, torch.device("cpu"), "stand-in", official)
    real = open_against("digits")
    found = measure_images(open_image_set(str(folder / "generated")), real, stand_in, default_metrics(stand_in, real))
    labels = {name: measure["label"] for name, measure in found["measures"].items()}
    expected = ("FID", "KID") if official else ("FD-Inception", "KD-Inception")
    assert (labels["frechet"], labels["kernel"]) == expected
    assert found["values"]["inception_score"] == pytest.approx(4, rel=0.05)
    assert any("not the official weights" in note for note in found["notes"]) != official


def test_what_cannot_be_compared_is_refused_before_anything_is_extracted(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*arguments: object) -> None:
        raise AssertionError("extracted")

    monkeypatch.setattr(Extractor, "extract", never)
    with pytest.raises(ConfigError, match="precision_recall compares images one by one"):
        measured(folder, "own.npz", PRECISION)
    with pytest.raises(ConfigError, match="inception_score needs --extractor inception, not digits"):
        measured(folder, "digits", METRICS["inception_score"])
    for name, images, message in (
        ("large", torch.zeros(9, 1, 16, 16, dtype=torch.uint8), "16×16 grey images against 8×8 grey ones .*--size 16"),
        ("colour", IMAGES[:9].expand(-1, 3, -1, -1), "8×8 RGB images against 8×8 grey ones .*--channels 3"),
        ("few", IMAGES[:3], "3 images are too few for precision_recall, which needs at least 4"),
    ):
        save_images(images.numpy(), None, tmp_path / name)
        data = open_image_set(str(tmp_path / name))
        with pytest.raises(DataError, match=message):
            check_comparable(data.info, open_against("digits"), DIGITS, [FRECHET, PRECISION])


def test_images_without_a_distance_are_refused_and_those_with_a_poor_one_noted(tmp_path: Path) -> None:
    save_images(IMAGES[:1].expand(70, -1, -1, -1).numpy(), None, tmp_path / "same.npz")
    real = open_against("digits")
    with pytest.raises(DataError, match="same 8×8: all of its 70 images are the same"):
        measure_images(open_image_set(str(tmp_path / "same.npz")), real, DIGITS, [FRECHET])
    save_images(IMAGES[:64].numpy(), None, tmp_path / "few.npz")
    found = measure_images(open_image_set(str(tmp_path / "few.npz")), real, DIGITS, [FRECHET])
    assert found["covariance_singular"] and "64 images for 64 features" in found["notes"][0]
    save_images(IMAGES.numpy(), None, tmp_path / "real.npz")
    same = open_image_set(str(tmp_path / "real.npz"))
    found = measure_images(same, open_against(str(tmp_path / "real.npz")), DIGITS, [FRECHET])
    assert found["values"]["frechet"] == pytest.approx(0, abs=1e-4)
    assert found["notes"] == ["both sides are the same images"]


def test_damaged_images_are_named(folder: Path, tmp_path: Path) -> None:
    save_images(IMAGES[:20].numpy(), None, tmp_path / "out")
    (tmp_path / "out" / "00000007.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"1 of 20 images cannot be used:\n.*00000007\.png"):
        measure_images(open_image_set(str(tmp_path / "out")), open_against("digits"), DIGITS, [FRECHET])
