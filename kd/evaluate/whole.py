"""One forward pass over the whole image."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from kd.evaluate.logits import Logits, resampled
from kd.evaluate.predictor import Network, Predictor
from kd.keywords import keywords


class Whole(Predictor):
    """The whole image at scale 1 in one forward pass; logits are resampled to its size as the network's grid asks."""

    @keywords(Predictor.Config)
    def __init__(self, config: Any) -> None:
        super().__init__(config)

    def __call__(self, network: Network, image: Tensor) -> Tensor:
        """See ``Predictor``."""
        height, width = image.shape[-2:]
        return network(image).at((height, width))

    def read(self, network: Network, image: Tensor) -> list[Logits]:
        """See ``Predictor``."""
        height, width = image.shape[-2:]
        return resampled(network(image), (height, width))
