"""Make images to try a sweep out without data: `python tools/made_images.py OUT.zip --size 64`.

Coloured discs on coloured ground, the class in the disc's size and hue, in the layout of EDM and StyleGAN
(dataset.json), or, with a name that ends in .tar.gz, in CIFAR-10's (32×32, 10 classes, `--images` of them for training
and a fifth as many for testing). The same arguments give the same bytes.
"""

from __future__ import annotations

import argparse
import colorsys
import gzip
import io
import json
import pickle
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from harness.wording import count_of

EPOCH = (1980, 1, 1, 0, 0, 0)


def made_image(index: int, label: int, classes: int, size: int) -> np.ndarray:
    """uint8 (size, size, 3), a function of its arguments alone."""
    random = np.random.Generator(np.random.Philox(key=[index, label]))
    rows, columns = np.mgrid[:size, :size] / size
    y, x = random.uniform(0.3, 0.7, 2)
    radius = 0.12 + 0.2 * (label + 0.5) / classes
    inside = ((rows - y) ** 2 + (columns - x) ** 2 < radius**2)[..., None]
    hue = (label / classes + random.normal(0, 0.02)) % 1
    disc = np.array(colorsys.hsv_to_rgb(hue, 0.8, 0.9))
    ground = np.array(colorsys.hsv_to_rgb(random.uniform(), 0.3, 0.4)) * (0.5 + 0.5 * rows[..., None])
    noisy = np.where(inside, disc, ground) + random.normal(0, 0.02, (size, size, 3))
    return (np.clip(noisy, 0, 1) * 255).round().astype(np.uint8)


def make(path: Path, images: int = 256, size: int = 64, classes: int = 10) -> Path:
    """Write the zip: labels go 0, 1, … in turn, so every class is there from `classes` images on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    labels: list[tuple[str, int]] = []
    temporary = path.with_name(f".{path.name}.tmp")
    with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for index in range(images):
            label = index % classes
            name = f"{index // 1000:05d}/img{index:08d}.png"
            encoded = io.BytesIO()
            Image.fromarray(made_image(index, label, classes, size)).save(encoded, "PNG")
            archive.writestr(zipfile.ZipInfo(name, EPOCH), encoded.getvalue())
            labels.append((name, label))
        archive.writestr(zipfile.ZipInfo("dataset.json", EPOCH), json.dumps({"labels": labels}))
    temporary.replace(path)
    return path


CIFAR_CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def make_cifar10(path: Path, images: int = 250) -> Path:
    """Write an archive like cifar-10-python.tar.gz: five training batches of `images` in all, and a test batch."""
    path.parent.mkdir(parents=True, exist_ok=True)
    each = max(1, images // 5)
    batches = [(f"data_batch_{number}", (number - 1) * each) for number in range(1, 6)] + [("test_batch", 5 * each)]
    temporary = path.with_name(f".{path.name}.tmp")
    with (
        gzip.GzipFile(temporary, "wb", mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w") as archive,
    ):
        for name, first in batches:
            indices = range(first, first + each)
            pixels = [made_image(i, i % 10, 10, 32).transpose(2, 0, 1).reshape(-1) for i in indices]
            content = {b"data": np.stack(pixels), b"labels": [i % 10 for i in indices]}
            _add(archive, f"cifar-10-batches-py/{name}", pickle.dumps(content, protocol=4))
        meta = {b"label_names": [name.encode() for name in CIFAR_CLASSES]}
        _add(archive, "cifar-10-batches-py/batches.meta", pickle.dumps(meta, protocol=4))
    temporary.replace(path)
    return path


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--size", type=int, default=64, help="side in pixels")
    parser.add_argument("--classes", type=int, default=10)
    given = parser.parse_args(arguments)
    if min(given.images, given.size, given.classes) < 1:
        parser.error("--images, --size and --classes must be at least 1")
    if given.out.name.endswith(".tar.gz"):
        print(f"{given.images} images in CIFAR-10's layout: {make_cifar10(given.out, given.images)}")
        return
    made = make(given.out, given.images, given.size, given.classes)
    images, classes = count_of(given.images, "image"), count_of(given.classes, "class")
    print(f"{images} of {given.size}×{given.size} in {classes}: {made}")


if __name__ == "__main__":
    main(sys.argv[1:])
