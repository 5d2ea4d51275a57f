"""Cityscapes, finely annotated: 19 classes, 2975/500/1525 street images of 1024 x 2048 pixels.

Layout, as in the official archives: ``leftImg8bit/{train,val,test}/CITY/CITY_SEQ_FRAME_leftImg8bit.png`` and
``gtFine/{train,val}/CITY/CITY_SEQ_FRAME_gtFine_labelIds.png``. Label ids become the 19 train ids when read. The test split
has dummy labels: it can be predicted and submitted, never scored. ``leftImg8bit/train_extra``, where it is there, holds 19998
images more, without fine labels: a student learns from them with ``unlabelled.splits=[train_extra]``. Cordts et al., CVPR 2016,
arXiv 1604.01685.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import PositiveInt
from torch import Tensor

from kd.config import ConfigError, InputError
from kd.data.dataset import Colour, Dataset, Files, LabelError
from kd.data.list_files import Count, by_stem, check_count
from kd.data.mask_coding import mapped
from kd.data.reading import check_sizes, data_root, read_image, read_labels, resized, shrunk
from kd.data.submission import Submission
from kd.types import IGNORE

IMAGE, LABEL = "_leftImg8bit", "_gtFine_labelIds"
IMAGES = {"train": 2975, "val": 500, "test": 1525, "train_extra": 19_998}
LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""The official label id of each class."""
LAST_ID = 33
UNKNOWN = IGNORE - 1


def _table() -> NDArray[np.uint8]:
    """From label id to train id; 255 is how 8 bits store the id -1."""
    table = np.full(256, UNKNOWN, np.uint8)
    table[: LAST_ID + 1] = table[255] = IGNORE
    table[list(LABEL_IDS)] = range(len(LABEL_IDS))
    return table


TRAIN_IDS = _table()


def frame(name: str) -> str:
    """``CITY_SEQ_FRAME`` of an image's path, or of what a prediction is called.

    Raises:
        InputError: it is no name of a Cityscapes image.
    """
    parts = Path(name).stem.removesuffix(IMAGE).split("_")
    if len(parts) != 3 or not all(parts) or not (parts[1].isdigit() and parts[2].isdigit()):
        raise InputError(
            f"{name}: is no name of a Cityscapes image; it must be CITY_SEQUENCE_FRAME{IMAGE}.png, for example "
            f"berlin_000000_000019{IMAGE}.png"
        )
    return "_".join(parts)


class Cityscapes(Dataset):
    """Cityscapes, 19 classes.

    Raises:
        ConfigError: the folder, images or labels are missing, or there are not as many as published.
    """

    class Config(Dataset.Config):
        """``root`` holds ``leftImg8bit`` and ``gtFine`` (default ``$KD_DATA/cityscapes``); ``resize`` (H, W) shrinks what is
        read; ``count``: ``official`` refuses a split that is incomplete, ``any`` accepts it.
        """

        root: str | None = None
        resize: tuple[PositiveInt, PositiveInt] | None = None
        count: Count = "official"

    classes: tuple[str, ...] = (
        "road",
        "sidewalk",
        "building",
        "wall",
        "fence",
        "pole",
        "traffic light",
        "traffic sign",
        "vegetation",
        "terrain",
        "sky",
        "person",
        "rider",
        "car",
        "truck",
        "bus",
        "train",
        "motorcycle",
        "bicycle",
    )
    colours: tuple[Colour, ...] = (
        (128, 64, 128),
        (244, 35, 232),
        (70, 70, 70),
        (102, 102, 156),
        (190, 153, 153),
        (153, 153, 153),
        (250, 170, 30),
        (220, 220, 0),
        (107, 142, 35),
        (152, 251, 152),
        (70, 130, 180),
        (220, 20, 60),
        (255, 0, 0),
        (0, 0, 142),
        (0, 0, 70),
        (0, 60, 100),
        (0, 80, 100),
        (0, 0, 230),
        (119, 11, 32),
    )
    splits: ClassVar[tuple[str, ...]] = ("train", "val")
    unlabelled: ClassVar[tuple[str, ...]] = ("test", "train_extra")
    submission: ClassVar[Submission] = Submission(LABEL_IDS, (1024, 2048), frame, "_labelIds")

    def __init__(self, config: Any, split: str) -> None:
        self.config, self.split = config, split
        self.root = data_root(config.root, "cityscapes")
        self.images = _images(self.root / "leftImg8bit" / split)
        check_count(self.root, split, len(self.images), IMAGES[split], config.count)
        self.labels = [] if split in self.unlabelled else _labels(self.root / "gtFine" / split, self.images)

    def __len__(self) -> int:
        return len(self.images)

    def identity(self, index: int) -> str:
        """``CITY_SEQ_FRAME``."""
        return frame(self.images[index].name)

    def files(self, index: int) -> Files:
        """Image and mask."""
        return Files(self.images[index], self.labels[index] if self.labels else None)

    def read(self, index: int) -> tuple[Tensor, Tensor]:
        """Image uint8 ``3 H W``, labels uint8 ``H W``; in splits without labels all are 255.

        Raises:
            LabelError: a value is no official label id.
            BrokenFileError: a file cannot be decoded, or the sizes differ.
        """
        if not self.labels:
            image = self.image(index)
            return image, torch.full(image.shape[1:], IGNORE, dtype=torch.uint8)
        image = read_image(self.images[index])
        labels = _train_ids(self.labels[index])
        check_sizes(image, labels, self.labels[index])
        return resized(image, labels, self.config.resize)

    def image(self, index: int) -> Tensor:
        """The image alone."""
        return shrunk(read_image(self.images[index]), self.config.resize)


def _images(folder: Path) -> list[Path]:
    """The images of all cities, sorted by city and name."""
    cities = sorted(path for path in folder.glob("*") if path.is_dir())
    found = [path for city in cities for stem, path in by_stem(city, (".png",)).items() if stem.endswith(IMAGE)]
    if not found:
        raise ConfigError(
            f"{folder}: holds no CITY/CITY_SEQ_FRAME{IMAGE}.png; point data.root at the folder with leftImg8bit and gtFine, "
            "or let `kd prepare cityscapes` build it from the official archives"
        )
    return found


def _labels(folder: Path, images: list[Path]) -> list[Path]:
    """The label map of each image."""
    cities = {path.parent.name for path in images}
    there = {stem: path for city in cities for stem, path in by_stem(folder / city, (".png",)).items()}
    wanted = [f"{frame(path.name)}{LABEL}" for path in images]
    missing = [name for name in wanted if name not in there]
    if missing:
        raise ConfigError(
            f"{folder}: {len(missing)} of {len(images)} images have no label map, first {missing[0]}.png; copy them from "
            "gtFine_trainvaltest (`kd prepare cityscapes` does)"
        )
    return [there[name] for name in wanted]


def _train_ids(path: Path) -> Tensor:
    stored = read_labels(path).numpy()
    labels = mapped(stored, TRAIN_IDS)
    if (labels == UNKNOWN).any():
        wrong = stored[labels == UNKNOWN]
        raise LabelError(
            f"{path}: {wrong.size} pixels hold label id {wrong.min()}; official ids are 0..{LAST_ID}, or 255 for -1. "
            "Take the original gtFine_labelIds file"
        )
    return torch.from_numpy(labels)
