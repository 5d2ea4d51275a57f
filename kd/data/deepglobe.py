"""DeepGlobe Land Cover: 6 classes, 803 satellite images of 2448 x 2448 pixels with public labels.

Layout: ``ID_sat.jpg`` and ``ID_mask.png`` (painted) in the root or its folder ``train``; ``ID_index.png`` (class numbers, made
by `kd prepare`) is read instead of the mask where it is there, because it decodes faster.

Split "JDT folds": the images sorted by file name, 5 folds of 160, fold ``fold`` is val and the other 643 are train, as in the
released code of JDTLosses. It is not GLNet's 454/207/142. Two things differ from that code: colours are cut at 128 in each
channel as the data set's authors ask (there only exact colours count and others become urban), and unknown is 255.
Demir et al., "DeepGlobe 2018: a challenge to parse the earth through satellite images", CVPR workshops 2018.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, PositiveInt
from torch import Tensor

from kd.config import ConfigError
from kd.data.dataset import Colour, Dataset, Files, LabelError, check_labels
from kd.data.list_files import Count, by_stem, check_count
from kd.data.reading import check_sizes, data_root, read_colours, read_image, read_labels, resized
from kd.types import IGNORE

IMAGE, MASK, INDEX = "_sat", "_mask", "_index"
IMAGES, FOLDS = 803, 5
THRESHOLD = 128
CODES = (3, 6, 5, 2, 1, 7)
"""Red, green, blue as the bits 4, 2, 1: what remains of each class's colour behind the threshold. 0 is unknown, 4 no class."""
STRAY = 0.01
"""Share of pixels that may blend into the colour of no class, as edges between yellow and magenta do."""


class DeepGlobe(Dataset):
    """DeepGlobe Land Cover, 6 classes, JDT folds.

    Raises:
        ConfigError: the folder, images or masks are missing, or there are not as many as published.
    """

    class Config(Dataset.Config):
        """``root`` holds the images (default ``$KD_DATA/deepglobe``); ``fold`` is the one to validate on, 0 in JDTLosses.

        ``resize`` (H, W) shrinks what is read; ``count``: ``official`` refuses an incomplete copy, ``any`` accepts it.
        """

        root: str | None = None
        fold: int = Field(0, ge=0, lt=FOLDS)
        resize: tuple[PositiveInt, PositiveInt] | None = None
        count: Count = "official"

    classes: tuple[str, ...] = ("urban", "agriculture", "rangeland", "forest", "water", "barren")
    colours: tuple[Colour, ...] = ((0, 255, 255), (255, 255, 0), (255, 0, 255), (0, 255, 0), (0, 0, 255), (255, 255, 255))
    splits: ClassVar[tuple[str, ...]] = ("train", "val")

    def __init__(self, config: Any, split: str) -> None:
        self.config, self.split = config, split
        root = data_root(config.root, "deepglobe")
        self.root = root / "train" if (root / "train").is_dir() else root
        images = _images(self.root)
        check_count(self.root, "train and val", len(images), IMAGES, config.count)
        size = len(images) // FOLDS
        val = images[config.fold * size : (config.fold + 1) * size]
        held = set(val)
        self.images = val if split == "val" else [path for path in images if path not in held]
        self.labels = _labels(self.root, self.images)

    def __len__(self) -> int:
        return len(self.images)

    def identity(self, index: int) -> str:
        """The number in the file's name, e.g. ``100694``."""
        return self.images[index].stem.removesuffix(IMAGE)

    def files(self, index: int) -> Files:
        """Image and mask."""
        return Files(self.images[index], self.labels[index], "colours")

    def read(self, index: int) -> tuple[Tensor, Tensor]:
        """Image uint8 ``3 H W``, labels uint8 ``H W``.

        Raises:
            LabelError: a mask is not painted in the classes' colours, or an index map holds no class.
            BrokenFileError: a file cannot be decoded, or the sizes differ.
        """
        image, path = read_image(self.images[index]), self.labels[index]
        if path.stem.endswith(INDEX):
            labels = read_labels(path)
            check_labels(labels, len(self.classes), str(path))
        else:
            labels = torch.from_numpy(decode(read_colours(path), str(path)))
        check_sizes(image, labels, path)
        return resized(image, labels, self.config.resize)


def decode(colours: NDArray[np.uint8], source: str) -> NDArray[np.uint8]:
    """Class numbers ``H W``, 255 for unknown, of a painted mask ``H W 3``; each channel is cut at 128.

    Raises:
        LabelError: the mask stores numbers, or is painted in other colours.
    """
    if 0 < colours.max() <= len(CODES):
        raise LabelError(
            f"{source}: holds values up to {colours.max()}, so class numbers, not colours; take the original mask, or call it "
            f"ID{INDEX}.png if its numbers are 0..{len(CODES) - 1}, and {IGNORE} for unknown"
        )
    bright = colours >= THRESHOLD
    codes = bright[..., 0] << np.uint8(2) | bright[..., 1] << np.uint8(1) | bright[..., 2]
    table = np.full(8, IGNORE, np.uint8)
    table[list(CODES)] = range(len(CODES))
    stray = int((codes == 4).sum())
    if stray > STRAY * codes.size:
        raise LabelError(
            f"{source}: {stray} of {codes.size} pixels are red, the colour of no class; is it a DeepGlobe mask, in RGB order?"
        )
    return table[codes]


def _images(folder: Path) -> list[Path]:
    """Sorted by file name, in which ``10_sat`` comes behind ``101_sat``: the folds depend on it."""
    found = [path for stem, path in by_stem(folder, (".jpg", ".jpeg")).items() if stem.endswith(IMAGE)]
    if len(found) < FOLDS:
        raise ConfigError(
            f"{folder}: holds {len(found)} images ID{IMAGE}.jpg, {FOLDS} folds need {FOLDS} or more; point data.root at the "
            "extracted training set, or let `kd prepare deepglobe` build it"
        )
    return sorted(found, key=lambda path: path.name.lower())


def _labels(folder: Path, images: list[Path]) -> list[Path]:
    """The index map, else the mask, of each image."""
    there = by_stem(folder, (".png",))
    names = [path.stem.removesuffix(IMAGE) for path in images]
    missing = [name for name in names if f"{name}{MASK}" not in there and f"{name}{INDEX}" not in there]
    if missing:
        raise ConfigError(
            f"{folder}: {len(missing)} of {len(names)} images have no mask, first {missing[0]}{MASK}.png; copy them. "
            "Only the training set of the challenge has public masks"
        )
    return [there.get(f"{name}{INDEX}") or there[f"{name}{MASK}"] for name in names]
