"""Images that cannot be used: whatever the decoder raises, and what is too large, is damage that names the file."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from harness.config.schema import DataConfig
from harness.data import open_data
from harness.data.describe import info
from harness.data.pixels import MOST_PIXELS, check_cropping, decode, read_header, to_array
from harness.data.prepare import prepare
from harness.errors import DataError
from tests.data.making import classes, encoded, noise, write_folder, write_zip

KINDS = {
    "png": "PNG",
    "jpg": "JPEG",
    "webp": "WEBP",
    "avif": "AVIF",
    "bmp": "BMP",
    "tif": "TIFF",
    "gif": "GIF",
    "ppm": "PPM",
    "jp2": "JPEG2000",
    "tga": "TGA",
}


def made(ending: str, side: int = 24) -> bytes:
    if ending == "avif" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    return encoded(noise(0, side, side), KINDS[ending])


@pytest.mark.parametrize("ending", KINDS)
@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.7, 0.95])
def test_an_image_cut_short_is_damaged(ending: str, share: float) -> None:
    content = made(ending)
    with pytest.raises(ValueError, match=r"cannot be (read|decoded)|is not an image|is empty"):
        decode(content[: int(share * len(content))])


@pytest.mark.parametrize("ending", KINDS)
def test_any_flipped_bytes_are_an_image_or_damage(ending: str) -> None:
    """Nothing but ValueError, and the file's bytes decide alone."""
    content = made(ending)
    random = np.random.default_rng(0)
    for _ in range(60):
        changed = np.frombuffer(content, dtype=np.uint8).copy()
        where = random.integers(0, len(changed), 5)
        changed[where] ^= random.integers(1, 256, 5).astype(np.uint8)
        try:
            decode(changed.tobytes())
        except ValueError as failure:
            assert str(failure)


@pytest.mark.parametrize("ending", KINDS)
def test_a_damaged_file_is_named_before_a_training(tmp_path: Path, ending: str) -> None:
    content = made(ending, 8)
    path = write_folder(tmp_path, classes() | {f"bee/cut.{ending}": content[: len(content) // 2]})
    with pytest.raises(DataError, match=rf"1 of 7 images cannot be used:\n.*bee/cut\.{ending}: "):
        open_data(DataConfig(name="images", path=str(path))).ready()
    (damaged,) = info(str(path), check=True)["splits"]["train"]["damaged"]
    assert damaged[0].endswith(f"bee/cut.{ending}")


@pytest.mark.parametrize(
    "failure", [RuntimeError("avif"), MemoryError(), OverflowError("x"), struct.error("y"), KeyError(3)]
)
def test_whatever_a_decoder_raises_is_damage(monkeypatch: pytest.MonkeyPatch, failure: Exception) -> None:
    content = encoded(noise(0))

    def fails(*_: object) -> None:
        raise failure

    with monkeypatch.context() as patch:
        patch.setattr("PIL.PngImagePlugin.PngImageFile.load", fails)
        with pytest.raises(ValueError, match="cannot be decoded"):
            decode(content)
    monkeypatch.setattr("PIL.Image.open", fails)
    with pytest.raises(ValueError, match="cannot be read"):
        read_header(content)


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it is of these sides."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("sides", [(10_001, 10_000), (2**31 - 1, 1), (10**6, 10**6)])
def test_too_many_pixels_are_refused_from_the_header(sides: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"million pixels|exceeds limit"):
        decode(bomb(*sides))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_not_taken_for_what_is_refused(tmp_path: Path) -> None:
    """A 1×60000 picture would be enlarged to 512×30720000."""
    long = encoded(np.zeros((60_000, 1), np.uint8))
    path = write_folder(
        tmp_path / "in", {"0.png": encoded(noise(0, 40, 40)), "1.png": long, "2.png": bomb(9999, 10_001)}
    )
    program = (
        "from harness.data.prepare import prepare; from harness.errors import DataError\n"
        f"try: prepare({str(path)!r}, {str(tmp_path / 'out.zip')!r}, 512, workers=1)\n"
        "except DataError as failure: print(failure)\n"
        "print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')))\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert "2 of 3 images cannot be used" in ran.stdout, ran.stderr
    assert "1.png: is 1×60000, too narrow: with a shorter side of 512" in ran.stdout
    assert int(ran.stdout.split("VmHWM:")[1].split()[0]) < 2**20, "less than 1 GiB, torch and all"


def test_what_may_be_cropped() -> None:
    check_cropping(9331, 6530, 512)  # about ImageNet's largest
    check_cropping(1, 300, 512)
    check_cropping(60_000, 1, 32)
    with pytest.raises(ValueError, match="too narrow"):
        check_cropping(60_000, 1, 64)
    assert MOST_PIXELS >= 9331 * 6530


def test_a_narrow_picture_beside_others_is_left_out_if_asked(tmp_path: Path) -> None:
    files = {"0.png": encoded(noise(0, 40, 40)), "1.png": encoded(np.zeros((60_000, 1), np.uint8))}
    made = prepare(str(write_folder(tmp_path / "in", files)), tmp_path / "out.zip", 64, workers=1, allow_damaged=1)
    assert made.images == 1 and made.damaged[0].file == "1.png"


def test_a_zip_that_unpacks_to_more_than_it_says(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"0.png": b"\0" * 10**7}, zipfile.ZIP_DEFLATED)
    content = bytearray(path.read_bytes())
    for signature, size in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):
        at = content.index(signature) + size
        content[at : at + 4] = (100).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(DataError, match="its checksum does not match"):
        open_data(DataConfig(name="images", path=str(path)))


def test_exif_orientation_is_not_applied() -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    array = noise(0, 8, 16)
    content = encoded(array, "PNG", exif=turned)
    assert np.array_equal(to_array(decode(content), 3).transpose(1, 2, 0), array)


def test_of_an_animation_the_first_frame() -> None:
    frames = [Image.fromarray(noise(i, 8, 8)) for i in range(3)]
    for kind in ("PNG", "WEBP"):
        buffer = io.BytesIO()
        frames[0].save(buffer, kind, save_all=True, append_images=frames[1:], lossless=True)
        assert np.array_equal(to_array(decode(buffer.getvalue()), 3).transpose(1, 2, 0), noise(0, 8, 8))


def test_a_palette_with_transparency_is_flattened_on_black() -> None:
    colours = noise(5, 1, 16)[0]
    indices = noise(6, 8, 8, channels=1) % 16
    image = Image.frombytes("P", (8, 8), indices.tobytes())
    image.putpalette(colours.tobytes())
    expected = np.where((indices == 3)[..., None], 0, colours[indices])
    found = to_array(decode(encoded(image, "PNG", transparency=3)), 3).transpose(1, 2, 0)
    assert np.array_equal(found, expected)
