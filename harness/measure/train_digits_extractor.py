"""Makes the weights of the digits' extractor that the package carries.

``python -m harness.measure.train_digits_extractor [PATH]`` trains on four fifths of scikit-learn's digits,
tests on the rest and writes weights with the accuracy in their metadata. On one machine and version of torch
the same bytes each time; elsewhere the figures differ in the last places, so the file in the package is the
reference, not a retrained one.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from sklearn.datasets import load_digits
from torch import Tensor, nn

from harness.files import write_atomically
from harness.metrics.extractors.digits import EXTRACTOR
from harness.metrics.extractors.digits_network import FEATURES, SIZE, WEIGHTS, DigitsNetwork

SEED = 0
EPOCHS = 40
BATCH = 64
HELD_OUT = 360
RECONSTRUCTION = 10.0
"""Weight of the squared error of the image, in [-1, 1], beside the cross-entropy of the digit."""


def digits() -> tuple[Tensor, Tensor]:
    """All 1 797 digits: uint8 (N, 1, 8, 8) over the whole of 0..255, and their labels, int64 (N,)."""
    data = load_digits()
    images = np.rint(data.images * (255 / 16)).astype(np.uint8)
    return torch.from_numpy(images)[:, None], torch.from_numpy(data.target).long()


def train(epochs: int = EPOCHS, seed: int = SEED) -> tuple[DigitsNetwork, float]:
    """A trained network and its accuracy on the held-out digits."""
    images, labels = digits()
    randomness = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(images), generator=randomness)
    held_out, training = order[:HELD_OUT], order[HELD_OUT:]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network, decoder = DigitsNetwork(), nn.Linear(FEATURES, SIZE * SIZE)
    parameters = [*network.parameters(), *decoder.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=1e-2)
    steps = epochs * (len(training) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=steps)
    for _ in range(epochs):
        shuffled = training[torch.randperm(len(training), generator=randomness)]
        for batch in shuffled[: len(shuffled) // BATCH * BATCH].split(BATCH):
            features, logits = network(images[batch])
            target = images[batch].flatten(1) / 127.5 - 1
            loss = nn.functional.cross_entropy(logits, labels[batch])
            loss = loss + RECONSTRUCTION * nn.functional.mse_loss(decoder(features), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        deviation = network(images)[0].var(0).mean().sqrt()
        for parameter in network.features.parameters():  # the mean variance of a feature is 1,
            parameter.div_(deviation)
        network.logits.weight.mul_(deviation)  # and the logits are as they were
        _, logits = network(images[held_out])
    return network.eval(), float((logits.argmax(1) == labels[held_out]).double().mean())


def weights_file(network: DigitsNetwork, accuracy: float) -> bytes:
    """A safetensors file of the weights, with what they are under ``about`` in its metadata."""
    about = {
        "accuracy": round(accuracy, 4),
        "held_out_images": HELD_OUT,
        "training_images": len(digits()[0]) - HELD_OUT,
        "data": "scikit-learn load_digits",
        "preprocessing": EXTRACTOR.preprocessing,
        "seed": SEED,
        "epochs": EPOCHS,
    }
    # one key alone: safetensors writes several in no fixed order, and the bytes would differ from run to run
    return save(network.state_dict(), {"about": json.dumps(about, ensure_ascii=False)})


def main(path: Path = WEIGHTS) -> None:
    """Train and write to `path`."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    network, accuracy = train()
    write_atomically(path, weights_file(network, accuracy))
    print(f"{path}: {accuracy:.2%} of {HELD_OUT} held-out digits")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
