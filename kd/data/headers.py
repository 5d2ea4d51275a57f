"""What a picture file is, asked of its header before a pixel is decoded: pages, size, bits a channel, lossy codecs."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from kd.config import InputError

MOST_PIXELS = 2**30
"""The largest picture that is decoded; KD_MAX_PIXELS in the environment sets another limit."""
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""What files may be, whatever they are called. Pillow knows more; PostScript among them is a program, which it has run."""
FEW, DENSEST = 2**24, 2**15
"""Pixels that are decoded whatever a file says, and pixels that a byte can stand for at most."""
BLANK = {"WEBP", "AVIF", "group3", "group4", "tiff_ccitt", "zstd", "lzma"}
"""Formats and codecs of which a few bytes may stand for a large picture of one colour."""
LOSSY_TIFF = ("jpeg", "tiff_jpeg", "webp")
BITS_PER_SAMPLE, SAMPLES_PER_PIXEL = 258, 277
"""The TIFF tags."""
ORIENTATION = 0x0112
"""The EXIF tag: 1 is upright, 2 to 8 turn or mirror what is stored."""
DECODING = (
    *(UnidentifiedImageError, OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, RuntimeError),
    *(MemoryError, EOFError, struct.error, zlib.error),
)
"""What Pillow raises about files that are no pictures, or damaged ones: each header breaks it in its own way."""
DEEP = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")
"""What Pillow calls grey pictures of more than 8 bits."""
MODES = {"1": "1 bit", "L": "grey", "P": "palette", "LA": "grey + alpha", "PA": "palette + alpha", "RGBA": "RGB + alpha"}


class BrokenFileError(InputError):
    """An image or label file cannot be decoded, or is of a kind that cannot hold what it should."""


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """A picture whose pixels are not decoded yet. Pillow's own limit of 179 million pixels is replaced by ours.

    Raises:
        BrokenFileError: it has several pages, or too many pixels.
    """
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with Image.open(path, formats=FORMATS) as image:
            _check(path, image)
            yield image
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _check(path: Path, image: Image.Image) -> None:
    pages = getattr(image, "n_frames", 1)
    if pages > 1 and image.format != "MPO":  # cameras put a preview behind the photo
        raise BrokenFileError(
            f"{path}: holds {pages} pages or frames, of which one alone would be read; split it into a file for each, e.g. "
            f"'magick {path.name} page-%d.tif'"
        )
    check_pixels(path, image.height, image.width)
    pixels, held = image.width * image.height, path.stat().st_size
    if pixels > max(FEW, DENSEST * held) and not {image.format, image.info.get("compression")} & BLANK:
        raise BrokenFileError(
            f"{path}: is damaged: its header tells of {image.height} x {image.width} pixels, and so many are not in {held} "
            "bytes; fetch this file again"
        )


def check_pixels(path: Path, height: int, width: int) -> None:
    """Refuse what is too large to be decoded.

    Raises:
        BrokenFileError: naming the limit, and how to raise it.
    """
    given = os.environ.get("KD_MAX_PIXELS", str(MOST_PIXELS))
    if not given.isdecimal():
        raise BrokenFileError(f"KD_MAX_PIXELS: is {given!r} in the environment; it is a number of pixels, e.g. {MOST_PIXELS}")
    most = int(given)
    if width * height > most:
        raise BrokenFileError(
            f"{path}: has {height} x {width} pixels, more than the {most} that are decoded; cut it into tiles, or "
            "set KD_MAX_PIXELS in the environment to more, if the memory suffices"
        )


def bits(path: Path, image: Image.Image) -> int:
    """Bits a channel as the file says; Pillow drops all but 8 of colour pictures."""
    if image.format == "PNG":
        with path.open("rb") as file:
            return file.read(25)[24]
    if image.format == "TIFF":
        return max(image.tag_v2.get(BITS_PER_SAMPLE, (8,)))  # type: ignore[attr-defined]
    return 8


def samples(image: Image.Image) -> int:
    """Channels as the file says; of some TIFFs Pillow reads the first alone."""
    there = len(image.getbands())
    return max(there, image.tag_v2.get(SAMPLES_PER_PIXEL, 1)) if image.format == "TIFF" else there  # type: ignore[attr-defined]


def check_samples(path: Path, image: Image.Image) -> None:
    """Refuse a TIFF of which not all channels would be read.

    Raises:
        BrokenFileError: naming their numbers.
    """
    if (there := samples(image)) > len(image.getbands()):
        raise BrokenFileError(f"{path}: has {there} channels, of which {len(image.getbands())} alone would be read; convert it")


def is_lossy(path: Path, image: Image.Image) -> bool:
    """Whether the codec invents values along edges: JPEG, also inside TIFF, and lossy WebP."""
    if image.format == "WEBP":
        with path.open("rb") as file:
            return b"VP8 " in file.read(4096)
    return image.format in ("JPEG", "MPO") or (image.format == "TIFF" and image.info.get("compression") in LOSSY_TIFF)


def orientation(image: Image.Image) -> int:
    """How EXIF turns a picture; 1, upright, where nothing readable is said."""
    try:
        found = image.getexif().get(ORIENTATION, 1)
    except DECODING:
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def turn_of(path: Path) -> int:
    """How EXIF turns the picture of a file; 1 also of what is no picture."""
    with suppress(*DECODING), opened(path) as image:
        return orientation(image)
    return 1


def upright(image: Image.Image, values: np.ndarray) -> np.ndarray:
    """Pixels ``H W ...`` turned as the file's EXIF says."""
    turn = TURNED.get(orientation(image))
    return values if turn is None else turn(values)


TURNED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels.swapaxes(0, 1)[:, ::-1],
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: pixels.swapaxes(0, 1)[::-1],
}
"""By the EXIF tag Orientation: what makes the stored pixels upright."""


def kind(path: Path) -> tuple[str, int]:
    """What a file is, in words, e.g. ``PNG palette`` or ``TIFF RGB, 16 bits, lossy``, and its EXIF orientation."""
    try:
        with opened(path) as image:
            depth, lossy = bits(path, image), is_lossy(path, image)
            name = "JPEG" if image.format == "MPO" else image.format
            words = [f"{name} {MODES.get(image.mode, 'grey' if image.mode in DEEP else image.mode)}"]
            words += [f"{depth} bits"] if depth > 8 else []
            words += ["lossy"] if lossy and name != "JPEG" else []
            return ", ".join(words), orientation(image)
    except (BrokenFileError, *DECODING):
        return "unreadable", 1


def is_one_bit(path: Path) -> bool:
    """Whether a picture holds two values only, black and white, which file formats call 0 and 255 (not 0 and 1)."""
    try:
        with opened(path) as image:
            return image.mode == "1"
    except (BrokenFileError, *DECODING):
        return False
