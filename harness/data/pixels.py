"""From an encoded image to uint8 pixels, and from large to small, by rules that are stated and exact.

Decoding (:func:`decode`):

* 8-bit RGB and greyscale as they are; 1-bit as 0 and 255.
* 16 bits: the high byte, for grey here as Pillow does for colour (a 16-bit value x·257 becomes x).
* Palette and CMYK (and YCbCr, HSV) by Pillow's conversion to RGB, without colour profiles.
* Alpha: flattened on black.
* EXIF orientation is not applied, as in the field's preparation of ImageNet (ADM, EDM).
* Of an animation, the first frame.

An image is damaged if its decoder raises anything at all, or if it has more than :data:`MOST_PIXELS`: that is decided
from its header, before memory is taken.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import Image, UnidentifiedImageError

MOST_PIXELS = 10**8
"""Of an image, before and after it is resized. ImageNet's largest has about 6 × 10⁷."""
GREY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N")
DEEP_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")
ALPHA_MODES = ("RGBA", "LA", "PA", "RGBa", "La")


@dataclass(frozen=True)
class Header:
    """Side lengths in pixels and whether the image is grey, known without decoding it."""

    width: int
    height: int
    grey: bool


def read_header(content: bytes) -> Header:
    """Header of an encoded image. Raises ValueError with the reason it cannot be read."""
    with open_image(content) as image:
        return Header(*image.size, grey=image.mode in GREY_MODES)


def decode(content: bytes) -> Image.Image:
    """An encoded image as a Pillow image of mode L or RGB. Raises ValueError with the reason it cannot be decoded."""
    with open_image(content) as image:
        return plain(image)


def plain(image: Image.Image) -> Image.Image:
    """An opened image, decoded and converted to mode L or RGB. Raises ValueError with the reason it cannot be."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image.load()
            return _converted(image)
    except Exception as failure:  # each format's decoder has its own
        raise ValueError(f"cannot be decoded ({str(failure) or type(failure).__name__})") from None


def to_array(image: Image.Image, channels: int) -> np.ndarray:
    """An L or RGB image as uint8 (channels, H, W): grey is repeated, RGB becomes grey by ITU-R 601 luma."""
    wanted = "L" if channels == 1 else "RGB"
    array = np.asarray(image if image.mode == wanted else image.convert(wanted))
    return np.ascontiguousarray(array[None] if channels == 1 else array.transpose(2, 0, 1))


def with_channels(images: np.ndarray, channels: int) -> np.ndarray:
    """uint8 (N, C, H, W) with another number of channels, by the rule of :func:`to_array`."""
    if images.shape[1] == channels:
        return images
    if channels == 3:
        return np.repeat(images, 3, axis=1)
    return np.stack([to_array(Image.fromarray(image.transpose(1, 2, 0)), 1) for image in images])


def area_average(images: np.ndarray, size: int) -> np.ndarray:
    """uint8 (…, H, H) reduced to (…, size, size): exact mean of each block, halves rounded up.

    Raises ValueError unless the images are square with a side that is a multiple of `size`.
    """
    height, width = images.shape[-2:]
    check_averaging(width, height, size)
    factor = height // size
    if factor == 1:
        return images
    total = np.zeros((*images.shape[:-2], size, size), dtype=np.uint32)
    for row in range(factor):
        for column in range(factor):
            total += images[..., row::factor, column::factor]
    return ((2 * total + factor**2) // (2 * factor**2)).astype(np.uint8)


def check_averaging(width: int, height: int, size: int) -> None:
    """Raise ValueError unless :func:`area_average` can reduce an image of these sides."""
    if height != width or height % size:
        raise ValueError(f"is {width}×{height}; area averaging to {size}×{size} needs a square of a multiple of {size}")


def check_cropping(width: int, height: int, size: int) -> None:
    """Raise ValueError unless :func:`centre_crop` can make a square of an image of these sides."""
    shorter, longer = sorted((width, height))
    if size**2 * longer > MOST_PIXELS * shorter:
        raise ValueError(
            f"is {width}×{height}, too narrow: with a shorter side of {size} it would have more than "
            f"{MOST_PIXELS // 10**6} million pixels"
        )


def centre_crop(image: Image.Image, size: int) -> Image.Image:
    """`image` as a `size`×`size` square, by the recipe that ADM and EDM prepare ImageNet with.

    Halve by 2×2 box averaging while the shorter side stays at least twice `size`, resize (bicubic) so that the shorter
    side is `size`, cut out the middle. A shorter side below `size` is enlarged, as there. Raises ValueError for an
    image that is too narrow for that.
    """
    check_cropping(*image.size, size)
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def open_image(content: bytes) -> Image.Image:
    """An encoded image with its header read. Raises ValueError with the reason it cannot be."""
    if not content:
        raise ValueError("is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(content))
    except UnidentifiedImageError:
        kind = "text" if _looks_like_text(content[:512]) else "of no image format known here"
        raise ValueError(f"is not an image (its content is {kind})") from None
    except Exception as failure:  # each format's reader has its own
        raise ValueError(f"cannot be read ({str(failure) or type(failure).__name__})") from None
    if image.width * image.height > MOST_PIXELS:
        raise ValueError(f"is {image.width}×{image.height}, more than {MOST_PIXELS // 10**6} million pixels")
    return image


def _looks_like_text(start: bytes) -> bool:
    return all(byte >= 32 or byte in (9, 10, 12, 13) for byte in start)


def _converted(image: Image.Image) -> Image.Image:
    if image.mode in ("L", "RGB"):
        if "transparency" not in image.info:
            return image
        image = image.convert("RGBA")
    if image.mode == "1":
        return image.convert("L")
    if image.mode in DEEP_MODES:
        return _high_byte(image)
    if image.mode == "P":
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    if image.mode in ALPHA_MODES:
        return _on_black(image)
    if image.mode in ("RGB", "CMYK", "YCbCr", "HSV", "RGBX"):
        return image.convert("RGB")
    raise OSError(f"pixels of mode {image.mode} are not supported")


def _high_byte(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        raise OSError("has values beyond 16 bits")
    return Image.fromarray((values >> 8).astype(np.uint8))


def _on_black(image: Image.Image) -> Image.Image:
    grey = image.mode in ("LA", "La")
    rgba = image.convert("RGBA")
    flat = Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba)
    return flat.convert("L" if grey else "RGB")
