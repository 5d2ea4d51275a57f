"""One forward pass over the whole image."""

from __future__ import annotations

from torch import Tensor

from kd.evaluate.predictor import Network, Predictor


class Whole(Predictor):
    """The whole image at scale 1 in one forward pass; logits are resampled to its size as the network's grid asks."""

    def __call__(self, network: Network, image: Tensor) -> Tensor:
        """See ``Predictor``."""
        height, width = image.shape[-2:]
        return network(image).at((height, width))
