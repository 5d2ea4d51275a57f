"""A data set reached by ``package.module:Class``, as a user would write one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kd.data.dataset import Dataset
from kd.data.shapes import Shapes


class Unlabelled(Dataset):
    """Images of ``shapes`` whose training labels are all ignored."""

    class Config(Shapes.Config):
        """As ``shapes``."""

    classes = Shapes.classes
    colours = Shapes.colours

    def __init__(self, config: Any, split: str) -> None:
        self.data, self.split = Shapes(config, split), split

    def __len__(self) -> int:
        return len(self.data)

    def identity(self, index: int) -> str:
        """As ``shapes``."""
        return self.data.identity(index)

    def read(self, index: int) -> tuple[Tensor, Tensor]:
        """The image, and 255 everywhere in training."""
        image, labels = self.data.read(index)
        return image, torch.full_like(labels, 255) if self.split == "train" else labels
