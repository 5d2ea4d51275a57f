"""JPEG photos, decoded with fewer copies than Pillow makes: what is read is the same, bit for bit."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from kd.data.headers import orientation


def plain_pixels(path: Path, image: Image.Image) -> NDArray[np.uint8] | None:
    """What Pillow would decode of an upright RGB JPEG, ``H W 3``; None where it must itself.

    That is so for all other files, damaged ones included, and wherever torchvision is not loaded, whose import takes longer
    than it saves. PNG is always Pillow's: pixels that are damaged on purpose, behind sound checksums, make torchvision 0.29 end
    the process, and it is hardly faster there.
    """
    if (image.format, image.mode) != ("JPEG", "RGB") or orientation(image) != 1:
        return None
    decode = getattr(sys.modules.get("torchvision.io"), "decode_jpeg", None)  # as long as it has it: it means to part with it
    if decode is None:
        return None
    try:
        found = decode(torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8))
        pixels: NDArray[np.uint8] = found.permute(1, 2, 0).numpy()
    except RuntimeError:
        return None
    return pixels if pixels.shape == (image.height, image.width, 3) else None
