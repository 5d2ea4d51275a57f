"""CamVid as distributed with the SegNet tutorial: 11 classes, 367/101/233 street images of 360 x 480 pixels.

Layout: ``train/ trainannot/ val/ valannot/ test/ testannot/`` with PNG or JPEG images and index PNGs, and ``train.txt`` ...
with one stem (or path) a line. Label 11 (void) is ignored. The validation frames come from a sequence that also is in the
training set: select on ``val``, report ``test``. Brostow et al., "Semantic object classes in video", 2009.
"""

from __future__ import annotations

from typing import Any

from pydantic import PositiveInt
from torch import Tensor

from kd.config import ConfigError
from kd.data.dataset import Colour, Dataset, Files, check_labels
from kd.data.list_files import located, read_list
from kd.data.reading import data_root, read_image, read_pair, resized, shrunk
from kd.types import IGNORE

VOID = 11
HELD = "held"
SUFFIXES = (".png", ".jpg", ".jpeg")


class CamVid(Dataset):
    """CamVid, 11 classes.

    Raises:
        ConfigError: the folder, a list or an image is missing, or the split is unknown.
    """

    class Config(Dataset.Config):
        """``root`` holds the layout above (default ``$KD_DATA/camvid``); ``resize`` (H, W) shrinks what is read.

        ``held_out``: sequences of the training set (what file names begin with: 0001TP, 0006R0, 0016E5) that leave it and make
        the split ``held``, to measure on where ``val`` and ``test`` are trained on without their labels.
        """

        root: str | None = None
        resize: tuple[PositiveInt, PositiveInt] | None = None
        held_out: tuple[str, ...] = ()

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

    @classmethod
    def offers(cls, config: Any) -> tuple[str, ...]:
        """The three of old, and ``held`` where sequences are held out."""
        return (*cls.splits, *([HELD] if config.held_out else []))

    def __init__(self, config: Any, split: str) -> None:
        self.config = config
        self.root = data_root(config.root, "camvid")
        self.split = split
        folder = "train" if split == HELD else split
        stems = read_list(self.root / f"{folder}.txt", "CamVid", SUFFIXES)
        self.stems = _cut(stems, config.held_out, split) if folder == "train" else stems
        self.images = located(self.root / folder, self.stems, SUFFIXES)
        self.labels = [self.root / f"{folder}annot" / f"{stem}.png" for stem in self.stems]

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

    def image(self, index: int) -> Tensor:
        """The image alone."""
        return shrunk(read_image(self.images[index]), self.config.resize)


def _cut(stems: list[str], held: tuple[str, ...], split: str) -> list[str]:
    """The training set, or what is held out of it."""
    sequences = sorted({_sequence(stem) for stem in stems})
    for name in held:
        if name not in sequences:
            raise ConfigError(f"data.held_out: no training image is of {name}; the sequences are {', '.join(sequences)}")
    return [stem for stem in stems if (_sequence(stem) in held) == (split == HELD)]


def _sequence(stem: str) -> str:
    return stem.partition("_")[0]
