"""AttnFD: regress the teacher's features after both have been weighted by attention over channels and over pixels."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from kd.distributed import sum_over_ranks
from kd.keywords import keywords
from kd.losses.formed import refuse_second, saved
from kd.methods.maps import Projection, Tap, field_of, pair, widths_at
from kd.methods.method import Method
from kd.types import Outputs, Sizes

Score = Callable[[Tensor, Tensor], Tensor]


def refined(maps: Tensor, channels: Score = operator.add, pixels: Score = operator.add) -> Tensor:
    """Maps ``B D h w`` times the sigmoid of a score for each channel, then of one for each pixel.

    Args:
        maps: of a network.
        channels: a score ``B D`` of each channel's mean and maximum over pixels; the sum of both where there is nothing learnt.
        pixels: a score ``B 1 h w`` of each pixel's maximum and mean over channels; likewise.
    """
    scores = channels(maps.mean((2, 3)), maps.amax((2, 3)))
    maps = maps * scores.sigmoid()[..., None, None]
    return maps * pixels(maps.amax(1, keepdim=True), maps.mean(1, keepdim=True)).sigmoid()


class ChannelScore(nn.Module):
    """The sum of one perceptron's answers to two vectors ``B D``, with ``D / reduction`` hidden units, at least one."""

    def __init__(self, width: int, reduction: int) -> None:
        super().__init__()
        units = max(1, width // reduction)
        self.layers = nn.Sequential(nn.Linear(width, units), nn.ReLU(inplace=True), nn.Linear(units, width))

    def forward(self, average: Tensor, most: Tensor) -> Tensor:
        """See the class."""
        found: Tensor = self.layers(average) + self.layers(most)
        return found


class PixelScore(nn.Module):
    """A 7x7 convolution of two maps ``B 1 h w``, and batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(2, 1, 7, padding=3, bias=False), nn.BatchNorm2d(1))

    def forward(self, most: Tensor, average: Tensor) -> Tensor:
        """See the class."""
        found: Tensor = self.layers(torch.cat([most, average], 1))
        return found


class Refinement(nn.Module):
    """The student's maps of a tap: attention that is learnt, then a 1x1 convolution and batch norm to the teacher's width."""

    def __init__(self, inputs: int, outputs: int, reduction: int) -> None:
        super().__init__()
        self.channels, self.pixels = ChannelScore(inputs, reduction), PixelScore()
        self.projection = nn.Sequential(Projection(inputs, outputs), nn.BatchNorm2d(outputs))

    def forward(self, maps: Tensor) -> Tensor:
        """``B D h w`` to ``B D' h w``."""
        found: Tensor = self.projection(refined(maps, self.channels, self.pixels))
        return found


def direction_gap(student: Tensor, teacher: Tensor) -> Tensor:
    """``sum (s / |s| - t / |t|)^2 / B`` with the lengths of whole tensors, over the images of all ranks; 0 gives no gradient.

    Differentiable once, in the student.
    """
    products: Tensor = _Products.apply(student, teacher)
    own = _dot(teacher, teacher).detach()
    sums = sum_over_ranks(torch.cat([products, torch.stack([own, torch.full_like(own, len(student))])]))
    lengths = sums[0] * sums[2].detach()
    cosine = (sums[1] / lengths.where(lengths > 0, 1).sqrt()).where(lengths > 0, 0)
    return ((2 - 2 * cosine) / sums[3].detach()).to(student.dtype)


def _dot(one: Tensor, other: Tensor) -> Tensor:
    """Some channels at a time, whose products stay in the cache; sums of channels are added up in float64."""
    parts = zip(one.split(32, 1), other.split(32, 1), strict=True)
    return torch.cat([(a * b).sum((0, 2, 3)) for a, b in parts]).sum(dtype=torch.float64)


class _Products(torch.autograd.Function):
    """``[s s, s t]`` of two tensors, of which nothing is kept but themselves."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor) -> Tensor:
        """The products."""
        ctx.save_for_backward(saved(student), saved(teacher))
        return torch.stack([_dot(student, student), _dot(student, teacher)])

    @staticmethod
    def backward(ctx: Any, *weights: Tensor) -> tuple[Tensor, None]:
        """``2 w_1 s + w_2 t``."""
        refuse_second()
        student, teacher = ctx.saved_tensors
        own, other = weights[0].to(student.dtype)
        return (student * (2 * own)).addcmul_(teacher, other), None


class AttnFD(Method):
    """``attention``: ``sum (a_s / |a_s| - a_t / |a_t|)^2 / B`` of refined features, summed over ``taps``.

    Mansourian et al., "Attention-guided Feature Distillation for Semantic Segmentation", arXiv 2403.05451, as its code: the
    student's maps pass CBAM (channels by a perceptron on mean and maximum, pixels by a 7x7 convolution and batch norm), then a
    1x1 convolution and batch norm to the teacher's width; the teacher's pass the same gates without parameters. Weight 2
    beside cross-entropy, without KD. The code reads three levels of DeepLabV3+: the backbone's last, the output of ASPP and the
    decoder's. Here ``taps`` are levels of the backbone (-1 the last) and the embedding, which is the decoder's output in
    DeepLabV3+ and the output of ASPP in DeepLabV3; of DeepLabV3+ the output of ASPP cannot be read. Ignored pixels take part.

    Fails where: the batch changes, since a length is that of the whole batch's tensor and the value falls as 1 / B.
    """

    class Config(Method.Config):
        """``taps``: ``embedding``, or numbers of backbone levels (-1 the last); the perceptron has D / ``reduction`` units."""

        taps: tuple[Tap, ...] = Field(default=(-1, "embedding"), min_length=1)
        reduction: int = Field(default=16, ge=1)

    terms = ("attention",)

    @keywords(Config)
    def __init__(self, config: Any, student: Sizes, teacher: Sizes) -> None:
        super().__init__(config, student, teacher)
        self.needs = frozenset(field_of(tap) for tap in config.taps)
        widths = [widths_at(tap, student, teacher) for tap in config.taps]
        self.refinements = nn.ModuleList(Refinement(*both, config.reduction) for both in widths)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> dict[str, Tensor]:  # noqa: ARG002
        """The term ``attention``."""
        values = []
        for tap, refinement in zip(self.config.taps, self.refinements, strict=True):
            mine, theirs = pair(student, teacher, tap)
            values.append(direction_gap(refinement(mine), refined(theirs)))
        return {"attention": torch.stack(values).sum()}
