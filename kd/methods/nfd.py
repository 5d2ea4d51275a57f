"""NFD, normalised feature distillation: regress the teacher's features, whatever their mean and scale."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from kd.keywords import keywords
from kd.losses.formed import Gradients, formed
from kd.losses.loss import global_mean
from kd.methods.maps import KdMask, Projection, Tap, field_of, pair, valid, widths_at
from kd.methods.method import Method
from kd.types import Outputs, Sizes

Over = Literal["pixels", "channels", "both"]
AXES: dict[str, tuple[int, ...]] = {"pixels": (1,), "channels": (0,), "both": (0, 1)}
"""Of a map ``D N``: along which mean and spread are taken."""
FLAT = 1e-5
"""A group whose spread is below this share of its mean is constant, up to rounding."""


class Standard(NamedTuple):
    """A map ``D N`` with mean 0 and mean square 1 in each group of kept entries, 0 in constant groups and elsewhere; and what
    it was divided by, infinite for constant groups."""

    values: Tensor
    spread: Tensor


def standardise(maps: Tensor, over: Over, keep: Tensor | None = None) -> Standard:
    """A map ``D N``, with the pixels that take part, ``1 N``."""
    centre = _mean(maps, over, keep)
    values = maps - centre
    spread = _mean(values.square(), over, keep).sqrt()
    spread = spread.where(spread > FLAT * centre.abs() + 1e-12, torch.inf)
    values = values.div_(spread)
    return Standard(values if keep is None else values.where(keep, 0), spread)


def _mean(maps: Tensor, over: Over, keep: Tensor | None) -> Tensor:
    if keep is None:
        return maps.mean(AXES[over], keepdim=True)
    count = keep.expand_as(maps).sum(AXES[over], keepdim=True)
    return maps.where(keep, 0).sum(AXES[over], keepdim=True) / count.clamp_min(1)


def standardised_gap(student: Tensor, teacher: Tensor, over: Over = "pixels", keep: Tensor | None = None) -> Tensor:
    """Mean over images, channels and pixels of the squared difference of two standardised maps ``B D h w``; ``keep`` is bool
    ``B h w``. Differentiable once, in the student."""
    student = student.contiguous()

    def make(wanted: bool) -> tuple[Tensor, Gradients]:
        out = torch.empty_like(student) if wanted else None
        sums = []
        for image, part in _parts(student, over):
            kept = None if keep is None else keep[image].view(1, -1)[:, part[1]]
            mine, spread = standardise(student[image].flatten(1)[part], over, kept)
            gap = mine - standardise(teacher[image].flatten(1)[part], over, kept).values
            sums.append(gap.square().sum(dtype=torch.float64))
            if out is not None:  # without what would only scale a group; what would shift it is not there
                slope = gap.addcmul_(mine, _mean(gap * mine, over, kept), value=-1).mul_(2 / spread)
                out[image].view(len(student[image]), -1)[part] = slope
        return torch.stack(sums).sum().to(student.dtype), (out,)

    count = student.numel() if keep is None else keep * student.shape[1]
    return global_mean(formed(make, student), count)


def _parts(maps: Tensor, over: Over) -> Iterator[tuple[int, tuple[slice, slice]]]:
    """Of each image of ``B D h w``: pieces of ``D N`` that hold whole groups and stay in the cache."""
    whole, (channels, pixels) = slice(None), (maps.shape[1], maps[0, 0].numel())
    step = {"pixels": 32, "channels": max(1, 2**18 // channels), "both": 1}[over]
    for image in range(len(maps)):
        if over == "pixels":
            yield from ((image, (slice(first, first + step), whole)) for first in range(0, channels, step))
        elif over == "channels":
            yield from ((image, (whole, slice(first, first + step))) for first in range(0, pixels, step))
        else:
            yield image, (whole, whole)


class NFD(Method):
    """``feature``: mean over images, channels and pixels of ``(n(W f_s) - n(f_t))^2`` with ``n(f) = (f - mean f) / std f``,
    ``W`` a 1x1 convolution that is learnt along.

    Liu et al., "Normalized Feature Distillation for Semantic Segmentation", arXiv 2207.05256: FitNet without the magnitude of
    the teacher's response. The authors' code and weight were not found; the abstract leaves axes and layer open. As in others'
    repetitions mean and standard deviation are those of each channel over the pixels of an image (``over: pixels``), where the
    term is ``2 - 2 c``, ``c`` the mean correlation of both networks' channels: between 0 and 4. ``channels``: of each pixel
    over its channels; ``both``: of all of an image together. A channel (or pixel) that is constant is 0.

    Fails where: channels that mean nothing, as those of a pruned teacher, weigh as much as all others.
    """

    class Config(Method.Config):
        """``tap``: ``embedding``, or the number of a backbone level (-1 the last)."""

        tap: Tap = "embedding"
        over: Over = "pixels"
        kd_mask: KdMask = "all"

    terms = ("feature",)

    @keywords(Config)
    def __init__(self, config: Any, student: Sizes, teacher: Sizes) -> None:
        super().__init__(config, student, teacher)
        self.needs = frozenset({field_of(config.tap)})
        self.projection = Projection(*widths_at(config.tap, student, teacher, "method.tap"))

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> dict[str, Tensor]:
        """The term ``feature``."""
        mine, theirs = pair(student, teacher, self.config.tap)
        keep = valid(target, teacher, theirs, self.config.kd_mask)
        return {"feature": standardised_gap(self.projection(mine), theirs, self.config.over, keep)}
