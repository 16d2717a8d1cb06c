"""The tool that trains a small autoencoder: it learns, its latents are scaled, and a sweep takes it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from harness.config.schema import DataConfig
from harness.data import open_data
from harness.data.latents import load_autoencoder
from harness.dispatch.sweep import load_sweep
from harness.errors import ConfigError
from harness.measure.fidelity import from_uint8
from tools.train_autoencoder import run

DIGITS = ["--factor", "2", "--channels", "3", "--width", "8", "--batch", "16"]
SWEEP = Path(__file__).parents[2] / "sweeps" / "tiny_imagenet_latent.yaml"


def trained(out: Path, steps: int) -> float:
    run(["digits", str(out), "--steps", str(steps), *DIGITS])
    told = json.loads((out / "training.json").read_text(encoding="utf-8"))
    assert told["steps"] == steps and told["latents"] == [3, 4, 4]
    return float(told["psnr_db"])


def test_it_learns_and_its_latents_are_scaled(tmp_path: Path) -> None:
    assert trained(tmp_path / "long", 150) > trained(tmp_path / "short", 2) + 3
    images = from_uint8(open_data(DataConfig()).all_uint8())
    autoencoder = load_autoencoder(str(tmp_path / "long"), torch.device("cpu"))
    latents = autoencoder.encode(images).mean
    assert float(latents.mean()) == pytest.approx(0, abs=1e-3) and float(latents.std()) == pytest.approx(1, abs=1e-3)
    error = (autoencoder.decode(latents).clamp(-1, 1) - images).square().mean()
    told = json.loads((tmp_path / "long" / "training.json").read_text(encoding="utf-8"))
    assert float(10 * torch.log10(4 / error)) == pytest.approx(told["psnr_db"], abs=0.1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["digits", "taken"], "is there already"),
        (["digits", "out", "--factor", "3"], "--factor: 3 will not do"),
        (["digits", "out", "--factor", "16"], "16 does not divide the images' side, 8"),
    ],
)
def test_what_will_not_do(arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("taken").mkdir()
    with pytest.raises(ConfigError, match=words):
        run(arguments)
    assert not Path("out").exists() and not list(tmp_path.glob(".out*"))


def test_the_sweep_says_where_its_autoencoder_lies() -> None:
    sweep = load_sweep(SWEEP, without_data=True)
    assert len(sweep.trainings) == 2 and {cell.experiment.data.latents for cell in sweep.cells.values()} == {
        "tiny-imagenet-autoencoder"
    }
