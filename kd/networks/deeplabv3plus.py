"""DeepLabV3+: Chen et al., "Encoder-Decoder with Atrous Separable Convolution", arXiv 1802.02611."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from kd.keywords import keywords
from kd.networks.backbone import Levels
from kd.networks.deeplabv3 import ASPP, DeepLabV3, build_aspp
from kd.networks.network import Classifier, Network, conv_norm_relu, grid, separable
from kd.types import resample


class DecoderHead(nn.Module):
    """ASPP enlarged to the fine level, beside that level's projection; two convs 3x3, dropout, classifier."""

    def __init__(self, aspp: ASPP, fine: int, low: nn.Module, neck: nn.Module, classifier: Classifier, corners: bool) -> None:
        super().__init__()
        self.aspp, self.low, self.neck, self.classifier = aspp, low, neck, classifier
        self.fine, self.align_corners = fine, corners

    def forward(self, pyramid: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Logits and embedding, at the fine level's stride."""
        fine = self.low(pyramid[self.fine])
        coarse = resample(self.aspp(pyramid[-1]), grid(fine), self.align_corners)
        return self.classifier(self.neck(torch.cat([coarse, fine], 1)))


class DeepLabV3Plus(Network):
    """DeepLabV3+ on any timm backbone with a level of stride 4, which is the logits' stride.

    Widths of the published families: 256 at output stride 16 in the paper; JDTLosses 128 for ResNet18-D and 512 for
    ResNet50/101-D at 8, with ``separable`` and ASPP's ``projection`` of 3x3.
    """

    class Config(DeepLabV3.Config):
        """As DeepLabV3's; ``low`` is the channels that the level of stride 4 is projected to.

        ``separable``: ASPP's convolutions and the two after the shortcut are depthwise separable (JDTLosses).
        """

        low: int = Field(default=48, ge=1)
        separable: bool = False

    @keywords(Config)
    def __init__(self, config: Any, classes: int) -> None:
        super().__init__(config, classes)

    def build_head(self, levels: Levels, classes: int) -> tuple[nn.Module, int]:
        """The decoder on the level of stride 4 and the last one."""
        config, fine = self.config, levels.at(4)
        conv = separable if config.separable else conv_norm_relu
        low = conv_norm_relu(levels.channels[fine], config.low, 1)
        neck = nn.Sequential(conv(config.width + config.low, config.width), conv(config.width, config.width))
        classifier = Classifier(config.width, classes, config)
        return DecoderHead(build_aspp(config, levels, conv), fine, low, neck, classifier, config.align_corners), config.width

    def logit_stride(self, levels: Levels) -> int:
        """4."""
        return levels.strides[levels.at(4)]
