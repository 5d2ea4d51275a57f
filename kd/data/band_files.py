"""Images of other channels than RGB, or of other depth than 8 bits: TIFFs, grey pictures, and arrays of numpy.

Channels may lie first or last; which it is follows from their number. What is georeferenced is read as pixels.
"""

from __future__ import annotations

import logging
import math
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kd.data.bands import Bands, Range
from kd.data.headers import DECODING, DEEP, ORIENTATION, TURNED, BrokenFileError, bits, check_pixels, opened, samples, upright
from kd.data.reading import read_image

ARRAYS = (".npy",)
"""What counts as an image where there is no picture."""
TIFFS = (".tif", ".tiff")
INSTALL = "pip install 'segmentation-kd[tiff]'"
NARROW = 2
"""Bytes of the widest whole numbers that float32 holds exactly."""


class Raw(NamedTuple):
    """What a file holds, before its pixels are looked at: ``values`` ``H W C``, of any real type, perhaps not in memory yet."""

    values: Any
    kind: str

    @property
    def words(self) -> str:
        """E.g. ``TIFF 4 channels, uint16``."""
        count = self.values.shape[2]
        return f"{self.kind} {count} channel{'s' * (count != 1)}, {self.values.dtype}"


def read(path: Path, bands: Bands, trained: bool = False) -> Tensor:
    """An image ``C H W``, the channels of a pixel side by side: uint8 where no range is said, else floats in [0, 1].

    ``trained``: a network has learned these ``bands``, so that it is the file that must change.

    Raises:
        BrokenFileError: the file is missing or damaged, has other channels or another depth, or holds NaN; with the remedy.
    """
    if not bands.plain or path.suffix.lower() in ARRAYS:
        return _read(path, bands, trained)
    try:
        return read_image(path)
    except BrokenFileError as error:
        raise _better(path, bands, error, trained) from None


def _better(path: Path, bands: Bands, error: BrokenFileError, trained: bool) -> BrokenFileError:
    """What to say of a file that is no picture of 8 bits: what it is, where that can be told."""
    try:
        found = raw(path, bands.channels)
    except BrokenFileError as other:
        return other if INSTALL in str(other) else error
    return _misfit(path, found, bands, trained) or error


def _read(path: Path, bands: Bands, trained: bool) -> Tensor:
    found = raw(path, bands.channels)
    if problem := _misfit(path, found, bands, trained):
        raise problem
    values = found.values if bands.range is None else mapped(found.values, bands.range, path)
    return torch.from_numpy(np.ascontiguousarray(values)).permute(2, 0, 1)


def _misfit(path: Path, found: Raw, bands: Bands, trained: bool) -> BrokenFileError | None:
    """Why a file is none of these images."""
    count, depth, remedies = found.values.shape[2], found.values.dtype, []
    if count != bands.channels:
        remedies.append(f"data.channels={count} where all have so many (it is {bands.channels})")
    if (depth == np.uint8) == (bands.range is not None):
        asked = "data.range=[low, high], the values that become 0 and 1, of which `kd check-data` measures a pair"
        remedies.append(asked if depth != np.uint8 else "data.range=null, which is for other files than those of 8 bits")
    if not remedies:
        return None
    if trained:
        kind = "of 8 bits" if bands.range is None else "of more than 8 bits, mapped by a range"
        learned = f"{bands.channels} channels {kind}"
        return BrokenFileError(f"{path}: is {found.words}; the network has learned {learned}: convert the file to such")
    return BrokenFileError(f"{path}: is {found.words}; say {', and '.join(remedies)}, or convert this file as the others are")


def mapped(values: np.ndarray, pairs: Range, path: Path) -> np.ndarray:
    """Values ``H W C`` as float32 in [0, 1]: what is beyond the range is its end.

    Raises:
        BrokenFileError: a value is NaN or infinite.
    """
    low, high = np.array(pairs, np.float64).T
    exact = values.dtype == np.float32 or values.dtype.itemsize <= NARROW
    wide: NDArray[np.floating[Any]] = values.astype(np.float32 if exact else np.float64)
    if wide.dtype.kind == "f" and values.dtype.kind == "f" and (holes := int((~np.isfinite(wide)).any(2).sum())):
        raise BrokenFileError(
            f"{path}: {holes} pixels hold NaN or infinity, no number; write what shall be seen there into the file, e.g. 0, "
            "and no label (255) into its mask, where it has one"
        )
    wide -= low.astype(wide.dtype)
    wide /= (high - low).astype(wide.dtype)
    return wide.clip(0, 1, out=wide).astype(np.float32, copy=False)


