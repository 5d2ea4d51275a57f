"""U-Net: Ronneberger et al., arXiv 1505.04597, with a timm backbone as its encoder."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from kd.config import ConfigError
from kd.networks.backbone import Levels
from kd.networks.network import Classifier, Network, conv_norm_relu, grid
from kd.types import resample


class UNetHead(nn.Module):
    """From the coarsest level to the finest: enlarge, set the next level beside, two convs 3x3; then dropout, classifier."""

    def __init__(self, levels: Levels, width: int, classifier: Classifier, align_corners: bool) -> None:
        super().__init__()
        inputs, blocks = levels.channels[-1], []
        for index, skip in reversed(list(enumerate(levels.channels[:-1]))):
            outputs = width * 2**index
            blocks.append(nn.Sequential(conv_norm_relu(inputs + skip, outputs), conv_norm_relu(outputs, outputs)))
            inputs = outputs
        self.blocks = nn.ModuleList(blocks)
        self.classifier, self.align_corners = classifier, align_corners

    def forward(self, pyramid: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Logits and embedding, at the finest level's stride."""
        features, *skips = reversed(pyramid)
        for block, skip in zip(self.blocks, skips, strict=True):
            features = block(torch.cat([resample(features, grid(skip), self.align_corners), skip], 1))
        return self.classifier(features)


class UNet(Network):
    """U-Net on any timm backbone with levels of several strides; logits at the finest one, 2 for ResNets and 4 for ConvNeXt.

    No level is finer, so the usual last block of 16 channels at stride 1, which sees no skip, is left to the bilinear
    resampling of the logits. With it, JDTLosses and segmentation-models have 256, 128, 64, 32 and 16 channels: ``width`` 32
    here. They use output stride 32; a dilated backbone's levels of one grid are only set beside each other.
    """

    class Config(Network.Config):
        """``width`` of the embedding, at the finest level; each coarser one has twice as many channels."""

        width: int = Field(32, ge=1)
        output_stride: int = Field(32, ge=1)

    def build_head(self, levels: Levels, classes: int) -> tuple[nn.Module, int]:
        """The decoder over all levels."""
        if len(set(levels.strides)) == 1:
            raise ConfigError(
                f"backbone: the U-Net needs levels of several strides, but the backbone's have {levels.told}; choose another "
                "backbone, or the head pspnet or deeplabv3"
            )
        config = self.config
        classifier = Classifier(config.width, classes, config.dropout, config.tap)
        return UNetHead(levels, config.width, classifier, config.align_corners), config.width

    def logit_stride(self, levels: Levels) -> int:
        """The finest level's."""
        return levels.strides[0]
