"""Write a folder as diffusers saves a pipeline, of a small network with random weights: `made_diffusers.py OUT`.

`--kind dit` writes a Diffusion Transformer, `--kind conditional` a U-Net whose blocks attend to what stands for a
class, else a U-Net. All are for the digits, 8×8 grey images of ten classes, and know an eleventh for no class.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

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
CONDITIONAL: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "norm_num_groups": 4,
    "attention_head_dim": 2,
    "cross_attention_dim": 12,
}
TOKENS = 3
"""Of each class, which a conditional U-Net attends to."""
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


KINDS = {"unet": UNET, "conditional": CONDITIONAL, "dit": DIT}


def make(
    path: Path, arguments: dict[str, Any] | None = None, *, kind: str = "unet", rows: int = 11, **scheduler: Any
) -> Path:
    """Write the folder of a network that is made with `arguments`, beside a `scheduler`: the same numbers each time.

    Beside a conditional one lies what it attends to, of `rows` classes; nothing where there are none.
    """
    from diffusers import DDPMScheduler, DiTTransformer2DModel, UNet2DConditionModel, UNet2DModel

    classes = {"unet": UNet2DModel, "conditional": UNet2DConditionModel, "dit": DiTTransformer2DModel}
    chosen: Any = classes[kind]
    levels: Any = DDPMScheduler(**scheduler)
    place = path / ("transformer" if kind == "dit" else "unet")
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        network = chosen(**{**KINDS[kind], **(arguments or {})})
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
        states = torch.randn(rows, TOKENS, network.config.get("cross_attention_dim") or 1)
    network.save_pretrained(place)
    levels.save_pretrained(path / "scheduler")
    if kind == "conditional" and rows:
        save_file({"encoder_hidden_states": states}, place / "encoder_hidden_states.safetensors")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--kind", choices=tuple(KINDS), default="unet")
    asked = parser.parse_args()
    print(make(asked.out, kind=asked.kind))


if __name__ == "__main__":
    main()
