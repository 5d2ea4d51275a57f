"""Large images by tiles, a row of tiles at a time."""

from __future__ import annotations

from math import ceil
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from kd.evaluate.logits import Logits, merged, resampled
from kd.evaluate.predictor import Network, Predictor
from kd.evaluate.sliding import offsets
from kd.keywords import keywords


class Tiled(Predictor):
    """Overlapping tiles, their logits averaged where they overlap, as ``sliding`` averages windows.

    A tile is looked at when its rows are read, and forgotten behind them, so that the logits of one or two rows of tiles are
    all that is held of an image however large; who reads twice has the network look twice. Images smaller than a tile are not
    padded.
    """

    class Config(Predictor.Config):
        """``tile`` is the side in pixels, ``overlap`` the share of it that neighbours have in common."""

        tile: int = Field(default=1024, ge=32)
        overlap: float = Field(default=0.25, ge=0, lt=1)

    config: Config

    @keywords(Config)
    def __init__(self, config: Any) -> None:
        super().__init__(config)

    def __call__(self, network: Network, image: Tensor) -> Tensor:
        """See ``Predictor``."""
        return torch.stack([logits.whole() for logits in self.read(network, image)]).to(image.device)

    def read(self, network: Network, image: Tensor) -> list[Logits]:
        """See ``Predictor``; what is read lies in the processor's memory."""
        return [self._read(network, image[number : number + 1]) for number in range(len(image))]

    def _read(self, network: Network, image: Tensor) -> Logits:
        height, width = image.shape[-2:]
        step = max(1, ceil(self.config.tile * (1 - self.config.overlap)))
        down, across = min(self.config.tile, height), min(self.config.tile, width)
        tops, lefts = offsets(height, down, step), offsets(width, across, step)
        whole = slice(0, height), slice(0, width)
        seen: dict[int, list[Logits]] = {}

        def row(top: int) -> list[Logits]:
            tiles = (image[..., top : top + down, left : left + across] for left in lefts)
            return [resampled(network(tile), (down, across))[0] for tile in tiles]

        def at(rows: slice) -> Tensor:
            for passed in [top for top in seen if top + down <= rows.start]:
                del seen[passed]
            needed = [top for top in tops if top < rows.stop and top + down > rows.start]
            seen.update({top: row(top) for top in needed if top not in seen})
            corners = [(top, left) for top in needed for left in lefts]
            return merged([tile for top in needed for tile in seen[top]], corners, whole).at(rows).cpu()

        seen[0] = row(0)
        return Logits((seen[0][0].shape[0], height, width), torch.device("cpu"), at)
