"""Write a folder as diffusers saves a pipeline, of a small network with random weights: `made_diffusers.py OUT`.

`--dit` writes a Diffusion Transformer, else a U-Net. Both are for the digits, 8×8 grey images of ten classes, and embed
an eleventh for no class.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

UNET: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "norm_num_groups": 4,
    "attention_head_dim": 8,
    "num_class_embeds": 11,
}
DIT: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": 1,
    "out_channels": 2,
    "num_layers": 3,
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "patch_size": 2,
    "num_embeds_ada_norm": 10,
}


def make(path: Path, arguments: dict[str, Any] | None = None, *, dit: bool = False, **scheduler: Any) -> Path:
    """Write the folder of a network that is made with `arguments`, beside a `scheduler`: the same numbers each time."""
    from diffusers import DDPMScheduler, DiTTransformer2DModel, UNet2DModel

    chosen: Any = DiTTransformer2DModel if dit else UNet2DModel
    levels: Any = DDPMScheduler(**scheduler)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        network = chosen(**({**(DIT if dit else UNET), **(arguments or {})}))
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    network.save_pretrained(path / ("transformer" if dit else "unet"))
    levels.save_pretrained(path / "scheduler")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--dit", action="store_true", help="a Diffusion Transformer in place of a U-Net")
    asked = parser.parse_args()
    print(make(asked.out, dit=asked.dit))


if __name__ == "__main__":
    main()
