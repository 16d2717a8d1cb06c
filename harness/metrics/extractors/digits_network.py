"""A small classifier of 8×8 digits whose 64 features stand in for Inception's where images are digits."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

FEATURES = 64
SIZE = 8
WEIGHTS = Path(__file__).with_name("digits_network.safetensors")


class DigitsNetwork(nn.Module):
    """Three convolutions and a linear layer to 64 features, from which ten logits are a linear function."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 48, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(48, 64, 3, stride=2, padding=1),
            nn.ReLU(),
        )
        self.features = nn.Linear(64 * 2 * 2, FEATURES)
        self.logits = nn.Linear(FEATURES, 10)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 (B, C, 8, 8) → features (B, 64) and logits (B, 10), float32."""
        if images.shape[-2:] != (SIZE, SIZE):
            raise ValueError(f"the digits' extractor takes {SIZE}×{SIZE} images, not {tuple(images.shape)}")
        x = images.float().mean(1, keepdim=True) / 127.5 - 1  # (B, 1, 8, 8)
        x = self.convolutions(x).flatten(1)  # (B, 256)
        features = self.features(x)
        return features, self.logits(features)
