"""What a data set must offer: classes with colours, and numbered pairs of image and labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from kd.config import InputError, Named
from kd.data.bands import Bands
from kd.types import IGNORE

Colour = tuple[int, int, int]


Reading = Literal["numbers", "colours", "greys"]


class Files(NamedTuple):
    """An image's and a mask's file, where there are any, and what is read of the mask."""

    image: Path | None = None
    mask: Path | None = None
    read: Reading = "numbers"


class LabelError(InputError):
    """A label map holds a value that is no class and not ignored."""


class Dataset(ABC):
    """Pairs of an image and a label map, by number.

    ``classes`` and ``colours`` are parallel; label ``i`` means ``classes[i]``, 255 means ignored. ``splits`` names what can be
    asked for; :meth:`offers` where that depends on the configuration. Images have so many ``channels``; 3 are RGB. Reading must
    be a pure function of the number.
    """

    class Config(Named):
        """Knobs of the data set. ``store``: what ``kd prepare RECIPE --store DIR`` has written, read instead of the files."""

        store: str | None = None

    classes: tuple[str, ...]
    colours: tuple[Colour, ...]
    splits: ClassVar[tuple[str, ...]] = ("train", "val", "test")
    unlabelled: ClassVar[tuple[str, ...]] = ()
    """Further splits, whose labels are secret or were never made: to be predicted or learnt from, never scored."""
    channels: int = 3

    @abstractmethod
    def __init__(self, config: Config, split: str) -> None: ...

    @classmethod
    def offers(cls, config: Any) -> tuple[str, ...]:  # noqa: ARG003
        """The splits that a configuration has."""
        return cls.splits

    @classmethod
    def without_labels(cls, config: Any) -> tuple[str, ...]:  # noqa: ARG003
        """The further splits that a configuration has, see ``unlabelled``."""
        return cls.unlabelled

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def identity(self, index: int) -> str:
        """A stable name of a sample, unique in the split, fit for a file name."""

    @abstractmethod
    def read(self, index: int) -> tuple[Tensor, Tensor]:
        """Image uint8 ``C H W``, or floats in [0, 1], and labels uint8 ``H W`` with 255 for ignored pixels."""

    @property
    def bands(self) -> Bands:
        """What the images' channels are; so many of 8 bits, where a data set says no more."""
        return Bands(self.channels)

    def image(self, index: int) -> Tensor:
        """The image alone; its labels need not be there."""
        return self.read(index)[0]

    def labelled(self, index: int) -> bool:  # noqa: ARG002
        """Whether a sample has labels; the target of one that has not is ``UNLABELLED`` wherever there is a picture."""
        return True

    @property
    def notes(self) -> list[str]:
        """What ``kd check-data`` should tell about files that are not read, though a user may think they are."""
        return []

    def files(self, index: int) -> Files:  # noqa: ARG002
        """Where a sample comes from, so that ``kd check-data`` can tell what the files are."""
        return Files()


def has_strangers(labels: Tensor, classes: int) -> bool:
    """Whether a label of a uint8 map is no class and not ignored."""
    return bool((labels.numpy() + np.uint8(1)).max(initial=0) > classes)  # 255, which is ignored, becomes 0


def check_labels(labels: Tensor, classes: int, source: str) -> None:
    """Refuse labels outside the classes.

    Raises:
        LabelError: naming the source, the values and the remedy.
    """
    if not has_strangers(labels, classes):
        return
    present = torch.bincount(labels.flatten().long(), minlength=256)
    present[IGNORE] = 0
    wrong = present[classes:].nonzero().flatten() + classes
    if len(wrong):
        values = ", ".join(str(int(value)) for value in wrong[:8])
        count = int(present[classes:].sum())
        raise LabelError(
            f"{source}: {count} pixels hold label {values}; labels must be 0..{classes - 1}, or {IGNORE} for ignored. "
            "Map the file's values onto the classes, or correct the data set's class list."
        )
