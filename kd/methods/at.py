"""AT, attention transfer: the networks shall look at the same places."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from kd.keywords import keywords
from kd.losses.formed import Gradients, formed
from kd.losses.loss import global_mean
from kd.methods.maps import KdMask, Tap, field_of, pair, square_lengths, valid, widths_at
from kd.methods.method import Method
from kd.types import Outputs, Sizes


def attention(features: Tensor, keep: Tensor | None = None) -> Tensor:
    """``B D h w`` to ``B h w``: each pixel's mean squared feature, normalised to length 1 over the image (0 stays 0)."""
    energy = square_lengths(features) / features.shape[1]
    if keep is not None:
        energy = energy.where(keep, 0)
    return F.normalize(energy.flatten(1), dim=1).view_as(energy)


def attention_transfer(student: Tensor, teacher: Tensor, keep: Tensor | None = None) -> Tensor:
    """Mean over images and pixels of the squared difference of both attention maps; widths may differ."""

    def make(wanted: bool) -> tuple[Tensor, Gradients]:
        mine, its = (attention(maps, keep) for maps in (student, teacher))
        gap = mine - its
        slope = _back(student, mine, 2 * gap) if wanted else None
        return gap.square().sum(dtype=torch.float64).to(gap.dtype), (slope,)

    return global_mean(formed(make, student), student[:, 0].numel() if keep is None else keep)


def _back(features: Tensor, mine: Tensor, slope: Tensor) -> Tensor:
    """The gradient of the features for that of their attention ``B h w``, which is 0 where pixels are not kept."""
    length = (square_lengths(features) / features.shape[1]).where(mine > 0, 0).flatten(1).norm(dim=1).clamp_min(1e-12)
    turned = (slope - mine * (slope * mine).sum((1, 2), keepdim=True)) / length.view(-1, 1, 1)
    return features * (turned.where(mine > 0, 0) * (2 / features.shape[1])).unsqueeze(1)


class AT(Method):
    """``attention``: mean over images and pixels of ``(a_s - a_t)^2`` with ``a = A / |A|``, ``A`` the mean squared feature.

    Zagoruyko, Komodakis, arXiv 1612.03928, as in the CIRKD repository: one pair of maps, weight 10 000 beside plain KD of
    weight 1. The paper uses several levels and no mean over pixels; ``taps`` lists levels, their terms are averaged.

    Fails where: the crop changes, since the value falls as 1 / pixels while the weight stays.
    """

    class Config(Method.Config):
        """``taps``: ``embedding``, or numbers of backbone levels (-1 the last)."""

        taps: tuple[Tap, ...] = Field(default=("embedding",), min_length=1)
        kd_mask: KdMask = "all"

    needs = frozenset()
    terms = ("attention",)

    @keywords(Config)
    def __init__(self, config: Any, student: Sizes, teacher: Sizes) -> None:
        super().__init__(config, student, teacher)
        self.needs = frozenset(field_of(tap) for tap in config.taps)
        for tap in config.taps:
            widths_at(tap, student, teacher)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> dict[str, Tensor]:
        """The term ``attention``."""
        values = []
        for tap in self.config.taps:
            mine, theirs = pair(student, teacher, tap)
            values.append(attention_transfer(mine, theirs, valid(target, teacher, theirs, self.config.kd_mask)))
        return {"attention": torch.stack(values).mean()}
