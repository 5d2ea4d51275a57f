"""Reading images and label maps from files, with errors that name the file.

Every picture is read as a viewer shows it: turned as its EXIF orientation says. Label maps are never resampled or rounded.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from kd.config import ConfigError
from kd.data.headers import DECODING, DEEP, TURNED, BrokenFileError, bits, check_samples, is_lossy, opened, turn_of, upright
from kd.data.lazy_torchvision import functional
from kd.data.plain_files import plain_pixels
from kd.files import at_home, is_folder

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif", ".webp", ".ppm", ".pgm")
"""What counts as a picture, in lower case."""
COLOURFUL = 48
"""Levels by which the channels of a grey picture may differ, since lossy codecs tint it."""
NUMBERED = ("1", "L", "P", "LA", "PA", *DEEP[:-1])


def data_root(root: str | None, folder: str) -> Path:
    """Where a data set lies: the recipe's ``data.root``, or ``$KD_DATA/<folder>``.

    Raises:
        ConfigError: neither is set, or the folder does not exist.
    """
    base = os.environ.get("KD_DATA")
    if root is None and base is None:
        raise ConfigError(f"data.root: is not set; give data.root=DIRECTORY, or set KD_DATA so that $KD_DATA/{folder} exists")
    path = at_home(root) if root is not None else at_home(str(base)) / folder
    if not is_folder(path):
        origin = "data.root" if root is not None else "$KD_DATA"
        raise ConfigError(f"data.root: {path} (from {origin}) is no directory; point data.root at the data set's folder")
    return path


def read_image(path: Path) -> Tensor:
    """RGB uint8 ``3 H W``, the channels of a pixel side by side; grey, palette, CMYK and transparent pictures become RGB.

    Raises:
        BrokenFileError: the file is missing, no readable image, or a grey image of more than 8 bits.
    """
    return torch.from_numpy(_decode(path, _photo)).permute(2, 0, 1)


def read_labels(path: Path) -> Tensor:
    """Label numbers uint8 ``H W`` of a single-channel or palette image.

    Raises:
        BrokenFileError: the file is missing, unreadable, a JPEG, has several channels, or a value above 255.
    """
    values = read_values(path)
    if values.dtype != np.uint8:
        wrong = values[(values < 0) | (values > 255)]
        if wrong.size:
            raise BrokenFileError(
                f"{path}: {wrong.size} pixels hold values beyond 0..255, first {wrong[0]}; label numbers must fit 8 bits. "
                "Convert the labels again"
            )
        values = values.astype(np.uint8)
    return torch.from_numpy(values)


def read_values(path: Path) -> NDArray[np.uint8] | NDArray[np.int32]:
    """The numbers that a label map stores, ``H W``: uint8 (palette images: the index), int32 of files of 16 or 32 bits.

    White is 255 in a file of 1 bit too, as its format says: programs that shrink files write 0 and 255 with 1 bit.

    Raises:
        BrokenFileError: the file is missing, unreadable, a JPEG, or has several channels.
    """
    return _decode(path, _numbers)


def read_palette(path: Path) -> dict[int, tuple[int, int, int]]:
    """The colours, RGB, of the numbers that a palette image holds; {} for other images, and files that cannot be read."""
    try:
        with opened(path) as image:
            if image.mode != "P":
                return {}
            entries = np.array(image.getpalette("RGB"), np.int64).reshape(-1, 3).tolist()
            return {int(value): tuple(entries[value]) for value in np.unique(np.array(image)) if value < len(entries)}
    except (BrokenFileError, *DECODING):
        return {}


def read_colours(path: Path) -> NDArray[np.uint8]:
    """The RGB colours of a painted label map, ``H W 3``; transparency is dropped, grey is a colour too.

    Raises:
        BrokenFileError: the file is missing, unreadable, a JPEG, or of more than 8 bits a channel.
    """
    return _decode(path, _paint)


def read_greys(path: Path) -> NDArray[np.uint8]:
    """The grey levels of a mask with smoothed or lossy edges, ``H W``; transparency is dropped.

    Raises:
        BrokenFileError: the file is missing, unreadable, painted, or of more than 8 bits a channel.
    """
    return _decode(path, _greys)


Pixels = NDArray[np.uint8] | None
"""What has been decoded already."""


def _greys(path: Path, image: Image.Image, ready: Pixels) -> NDArray[np.uint8]:
    if image.mode in DEEP:
        raise BrokenFileError(f"{path}: is a grey image of more than 8 bits (mode {image.mode}); convert the masks to 8 bits")
    _refuse_deep_colours(path, image)
    if ready is not None and ready.ndim == 2:
        return ready
    colours = _rgb(image, ready)
    if (spread := int(np.ptp(colours, axis=2).max(initial=0))) > COLOURFUL:
        raise BrokenFileError(
            f"{path}: has colours (channels differ by {spread} levels), but data.threshold cuts grey levels; declare "
            "data.colours instead"
        )
    return colours[..., 0]


def _photo(path: Path, image: Image.Image, ready: Pixels) -> NDArray[np.uint8]:
    if image.mode in DEEP:
        raise BrokenFileError(
            f"{path}: is a grey image of more than 8 bits (mode {image.mode}); which range of it matters is not for the reader "
            "to guess. Convert the images to 8 bits"
        )
    _refuse_deep_colours(path, image)
    check_samples(path, image)
    return _rgb(image, ready)


def _rgb(image: Image.Image, ready: Pixels) -> NDArray[np.uint8]:
    colours = ready is not None and ready.ndim == 3
    return ready if colours else np.array(image if image.mode == "RGB" else image.convert("RGB"))  # type: ignore[return-value]


def _numbers(path: Path, image: Image.Image, ready: Pixels) -> NDArray[np.uint8] | NDArray[np.int32]:
    _refuse_lossy(path, image)
    if image.mode not in NUMBERED:
        raise BrokenFileError(
            f"{path}: is a {image.mode} image; a label map has one channel of whole numbers. If its colours stand for classes, "
            "declare them (data set 'folder': data.colours={road: [128, 64, 128], ...}); or convert it to an index PNG"
        )
    if ready is not None:
        return ready
    values = np.array(image.getchannel(0) if image.mode in ("LA", "PA") else image)
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    return values if values.dtype == np.uint8 else values.astype(np.int32)


def _paint(path: Path, image: Image.Image, ready: Pixels) -> NDArray[np.uint8]:
    _refuse_lossy(path, image)
    if image.mode in DEEP:
        raise BrokenFileError(f"{path}: is a {image.mode} image, which has no colours; declare data.classes without colours")
    _refuse_deep_colours(path, image)
    return _rgb(image, ready)


def _refuse_deep_colours(path: Path, image: Image.Image) -> None:
    if (depth := bits(path, image)) > 8:
        raise BrokenFileError(
            f"{path}: has {depth} bits a channel, of which 8 alone would be read; which range of them matters is not for the "
            "reader to guess. Convert the images to 8 bits"
        )


def _refuse_lossy(path: Path, image: Image.Image) -> None:
    if is_lossy(path, image):
        kind = "a JPEG" if image.format in ("JPEG", "MPO") else f"a lossy {image.format}"
        raise BrokenFileError(
            f"{path}: is {kind}; its lossy compression invents labels along every edge. Export the label maps again "
            "from their source, as PNG; masks of one thing on a background can be cut: data.threshold=128"
        )


def _decode(path: Path, convert: Callable[[Path, Image.Image, Pixels], np.ndarray]) -> np.ndarray:
    try:
        with opened(path) as image:
            ready = plain_pixels(path, image)
            if ready is not None:
                return convert(path, image, ready)
            image.load()
            return np.ascontiguousarray(upright(image, convert(path, image, None)))
    except BrokenFileError:
        raise
    except FileNotFoundError:
        raise BrokenFileError(f"{path}: does not exist; is the data set complete?") from None
    except DECODING as error:
        raise BrokenFileError(f"{path}: cannot be decoded ({error}); fetch or convert this file again") from None


def read_pair(image_file: Path, label_file: Path) -> tuple[Tensor, Tensor]:
    """Image uint8 ``3 H W`` and label numbers uint8 ``H W``.

    Raises:
        BrokenFileError: a file is missing or unreadable, or the two differ in size.
    """
    image, labels = read_image(image_file), read_labels(label_file)
    check_sizes(image, labels, label_file, image_file)
    return image, labels


def check_sizes(image: Tensor, labels: Tensor, label_file: Path, image_file: Path | None = None) -> None:
    """Refuse labels of another size than their image.

    Raises:
        BrokenFileError: naming both sizes, and an EXIF orientation of the image that makes the difference.
    """
    if image.shape[1:] == labels.shape:
        return
    sizes = f"{labels.shape[0]}x{labels.shape[1]}, its image {image.shape[1]}x{image.shape[2]}"
    remedy = "Convert the labels again"
    across = image_file is not None and tuple(labels.shape) == (image.shape[2], image.shape[1])
    if image_file is not None and across and (turned := turn_of(image_file)) in TURNED:
        sizes += f" as its EXIF orientation {turned} turns it"
        remedy = "Turn the labels as a viewer shows the image, or remove the orientation from the image where labels fit the "
        remedy += "pixels as they are stored"
    raise BrokenFileError(f"{label_file}: is {sizes}; label and image must have one size. {remedy}")


def resized(image: Tensor, labels: Tensor, size: tuple[int, int] | None) -> tuple[Tensor, Tensor]:
    """Both at ``size`` (H, W): the image bilinear with antialiasing, the labels nearest. Unchanged for None."""
    if size is None or tuple(labels.shape) == tuple(size):
        return image, labels
    tf = functional()
    return shrunk(image, size), tf.resize(labels.unsqueeze(0), list(size), tf.InterpolationMode.NEAREST_EXACT)[0]


def shrunk(image: Tensor, size: tuple[int, int] | None) -> Tensor:
    """An image alone, see :func:`resized`."""
    if size is None or tuple(image.shape[-2:]) == tuple(size):
        return image
    tf = functional()
    return tf.resize(image, list(size), tf.InterpolationMode.BILINEAR, antialias=True)
