"""The commonest picture files, decoded with fewer copies than Pillow makes: what is read is the same, bit for bit."""

from __future__ import annotations

import sys
import zlib
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from struct import unpack_from

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from kd.data.headers import orientation

PLAIN = (b"IHDR", b"IDAT", b"IEND", b"pHYs", b"gAMA", b"cHRM", b"sRGB", b"tIME")
"""Chunks of a PNG that neither turn it nor change its colours; whatever has others is Pillow's business."""
SIMPLE = (bytes((8, 0, 0, 0, 0)), bytes((8, 2, 0, 0, 0)))
"""The end of a PNG's header: 8 bits, grey or RGB, not interlaced."""
FILTERS = 5
"""Ways of telling a row of a PNG by the one above."""
KNOWN = 1_000_000
WHOLE: set[int] = set()
"""Marks of PNGs, so many at most, whose rows were unpacked once in this process and are whole."""
DECODERS = {("PNG", "RGB"): "decode_png", ("PNG", "L"): "decode_png", ("JPEG", "RGB"): "decode_jpeg"}
"""Torchvision's, as long as it has them: it means to part with them."""


def plain_pixels(path: Path, image: Image.Image) -> NDArray[np.uint8] | None:
    """What Pillow would decode of an upright RGB picture ``H W 3`` or grey PNG ``H W`` of 8 bits; None where it must itself.

    That is so for all other files, damaged ones included, and wherever torchvision is not loaded, whose import takes longer
    than it saves.
    """
    name = DECODERS.get((str(image.format), image.mode))
    decode = getattr(sys.modules.get("torchvision.io"), name, None) if name else None
    if decode is None:
        return None
    content = path.read_bytes()
    plain = orientation(image) == 1 if image.format == "JPEG" else _is_plain_png(content)
    try:
        pixels = decode(torch.frombuffer(bytearray(content), dtype=torch.uint8)).permute(1, 2, 0).numpy() if plain else None
    except RuntimeError:
        return None
    if pixels is None or pixels.shape != (image.height, image.width, len(image.getbands())):
        return None
    return pixels[..., 0] if image.mode == "L" else pixels


def _is_plain_png(content: bytes) -> bool:
    """Whether all is undamaged, plain chunks. Damage must not get through: it makes torchvision 0.29 crash instead of raise."""
    place, chunks = 8, list[tuple[bytes, bytes]]()
    while place + 12 <= len(content) and (not chunks or chunks[-1][0] != b"IEND"):
        length, kind = unpack_from(">I4s", content, place)
        end = place + 8 + length
        if kind not in PLAIN or end + 4 > len(content):
            return False
        if unpack_from(">I", content, end)[0] != zlib.crc32(content[place + 4 : end]):
            return False
        chunks.append((kind, content[place + 8 : end]))
        place = end + 4
    order = [kind for kind, _ in groupby(chunks, key=itemgetter(0))]
    if order[:1] + order[-2:] != [b"IHDR", b"IDAT", b"IEND"] or len(set(order)) < len(order) or place != len(content):
        return False
    return len(chunks[0][1]) == 13 and content[24:29] in SIMPLE and _is_packed_image(chunks)


def _is_packed_image(chunks: list[tuple[bytes, bytes]]) -> bool:
    """Whether the packed rows are whole, which check sums do not tell of what was written wrong; looked at once a file."""
    header, packed = chunks[0][1], [content for kind, content in chunks if kind == b"IDAT"]
    mark = hash((header, *map(zlib.crc32, packed)))
    if mark in WHOLE:
        return True
    width, height = unpack_from(">II", header)
    row = 1 + width * (3 if header[9] else 1)
    unpacker, rows = zlib.decompressobj(), bytearray()
    try:
        for content in packed:
            rows += unpacker.decompress(content, max_length=max(1, row * height + 1 - len(rows)))
    except zlib.error:
        return False
    whole = unpacker.eof and len(rows) == row * height and max(rows[::row], default=FILTERS) < FILTERS
    if whole and len(WHOLE) < KNOWN:
        WHOLE.add(mark)
    return whole
