"""The resizing of the published training code: ``cv2.resize(x, None, fx=scale, fy=scale)``.

Images are interpolated bilinearly between pixel centres, without a low-pass filter where they shrink; labels take the pixel at
``floor(index / scale)``. Positions follow the scale itself, not the ratio of the rounded sizes. OpenCV's weights have 11 bits,
these 24: a grey level may differ by one. Only the window that is wanted is computed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kd.types import Geometry


def opencv_window(image: Tensor, labels: Tensor, geometry: Geometry, rows: range, columns: range) -> tuple[Tensor, Tensor]:
    """Image uint8 ``3 H W`` and labels uint8 ``H W``, scaled, cut to rows and columns: uint8 ``3 h w`` and ``1 h w``."""
    height, width = labels.shape
    above, below, down = _neighbours(rows, height, geometry.scale)
    left, right, across = _neighbours(columns, width, geometry.scale)
    first = int(above[0])
    part = image[:, first : int(below[-1]) + 1]
    mixed = part.index_select(2, left).float().lerp_(part.index_select(2, right).float(), across)
    mixed = mixed.index_select(1, above - first).lerp_(mixed.index_select(1, below - first), down[:, None])
    nearest = labels.index_select(0, _floor(rows, height, geometry.scale))
    nearest = nearest.index_select(1, _floor(columns, width, geometry.scale))
    return mixed.round_().to(torch.uint8), nearest.unsqueeze(0)


def _neighbours(wanted: range, side: int, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """The pixels before and after each position, and how far it is between them."""
    position = (torch.arange(wanted.start, wanted.stop, dtype=torch.float64) + 0.5) / scale - 0.5
    before = position.floor().clamp(0, side - 1)
    share = (position - before).clamp(0, 1)
    return before.long(), (before.long() + 1).clamp(max=side - 1), share.float()


def _floor(wanted: range, side: int, scale: float) -> Tensor:
    """The published nearest pixel; times the inverse, since that rounds otherwise than a division at whole numbers."""
    index = torch.arange(wanted.start, wanted.stop, dtype=torch.float64) * (1 / scale)
    return index.floor().long().clamp(max=side - 1)
