"""Resizing without aliasing, as torchvision does: a triangle as wide as the step where images shrink; nearest labels.

Positions follow the ratio of the sizes before and after.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kd.data.resampling import Axis, pick, positions, resample, triangle
from kd.types import Geometry

MOST = 0.25
"""From this share of a shrinking picture on, the window is cut of the whole, which torch resizes in fewer passes."""


def antialiased_window(image: Tensor, labels: Tensor, geometry: Geometry, rows: range, columns: range) -> tuple[Tensor, Tensor]:
    """Image ``C H W`` and labels uint8 ``H W``, scaled, cut to rows and columns: ``C h w`` of the same type and ``1 h w``.

    A range that runs backwards mirrors what is cut.
    """
    sizes = (geometry.height, geometry.width)
    down, across = (_axis(*one) for one in zip((rows, columns), labels.shape, sizes, strict=True))
    share = len(rows) * len(columns) / (geometry.height * geometry.width)
    shrinks = geometry.height < labels.shape[0] and geometry.width < labels.shape[1]
    cut = _of_the_whole(image, sizes, rows, columns) if shrinks and share >= MOST else resample(image, down, across)
    return cut, pick(labels, down, across)[None]


def _of_the_whole(image: Tensor, size: tuple[int, int], rows: range, columns: range) -> Tensor:
    beside = image.permute(1, 2, 0).contiguous().permute(2, 0, 1)  # torch is quicker, and always the same, in this order
    whole = F.interpolate(beside[None], size, mode="bilinear", antialias=True)[0].permute(1, 2, 0)
    window = whole[rows.start : rows.stop].numpy()[:, slice(*_slice(columns))]
    return torch.from_numpy(window.transpose(2, 0, 1).copy())


def _slice(wanted: range) -> tuple[int, int | None, int]:
    return wanted.start, None if wanted.stop < 0 else wanted.stop, wanted.step


def _axis(wanted: range, side: int, size: int) -> Axis:
    step = side / size
    nearest = F.interpolate(torch.arange(side, dtype=torch.float32)[None, None], size, mode="nearest-exact")[0, 0].long()
    return Axis(*triangle((positions(wanted) + 0.5) * step, max(step, 1), side), nearest[positions(wanted).long()])
