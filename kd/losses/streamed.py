"""Sums over label-resolution pixels, taken row block by row block from coarse logits, so that no map of that size is kept.

All that the losses need of the pixels are a few sums for each image and class; what follows from them is arithmetic on numbers.
A first pass adds them up, block by block, in float64; when backward knows what each of them weighs, a second pass forms the
gradient of each block and reduces it to the coarse grid at once. Bilinear resampling is linear: two small matrices, rows and
columns. The plain path, maps resampled as a whole, is the reference that tests compare with.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kd.losses.block_sums import Pixels, gradient, measure
from kd.losses.formed import saved
from kd.losses.loss import check_channels, check_labels
from kd.losses.row_blocks import Grid, blocks
from kd.types import IGNORE, Outputs, full_precision

DIFFERENTIABLE = ("ce", "cross", "kl", "mass", "hard", "soft", "product")
PEAKS = ("peak p", "peak q", "peak p + q", "peak p + y")
ALL = (*DIFFERENTIABLE, "pixels", "labels", "targets", *PEAKS)
PER_IMAGE = ("ce", "cross", "kl", "pixels")


@dataclass(frozen=True)
class Sums:
    """Sums over the kept pixels of each image, of probabilities ``p`` against labels ``y`` or soft labels ``q``; float64.

    ``ce``, ``cross``, ``kl``  ``B``: of ``-log p_y``, ``-sum_c q_c log p_c``, ``KL(q || p)``
    ``mass``, ``hard``, ``soft``, ``product``  ``B K``: of ``p``, ``p`` where ``y`` is the class, ``min(p, q)``, ``p q``
    ``pixels``  ``B``: how many are kept; ``labels``, ``targets``  ``B K``: of one-hot ``y``, and of ``q``
    ``peaks``   ``B K`` by evidence: the maximum over kept pixels of ``p``, ``q``, ``p + q``, ``p + y``

    What is not wanted is 0.
    """

    ce: Tensor
    cross: Tensor
    kl: Tensor
    mass: Tensor
    hard: Tensor
    soft: Tensor
    product: Tensor
    pixels: Tensor
    labels: Tensor
    targets: Tensor
    peaks: dict[str, Tensor]
    dtype: torch.dtype
    """That of the logits in full precision, which losses have too."""


class Smoothed(NamedTuple):
    """Soft labels made of hard ones: ``(1 - epsilon) one-hot + epsilon / K`` at ``pixels`` (bool ``B H W``), else one-hot."""

    pixels: Tensor
    epsilon: float


def sums(
    student: Outputs,
    target: Tensor,
    keep: Tensor,
    wanted: Collection[str],
    *,
    field: str = "logits",
    soft: Outputs | Smoothed | None = None,
    temperature: float = 1.0,
    student_temperature: float = 1.0,
) -> Sums:
    """The ``wanted`` sums of a field of the student's outputs, at the size of the labels.

    Args:
        target: integers ``B H W``; values at pixels that are not kept do not matter.
        keep: bool ``B H W``.
        wanted: names of ``Sums``, and ``peak p``, ``peak q``, ``peak p + q``, ``peak p + y``.
        field: of both networks.
        soft: a teacher's outputs, whose probabilities at ``temperature`` are the soft labels, or smoothed labels.
        student_temperature: divides the student's logits.

    Raises:
        ValueError: shapes do not fit, or a label that counts is no class.
    """
    logits = full_precision(_field(student, field)) / student_temperature
    if target.shape != keep.shape or target.ndim != 3 or len(target) != len(logits):
        raise ValueError(
            f"target must be B H W and keep like it, for logits {tuple(logits.shape)}; they are {tuple(target.shape)} and "
            f"{tuple(keep.shape)}"
        )
    check_channels(logits)
    check_labels(target, keep, logits.shape[1], IGNORE)
    teacher = None
    if isinstance(soft, Outputs):
        teacher = full_precision(_field(soft, field).detach()).to(logits) / temperature
        if teacher.shape[:2] != logits.shape[:2]:
            raise ValueError(f"the student's {field} are {tuple(logits.shape)}, the teacher's {tuple(teacher.shape)}")
    grids = (student.align_corners, soft.align_corners if isinstance(soft, Outputs) else False)
    smoothed = soft if isinstance(soft, Smoothed) else None
    labels = Pixels(target, keep, smoothed.pixels if smoothed else None, smoothed.epsilon if smoothed else 0.0)
    with torch.autocast(logits.device.type, enabled=False):
        found = dict(zip(ALL, _Stream.apply(logits, teacher, labels, frozenset(wanted), grids), strict=True))
    peaks = {name.removeprefix("peak "): found.pop(name) for name in PEAKS}
    return Sums(**found, peaks=peaks, dtype=logits.dtype)


def _field(outputs: Outputs, name: str) -> Tensor:
    maps = getattr(outputs, name)
    if maps is None:
        raise ValueError(f"the network has no {name}; build it with an auxiliary head, or drop the terms that use it")
    return maps


class _Stream(torch.autograd.Function):
    """The sums, and when their weights are known, the gradient of the coarse logits."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        teacher: Tensor | None,
        pixels: Pixels,
        wanted: frozenset[str],
        corners: tuple[bool, bool],
    ) -> tuple[Tensor, ...]:
        """All fields of ``Sums``, peaks last."""
        size = (int(pixels.target.shape[-2]), int(pixels.target.shape[-1]))
        images, classes = logits.shape[:2]
        shapes = {name: (images,) if name in PER_IMAGE else (images, classes) for name in ALL}
        found = {name: logits.new_zeros(shape, dtype=torch.float64) for name, shape in shapes.items()}
        for image in range(images):
            mine = Grid(logits[image], size, corners[0])
            its = None if teacher is None else Grid(teacher[image], size, corners[1])
            for rows in blocks(logits, size):
                block = pixels.block(image, rows)
                for name, value in measure(mine.at(rows), None if its is None else its.at(rows), block, wanted):
                    row = found[name][image]
                    row.copy_(torch.maximum(row, value.double())) if name in PEAKS else row.add_(value)
        ctx.save_for_backward(logits, *map(saved, (teacher, pixels.target, pixels.keep, pixels.smooth)))
        ctx.facts = size, pixels.epsilon, wanted, corners
        ctx.mark_non_differentiable(*(found[name] for name in ALL if name not in DIFFERENTIABLE))
        return tuple(found.values())

    @staticmethod
    def backward(ctx: Any, *weights: Tensor) -> tuple[Tensor | None, ...]:
        """The second pass."""
        if torch.is_grad_enabled():
            raise RuntimeError(
                "losses taken block by block have no second derivative; compute them on whole maps: run.maps=whole, or in "
                "your own loop `with kd.losses.loss.maps('whole'):`"
            )
        with torch.autocast(weights[0].device.type, enabled=False):
            return _Stream._second_pass(ctx, weights), None, None, None, None

    @staticmethod
    def _second_pass(ctx: Any, weights: Sequence[Tensor]) -> Tensor:
        logits, teacher, target, keep, smooth = ctx.saved_tensors
        size, epsilon, wanted, corners = ctx.facts
        pixels = Pixels(target, keep, smooth, epsilon)
        given = dict(zip(ALL, weights, strict=True))
        found = torch.empty_like(logits)
        for image in range(len(logits)):
            mine = Grid(logits[image], size, corners[0])
            its = None if teacher is None else Grid(teacher[image], size, corners[1])
            share = {name: given[name][image].to(logits.dtype) for name in DIFFERENTIABLE if name in wanted or name == "mass"}
            total = torch.zeros_like(mine.wide)
            for rows in blocks(logits, size):
                block = pixels.block(image, rows)
                mine.add_back(gradient(mine.at(rows), None if its is None else its.at(rows), block, share), rows, total)
            found[image] = mine.ended(total)
        return found
