"""Training images with labels and without, as one data set."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from kd.config import ConfigError
from kd.data.bands import Bands
from kd.data.dataset import Dataset, Files
from kd.types import UNLABELLED


class Joined(Dataset):
    """The samples of ``labelled``, if there are any, and behind them the images of ``free``, whose labels are not looked at.

    ``share`` of a training batch is of the latter. They are called ``SPLIT__NAME``.
    """

    def __init__(self, labelled: Dataset | None, free: Mapping[str, Dataset], share: float) -> None:
        first = labelled if labelled is not None else next(iter(free.values()))
        self.labels, self.share, self.classes, self.colours = labelled, share, first.classes, first.colours
        self.first, self.channels = first, first.channels
        if len(self.classes) > UNLABELLED:
            raise ConfigError(
                f"unlabelled: the data has {len(self.classes)} classes; beside images without labels there can be {UNLABELLED}"
            )
        self.known = len(labelled) if labelled is not None else 0
        self.free = [(split, data, index) for split, data in free.items() for index in range(len(data))]

    @property
    def bands(self) -> Bands:
        """As of the first."""
        return self.first.bands

    def __len__(self) -> int:
        return self.known + len(self.free)

    def labelled(self, index: int) -> bool:
        """Whether it is one of the first."""
        return index < self.known

    def identity(self, index: int) -> str:
        """Of images without labels with their split's name."""
        if self.labels is not None and self.labelled(index):
            return self.labels.identity(index)
        split, data, number = self.free[index - self.known]
        return f"{split}__{data.identity(number)}"

    def read(self, index: int) -> tuple[Tensor, Tensor]:
        """Image ``C H W``, labels uint8 ``H W``: all ``UNLABELLED`` where there are none."""
        if self.labels is not None and self.labelled(index):
            return self.labels.read(index)
        image = self.image(index)
        return image, torch.full(image.shape[1:], UNLABELLED, dtype=torch.uint8)

    def image(self, index: int) -> Tensor:
        """The image alone."""
        if self.labels is not None and self.labelled(index):
            return self.labels.image(index)
        _, data, number = self.free[index - self.known]
        return data.image(number)

    def files(self, index: int) -> Files:
        """Where it comes from."""
        if self.labels is not None and self.labelled(index):
            return self.labels.files(index)
        _, data, number = self.free[index - self.known]
        return Files(data.files(number).image)
