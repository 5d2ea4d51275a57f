"""Reading images and label maps from files, with errors that name the file."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tf

from kd.config import ConfigError, InputError


class BrokenFileError(InputError):
    """An image or label file cannot be decoded."""


def data_root(root: str | None, folder: str) -> Path:
    """Where a data set lies: the recipe's ``data.root``, or ``$KD_DATA/<folder>``.

    Raises:
        ConfigError: neither is set, or the folder does not exist.
    """
    base = os.environ.get("KD_DATA")
    if root is None and base is None:
        raise ConfigError(f"data.root: is not set; give data.root=DIRECTORY, or set KD_DATA so that $KD_DATA/{folder} exists")
    path = Path(root).expanduser() if root is not None else Path(str(base)).expanduser() / folder
    if not path.is_dir():
        origin = "data.root" if root is not None else "$KD_DATA"
        raise ConfigError(f"data.root: {path} (from {origin}) is no directory; point data.root at the data set's folder")
    return path


def read_image(path: Path) -> Tensor:
    """RGB uint8 ``3 H W``.

    Raises:
        BrokenFileError: the file is missing or no readable image.
    """
    return torch.from_numpy(_decode(path, "RGB").copy()).permute(2, 0, 1).contiguous()


def read_labels(path: Path) -> Tensor:
    """Label numbers uint8 ``H W`` of a single-channel or palette image.

    Raises:
        BrokenFileError: the file is missing, unreadable, or has several channels.
    """
    return torch.from_numpy(_decode(path, None).copy())


def _decode(path: Path, mode: str | None) -> np.ndarray:
    try:
        with Image.open(path) as image:
            if mode is None and image.mode not in ("L", "P"):
                raise BrokenFileError(
                    f"{path}: is a {image.mode} image; a label map has one channel of 8 bits (PNG mode L or P)"
                )
            return np.asarray(image if mode is None else image.convert(mode))
    except BrokenFileError:
        raise
    except FileNotFoundError:
        raise BrokenFileError(f"{path}: does not exist; is the data set complete?") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BrokenFileError(f"{path}: cannot be decoded ({error}); fetch or convert this file again") from None


def read_pair(image_file: Path, label_file: Path) -> tuple[Tensor, Tensor]:
    """Image uint8 ``3 H W`` and label numbers uint8 ``H W``.

    Raises:
        BrokenFileError: a file is missing or unreadable, or the two differ in size.
    """
    image, labels = read_image(image_file), read_labels(label_file)
    if image.shape[1:] != labels.shape:
        sizes = f"{labels.shape[0]}x{labels.shape[1]}, its image {image.shape[1]}x{image.shape[2]}"
        raise BrokenFileError(f"{label_file}: is {sizes}; label and image must have one size. Convert the labels again")
    return image, labels


def resized(image: Tensor, labels: Tensor, size: tuple[int, int] | None) -> tuple[Tensor, Tensor]:
    """Both at ``size`` (H, W): the image bilinear with antialiasing, the labels nearest. Unchanged for None."""
    if size is None or tuple(labels.shape) == tuple(size):
        return image, labels
    image = tf.resize(image, list(size), InterpolationMode.BILINEAR, antialias=True)
    return image, tf.resize(labels.unsqueeze(0), list(size), InterpolationMode.NEAREST_EXACT)[0]
