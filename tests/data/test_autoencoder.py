"""Autoencoders of diffusers: read from disk as diffusers does, identified by content, refused with one message."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.config.schema import DataConfig
from harness.data import latents
from harness.data.autoencoder import CONFIG, WEIGHTS, autoencoder_facts, latent_info
from harness.data.dataset import DataInfo
from harness.data.latents import Autoencoder, check_autoencoder, load_autoencoder
from harness.errors import ConfigError, HarnessError, MissingDataError
from tests.autoencoders import save_autoencoder

CPU = torch.device("cpu")
IMAGES = DataInfo("made", "train", 8, 16, 3, None, "f")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one autoencoder of each class, for RGB images."""
    folder = tmp_path_factory.mktemp("autoencoders")
    save_autoencoder(folder / "tiny", "AutoencoderTiny", channels=3, factor=4, scaling_factor=1.7)
    save_autoencoder(folder / "kl", "AutoencoderKL", channels=3, factor=2, scaling_factor=0.6, shift_factor=0.25)
    return folder


def images(count: int = 3) -> torch.Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(3)) * 2 - 1


def test_the_posterior_is_that_of_diffusers_and_scaled(made: Path) -> None:
    from diffusers import AutoencoderKL

    own, theirs = load_autoencoder(str(made / "kl"), CPU), AutoencoderKL.from_pretrained(made / "kl").eval()
    with torch.no_grad():
        posterior = theirs.encode(images()).latent_dist
        encoded = own.encode(images())
        assert torch.equal(encoded.mean, (posterior.mean - 0.25) * 0.6)
        assert encoded.std is not None and torch.allclose(encoded.std, posterior.std * 0.6)
        assert torch.allclose(own.decode(encoded.mean), theirs.decode(posterior.mean).sample, atol=1e-5)
        noise = torch.randn(encoded.mean.shape)
        drawn = (posterior.mean + posterior.std * noise - 0.25) * 0.6
        assert torch.allclose(encoded.drawn(noise), drawn, atol=1e-6)


def test_a_tiny_one_encodes_to_a_point(made: Path) -> None:
    from diffusers import AutoencoderTiny

    own, theirs = load_autoencoder(str(made / "tiny"), CPU), AutoencoderTiny.from_pretrained(made / "tiny").eval()
    with torch.no_grad():
        encoded = own.encode(images())
        assert encoded.std is None and encoded.mean.shape == (3, 2, 4, 4)
        assert torch.equal(encoded.mean, theirs.encode(images()).latents * 1.7)
        assert torch.allclose(own.decode(encoded.mean), theirs.decode(encoded.mean / 1.7).sample, atol=1e-6)


def test_a_mean_and_a_deviation_of_each_channel(tmp_path: Path) -> None:
    """As the pipelines of diffusers scale: z · std / scaling + mean is decoded."""
    save_autoencoder(
        tmp_path, "AutoencoderKL", channels=3, scaling_factor=0.5, latents_mean=[1.0, -2.0], latents_std=[2.0, 4.0]
    )
    own = load_autoencoder(str(tmp_path), CPU)
    raw = own.network.encode(images(), return_dict=False)[0].mean
    mean, std = (torch.tensor(values)[:, None, None] for values in ([1.0, -2.0], [2.0, 4.0]))
    encoded = own.encode(images()).mean
    assert torch.allclose(encoded, (raw - mean) * 0.5 / std, atol=1e-6)
    assert torch.allclose(own.decode(encoded), own.network.decode(raw, return_dict=False)[0], atol=1e-5)


