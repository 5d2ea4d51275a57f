"""The resizing of the published training code: ``cv2.resize(x, None, fx=scale, fy=scale)``.

Images are interpolated bilinearly between pixel centres, without a low-pass filter where they shrink; labels take the pixel at
``floor(index / scale)``. Positions follow the scale itself, not the ratio of the rounded sizes. OpenCV's weights have 11 bits,
these 24: a grey level may differ by one. Only the window that is wanted is computed.
"""

from __future__ import annotations

from torch import Tensor

from kd.data.resampling import Axis, pick, positions, resample, triangle
from kd.types import Geometry


def opencv_window(image: Tensor, labels: Tensor, geometry: Geometry, rows: range, columns: range) -> tuple[Tensor, Tensor]:
    """Image ``C H W`` and labels uint8 ``H W``, scaled, cut to rows and columns: ``C h w`` of the same type and ``1 h w``.

    A range that runs backwards mirrors what is cut.
    """
    down, across = (_axis(wanted, side, geometry.scale) for wanted, side in zip((rows, columns), labels.shape, strict=True))
    return resample(image, down, across), pick(labels, down, across)[None]


def _axis(wanted: range, side: int, scale: float) -> Axis:
    """Labels: times the inverse, as published, since that rounds otherwise than a division at whole numbers."""
    nearest = (positions(wanted) * (1 / scale)).floor().long().clamp(max=side - 1)
    return Axis(*triangle((positions(wanted) + 0.5) / scale, 1, side), nearest)
