"""What the methods share: maps of a pair on one grid, the mask of valid pixels, means over all ranks, projections.

A method works on the teacher's grid: the student's map is resampled to it (bilinear, the student's ``align_corners``), which
changes nothing where the strides agree. Everything is float32 (float64 stays), the teacher's side without gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kd.config import ConfigError
from kd.losses.formed import refuse_second, saved
from kd.losses.loss import global_mean
from kd.types import IGNORE, Outputs, Sizes, full_precision, nearest_labels, resample

KdMask = Literal["all", "valid"]
"""Whether ignored and padded pixels take part, as in all published code but JDTLosses', or are left out. Unlabelled images take
part either way."""

Tap = Literal["embedding"] | int
"""Where features are read: the embedding, or a level of the backbone by its number, -1 the last."""


def field_of(tap: Tap) -> str:
    """The field of ``Outputs`` that holds what is tapped."""
    return "pyramid" if isinstance(tap, int) else tap


def widths_at(tap: Tap, student: Sizes, teacher: Sizes, key: str = "method.taps") -> tuple[int, int]:
    """Channels of both networks' maps at a tap, which ``key`` of the recipe names.

    Raises:
        ConfigError: they have no such level.
    """
    if not isinstance(tap, int):
        return student.embedding, teacher.embedding
    levels = min(len(student.pyramid), len(teacher.pyramid))
    if not -levels <= tap < levels:
        has = f"both networks have {levels} levels, 0..{levels - 1}" if levels else "one of the networks gives no levels"
        raise ConfigError(f"{key}: holds level {tap}, but {has}")
    return student.pyramid[tap], teacher.pyramid[tap]


def chosen(outputs: Outputs, field: str | int) -> Tensor:
    """A field of outputs, or a level of the backbone.

    Raises:
        ConfigError: the network does not give it.
    """
    found = outputs.pyramid[field] if isinstance(field, int) else getattr(outputs, field)
    if found is None:
        raise ConfigError(f"method: it reads {field}, which one of the two networks does not give; see the method's card")
    return found


def pair(student: Outputs, teacher: Outputs, field: str | int = "logits") -> tuple[Tensor, Tensor]:
    """The student's map at the teacher's grid, and the teacher's, detached. A number is a level of the backbone."""
    theirs = full_precision(chosen(teacher, field).detach())
    mine = full_precision(chosen(student, field))
    return resample(mine, (int(theirs.shape[-2]), int(theirs.shape[-1])), student.align_corners), theirs


def labels_at(target: Tensor, like: Tensor) -> Tensor:
    """Labels ``B h w`` at the grid of a map ``B D h w``, nearest."""
    return nearest_labels(target, (int(like.shape[-2]), int(like.shape[-1])))


def heeded(target: Tensor, teacher: Outputs, size: tuple[int, int]) -> Tensor:
    """Bool ``B h w`` of a grid: labelled pixels, and those of images without labels where the teacher is not in doubt."""
    labelled, free = nearest_labels(target, size) != IGNORE, teacher.unlabelled
    if free is None:
        return labelled
    counts = nearest_labels(free.pixels, size)
    return labelled | (counts if free.doubted is None else counts & ~nearest_labels(free.doubted, size))


def valid(target: Tensor, teacher: Outputs, like: Tensor, choice: KdMask) -> Tensor | None:
    """Bool ``B h w`` of the pixels that take part at the grid of a map ``B D h w``, or None for all."""
    size = (int(like.shape[-2]), int(like.shape[-1]))
    if choice == "valid":
        return heeded(target, teacher, size)
    free = teacher.unlabelled
    return None if free is None or free.doubted is None else ~nearest_labels(free.doubted, size)


def mean(values: Tensor, keep: Tensor | None = None) -> Tensor:
    """Mean over all entries of all ranks, or over those to keep (same shape); 0 where there are none."""
    if keep is None:
        return global_mean(values, values.numel())
    return global_mean(values.where(keep, 0), keep.to(values.dtype))


def squared_gap(student: Tensor, teacher: Tensor, weight: Tensor) -> Tensor:
    """The sum of ``weight (student - teacher)^2``, differentiable once, in the student; maps ``B D h w``, weight ``B 1 h w`` or
    of one entry."""
    found: Tensor = _SquaredGap.apply(student, teacher, weight)
    return found


class _SquaredGap(torch.autograd.Function):
    """Sums some channels at a time; the difference as a whole is made once, in backward, and is the gradient."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, weight: Tensor) -> Tensor:
        """The sum."""
        ctx.save_for_backward(*map(saved, (student, teacher, weight)))
        parts = zip(student.split(32, 1), teacher.split(32, 1), strict=True)
        sums = [((mine - its).square_().sum(1, keepdim=True) * weight).sum(dtype=torch.float64) for mine, its in parts]
        return torch.stack(sums).sum().to(student.dtype)

    @staticmethod
    def backward(ctx: Any, *weights: Tensor) -> tuple[Tensor, None, None]:
        """``2 weight (student - teacher)``."""
        refuse_second()
        student, teacher, weight = ctx.saved_tensors
        return (student - teacher).mul_(2 * weights[0] * weight), None, None


def square_lengths(features: Tensor) -> Tensor:
    """Of each pixel's feature: ``B D *`` to ``B *``. Some channels at a time, whose squares stay in the cache."""
    return torch.stack([part.square().sum(1) for part in features.split(32, 1)]).sum(0)


class Projection(nn.Conv2d):
    """A 1x1 convolution without bias, from the student's width to the teacher's."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 1, bias=False)


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Within the block the module's parameters take no gradient; gradient still flows through it to its input."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
