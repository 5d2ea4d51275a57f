"""PASCAL VOC 2012 segmentation, 21 classes: 10 582 (with SBD) or 1464 images to train on, 1449 of val; about 375 x 500 pixels.

Layout: ``JPEGImages/ID.jpg``, ``SegmentationClass/ID.png``, ``SegmentationClassAug/ID.png`` (made of SBD, see
`kd prepare`), ``ImageSets/Segmentation/{train,val,trainaug}.txt``. The white lines around objects are 255: ignored.
Everingham et al., "The PASCAL visual object classes challenge: a retrospective", IJCV 2015; Hariharan et al., "Semantic
contours from inverse detectors" (SBD), ICCV 2011.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import PositiveInt
from torch import Tensor

from kd.config import ConfigError
from kd.data.dataset import Colour, Dataset, Files, check_labels
from kd.data.list_files import Count, by_stem, check_count, located, read_list
from kd.data.reading import data_root, read_pair, resized

SUFFIXES = (".jpg", ".jpeg", ".png")
IMAGES = {"train": 1464, "trainaug": 10582, "val": 1449}


class VOC(Dataset):
    """PASCAL VOC 2012, background and 20 classes.

    Raises:
        ConfigError: a folder, list or file is missing, there are not as many as published, or train and val overlap.
    """

    class Config(Dataset.Config):
        """``root`` is VOC2012, VOCdevkit, or what holds it (default ``$KD_DATA/voc``).

        ``train``: ``aug`` trains on VOC and SBD, ``official`` on VOC alone. ``overlap``: whose label map trains where both have
        one: ``sbd`` as in JDTLosses and CIRKD, or ``voc`` (with its ignored object borders). ``val_labels``: VOC's own, or
        ``sbd_first``, SBD's where val has them (773 of 1449 at least), which JDTLosses' numbers are of. ``resize`` (H, W)
        shrinks what is read; ``count``: ``official`` refuses a split that is incomplete, ``any`` accepts it.
        """

        root: str | None = None
        train: Literal["aug", "official"] = "aug"
        overlap: Literal["sbd", "voc"] = "sbd"
        val_labels: Literal["voc", "sbd_first"] = "voc"
        resize: tuple[PositiveInt, PositiveInt] | None = None
        count: Count = "official"

    classes: tuple[str, ...] = (
        "background",
        "aeroplane",
        "bicycle",
        "bird",
        "boat",
        "bottle",
        "bus",
        "car",
        "cat",
        "chair",
        "cow",
        "diningtable",
        "dog",
        "horse",
        "motorbike",
        "person",
        "pottedplant",
        "sheep",
        "sofa",
        "train",
        "tvmonitor",
    )
    colours: tuple[Colour, ...] = (
        (0, 0, 0),
        (128, 0, 0),
        (0, 128, 0),
        (128, 128, 0),
        (0, 0, 128),
        (128, 0, 128),
        (0, 128, 128),
        (128, 128, 128),
        (64, 0, 0),
        (192, 0, 0),
        (64, 128, 0),
        (192, 128, 0),
        (64, 0, 128),
        (192, 0, 128),
        (64, 128, 128),
        (192, 128, 128),
        (0, 64, 0),
        (128, 64, 0),
        (0, 192, 0),
        (128, 192, 0),
        (0, 64, 128),
    )
    splits: ClassVar[tuple[str, ...]] = ("train", "val")

    def __init__(self, config: Any, split: str) -> None:
        self.config, self.split = config, split
        self.root = _home(data_root(config.root, "voc"))
        augmented = split == "train" and config.train == "aug"
        self.stems = _augmented(self.root) if augmented else _listed(self.root, split)
        check_count(self.root, split, len(self.stems), IMAGES["trainaug" if augmented else split], config.count)
        self.images = located(self.root / "JPEGImages", self.stems, SUFFIXES[:2])
        overlap = "sbd" if split == "val" and config.val_labels == "sbd_first" else config.overlap if augmented else None
        self.labels = _labels(self.root, self.stems, overlap)
        if overlap == "sbd" and not any(label.parent.name == "SegmentationClassAug" for label in self.labels):
            raise ConfigError(
                f"{self.root}: SBD's label maps, which {'data.val_labels=sbd_first' if split == 'val' else 'data.train=aug'} "
                f"asks for, are missing: none of {split} lies in SegmentationClassAug; `kd prepare voc` makes them anew"
            )

    def __len__(self) -> int:
        return len(self.stems)

    def identity(self, index: int) -> str:
        """E.g. ``2007_000032``."""
        return self.stems[index]

    def files(self, index: int) -> Files:
        """Image and mask."""
        return Files(self.images[index], self.labels[index])

    def read(self, index: int) -> tuple[Tensor, Tensor]:
        """Image uint8 ``3 H W``, labels uint8 ``H W``.

        Raises:
            LabelError: a value is no class and not 255.
            BrokenFileError: a file cannot be decoded, or the sizes differ.
        """
        image, labels = read_pair(self.images[index], self.labels[index])
        check_labels(labels, len(self.classes), str(self.labels[index]))
        return resized(image, labels, self.config.resize)


def _home(root: Path) -> Path:
    """The folder that holds JPEGImages."""
    places = (root, root / "VOC2012", root / "VOCdevkit" / "VOC2012")
    found = next((place for place in places if (place / "JPEGImages").is_dir()), None)
    if found is None:
        raise ConfigError(
            f"{root}: holds neither JPEGImages nor VOC2012/JPEGImages nor VOCdevkit/VOC2012/JPEGImages; point data.root at "
            "VOC2012, or let `kd prepare voc` build it from the official archives"
        )
    return found


def _listed(root: Path, split: str) -> list[str]:
    return read_list(root / "ImageSets" / "Segmentation" / f"{split}.txt", "VOC", SUFFIXES)


def _augmented(root: Path) -> list[str]:
    """The images of train_aug; none of them may be of val."""
    file = root / "ImageSets" / "Segmentation" / "trainaug.txt"
    if not file.is_file():
        raise ConfigError(
            f"{file}: is missing; `kd prepare voc` makes it of the SBD archive. Or train on VOC's own 1464 images with "
            "data.train=official"
        )
    names = _listed(root, "trainaug")
    leaked = sorted(set(names) & set(_listed(root, "val")))
    if leaked:
        raise ConfigError(f"{file}: holds {len(leaked)} images of val, first {leaked[0]}; let `kd prepare voc` make it anew")
    return names


def _labels(root: Path, names: list[str], overlap: str | None) -> list[Path]:
    """The label map of each image: VOC's, and with ``overlap`` also SBD's; it says whose wins."""
    voc, sbd = by_stem(root / "SegmentationClass", (".png",)), by_stem(root / "SegmentationClassAug", (".png",))
    there = voc if overlap is None else {**voc, **sbd} if overlap == "sbd" else {**sbd, **voc}
    missing = [name for name in names if name not in there]
    if missing:
        folders = "SegmentationClass" if overlap is None else "SegmentationClass and SegmentationClassAug"
        raise ConfigError(
            f"{root}: {len(missing)} of {len(names)} listed images have no label map in {folders}, first {missing[0]}.png; is "
            "the copy complete? `kd prepare voc` makes it of the official archives"
        )
    return [there[name] for name in names]