def raw(path: Path, channels: int) -> Raw:
    """A file's values as they are; ``channels`` tells which axis holds them.

    Raises:
        BrokenFileError: the file is missing, damaged, too large, or of a kind that is not read here.
    """
    suffix = path.suffix.lower()
    look = _array if suffix in ARRAYS else _tiff if suffix in TIFFS and not _is_simple(path) else _picture
    try:
        values, kind = look(path)
    except FileNotFoundError:
        raise BrokenFileError(f"{path}: does not exist; is the data set complete?") from None
    except BrokenFileError:
        raise
    except Exception as error:  # damaged headers make each library fail in its own ways
        reason = " ".join(str(error).split())[:200]
        more = " (pip install imagecodecs reads it)" if "imagecodecs" in reason else "; fetch or convert this file again"
        raise BrokenFileError(f"{path}: cannot be decoded ({reason}){more}") from None
    values = values[..., None] if values.ndim == 2 else values
    if values.ndim != 3 or 0 in values.shape or values.dtype.kind not in "uif":
        raise BrokenFileError(
            f"{path}: holds {values.dtype} of shape {'x'.join(map(str, values.shape))}; an image is H W, H W C or C H W, of "
            "whole or real numbers"
        )
    values = values.transpose(1, 2, 0) if _first(values.shape, channels) else values
    check_pixels(path, *values.shape[:2])
    return Raw(values, kind)


def size(path: Path, channels: int) -> tuple[int, int] | None:
    """Height and width of a file of bands, of its header alone; None where that cannot be told."""
    shape: tuple[int, ...] = ()
    with suppress(ImportError, *DECODING, EOFError, KeyError, IndexError, RuntimeError):
        if path.suffix.lower() in ARRAYS:
            shape = np.load(path, mmap_mode="r", allow_pickle=False).shape
        elif path.suffix.lower() in TIFFS:
            with _tifffile().TiffFile(path) as file:
                shape = _first_series(file).shape
    if len(shape) not in (2, 3):
        return None
    return shape[1:] if len(shape) == 3 and _first(shape, channels) else shape[:2]  # type: ignore[return-value]


def _first(shape: tuple[int, ...], channels: int) -> bool:
    """Whether the first of three axes holds the channels, not the last."""
    return shape[2] != channels and (shape[0] == channels or shape[0] < shape[2])


def _array(path: Path) -> tuple[np.ndarray, str]:
    return np.load(path, mmap_mode="c", allow_pickle=False), "NPY"


def _is_simple(path: Path) -> bool:
    """Whether Pillow reads all of a TIFF: one page, grey of any depth or RGB of 8 bits."""
    with suppress(BrokenFileError, *DECODING), opened(path) as image:
        simple = image.mode in ("L", *DEEP) or (image.mode == "RGB" and bits(path, image) <= 8)
        return simple and samples(image) == len(image.getbands())
    return not path.is_file()


def _tifffile() -> Any:
    """The package; what it finds wrong with a file is told once, by whom it raises to."""
    import tifffile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    return tifffile


def _first_series(file: Any) -> Any:
    """The image; pages are counted first, which notices links that lead nowhere: the package follows them for ever else."""
    if not len(file.pages):
        raise ValueError("it has no page")
    return file.series[0]


def _tiff(path: Path) -> tuple[np.ndarray, str]:
    try:
        tifffile = _tifffile()
    except ImportError:
        raise BrokenFileError(
            f"{path}: is a TIFF that Pillow cannot read, as those of many bands; {INSTALL} reads it"
        ) from None
    with tifffile.TiffFile(path) as file:
        first = _first_series(file)
        turn = TURNED.get(getattr(first.keyframe.tags.get(ORIENTATION), "value", 1))
        check_pixels(path, *sorted(first.shape)[-2:])  # a header may claim what no memory holds
        told, there = math.prod(first.keyframe.chunked), len(first.keyframe.dataoffsets)
        if told > there:  # the package takes what is missing for zeros, however long that takes
            raise BrokenFileError(f"{path}: has {there} of the {told} strips or tiles that its header tells of; fetch it again")
        values = first.asarray()
    if turn is None or values.ndim > 3:
        return values, "TIFF"
    axes = first.axes
    last = values if values.ndim == 2 or axes.endswith("S") else values.transpose(1, 2, 0)
    return turn(last), "TIFF"


def _picture(path: Path) -> tuple[np.ndarray, str]:
    with opened(path) as image:
        if image.mode in ("1", "P", "PA", "CMYK", "YCbCr", "LAB", "HSV"):
            raise BrokenFileError(
                f"{path}: is a picture of mode {image.mode}, whose numbers are no channels; read pictures as RGB "
                "(data.channels=3), or convert them"
            )
        if image.mode not in DEEP and (depth := bits(path, image)) > 8:
            raise BrokenFileError(
                f"{path}: has {depth} bits a channel, of which 8 alone would be read of a {image.format}; save it as TIFF"
            )
        image.load()
        return upright(image, np.array(image)), str(image.format)
