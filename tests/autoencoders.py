"""Small autoencoders with random weights, as diffusers saves them: made on disk where a test needs one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch


def save_autoencoder(
    folder: Path, kind: str = "AutoencoderTiny", *, channels: int = 1, factor: int = 2, seed: int = 0, **changes: Any
) -> Path:
    """An autoencoder of `kind` in `folder`, for images of `channels`, each side of which it divides by `factor`."""
    import diffusers

    stages = factor.bit_length()
    shared = {"in_channels": channels, "out_channels": channels, "latent_channels": 2}
    own: dict[str, dict[str, Any]] = {
        "AutoencoderTiny": {
            "encoder_block_out_channels": (4,) * stages,
            "decoder_block_out_channels": (4,) * stages,
            "num_encoder_blocks": (1,) * stages,
            "num_decoder_blocks": (1,) * stages,
        },
        "AutoencoderKL": {
            "block_out_channels": (4,) * stages,
            "down_block_types": ("DownEncoderBlock2D",) * stages,
            "up_block_types": ("UpDecoderBlock2D",) * stages,
            "norm_num_groups": 2,
        },
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        getattr(diffusers, kind)(**{**shared, **own[kind], **changes}).save_pretrained(folder)
    return folder


def save_several(folder: Path) -> Path:
    """Autoencoders of both classes for the digits in `folder`, 8×8 to 4×4×2, and one of another seed."""
    save_autoencoder(folder / "tiny", "AutoencoderTiny", scaling_factor=6.0)
    save_autoencoder(folder / "kl", "AutoencoderKL", scaling_factor=4.0)
    save_autoencoder(folder / "other", "AutoencoderTiny", scaling_factor=6.0, seed=1)
    return folder
