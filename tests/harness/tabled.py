"""A method whose trainings need a table of what they start from, as a module that lies in a folder."""

from __future__ import annotations

from pathlib import Path

METHOD = '''
from torch import nn

from models.conditional import ErrorTable
from models.methods import Method


class Net(nn.Module):
    """Its input and a convolution of it, scaled by what a table says of the noise level."""

    def __init__(self, channels):
        super().__init__()
        self.hidden = nn.Conv2d(channels, 4, 3, padding=1)
        self.last = nn.Conv2d(4, channels, 3, padding=1)
        self.error = ErrorTable()

    def forward(self, z, log_snr):
        return self.last(self.hidden(z).relu() * self.error(log_snr)[:, None, None, None])


class Tabled(Method):
    def build_network(self, config, images):
        return Net(images.channels)

    def start_table(self, config):
        return "denoising_error"

    def load_table(self, model, tensors):
        model.network.error.fill(tensors["log_snr"], tensors["error"])
'''
KIND = "tabled:Tabled"
SWEEP = """
name: tabled
base:
  model: {kind: "tabled:Tabled"}
  train: {steps: 4, batch: 8, learning_rate: 1.0e-3, checkpoint_every: 2, log_every: 2}
  sample: {steps: 2, batch: 16}
  measure: {images: 32, latency: {repeats: 1, warmup: 0, batch: 8}}
arms:
  second: {set: {train.start: first}}
  third: {set: {train.start: first, train.steps: 3}}
  first: {cells: false}
"""
"""Two trainings that start from a third and need the same table of it."""


def write_method(folder: Path) -> Path:
    """The module in a folder of its own, for Python's path."""
    folder.mkdir(exist_ok=True)
    (folder / "tabled.py").write_text(METHOD)
    return folder
