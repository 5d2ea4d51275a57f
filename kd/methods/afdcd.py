"""Af-DCD: generate the teacher's features from masked ones, and tell its groups of channels apart as the teacher does."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kd.config import ConfigError
from kd.keywords import keywords
from kd.losses.loss import global_mean
from kd.methods.afdcd_contrast import contrast, parts
from kd.methods.maps import pair, squared_gap, widths_at
from kd.methods.method import Method
from kd.seeds import uniform_by_image
from kd.types import Outputs, Sizes

Positive = Annotated[int, Field(ge=1)]


def random_mask(noise: Tensor, share: float) -> Tensor:
    """0 for a ``share`` of the pixels of ``noise`` (uniform in [0, 1), any shape), 1 for the others."""
    return (noise <= 1 - share).to(noise.dtype)


def centre_mask(like: Tensor) -> Tensor:
    """``1 1 h w`` for maps ``B D h w``: 0 in the middle third of rows and columns, 1 around it."""
    (height, width), mask = like.shape[-2:], like.new_ones(1, 1, *like.shape[-2:])
    mask[..., height // 3 : 2 * height // 3, width // 3 : 2 * width // 3] = 0
    return mask


def hidden(width: int) -> nn.Sequential:
    """A 3x3 convolution with ReLU."""
    return nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU(inplace=True))


class Projector(nn.Module):
    """Of maps ``B D h w``, width kept: a 3x3 convolution of each of ``depth`` hidden layers (3x3, ReLU), averaged."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.hidden = nn.ModuleList(hidden(width) for _ in range(depth))
        self.last = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(depth))

    def forward(self, maps: Tensor) -> Tensor:
        """See the class."""
        found = []
        for layer, last in zip(self.hidden, self.last, strict=True):
            maps = layer(maps)
            found.append(last(maps))
        return torch.stack(found).mean(0) if len(found) > 1 else found[0]


class AfDCD(Method):
    """``feature``: ``sum (G - T)^2 / B`` with ``G = P(m A(S))``; ``contrast``: cross-entropy between parts of G and T.

    Fan et al., "Augmentation-free Dense Contrastive Knowledge Distillation for Efficient Semantic Segmentation", NeurIPS 2023,
    arXiv 2312.04168. S and T are the last levels of both backbones, ``A`` a 1x1 convolution to the teacher's width, ``m`` 0 for
    ``share`` of the pixels, drawn in each step, ``P`` two 3x3 convolutions with ReLU between. For ``contrast`` G and T are
    max-pooled and cut into patches of pixels and groups of channels. Each vector of G is to find T's of the same pixel and
    group among T's of the other groups in its patch: ``-log softmax(-|g - t|_1 / temperature)``, summed over groups, averaged
    over pixels. Weights beside plain KD of weight 1, feature and contrast: 4e-5 and 1e-3 in general, 2e-6 and 5e-3 for
    Cityscapes (DeepLabV3-R18 with the enhanced projector), 8e-6 and 1e-2 for CamVid (without pooling).

    Pixels beyond whole windows and patches, right and below, take no part in ``contrast``; a map smaller than a window or patch
    is one. The released ``--rand_mask False`` is read as true, so the published masks are random. Where the widths agree the
    code fails; here ``A`` is the identity then. Ignored pixels take part.

    Fails where: the weight of ``feature`` is kept on another crop or teacher, since it is a sum over channels and pixels. Under
    AdamW at the heads' rate (1.5e-2) ``P`` diverged within 60 steps, at a fifth of it not (``method_multiplier``). Where
    G lies on one side of all T of a patch, as before ``feature`` has drawn it near, ``contrast`` has no gradient. For a teacher
    of 2048 channels ``P`` has 75.5 million parameters (enhanced: 151 million), more work than the student itself.
    """

    class Config(Method.Config):
        """``groups`` must divide the teacher's width; ``patch`` rows and columns after pooling; ``pool`` 1: none; ``share`` of
        the pixels that a random mask hides; ``mask: centre`` hides the middle third of rows and columns."""

        groups: int = Field(default=16, ge=2)
        patch: tuple[Positive, Positive] = (4, 4)
        pool: int = Field(default=4, ge=1)
        mask: Literal["random", "centre", "none"] = "random"
        share: float = Field(default=0.75, ge=0, le=1)
        projector: Literal["plain", "enhanced"] = "plain"
        temperature: float = Field(default=0.07, gt=0)

    needs = frozenset({"pyramid"})
    terms = ("feature", "contrast")

    @keywords(Config)
    def __init__(self, config: Any, student: Sizes, teacher: Sizes) -> None:
        super().__init__(config, student, teacher)
        inputs, width = widths_at(-1, student, teacher, "method")
        if width % config.groups:
            options = ", ".join(str(count) for count in range(2, width + 1) if width % count == 0)
            raise ConfigError(
                f"method.groups: is {config.groups}, but the teacher's {width} channels must be parted into equal groups; take "
                f"one of {options}"
            )
        self.align = nn.Conv2d(inputs, width, 1) if inputs != width else nn.Identity()
        self.projector = Projector(width, 2 if config.projector == "enhanced" else 1)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> dict[str, Tensor]:  # noqa: ARG002
        """Both terms."""
        mine, theirs = pair(student, teacher, -1)
        return self.compare(mine, theirs, self._mask(theirs))

    def _mask(self, like: Tensor) -> Tensor:
        if self.config.mask == "random":
            return random_mask(uniform_by_image(like[:, :1]), self.config.share)
        return centre_mask(like) if self.config.mask == "centre" else like.new_ones(())

    def compare(self, student: Tensor, teacher: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Both terms of maps ``B D h w`` on one grid, under a mask ``B 1 h w``."""
        config = self.config
        made = self.projector(self.align(student) * mask)
        feature = global_mean(squared_gap(made, teacher, made.new_ones(())), len(made))
        window = [min(config.pool, side) for side in made.shape[-2:]]
        coarse = [F.max_pool2d(maps, window) if config.pool > 1 else maps for maps in (made, teacher)]
        patch = tuple(min(both) for both in zip(config.patch, coarse[0].shape[-2:], strict=True))
        mine, its = (parts(maps, patch, config.groups) for maps in coarse)
        total = contrast(mine, its, config.groups, config.temperature)
        return {"feature": feature, "contrast": global_mean(total, len(mine) * patch[0] * patch[1])}
