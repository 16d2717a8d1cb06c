"""PNG without compression, written here so that the bytes are the same everywhere.

A compressed PNG depends on which zlib a machine has (zlib-ng and zlib choose differently). Stored blocks leave no
choice, decode at the speed of a copy, and are what EDM's own preparation writes too.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np

SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLOUR_TYPES = {1: 0, 3: 2}
CHANNELS = {colour: channels for channels, colour in COLOUR_TYPES.items()}
LARGEST_BLOCK = 65535
ZLIB_HEADER = b"\x78\x01"
END = b"\x00\x00\x00\x00IEND\xae\x42\x60\x82"


def encode(image: np.ndarray) -> bytes:
    """uint8 (C, H, W) with C of 1 or 3 as a PNG file."""
    channels, height, width = image.shape
    rows = np.zeros((height, 1 + width * channels), dtype=np.uint8)  # each row begins with filter type 0
    rows[:, 1:] = image.transpose(1, 2, 0).reshape(height, -1)
    return _start(channels, height, width) + _chunk(b"IDAT", _stored(rows.tobytes())) + END


def decode(content: bytes) -> np.ndarray | None:
    """What :func:`encode` was given, without a general decoder's cost; None if `content` is not as it writes."""
    if content[:8] != SIGNATURE or len(content) < 33:
        return None
    width, height, _, colour = struct.unpack(">2I2B", content[16:26])
    channels = CHANNELS.get(colour)
    if channels is None or not (0 < width < 2**16 and 0 < height < 2**16):
        return None
    row = 1 + width * channels
    length = 6 + height * row + 5 * -(-height * row // LARGEST_BLOCK)
    start = _start(channels, height, width) + struct.pack(">I", length) + b"IDAT" + ZLIB_HEADER
    total = struct.pack(">I", zlib.crc32(content[37 : 41 + length])) + END
    if len(content) != 41 + length + len(total) or not (content.startswith(start) and content.endswith(total)):
        return None
    blocks = range(43, 37 + length, LARGEST_BLOCK + 5)
    if any(content[block] > 1 for block in blocks):
        return None
    raw = b"".join(content[block + 5 : min(block + 5 + LARGEST_BLOCK, 37 + length)] for block in blocks)
    rows = np.frombuffer(raw, dtype=np.uint8).reshape(height, row)
    if rows[:, 0].any():
        return None
    return np.ascontiguousarray(rows[:, 1:].reshape(height, width, channels).transpose(2, 0, 1))


def _start(channels: int, height: int, width: int) -> bytes:
    return SIGNATURE + _chunk(b"IHDR", struct.pack(">2I5B", width, height, 8, COLOUR_TYPES[channels], 0, 0, 0))


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _stored(content: bytes) -> bytes:
    """A zlib stream of stored blocks (RFC 1950, RFC 1951 §3.2.4)."""
    parts = [ZLIB_HEADER]
    for start in range(0, len(content), LARGEST_BLOCK):
        block = content[start : start + LARGEST_BLOCK]
        last = start + LARGEST_BLOCK >= len(content)
        parts += [struct.pack("<BHH", last, len(block), len(block) ^ 0xFFFF), block]
    return b"".join(parts) + struct.pack(">I", zlib.adler32(content))
