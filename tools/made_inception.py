"""Make a stand-in for the official Inception weights: `python tools/made_inception.py OUT.pth`.

A file like the official one in all but its values, which are random, for trying a sweep out where the official weights
(91 MB) cannot be had. Distances in its features are not FID, and are never called so.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3


class _Untrained(FeatureExtractorInceptionV3):
    def load_state_dict(self, *_: Any, **__: Any) -> None:
        """Keep the network's initial weights."""


def make_inception(path: Path, seed: int = 0) -> Path:
    """Write the weights; the same seed gives the same values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    with tempfile.NamedTemporaryFile(suffix=".pth") as empty:
        torch.save({}, empty.name)
        network = _Untrained("inception-v3-compat", ["2048"], feature_extractor_weights_path=empty.name)
    torch.save(network.state_dict(), path)
    return path


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(f"usage: python {sys.argv[0]} OUT.pth")
    print(f"stand-in weights (random values, not for figures): {make_inception(Path(sys.argv[1]))}")
