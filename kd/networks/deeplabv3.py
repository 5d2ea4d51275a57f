"""DeepLabV3: Chen et al., "Rethinking Atrous Convolution for Semantic Image Segmentation", arXiv 1706.05587."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from kd.keywords import keywords
from kd.networks.backbone import Levels
from kd.networks.network import Classifier, Network, check_pooled_norm, conv_norm_relu


class ASPP(nn.Module):
    """Parallel dilated convolutions and a global average, projected to ``width`` channels."""

    def __init__(self, inputs: int, config: Any, rates: tuple[int, ...], branch: Callable[..., nn.Module]) -> None:
        super().__init__()
        width, kernel = config.width, int(config.projection[0])
        self.branches = nn.ModuleList([branch(inputs, width, 1), *(branch(inputs, width, 3, rate) for rate in rates)])
        self.pooled = conv_norm_relu(inputs, width, 1)
        project = conv_norm_relu(width * (len(rates) + 2), width, kernel)
        self.project = nn.Sequential(project, nn.Dropout(config.aspp_dropout))

    def forward(self, features: Tensor) -> Tensor:
        """``B D h w`` to ``B width h w``."""
        check_pooled_norm(self, features)
        pooled = self.pooled(features.mean((2, 3), keepdim=True)).expand(-1, -1, *features.shape[-2:])
        return self.project(torch.cat([*(branch(features) for branch in self.branches), pooled], 1))


def build_aspp(config: Any, levels: Levels, branch: Callable[..., nn.Module] = conv_norm_relu) -> ASPP:
    """ASPP on the last level; the configured rates, which are for stride 8, follow its stride."""
    rates = tuple(max(1, rate * 8 // levels.strides[-1]) for rate in config.rates)
    return ASPP(levels.channels[-1], config, rates, branch)


class DeepLabHead(nn.Module):
    """ASPP, conv 3x3, norm, ReLU, dropout, classifier; without that convolution where ASPP's projection is one of 3x3."""

    def __init__(self, aspp: ASPP, config: Any, classifier: Classifier) -> None:
        super().__init__()
        self.aspp, self.classifier = aspp, classifier
        self.neck = conv_norm_relu(config.width, config.width) if config.projection == "1x1" else nn.Identity()

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
        """``width`` of ASPP and embedding; ``rates`` for output stride 8, halved at 16; ``aspp_dropout`` is ASPP's own.

        ``projection``: what makes ``width`` channels of ASPP's concatenated branches, a convolution of 1x1, before another of
        3x3 (the paper, CIRKD), or one of 3x3 alone (JDTLosses), which has far more parameters.
        """

        width: int = Field(default=128, ge=1)
        rates: tuple[Annotated[int, Field(ge=1)], ...] = (12, 24, 36)
        aspp_dropout: float = Field(default=0.0, ge=0, lt=1)
        projection: Literal["1x1", "3x3"] = "1x1"

    @keywords(Config)
    def __init__(self, config: Any, classes: int) -> None:
        super().__init__(config, classes)

    def build_head(self, levels: Levels, classes: int) -> tuple[nn.Module, int]:
        """The DeepLab head on the last level."""
        config = self.config
        head = DeepLabHead(build_aspp(config, levels), config, Classifier(config.width, classes, config))
        return head, config.width
