"""What is measured on: the size of a batch and of both networks' outputs, and random ones of that size."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kd.types import Outputs, Sizes


@dataclass(frozen=True)
class Setting:
    """A batch of ``batch`` crops (H, W) with ``classes``; stride and widths (student, teacher) of the networks; the device.

    The embedding is the only level of their backbones, too.
    """

    crop: tuple[int, int] = (512, 1024)
    batch: int = 2
    classes: int = 19
    stride: int = 8
    widths: tuple[int, int] = (128, 256)
    device: str = "cpu"

    def sizes(self, width: int) -> Sizes:
        """What a network of the pair declares."""
        grid = (-(-self.crop[0] // self.stride), -(-self.crop[1] // self.stride))
        return Sizes(self.classes, self.stride, width, True, (width,), (self.stride,), grid)

    def small(self) -> Setting:
        """The same on crops of 64 x 128, to warm up."""
        return replace(self, crop=(64, 128))


def random_outputs(setting: Setting, width: int, seed: int) -> Outputs:
    """Outputs of a network at random, as leaves."""
    source = torch.Generator().manual_seed(seed)
    height, across = setting.sizes(width).grid

    def maps(channels: int) -> Tensor:
        values = torch.randn(setting.batch, channels, height, across, generator=source)
        return values.to(setting.device).requires_grad_()

    logits, aux, embedding = maps(setting.classes), maps(setting.classes), maps(width)
    return Outputs(logits, aux, embedding, (embedding,))


def random_target(setting: Setting) -> Tensor:
    """Labels in blocks of 64 pixels."""
    source = torch.Generator().manual_seed(2)
    height, width = (-(-side // 64) for side in setting.crop)
    labels = torch.randint(setting.classes, (setting.batch, height, width), generator=source)
    blocks = labels.repeat_interleave(64, 1).repeat_interleave(64, 2)
    return blocks[:, : setting.crop[0], : setting.crop[1]].contiguous().to(setting.device)
