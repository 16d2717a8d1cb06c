"""Images and archives that the tests make."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def noise(seed: int, height: int = 8, width: int = 8, channels: int = 3) -> np.ndarray:
    """uint8 (H, W, 3) or (H, W)."""
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encoded(array: np.ndarray | Image.Image, kind: str = "PNG", **options: object) -> bytes:
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def write_folder(root: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return root


def write_zip(path: Path, files: Mapping[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def classes(names: Sequence[str] = ("ant", "bee"), each: int = 3, side: int = 8, first: int = 0) -> dict[str, bytes]:
    """Files of an ImageFolder: `each` different images in each class."""
    files = [(f"{name}/{index}.png", name) for name in names for index in range(each)]
    return {file: encoded(noise(first + seed, side, side)) for seed, (file, _) in enumerate(files)}


def description(labels: object, **more: object) -> bytes:
    return json.dumps({"labels": labels, **more}).encode()
