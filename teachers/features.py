"""A teacher that knows no classes: the features of a foundation model, or of any backbone of timm."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor, nn

from kd.config import ConfigError
from kd.content import ContentPath
from kd.keywords import keywords
from kd.networks.backbone import build_trunk
from kd.networks.timm_weights import check_options
from kd.networks.weight_files import weights_mark
from kd.types import Outputs
from teachers.foreign import Pixels, measured
from teachers.teacher import Teacher

Triple = tuple[float, float, float]
LOOKS = 128
"""About how many pixels a side has that a network is measured with."""


class FeaturesTeacher(Teacher):
    """A backbone alone, such as DINOv2's: its last map is the embedding, chosen levels are the pyramid; there are no logits.

    Only methods that read features take it (``fitnet@alone``, ``at@alone``, ``cwd_feature@paper``); beside another teacher's
    logits, see :class:`teachers.pair.PairTeacher`. It is not scored, has no floor and no soft labels to keep.

    Maps of a transformer are those of its patches, after the network's last norm. Sides that the coarsest stride (of a
    transformer: the patch) does not divide are resampled, bilinearly, to the next multiple, so that the grid lies on the image
    exactly: crops of 512 are seen at 518 by patches of 14. Position embeddings are resampled to that grid by timm.

    Raises:
        ConfigError: timm does not know the backbone or gives no maps of it, a level is not there, or the weights are
            unavailable, damaged or others.
    """

    class Config(Teacher.Config):
        """``backbone`` is a name of timm's, which may pin the weights: ``vit_small_patch14_dinov2.lvd142m``; ``pretrained``
        true (timm's weights, from the Hugging Face hub, at the commit ``revision``), a weight file, or false: random ones, as a
        control.

        ``levels`` numbers those of the pyramid, blocks of a transformer or stages, from 0 or, from the last, -1 (default: of a
        transformer four, evenly spaced; else all). ``options`` go to timm's constructor. ``mean`` and ``std``, RGB in [0, 1],
        replace what timm says of the weights.
        """

        backbone: str
        pretrained: bool | ContentPath = True
        revision: str | None = None
        options: dict[str, Any] = Field(default_factory=dict)
        levels: tuple[int, ...] | None = Field(default=None, min_length=1)
        mean: Triple | None = None
        std: Triple | None = None

        @field_validator("options")
        @classmethod
        def _say_nothing_of_weights(cls, options: dict[str, Any]) -> dict[str, Any]:
            check_options(options)
            return options

        @field_validator("floor", "cache", "classes")
        @classmethod
        def _knows_no_classes(cls, value: Any) -> Any:
            if value:
                raise ValueError(f"is {value}, but a teacher of features knows no classes; drop it")
            return value

    @keywords(Config)
    def __init__(self, config: Any, classes: tuple[str, ...]) -> None:
        try:
            trunk = build_trunk(config)
        except ConfigError as error:
            text = str(error).replace("to train from scratch", "for random ones").replace("student.", "teacher.")
            raise ConfigError(f"teacher.{text}") from None
        network = FeaturesNetwork(trunk, _pixels(config, trunk), _levels(config, trunk))
        side = network.stride * max(1, round(LOOKS / network.stride))
        sizes = measured(network, side)
        kept = {True: getattr(trunk, "fetched", ""), False: "random weights"}.get(config.pretrained, config.pretrained)
        super().__init__(config, classes, classes, sizes, f"{config.backbone} ({kept})")
        self.mark = weights_mark(network)
        self.network = network
        self.train(False)

    def answer(self, image: Tensor) -> Outputs:
        """Embedding and pyramid; logits ``B 0 h w`` on the embedding's grid."""
        return self.network(image)


class FeaturesNetwork(nn.Module):
    """uint8 images to ``Outputs`` without classes, by timm's ``forward_intermediates``."""

    def __init__(self, trunk: Any, pixels: Pixels, levels: tuple[int, ...]) -> None:
        super().__init__()
        self.trunk, self.pixels, self.levels = trunk.eval(), pixels, levels
        self.strides = [level["reduction"] for level in trunk.feature_info]
        self.stride = max(self.strides)

    def forward(self, image: Tensor) -> Outputs:
        """The chosen levels, finest first; the last level of all is the embedding."""
        seen = self.pixels(image)
        height, width = (-(-side // self.stride) * self.stride for side in seen.shape[-2:])
        if seen.shape[-2:] != torch.Size((height, width)):
            seen = F.interpolate(seen, (height, width), mode="bilinear", align_corners=False)
        indices = list(dict.fromkeys((*self.levels, len(self.strides) - 1)))
        normed = len(set(self.strides)) == 1  # of other networks each level would need a norm of its own
        maps = self.trunk.forward_intermediates(seen, indices, norm=normed, output_fmt="NCHW", intermediates_only=True)
        embedding = maps[-1]
        return Outputs(embedding[:, :0].float(), None, embedding, tuple(maps[: len(self.levels)]))


def _pixels(config: Any, trunk: Any) -> Pixels:
    """The normalisation: as configured, or the one of timm's weights."""
    return Pixels(config.mean or trunk.pretrained_cfg["mean"], config.std or trunk.pretrained_cfg["std"])


def _levels(config: Any, trunk: Any) -> tuple[int, ...]:
    """Numbers of levels from 0, in their order."""
    strides = [level["reduction"] for level in trunk.feature_info]
    number = len(strides)
    if config.levels is None:
        alike = len(set(strides)) == 1
        return tuple(sorted({number * part // 4 - 1 for part in range(1, 5)} - {-1})) if alike else tuple(range(number))
    if strange := [level for level in config.levels if not -number <= level < number]:
        raise ConfigError(
            f"teacher.levels: holds {strange[0]}, but {config.backbone} has {number} levels, 0..{number - 1} or -{number}..-1"
        )
    return tuple(sorted({level % number for level in config.levels}))
