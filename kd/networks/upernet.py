"""UPerNet: Xiao et al., "Unified Perceptual Parsing for Scene Understanding", arXiv 1807.10221."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from kd.keywords import keywords
from kd.networks.backbone import Levels
from kd.networks.network import Classifier, Network, conv_norm_relu, grid
from kd.networks.pspnet import PSPNet, build_pooling
from kd.types import resample


class UPerHead(nn.Module):
    """Pyramid pooling on the last level, a feature pyramid down to the finest, all levels fused; dropout, classifier."""

    def __init__(self, channels: tuple[int, ...], width: int, top: nn.Module, classifier: Classifier, corners: bool) -> None:
        super().__init__()
        self.top = top
        self.lateral = nn.ModuleList([conv_norm_relu(inputs, width, 1) for inputs in channels[:-1]])
        self.smooth = nn.ModuleList([conv_norm_relu(width, width) for _ in channels[:-1]])
        self.fuse = conv_norm_relu(len(channels) * width, width)
        self.classifier, self.align_corners = classifier, corners

    def forward(self, pyramid: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Logits and embedding, at the finest level used."""
        used = pyramid[-len(self.lateral) - 1 :]
        coarse = self.top(used[-1])
        maps = [coarse]
        for lateral, smooth, level in reversed(list(zip(self.lateral, self.smooth, used[:-1], strict=True))):
            coarse = lateral(level) + resample(coarse, grid(level), self.align_corners)
            maps.append(smooth(coarse))
        return self.classifier(self.fuse(torch.cat([resample(m, grid(used[0]), self.align_corners) for m in maps], 1)))


class UPerNet(Network):
    """UPerNet on the levels of stride 4 and coarser of any timm backbone; logits at the finest of them.

    Widths of the published families: 512 with an auxiliary head of 256 in the paper's code and JDTLosses.
    """

    class Config(PSPNet.Config):
        """As PSPNet's; ``width`` is that of the feature pyramid too."""

        output_stride: int = Field(default=32, ge=1)

    @keywords(Config)
    def __init__(self, config: Any, classes: int) -> None:
        super().__init__(config, classes)

    def build_head(self, levels: Levels, classes: int) -> tuple[nn.Module, int]:
        """The feature pyramid over the levels of stride 4 and coarser."""
        config, channels = self.config, levels.without_stem().channels
        top = nn.Sequential(*build_pooling(config, channels[-1]))
        classifier = Classifier(config.width, classes, config)
        return UPerHead(channels, config.width, top, classifier, config.align_corners), config.width

    def logit_stride(self, levels: Levels) -> int:
        """The finest used level's."""
        return levels.without_stem().strides[0]
