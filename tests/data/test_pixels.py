from __future__ import annotations

import io
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from harness.data import png
from harness.data.pixels import area_average, centre_crop, decode, to_array, with_channels
from tests.data.making import encoded, noise


def rgb(content: bytes) -> np.ndarray:
    return to_array(decode(content), 3).transpose(1, 2, 0)


def grey(content: bytes) -> np.ndarray:
    return to_array(decode(content), 1)[0]


def test_rgb_and_grey_are_exact():
    colour, plain = noise(0, 5, 7), noise(1, 5, 7, channels=1)
    assert np.array_equal(rgb(encoded(colour)), colour)
    assert np.array_equal(grey(encoded(plain)), plain)
    assert np.array_equal(rgb(encoded(plain)), np.stack([plain] * 3, axis=-1))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_keeps_the_high_byte(kind: str):
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    assert np.array_equal(grey(encoded(values, kind)), values >> 8)
    eight = noise(3, 9, 9, channels=1)
    assert np.array_equal(grey(encoded(eight.astype(np.uint16) * 257, kind)), eight)


def test_one_bit_is_black_and_white():
    bits = noise(4, 8, 8, channels=1) > 127
    assert np.array_equal(grey(encoded(Image.fromarray(bits))), bits * 255)


def test_palette():
    colours = noise(5, 1, 16)[0]
    indices = noise(6, 8, 8, channels=1) % 16
    image = Image.frombytes("P", (8, 8), indices.tobytes())
    image.putpalette(colours.tobytes())
    assert np.array_equal(rgb(encoded(image)), colours[indices])


def test_cmyk_jpeg():
    """Pure inks at full and at no strength: red = (1 - cyan)(1 - black) and so on, to the loss of a JPEG."""
    inks = np.zeros((16, 16, 4), dtype=np.uint8)
    inks[:8, :, 0], inks[8:, :, 1] = 255, 255
    found = rgb(encoded(Image.fromarray(inks, "CMYK"), "JPEG", quality=100)).astype(int)
    assert np.abs(found[2:6, 2:14] - [0, 255, 255]).max() <= 6
    assert np.abs(found[10:14, 2:14] - [255, 0, 255]).max() <= 6


def test_alpha_is_flattened_on_black():
    colour, alpha = noise(7, 6, 6), noise(8, 6, 6, channels=1)
    found = rgb(encoded(np.dstack([colour, alpha])))
    exact = colour * (alpha[..., None] / 255)
    assert np.abs(found - exact).max() <= 1
    assert np.array_equal(found[alpha == 0], colour[alpha == 0] * 0)


def test_transparent_palette_colour_becomes_black():
    image = Image.frombytes("P", (2, 1), bytes([0, 1]))
    image.putpalette(bytes([200, 100, 50, 10, 20, 30]))
    assert rgb(encoded(image, transparency=0)).tolist() == [[[0, 0, 0], [10, 20, 30]]]


def test_exif_orientation_is_not_applied():
    array = noise(9, 4, 6)
    exif = Image.Exif()
    exif[0x0112] = 6
    assert np.array_equal(rgb(encoded(array, exif=exif.tobytes())), array)


def test_first_frame_of_an_animation():
    frames = [Image.new("L", (4, 4), value) for value in (10, 200)]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert set(grey(content).ravel()) == {10}


def test_floating_point_pixels_are_refused():
    with pytest.raises(ValueError, match="mode F"):
        decode(encoded(Image.fromarray(np.ones((2, 2), dtype=np.float32)), "TIFF"))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"hello, I am a text\n" * 50, "its content is text"),
        (b"\x00\x01\x02\xff" * 50, "of no image format"),
        (encoded(noise(1, 32, 32))[:200], "cannot be decoded"),
        (encoded(noise(1, 32, 32), "JPEG")[:900], "cannot be decoded"),
    ],
)
def test_what_is_no_image_says_so(content: bytes, reason: str):
    with pytest.raises(ValueError, match=reason):
        decode(content)


def test_channels_of_arrays_follow_the_same_rule():
    colour = noise(2, 5, 5).transpose(2, 0, 1)[None]
    assert np.array_equal(with_channels(colour, 1)[0], to_array(Image.fromarray(noise(2, 5, 5)), 1))
    assert with_channels(colour[:, :1], 3).shape == (1, 3, 5, 5)


@pytest.mark.parametrize("factor", [1, 2, 3, 8])
def test_area_average_is_the_exact_mean_with_halves_up(factor: int):
    image = noise(factor, 4 * factor, 4 * factor, channels=1)
    found = area_average(image[None], 4)[0]
    for row in range(4):
        for column in range(4):
            block = image[row * factor : (row + 1) * factor, column * factor : (column + 1) * factor]
            mean = Fraction(int(block.astype(int).sum()), factor**2)
            assert found[row, column] == int(mean + Fraction(1, 2))