def test_many_images_are_as_few(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = load_autoencoder(str(made / "kl"), CPU)
    whole = own.encode(images(7))
    monkeypatch.setattr(latents, "PIXELS_AT_ONCE", 3 * 16**2)
    parts = own.encode(images(7))
    assert torch.allclose(whole.mean, parts.mean, atol=1e-6) and parts.std is not None and len(parts.std) == 7


def test_it_is_frozen_and_runs_in_float32(made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "half"
    shutil.copytree(made / "kl", folder)
    tensors = {name: tensor.half() for name, tensor in load_file(folder / WEIGHTS).items()}
    save_file(tensors, folder / WEIGHTS)
    own = load_autoencoder(str(folder), CPU)
    assert not own.training and not any(parameter.requires_grad for parameter in own.parameters())
    assert own.encode(images()).mean.dtype == torch.float32


def test_the_names_that_older_files_have(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "kl", tmp_path / "old")
    new = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def aged(name: str) -> str:
        for layer, old in new.items():
            if ".attentions." in name:
                name = name.replace(f".{layer}.", f".{old}.")
        return name

    tensors = load_file(made / "kl" / WEIGHTS)
    save_file({aged(name): tensor for name, tensor in tensors.items()}, tmp_path / "old" / WEIGHTS)
    assert {aged(name) for name in tensors} != tensors.keys()
    old, own = (load_autoencoder(str(path), CPU) for path in (tmp_path / "old", made / "kl"))
    assert torch.equal(old.encode(images()).mean, own.encode(images()).mean)


def test_its_identity_is_its_content(made: Path, tmp_path: Path) -> None:
    kept = autoencoder_facts(str(made / "tiny")).digest
    shutil.copytree(made / "tiny", tmp_path / "elsewhere")
    told = json.loads((tmp_path / "elsewhere" / CONFIG).read_text(encoding="utf-8"))
    (tmp_path / "elsewhere" / CONFIG).write_text(json.dumps({**told, "_name_or_path": "x", "_diffusers_version": "9"}))
    assert autoencoder_facts(str(tmp_path / "elsewhere")).digest == kept
    (tmp_path / "elsewhere" / CONFIG).write_text(json.dumps({**told, "scaling_factor": 1.8}))
    assert autoencoder_facts(str(tmp_path / "elsewhere")).digest != kept
    other = save_autoencoder(tmp_path / "other", channels=3, factor=4, scaling_factor=1.7, seed=1)
    assert autoencoder_facts(str(other)).digest != kept


def test_what_networks_must_know(made: Path) -> None:
    assert latent_info(DataConfig(), IMAGES) is IMAGES
    for name, side in (("tiny", 4), ("kl", 8)):
        found = latent_info(DataConfig(latents=str(made / name)), IMAGES)
        assert found == replace(IMAGES, size=side, channels=2)


Damage = Callable[[Path], Any]


def changed(**values: Any) -> Damage:
    """Change values of config.json."""

    def change(folder: Path) -> None:
        told = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        (folder / CONFIG).write_text(json.dumps({**told, **values}), encoding="utf-8")

    return change


def as_pickle(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "diffusion_pytorch_model.bin")


def inside(folder: Path) -> None:
    shutil.copytree(folder, folder / "vae")
    (folder / CONFIG).unlink()


def not_finite(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    save_file({name: torch.full_like(value, math.nan) for name, value in tensors.items()}, folder / WEIGHTS)


def as_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("{}", encoding="utf-8")


def cut(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-8])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (shutil.rmtree, "does not exist"),
        (lambda folder: (folder / CONFIG).unlink(), "has no config.json, so it is not a folder of diffusers"),
        (inside, "its vae/ is one: data.latents: "),
        (as_pickle, "only safetensors are read; diffusion_pytorch_model.bin is a pickle, which could run code"),
        (lambda folder: (folder / CONFIG).write_text("{"), "cannot be read"),
        (lambda folder: (folder / CONFIG).write_text("[]"), "names no class; choices: AutoencoderKL, AutoencoderTiny"),
        (changed(_class_name="UNet2DModel"), "is of a UNet2DModel; choices: AutoencoderKL, AutoencoderTiny"),
        (changed(latent_channels="four"), "latent_channels is 'four', not a whole number above 0"),
        (changed(out_channels=1), "takes images of 3 channels and makes some of 1"),
        (changed(num_decoder_blocks=[1]), "reduces images 4 times and enlarges latents 1 times"),
        (changed(scaling_factor=0), "must be finite and not 0"),
        (changed(num_encoder_blocks=[1, 1, 1, 1], num_decoder_blocks=[1, 1, 1, 1]), "describes no AutoencoderTiny"),
        (changed(latent_channels=5), "is of another network than config.json beside it: 3 tensors differ"),
        (cut, "is cut short or damaged"),
        (not_finite, "holds values that are not finite"),
        (as_file, "is a file; give the folder that it lies in"),
    ],
)
def test_a_folder_that_will_not_do_gets_one_message(damage: Damage, words: str, made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bad"
    shutil.copytree(made / "tiny", folder)
    damage(folder)
    with pytest.raises(HarnessError, match=r"data\.latents: ") as caught:
        check_autoencoder(str(folder))
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_one_that_is_not_there_is_missing_data(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match="nothing is downloaded"):
        autoencoder_facts(str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("image", "data", "words"),
    [
        ({"channels": 1}, {}, "takes RGB images, those of made are grey; set data.channels: 3"),
        ({"size": 18}, {}, "which does not divide the 18 pixels of made; set data.size to a multiple of 4"),
        ({}, {"posterior": "sample"}, "which encodes to a point; leave it out"),
    ],
)
def test_images_that_it_does_not_take(image: dict[str, Any], data: dict[str, Any], words: str, made: Path) -> None:
    with pytest.raises(HarnessError) as caught:
        latent_info(DataConfig(latents=str(made / "tiny"), **data), replace(IMAGES, **image))
    assert words in str(caught.value)


def test_without_the_package_the_cure_is_named(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latents.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'dual-rate-harness\[diffusers\]'"):
        check_autoencoder(str(made / "tiny"))


def test_no_memory_is_needed_to_count(made: Path) -> None:
    shapeless: Autoencoder = latents.shapeless_autoencoder(str(made / "kl"))
    assert {tensor.device.type for tensor in shapeless.state_dict().values()} == {"meta"}
    assert shapeless.decode(torch.zeros(1, 2, 8, 8, device="meta")).shape == (1, 3, 16, 16)
