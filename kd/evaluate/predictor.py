"""How a network is applied to an image of any size. One predictor a file; the file's name is its name in a recipe."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from kd.config import Named
from kd.types import Outputs

Network = Callable[[Tensor], Outputs]
"""RGB ``B 3 H W``, uint8 or floats in [0, 1], to ``Outputs``; normalisation is its own business."""


class Predictor(ABC):
    """From images to logits at the images' size."""

    class Config(Named):
        """Knobs of the predictor."""

    def __init__(self, config: Config) -> None:
        self.config = config

    @abstractmethod
    def __call__(self, network: Network, image: Tensor) -> Tensor:
        """Logits float32 ``B K H W`` of a uint8 image ``B 3 H W``, on its device."""


def labels(logits: Tensor) -> Tensor:
    """The class with the highest logit, uint8 ``H W`` of ``K H W`` with K <= 255; the first one among equals.

    A running maximum over the classes: a third of the time of ``argmax`` over the first axis, and no map of int64.

    Raises:
        FloatingPointError: the highest logit of a pixel is not finite, so that no class can be told.
    """
    best = logits[0].clone()
    found = torch.zeros(best.shape, dtype=torch.uint8, device=best.device)
    for number, score in enumerate(logits[1:], 1):
        found.masked_fill_(score > best, number)
        torch.maximum(best, score, out=best)
    if not best.isfinite().all():
        raise FloatingPointError("the network's logits hold NaN or infinity; a score needs finite ones: check the weights")
    return found
