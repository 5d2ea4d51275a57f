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
        parts = {**({"": labelled} if labelled is not None else {}), **{f"{split}__": data for split, data in free.items()}}
        self.first = first = next(iter(parts.values()))
        self.labels, self.share = labelled, share
        self.classes, self.colours, self.channels = first.classes, first.colours, first.channels
        if len(self.classes) > UNLABELLED:
            raise ConfigError(
                f"unlabelled: the data has {len(self.classes)} classes; beside images without labels there can be {UNLABELLED}"
            )
        self.known = len(labelled) if labelled is not None else 0
        self.samples = [(prefix, data, number) for prefix, data in parts.items() for number in range(len(data))]

    @property
    def bands(self) -> Bands:
        """As of the first."""
        return self.first.bands

    def __len__(self) -> int:
        return len(self.samples)

    def labelled(self, index: int) -> bool:
        """Whether it is one of the first."""
        return index < self.known

    def identity(self, index: int) -> str:
        """Of images without labels with their split's name."""
        prefix, data, number = self.samples[index]
        return f"{prefix}{data.identity(number)}"

    def read(self, index: int) -> tuple[Tensor, Tensor]:
        """Image ``C H W``, labels uint8 ``H W``: all ``UNLABELLED`` where there are none."""
        _, data, number = self.samples[index]
        if self.labelled(index):
            return data.read(number)
        image = data.image(number)
        return image, torch.full(image.shape[1:], UNLABELLED, dtype=torch.uint8)

    def image(self, index: int) -> Tensor:
        """The image alone."""
        _, data, number = self.samples[index]
        return data.image(number)

    def files(self, index: int) -> Files:
        """Where it comes from."""
        _, data, number = self.samples[index]
        return data.files(number) if self.labelled(index) else Files(data.files(number).image)
