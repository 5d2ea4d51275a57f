"""DeepLabV3: Chen et al., "Rethinking Atrous Convolution for Semantic Image Segmentation", arXiv 1706.05587."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from kd.networks.backbone import Levels
from kd.networks.network import Classifier, Network, check_pooled_norm, conv_norm_relu


class ASPP(nn.Module):
    """Parallel dilated convolutions and a global average, projected to ``width`` channels."""

    def __init__(self, inputs: int, width: int, rates: tuple[int, ...], dropout: float) -> None:
        super().__init__()
        dilated = [conv_norm_relu(inputs, width, 3, rate) for rate in rates]
        self.branches = nn.ModuleList([conv_norm_relu(inputs, width, 1), *dilated])
        self.pooled = conv_norm_relu(inputs, width, 1)
        self.project = nn.Sequential(conv_norm_relu(width * (len(rates) + 2), width, 1), nn.Dropout(dropout))

    def forward(self, features: Tensor) -> Tensor:
        """``B D h w`` to ``B width h w``."""
        check_pooled_norm(self, features)
        pooled = self.pooled(features.mean((2, 3), keepdim=True)).expand(-1, -1, *features.shape[-2:])
        return self.project(torch.cat([*(branch(features) for branch in self.branches), pooled], 1))


def build_aspp(config: Any, levels: Levels) -> ASPP:
    """ASPP on the last level; the configured rates, which are for stride 8, follow its stride."""
    rates = tuple(max(1, rate * 8 // levels.strides[-1]) for rate in config.rates)
    return ASPP(levels.channels[-1], config.width, rates, config.aspp_dropout)


class DeepLabHead(nn.Module):
    """ASPP, conv 3x3, norm, ReLU, dropout, classifier."""

    def __init__(self, aspp: ASPP, width: int, classifier: Classifier) -> None:
        super().__init__()
        self.aspp, self.neck, self.classifier = aspp, conv_norm_relu(width, width), classifier

    def forward(self, pyramid: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Logits and embedding."""
        return self.classifier(self.neck(self.aspp(pyramid[-1])))


class DeepLabV3(Network):
    """DeepLabV3 on any timm backbone; logits at the output stride.

    Widths of the published families: JDTLosses 128 for ResNet18-D and MobileNetV2 and 512 for ResNet50/101-D, auxiliary heads
    of 64 and 256; CIRKD (2022) 128 for ResNet18 and MobileNetV2 and 256 for ResNet101, auxiliary heads of 64, none and 256;
    its later version 512 for both ResNets. CIRKD has ``aspp_dropout`` 0.5 and a stem of three convolutions.
    """

    class Config(Network.Config):
        """``width`` of ASPP and embedding; ``rates`` for output stride 8, halved at 16; ``aspp_dropout`` is ASPP's own."""

        width: int = Field(128, ge=1)
        rates: tuple[Annotated[int, Field(ge=1)], ...] = (12, 24, 36)
        aspp_dropout: float = Field(0.0, ge=0, lt=1)

    def build_head(self, levels: Levels, classes: int) -> tuple[nn.Module, int]:
        """The DeepLab head on the last level."""
        config = self.config
        aspp = build_aspp(config, levels)
        classifier = Classifier(config.width, classes, config.dropout, config.tap)
        return DeepLabHead(aspp, config.width, classifier), config.width
