"""Train a small autoencoder on images, for latents of them: `python tools/train_autoencoder.py DATA OUT --minutes 10`.

An AutoencoderTiny of diffusers, in a folder as diffusers saves it, whose latents are scaled to mean 0 and deviation 1.
It learns to give pixels back (the mean absolute and squared error) from latents to which a little noise is added, so
that latents near each other mean images near each other, as an AutoencoderKL's do. It has neither a perceptual nor an
adversarial loss: its reconstructions are soft, and the report of a sweep says how far they are from the images.

    python tools/train_autoencoder.py 'data/tiny-imagenet-64-*.zip' data/tiny-imagenet-autoencoder --minutes 15
    harness sweep sweeps/tiny_imagenet_latent.yaml --set 'data.path=data/tiny-imagenet-64-*.zip'
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harness.cli.console import main_of
from harness.config.schema import DataConfig, parse_section
from harness.data import DataInfo, Dataset, batches, open_data
from harness.data.latents import check_autoencoder, check_diffusers
from harness.engine.distributed import pick_device
from harness.engine.tables import chosen_images
from harness.errors import ConfigError
from harness.measure.fidelity import from_uint8
from harness.store.records import psnr_of
from models.noise import Stream

NOISE = 0.1
"""Standard deviation of what is added to latents in training, which a decoder's tanh keeps within about ±3."""
RATE = 1e-3
SEED = 0
MEASURED = 2048
"""Images that the scale of the latents, and the error of reconstructions, are measured on."""


def build(info: DataInfo, factor: int, channels: int, width: int) -> Any:
    """An AutoencoderTiny for images of `info`: a side is divided by `factor`, a power of two.

    At the images' full size it has no blocks, only the convolutions that lead there: they would be most of its cost.
    """
    from diffusers import AutoencoderTiny

    stages = factor.bit_length()
    return AutoencoderTiny(
        in_channels=info.channels,
        out_channels=info.channels,
        latent_channels=channels,
        encoder_block_out_channels=(width,) * stages,
        decoder_block_out_channels=(width,) * stages,
        num_encoder_blocks=tuple(range(stages)),
        num_decoder_blocks=tuple(reversed(range(stages))),
    )


def loss_of(network: Any, x: Tensor) -> Tensor:
    """The error of images x (B, C, H, W), in [−1, 1], given back from their latents with noise."""
    latents = network.encode(x, return_dict=False)[0]
    error = network.decode(latents + NOISE * torch.randn_like(latents), return_dict=False)[0] - x
    mean: Tensor = error.abs().mean() + error.square().mean()
    return mean


def train(network: nn.Module, dataset: Dataset, batch: int, done: Callable[[int], float], device: torch.device) -> int:
    """Train until `done` of the steps made is 1 (it rises from 0, and the learning rate falls with it); the steps."""
    optimizer = torch.optim.Adam(network.parameters(), RATE)
    for step, loaded in enumerate(batches(dataset, batch, SEED)):
        share = done(step)
        if share >= 1:
            return step
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / 100) * (1 - share)
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(network, from_uint8(loaded.images.to(device)))
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0:
            print(f"step {step}: {float(loss.detach()):.4f} ({share:.0%})", file=sys.stderr)
    raise AssertionError("batches do not end")


@torch.no_grad()
def measured(network: Any, dataset: Dataset, device: torch.device) -> tuple[float, float, float]:
    """(mean and standard deviation of the latents, mean squared error of the reconstructions) of some images."""
    images, _ = chosen_images(dataset, MEASURED, SEED, Stream.TABLE)
    latents, squares = [], 0.0
    for part in images.split(64):
        x = from_uint8(part.to(device))
        z = network.encode(x, return_dict=False)[0]
        squares += float((network.decode(z, return_dict=False)[0].clamp(-1, 1) - x).double().square().sum())
        latents.append(z.double().cpu())
    whole = torch.cat(latents)
    return float(whole.mean()), float(whole.std()), squares / images.numel()


def save(network: Any, out: Path, facts: dict[str, Any]) -> None:
    """Leave the folder `out`, whole or not at all."""
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    try:
        network.save_pretrained(temporary)
        (temporary / "training.json").write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        check_autoencoder(str(temporary))
        temporary.chmod(0o755)
        temporary.rename(out)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def run(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Train a small autoencoder (AutoencoderTiny) on images.")
    parser.add_argument("data", help="folder or zip of images, or a pattern of zips; `digits` for scikit-learn's")
    parser.add_argument("out", type=Path, help="folder to leave it in; never over another")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, default=10.0, help="how long to train (10)")
    length.add_argument("--steps", type=int, help="how many steps to train, in the place of --minutes")
    parser.add_argument("--size", type=int, help="side of the images in pixels, as data.size of an experiment")
    parser.add_argument("--factor", type=int, default=4, help="pixels to a latent along a side, a power of two (4)")
    parser.add_argument("--channels", type=int, default=4, help="of the latents (4)")
    parser.add_argument("--width", type=int, default=32, help="channels of its layers (32)")
    parser.add_argument("--batch", type=int, default=32, help="images per step (32)")
    given = parser.parse_args(arguments)
    if given.out.exists():
        raise ConfigError(str(given.out), ["is there already; name another folder, or move it away"])
    for name in ("factor", "channels", "width", "batch"):
        if getattr(given, name) < 1 or (name == "factor" and given.factor & (given.factor - 1)):
            raise ConfigError(f"--{name}", [f"{getattr(given, name)} will not do"])
    check_diffusers()
    digits = given.data == "digits"
    values = {"name": "digits"} if digits else {"name": "images", "path": given.data, "size": given.size}
    config: DataConfig = parse_section(DataConfig, values, "data")
    dataset, device = open_data(config), pick_device()
    if dataset.info.size % given.factor:
        raise ConfigError("--factor", [f"{given.factor} does not divide the images' side, {dataset.info.size}"])
    dataset.ready()
    torch.manual_seed(SEED)
    network = build(dataset.info, given.factor, given.channels, given.width)
    network = network.to(device, memory_format=torch.channels_last)
    started = time.monotonic()

    def done(step: int) -> float:
        spent = (time.monotonic() - started) / 60
        return step / given.steps if given.steps is not None else spent / given.minutes

    steps = train(network, dataset, given.batch, done, device)
    mean, std, error = measured(network.eval(), dataset, device)
    network.register_to_config(scaling_factor=1 / std, shift_factor=mean)
    psnr = psnr_of(error)
    side = dataset.info.size // given.factor
    told = {
        "data": dataset.info.name,
        "data_identity": dataset.info.identity,
        "latents": [given.channels, side, side],
        "steps": steps,
        "batch": given.batch,
        "seconds": round(time.monotonic() - started, 1),
        "psnr_db": psnr,
    }
    save(network.cpu(), given.out, told)
    print(f"{given.out}: {dataset.info.name} to {given.channels}×{side}×{side}, {steps} steps, PSNR {psnr:.1f} dB")


if __name__ == "__main__":
    main_of(run, sys.argv[1:])
