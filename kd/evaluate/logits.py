"""Logits at the size of an image that never exist as a whole: read some rows at a time, from what the network gave."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from kd.losses.row_blocks import Grid
from kd.types import Outputs, full_precision, resample

PART = 2**19
"""Logits of a block on a CPU, which has to stay in the cache. Other devices take an image at a time."""


@dataclass(frozen=True)
class Logits:
    """Of one image.

    ``shape``   K, H, W
    ``at``      some rows' logits ``K r W``
    """

    shape: tuple[int, int, int]
    device: torch.device
    at: Callable[[slice], Tensor]

    @classmethod
    def of(cls, maps: Tensor) -> Logits:
        """Those of maps ``K H W`` that are there."""
        classes, height, width = maps.shape
        return cls((classes, height, width), maps.device, lambda rows: maps[:, rows])

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """All rows in order, some at a time."""
        classes, height, width = self.shape
        rows = max(1, PART // (classes * width)) if self.device.type == "cpu" else height
        for start in range(0, height, rows):
            some = slice(start, min(start + rows, height))
            yield some, self.at(some)

    def whole(self) -> Tensor:
        """``K H W``."""
        return self.at(slice(0, self.shape[1]))

    def labels(self) -> Tensor:
        """See :func:`labels`."""
        return torch.cat([labels(block) for _, block in self.blocks()])


def resampled(outputs: Outputs, size: tuple[int, int]) -> list[Logits]:
    """A network's logits at a size, one for each image: ``outputs.at(size)``, up to rounding."""
    maps = full_precision(outputs.logits)
    if maps.device.type != "cpu" or not maps.isfinite().all():
        return [Logits.of(image) for image in outputs.at(size)]
    return [_resampled(image, size, outputs.align_corners) for image in maps]


def _resampled(image: Tensor, size: tuple[int, int], align_corners: bool) -> Logits:
    between = (int(image.shape[1]), size[1])
    wide = cache(lambda: resample(image[None], between, align_corners)[0])  # when it is read, and no sooner
    grid = cache(lambda: Grid(wide(), size, align_corners))
    shape = (len(image), *size)
    return Logits(shape, image.device, lambda rows: grid().at(rows).view(len(image), -1, size[1]))


def merged(windows: Sequence[Logits], corners: Sequence[tuple[int, int]], cut: tuple[slice, slice]) -> Logits:
    """Windows with their first row and column on a canvas, averaged where they overlap, and ``cut`` out of it."""
    classes, height, width = windows[0].shape
    (top, left), (bottom, right) = ((side.start for side in cut), (side.stop for side in cut))
    firsts, columns = ([corner[axis] for corner in corners] for axis in (0, 1))

    def at(rows: slice) -> Tensor:
        start, stop = rows.start + top, rows.stop + top
        total = torch.zeros(classes, stop - start, max(columns) + width, device=windows[0].device)
        seen = total.new_zeros(total.shape[1:])
        for window, first, column in zip(windows, firsts, columns, strict=True):
            begin, end = max(first, start), min(first + height, stop)
            if begin < end:
                place = (..., slice(begin - start, end - start), slice(column, column + width))
                total[place] += window.at(slice(begin - first, end - first))
                seen[place] += 1
        return total.div_(seen)[..., left:right]

    return Logits((classes, bottom - top, right - left), windows[0].device, at)


def labels(logits: Tensor) -> Tensor:
    """The class with the highest logit, uint8 ``H W`` of ``K H W`` with K <= 255; the first one among equals.

    A running maximum over the classes: a third of the time of ``argmax`` over the first axis, and no map of int64.

    Raises:
        FloatingPointError: the highest logit of a pixel is not finite, so that no class can be told.
    """
    best = logits[0].clone()
    found = torch.zeros(best.shape, dtype=torch.uint8, device=best.device)
    higher = torch.empty_like(found, dtype=torch.bool)
    for number, score in enumerate(logits[1:], 1):
        torch.gt(score, best, out=higher)
        torch.maximum(found, higher.view(torch.uint8).mul_(number), out=found)  # numbers rise: the last one higher stays
        torch.maximum(best, score, out=best)
    if not best.isfinite().all():
        raise FloatingPointError("the network's logits hold NaN or infinity; a score needs finite ones: check the weights")
    return found
