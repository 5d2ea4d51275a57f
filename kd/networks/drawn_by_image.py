"""Dropout whose masks follow from the image, not from the process that sees it: several processes are one with dropout too."""

from __future__ import annotations

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from kd.seeds import by_image


def _thinned(values: Tensor, dropped: float, shape: tuple[int, ...], scaled: bool = True) -> Tensor:
    """Values ``B ...``, of which a share is 0, with masks of ``shape`` for each image; the others by ``1 / (1 - dropped)``."""
    source = torch.Generator(values.device)
    kept = torch.empty(len(values), *shape, dtype=torch.bool, device=values.device)  # a byte a value is kept for backward
    for image, seed in zip(kept, by_image(len(values)), strict=True):
        image.bernoulli_(1 - dropped, generator=source.manual_seed(seed))
    thinned = values * kept
    return thinned.mul_(1 / (1 - dropped)) if scaled and dropped < 1 else thinned


class DropoutByImage(nn.Dropout):
    """Of single values."""

    def forward(self, values: Tensor) -> Tensor:
        """``B ...``, of any shape."""
        return _thinned(values, self.p, tuple(values.shape[1:])) if self.training and self.p else values


class Dropout2dByImage(nn.Dropout2d):
    """Of whole channels."""

    def forward(self, values: Tensor) -> Tensor:
        """``B D h w``."""
        return _thinned(values, self.p, (values.shape[1], 1, 1)) if self.training and self.p else values


class DropPathByImage(DropPath):
    """Of timm's residual branches, whole."""

    def forward(self, values: Tensor) -> Tensor:
        """``B ...``, of any shape."""
        if not (self.training and self.drop_prob):
            return values
        return _thinned(values, self.drop_prob, (1,) * (values.ndim - 1), self.scale_by_keep)


KINDS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Dropout: DropoutByImage,
    nn.Dropout2d: Dropout2dByImage,
    DropPath: DropPathByImage,
}


def draw_by_image(network: nn.Module) -> None:
    """Let the dropout layers in a network draw for each image by itself, in place; functional dropout stays as it is."""
    for module in network.modules():
        if type(module) in KINDS:
            module.__class__ = KINDS[type(module)]
