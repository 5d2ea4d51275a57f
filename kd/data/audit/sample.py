"""One look at a sample: what its files are, its labels counted, its image's digest; errors become part of what is seen."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset as TorchDataset

from kd.config import InputError
from kd.data.band_files import raw
from kd.data.dataset import Colour, Dataset
from kd.data.headers import BrokenFileError, kind
from kd.data.reading import read_greys, read_palette

DARK = 32
"""Levels from black, or from white, that an edge has not touched."""


@dataclass(frozen=True)
class Sample:
    """One scanned sample: ``kinds`` of its files, image and mask, and how EXIF turns the image (1: not); ``pixels`` counts the
    labels 0..255; ``digest`` stands for the image's content; ``palette`` are the colours of a mask's numbers, where it is read
    by number and has some; ``doubtful`` is the share of grey pixels between the classes, where it is cut; or an ``error``."""

    name: str
    kinds: tuple[str, str] = ("", "")
    orientation: int = 1
    size: tuple[int, int] = (0, 0)
    pixels: NDArray[np.int64] | None = None
    digest: str = ""
    palette: dict[int, Colour] = field(default_factory=dict)
    doubtful: float | None = None
    error: str = ""


class Scan(TorchDataset[Sample]):
    """A split, sample by sample; errors become part of the sample."""

    def __init__(self, data: Dataset) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Sample:
        name, files = self.data.identity(index), self.data.files(index)
        (image_kind, orientation), (mask_kind, _) = (("", 1) if path is None else kind(path) for path in files[:2])
        if files.image is not None and (image_kind == "unreadable" or not self.data.bands.plain):
            image_kind = band_kind(files.image, self.data.channels)
        seen = Sample(name, (image_kind, mask_kind), orientation)
        try:
            image, labels = self.data.read(index)
        except (InputError, OSError) as error:
            return replace(seen, error=str(error))
        digest = hashlib.blake2b(repr(tuple(image.shape)).encode(), digest_size=16)
        digest.update(image.contiguous().numpy().tobytes())
        pixels = torch.bincount(labels.flatten(), minlength=256).numpy()
        palette = read_palette(files.mask) if files.mask is not None and files.read == "numbers" else {}
        doubtful = between(files.mask) if files.mask is not None and files.read == "greys" else None
        size = int(labels.shape[0]), int(labels.shape[1])
        return replace(seen, size=size, pixels=pixels, digest=digest.hexdigest(), palette=palette, doubtful=doubtful)


def band_kind(path: Path, channels: int) -> str:
    """What a file is that may be no picture, e.g. ``TIFF 4 channels, uint16``."""
    try:
        return raw(path, channels).words
    except BrokenFileError:
        return "unreadable"


def between(mask: Path) -> float:
    """The share of a grey mask's pixels that are neither dark nor bright."""
    greys = read_greys(mask)
    return float(((greys >= DARK) & (greys < 256 - DARK)).mean())
