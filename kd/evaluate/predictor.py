"""How a network is applied to an image of any size. One predictor a file; the file's name is its name in a recipe."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor

from kd.config import Named
from kd.evaluate.logits import Logits
from kd.types import Outputs

Network = Callable[[Tensor], Outputs]
"""Images ``B C H W``, mostly RGB, uint8 or floats in [0, 1], to ``Outputs``; normalisation is its own business."""


class Predictor(ABC):
    """From images to logits at the images' size."""

    class Config(Named):
        """Knobs of the predictor."""

    def __init__(self, config: Config) -> None:
        self.config = config

    @abstractmethod
    def __call__(self, network: Network, image: Tensor) -> Tensor:
        """Logits float32 ``B K H W`` of images ``B C H W``, uint8 or floats in [0, 1], on their device."""

    def read(self, network: Network, image: Tensor) -> list[Logits]:
        """The same, up to rounding, as something to be read by rows: one for each image. A predictor that need not hold maps of
        the images' size overrides this too."""
        return [Logits.of(maps) for maps in self(network, image)]

    def __init_subclass__(cls) -> None:
        """A class that predicts otherwise is read as it predicts."""
        if "__call__" in vars(cls) and "read" not in vars(cls):
            cls.read = Predictor.read  # type: ignore[method-assign]
