"""SegFormer's all-MLP decoder: Xie et al., arXiv 2105.15203, section 3.2."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from kd.keywords import keywords
from kd.networks.backbone import Levels
from kd.networks.network import Classifier, Network, conv_norm_relu, grid
from kd.types import resample


class MLPHead(nn.Module):
    """Each level projected and enlarged to the finest of them; fused by conv 1x1, norm, ReLU; dropout, classifier.

    Linear projections have no bias: the fusion's batch norm would take it away.
    """

    def __init__(self, channels: tuple[int, ...], config: Any, classifier: Classifier) -> None:
        super().__init__()
        width, project = config.width, conv_norm_relu if config.normed else partial(nn.Conv2d, bias=False)
        self.project = nn.ModuleList([project(inputs, width, 1) for inputs in channels])
        self.fuse = conv_norm_relu(len(channels) * width, width, 1)
        self.classifier, self.align_corners = classifier, config.align_corners

    def forward(self, pyramid: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Logits and embedding, at the finest level used."""
        used = pyramid[-len(self.project) :]
        maps = [project(level) for project, level in zip(self.project, used, strict=True)]
        return self.classifier(self.fuse(torch.cat([resample(m, grid(used[0]), self.align_corners) for m in maps], 1)))


class SegFormerMLP(Network):
    """The all-MLP decoder on the levels of stride 4 and coarser of any timm backbone; logits at the finest of them.

    Widths of the published family: 256 for MiT-B0 and B1, 768 for B2 to B5; JDTLosses 512. timm has no MiT backbones; pvt_v2_b0
    to b5 are the nearest.
    """

    class Config(Network.Config):
        """``width`` of projections and embedding; ``normed``: a norm and ReLU follow each projection (JDTLosses)."""

        width: int = Field(default=256, ge=1)
        normed: bool = False
        output_stride: int = Field(default=32, ge=1)

    @keywords(Config)
    def __init__(self, config: Any, classes: int) -> None:
        super().__init__(config, classes)

    def build_head(self, levels: Levels, classes: int) -> tuple[nn.Module, int]:
        """The decoder over the levels of stride 4 and coarser."""
        config = self.config
        classifier = Classifier(config.width, classes, config)
        channels = levels.without_stem().channels
        return MLPHead(channels, config, classifier), config.width

    def logit_stride(self, levels: Levels) -> int:
        """The finest used level's."""
        return levels.without_stem().strides[0]
