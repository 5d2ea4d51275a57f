"""U-Net: Ronneberger et al., arXiv 1505.04597, with a timm backbone as its encoder."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from kd.config import ConfigError
from kd.keywords import keywords
from kd.networks.backbone import Levels
from kd.networks.network import Classifier, Network, conv_norm_relu, grid
from kd.types import resample


class UNetHead(nn.Module):
    """From the coarsest level to the finest: enlarge, set the next level beside, two convs 3x3; then dropout, classifier.

    With ``pixels`` a last block, which has no level to set beside, enlarges to stride 1.
    """

    def __init__(self, levels: Levels, config: Any, classifier: Classifier) -> None:
        super().__init__()
        skips = [*reversed(levels.channels[:-1]), *([0] if config.pixels else [])]
        inputs, blocks = levels.channels[-1], []
        for index, skip in enumerate(skips, 1):
            outputs = config.width * 2 ** (len(skips) - index)
            blocks.append(nn.Sequential(conv_norm_relu(inputs + skip, outputs), conv_norm_relu(outputs, outputs)))
            inputs = outputs
        self.blocks = nn.ModuleList(blocks)
        self.classifier, self.align_corners = classifier, config.align_corners
        self.enlarge = levels.strides[0] if config.pixels else 1

    def forward(self, pyramid: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Logits and embedding, at stride 1 or the finest level's."""
        features, *skips = reversed(pyramid)
        for block, skip in zip(self.blocks, skips, strict=False):
            features = block(torch.cat([resample(features, grid(skip), self.align_corners), skip], 1))
        if self.enlarge > 1:
            height, width = grid(features)
            features = self.blocks[-1](resample(features, (height * self.enlarge, width * self.enlarge), self.align_corners))
        return self.classifier(features)


class UNet(Network):
    """U-Net on any timm backbone with levels of several strides; logits at the finest one, 2 for ResNets and 4 for ConvNeXt.

    No level is finer, so the last block at stride 1, which sees no skip and costs as much as all others, is left out unless
    ``pixels`` asks for it. JDTLosses and segmentation-models have it: blocks of 256, 128, 64, 32 and 16 channels, ``width`` 16
    here, at output stride 32. A dilated backbone's levels of one grid are only set beside each other.
    """

    class Config(Network.Config):
        """``width`` of the last block, the embedding; each coarser one has twice as many channels.

        ``pixels``: a last block at stride 1, where the image has its pixels.
        """

        width: int = Field(default=32, ge=1)
        pixels: bool = False
        output_stride: int = Field(default=32, ge=1)

    @keywords(Config)
    def __init__(self, config: Any, classes: int) -> None:
        super().__init__(config, classes)

    def build_head(self, levels: Levels, classes: int) -> tuple[nn.Module, int]:
        """The decoder over all levels."""
        if len(set(levels.strides)) == 1:
            raise ConfigError(
                f"backbone: the U-Net needs levels of several strides, but the backbone's have {levels.told}; choose another "
                "backbone, or the head pspnet or deeplabv3"
            )
        config = self.config
        classifier = Classifier(config.width, classes, config)
        return UNetHead(levels, config, classifier), config.width

    def logit_stride(self, levels: Levels) -> int:
        """1 with a last block, else the finest level's."""
        return 1 if self.config.pixels else levels.strides[0]