@pytest.mark.parametrize("shape", [(8, 12), (9, 9)])
def test_area_average_needs_a_multiple(shape: tuple[int, int]):
    with pytest.raises(ValueError, match="needs a square of a multiple of 4"):
        area_average(noise(0, *shape, channels=1)[None], 4)


def resample_by_matrix(
    image: np.ndarray, height: int, width: int, kernel: Callable[[np.ndarray], np.ndarray], support: float
) -> np.ndarray:
    """Separable resampling in floating point, written from the definition: each weight is the kernel at the distance
    of pixel centres over the scale, normalised."""

    def matrix(before: int, after: int) -> np.ndarray:
        scale = before / after
        stretch = max(scale, 1.0)
        centres = (np.arange(after) + 0.5) * scale
        distance = (np.arange(before) + 0.5 - centres[:, None]) / stretch
        weights = np.where(np.abs(distance) < support, kernel(distance), 0)
        return weights / weights.sum(axis=1, keepdims=True)

    across = np.einsum("ij,hjc->hic", matrix(image.shape[1], width), image)
    across = np.clip(np.floor(across + 0.5), 0, 255)
    down = np.einsum("ij,jwc->iwc", matrix(image.shape[0], height), across)
    return np.clip(np.floor(down + 0.5), 0, 255)


def box(x: np.ndarray) -> np.ndarray:
    return ((x > -0.5) & (x <= 0.5)).astype(float)


def cubic(x: np.ndarray, a: float = -0.5) -> np.ndarray:
    x = np.abs(x)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return np.where(x < 1, near, np.where(x < 2, far, 0))


@pytest.mark.parametrize("shape", [(64, 64), (100, 70), (47, 90), (16, 16), (12, 20), (130, 131)])
def test_centre_crop_is_the_recipe_of_the_field(shape: tuple[int, int]):
    """Halve by boxes while the shorter side is at least twice the size, bicubic to the size, cut out the middle."""
    array = np.repeat(np.repeat(noise(11, -(-shape[0] // 4), -(-shape[1] // 4)), 4, axis=0), 4, axis=1)
    array = array[: shape[0], : shape[1]]
    expected, size = array.astype(float), 16
    while min(expected.shape[:2]) >= 2 * size:
        expected = resample_by_matrix(expected, expected.shape[0] // 2, expected.shape[1] // 2, box, 1.0)
    scale = size / min(expected.shape[:2])
    height, width = (round(side * scale) for side in expected.shape[:2])
    if (height, width) != expected.shape[:2]:
        expected = resample_by_matrix(expected, height, width, cubic, 2.0)
    top, left = (height - size) // 2, (width - size) // 2
    found = np.asarray(centre_crop(Image.fromarray(array), size)).astype(float)
    assert found.shape == (size, size, 3)
    assert np.abs(found - expected[top : top + size, left : left + size]).max() <= 2


def test_png_holds_the_very_pixels():
    for array in (noise(0, 200, 301), noise(1, 3, 5, channels=1)):
        image = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
        content = png.encode(image)
        with Image.open(io.BytesIO(content)) as opened:
            assert np.array_equal(np.asarray(opened), array)


def test_png_bytes_are_fixed():
    """One grey pixel of value 7, put together by hand from the PNG and zlib specifications."""
    content = png.encode(np.full((1, 1, 1), 7, dtype=np.uint8))
    assert content[8:29].hex() == "0000000d4948445200000001000000010800000000"
    assert bytes.fromhex("7801010200fdff000700090008") in content


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 5, 7), (3, 160, 160), (1, 1, 1), (3, 1, 21845)])
def test_png_comes_back_without_a_general_decoder(shape: tuple[int, int, int]):
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    back = png.decode(png.encode(image))
    assert back is not None and np.array_equal(back, image)


def test_other_files_are_left_to_the_general_decoder():
    ours = png.encode(noise(0, 8, 8).transpose(2, 0, 1))
    for position in range(len(ours)):
        flipped = bytearray(ours)
        flipped[position] ^= 1
        assert png.decode(bytes(flipped)) is None, position
    assert png.decode(ours[:-1]) is None and png.decode(b"") is None
    for level in (0, 6):
        content = encoded(noise(0, 8, 8), compress_level=level)
        back = png.decode(content)
        assert back is None or np.array_equal(back, noise(0, 8, 8).transpose(2, 0, 1))
