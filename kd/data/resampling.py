"""Bilinear resampling of just the window that a crop shows: a few weighted pixels for each row, then for each column.

Both ways to resize are triangles of some width over pixel centres. Rows are mixed by blocks that stay in the processor's cache.
"""

from __future__ import annotations

from math import ceil
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

BLOCK = 2**18
"""Values of a block of mixed rows."""


class Axis(NamedTuple):
    """What a row (or column) of the result is made of: pixels ``place``, weighed by ``share`` (both ``taps n``).

    Of labels it is the one pixel ``nearest`` (``n``)."""

    place: Tensor
    share: Tensor
    nearest: Tensor


def positions(wanted: range) -> Tensor:
    """The numbers of a range, which may run backwards, in float64."""
    return torch.arange(wanted.start, wanted.stop, wanted.step, dtype=torch.float64)


def triangle(centre: Tensor, width: float, side: int) -> tuple[Tensor, Tensor]:
    """Pixels and their shares under a triangle that falls to 0 at ``width`` pixels from each centre; none is outside the image.

    Args:
        centre: where it is highest (``n``); 0.5 is the centre of the first pixel.
        width: 1 is plain linear interpolation.
        side: of the image, in pixels.
    """
    place = (centre - width + 0.5).floor() + torch.arange(ceil(2 * width), dtype=torch.float64)[:, None]
    share = (1 - (place + 0.5 - centre).abs() / width).clamp(min=0).where((place >= 0) & (place < side), 0)
    return place.clamp(0, side - 1).long(), (share / share.sum(0)).float()


def resample(image: Tensor, down: Axis, across: Axis) -> Tensor:
    """Image ``C H W`` to ``C h w``, uint8 rounded once. Quickest where the channels of a pixel lie side by side."""
    whole, count = image.dtype == torch.uint8, len(image)
    first, last = int(across.place.min()), int(across.place.max()) + 1
    source = image.permute(1, 2, 0)[:, first:last]
    columns = (count * (across.place - first)[:, None] + torch.arange(count)[:, None]).flatten(1)  # channel by channel
    shares = across.share.repeat(1, count)
    result = np.empty((count, down.place.shape[1], across.place.shape[1]), np.uint8 if whole else np.float32)
    step = max(1, BLOCK // (count * max(last - first, result.shape[2])))
    for start in range(0, result.shape[1], step):
        rows, weights = down.place[:, start : start + step], down.share[:, start : start + step, None]
        top, bottom = int(rows.min()), int(rows.max()) + 1
        lines = source[top:bottom].to(torch.float32, memory_format=torch.contiguous_format).flatten(1)
        mixed = _mix(lines, 0, rows - top, weights)
        part = _mix(mixed, 1, columns, shares)
        part = part.round_() if whole else part
        result[:, start : start + step] = part.view(len(part), count, -1).transpose(0, 1).numpy()  # casts quicker than torch
    return torch.from_numpy(result)


def _mix(values: Tensor, axis: int, places: Tensor, shares: Tensor) -> Tensor:
    mixed = values.index_select(axis, places[0]).mul_(shares[0])
    for place, share in zip(places[1:], shares[1:], strict=True):
        mixed.addcmul_(values.index_select(axis, place), share)
    return mixed


def pick(labels: Tensor, down: Axis, across: Axis) -> Tensor:
    """Labels uint8 ``H W`` to ``h w``: the nearest pixel of each."""
    rows, columns = down.nearest.numpy(), across.nearest.numpy()
    top, left = rows.min(), columns.min()
    window = labels.numpy()[top : rows.max() + 1, left : columns.max() + 1]
    return torch.from_numpy(window.take(rows - top, 0).take(columns - left, 1))
