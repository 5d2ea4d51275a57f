"""PSPNet: Zhao et al., "Pyramid Scene Parsing Network", arXiv 1612.01105."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kd.keywords import keywords
from kd.networks.backbone import Levels
from kd.networks.network import Classifier, Network, check_pooled_norm, conv_norm_relu, grid


class PyramidPooling(nn.Module):
    """Averages over ``bins x bins`` regions, each projected to ``width`` channels, enlarged and set beside the features."""

    def __init__(self, inputs: int, width: int, bins: tuple[int, ...], align_corners: bool) -> None:
        super().__init__()
        self.bins, self.align_corners = bins, align_corners
        self.branches = nn.ModuleList([conv_norm_relu(inputs, width, 1) for _ in bins])

    def forward(self, features: Tensor) -> Tensor:
        """``B D h w`` to ``B (D + bins * width) h w``."""
        if 1 in self.bins:
            check_pooled_norm(self, features)
        pool = averages if torch.onnx.is_in_onnx_export() else F.adaptive_avg_pool2d
        pooled = [branch(pool(features, bins)) for bins, branch in zip(self.bins, self.branches, strict=True)]
        # resample would compare the sizes, and an exported network would keep for all images what is true for the one traced
        laid = partial(F.interpolate, size=grid(features), mode="bilinear", align_corners=self.align_corners)
        return torch.cat([features, *(laid(maps) for maps in pooled)], 1)


def averages(features: Tensor, bins: int) -> Tensor:
    """``F.adaptive_avg_pool2d(features, bins)`` as two products of matrices, ``B D h w`` to ``B D bins bins``.

    ONNX has no such operator: what the exporter makes of it is right at the size traced only.
    """
    height, width = (windows(length, bins, features) for length in grid(features))
    return ((features @ width).mT @ height).mT


def windows(length: int, bins: int, like: Tensor) -> Tensor:
    """``length bins``: column ``i`` averages ``floor(i * length / bins)`` up to ``ceil((i + 1) * length / bins)``."""
    place, step = (torch.arange(count, device=like.device) for count in (length, bins))
    first, end = step * length // bins, ((step + 1) * length + bins - 1) // bins
    inside = (place[:, None] >= first) & (place[:, None] < end)
    return (inside / (end - first)).to(like.dtype)


def build_pooling(config: Any, inputs: int) -> tuple[PyramidPooling, nn.Sequential]:
    """Pyramid pooling and the 3x3 convolution that narrows what it sets side by side."""
    pooled = config.pooled or config.width
    pooling = PyramidPooling(inputs, pooled, config.bins, config.align_corners)
    return pooling, conv_norm_relu(inputs + len(config.bins) * pooled, config.width)


class PSPHead(nn.Module):
    """Pyramid pooling, conv 3x3, norm, ReLU, dropout, classifier."""

    def __init__(self, pooling: PyramidPooling, neck: nn.Module, classifier: Classifier) -> None:
        super().__init__()
        self.pooling, self.neck, self.classifier = pooling, neck, classifier

    def forward(self, pyramid: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Logits and embedding."""
        return self.classifier(self.neck(self.pooling(pyramid[-1])))


class PSPNet(Network):
    """PSPNet on any timm backbone; logits at the output stride.

    Widths of the published families: JDTLosses 128 for ResNet18-D and 512 for ResNet101-D, auxiliary heads of 64 and 256. CIRKD
    (2022) the same on ResNet18 and ResNet101 with the three-convolution stem; its later version 256 for ResNet101, pooled 512.
    """

    class Config(Network.Config):
        """``width`` of the embedding; ``bins`` the pyramid's grids; ``pooled`` channels of each of them (0: ``width``)."""

        width: int = Field(default=128, ge=1)
        bins: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(1, 2, 3, 6), min_length=1)
        pooled: int = Field(default=0, ge=0)

    @keywords(Config)
    def __init__(self, config: Any, classes: int) -> None:
        super().__init__(config, classes)

    def build_head(self, levels: Levels, classes: int) -> tuple[nn.Module, int]:
        """The pyramid head on the last level."""
        config = self.config
        classifier = Classifier(config.width, classes, config)
        return PSPHead(*build_pooling(config, levels.channels[-1]), classifier), config.width
