"""CamVid as distributed with the SegNet tutorial: 11 classes, 367/101/233 street images of 360 x 480 pixels.

Layout: ``train/ trainannot/ val/ valannot/ test/ testannot/`` with PNG or JPEG images and index PNGs, and ``train.txt`` ...
with one stem (or path) a line. Label 11 (void) is ignored. The validation frames come from a sequence that also is in the
training set: select on ``val``, report ``test``. Brostow et al., "Semantic object classes in video", 2009.
"""

from __future__ import annotations

from typing import Any

from pydantic import PositiveInt
from torch import Tensor

from kd.data.dataset import Colour, Dataset, Files, check_labels
from kd.data.list_files import located, read_list
from kd.data.reading import data_root, read_pair, resized
from kd.types import IGNORE

VOID = 11
SUFFIXES = (".png", ".jpg", ".jpeg")


class CamVid(Dataset):
    """CamVid, 11 classes.

    Raises:
        ConfigError: the folder, a list or an image is missing, or the split is unknown.
    """

    class Config(Dataset.Config):
        """``root`` holds the layout above (default ``$KD_DATA/camvid``); ``resize`` (H, W) shrinks what is read."""

        root: str | None = None
        resize: tuple[PositiveInt, PositiveInt] | None = None

    classes: tuple[str, ...] = (
        "sky",
        "building",
        "pole",
        "road",
        "pavement",
        "tree",
        "sign",
        "fence",
        "car",
        "pedestrian",
        "bicyclist",
    )
    colours: tuple[Colour, ...] = (
        (128, 128, 128),
        (128, 0, 0),
        (192, 192, 128),
        (128, 64, 128),
        (0, 0, 192),
        (128, 128, 0),
        (192, 128, 128),
        (64, 64, 128),
        (64, 0, 128),
        (64, 64, 0),
        (0, 128, 192),
    )

    def __init__(self, config: Any, split: str) -> None:
        self.config = config
        self.root = data_root(config.root, "camvid")
        self.split = split
        self.stems = read_list(self.root / f"{split}.txt", "CamVid", SUFFIXES)
        self.images = located(self.root / split, self.stems, SUFFIXES)
        self.labels = [self.root / f"{split}annot" / f"{stem}.png" for stem in self.stems]

    def __len__(self) -> int:
        return len(self.stems)

    def identity(self, index: int) -> str:
        """The file's stem."""
        return self.stems[index]

    def files(self, index: int) -> Files:
        """Image and mask."""
        return Files(self.images[index], self.labels[index])

    def read(self, index: int) -> tuple[Tensor, Tensor]:
        """Image uint8 ``3 H W``, labels uint8 ``H W``."""
        path = self.labels[index]
        image, labels = read_pair(self.images[index], path)
        labels = labels.where(labels != VOID, IGNORE)
        check_labels(labels, len(self.classes), str(path))
        return resized(image, labels, self.config.resize)
