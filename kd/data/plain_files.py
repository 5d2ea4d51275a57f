"""The commonest picture files, decoded with fewer copies than Pillow makes: what is read is the same, bit for bit."""

from __future__ import annotations

import sys
import zlib
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
    place, kind = 8, b""
    while place + 12 <= len(content) and kind != b"IEND":
        length, kind = unpack_from(">I4s", content, place)
        end = place + 8 + length
        if kind not in PLAIN or end + 4 > len(content):
            return False
        if unpack_from(">I", content, end)[0] != zlib.crc32(content[place + 4 : end]):
            return False
        place = end + 4
    return kind == b"IEND" and place == len(content) and content[24:29] in SIMPLE
