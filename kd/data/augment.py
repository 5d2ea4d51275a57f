"""Joint augmentation of image and labels as a pure function of a generator: scale, pad, crop, flip, colours.

The families' presets are parts of recipes: JDTLosses' has a continuous scale in [0.5, 2] and padding on both sides, CIRKD's a
scale in steps of 0.1 and padding at the bottom right; both resize as OpenCV does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from kd.config import Config
from kd.data.antialiased_resize import antialiased_window
from kd.data.lazy_torchvision import functional
from kd.data.opencv_resize import opencv_window
from kd.types import IGNORE, Geometry, grey_levels


class Augmentation(Config):
    """How an image becomes a training crop: scale, pad, crop, flip, colours.

    ``crop`` (height, width) pixels; ``scale`` the range of the random factor, ``scale_step`` its grid (0: continuous);
    ``resize``: ``antialiased`` shrinks without aliasing, labels by the nearest pixel's centre; ``opencv`` is what published
    code does, see :mod:`kd.data.opencv_resize`; ``pad`` where small images grow: ``centre`` (half on each side, an odd pixel
    below or right; JDTLosses) or ``corner`` (bottom and right, CIRKD); ``fill`` RGB of padding (where images have other
    channels as many values of 0 to 255, else each channel's mean of the image); ``flip`` probability; ``photometric`` strength
    of brightness, contrast and saturation jitter (0: none; no saturation where images are not RGB). ``views``: so many fixed
    crops an image, the same for every seed of the run, so that a teacher need see each but once (``kd cache-teacher``); 0: ever
    new ones.
    """

    crop: tuple[int, int] = (512, 512)
    scale: tuple[float, float] = (0.5, 2.0)
    scale_step: float = Field(0.0, ge=0)
    resize: Literal["antialiased", "opencv"] = "antialiased"
    pad: Literal["centre", "corner"] = "centre"
    fill: tuple[int, ...] = Field((124, 116, 104), min_length=1)
    flip: float = Field(0.5, ge=0, le=1)
    photometric: float = Field(0.0, ge=0, lt=1)
    views: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _ranges(self) -> Augmentation:
        low, high = self.scale
        if not 0 < low <= high:
            raise ValueError(f"scale is [{low}, {high}]; it needs 0 < low <= high")
        if not all(0 <= value <= 255 for value in self.fill):
            raise ValueError(f"fill is {list(self.fill)}; an RGB colour has values from 0 to 255")
        if min(self.crop) < 8:
            raise ValueError(f"crop is {list(self.crop)}; both sides need 8 pixels or more")
        return self


def draw(config: Augmentation, size: tuple[int, int], generator: torch.Generator) -> Geometry:
    """A random geometry for an image of ``size`` (H, W)."""
    scale = _scale(config, generator)
    height, width = (max(1, round(side * scale)) for side in size)
    top, left = (_offset(config, side, crop, generator) for side, crop in zip((height, width), config.crop, strict=True))
    return Geometry(height, width, top, left, _uniform(generator) < config.flip, scale)


def _scale(config: Augmentation, generator: torch.Generator) -> float:
    low, high = config.scale
    if config.scale_step == 0:
        return low + (high - low) * _uniform(generator)
    steps = int((high - low) / config.scale_step + 1e-6) + 1  # forgives rounding: 1.5 / 0.1 is a little less than 15
    return low + config.scale_step * int(torch.randint(steps, (), generator=generator))


def _offset(config: Augmentation, side: int, crop: int, generator: torch.Generator) -> int:
    """First source row or column of the crop; negative where the image is padded."""
    slack = side - crop
    if slack > 0:
        return int(torch.randint(slack + 1, (), generator=generator))
    return -(-slack // 2) if config.pad == "centre" else 0


def _uniform(generator: torch.Generator) -> float:
    return float(torch.rand((), generator=generator))


def replay(geometry: Geometry, image: Tensor, labels: Tensor, config: Augmentation) -> tuple[Tensor, Tensor]:
    """Apply a geometry: image ``C H W`` and labels uint8 ``H W`` to the crop size. Padding is ``fill`` and ignored."""
    starts, sizes = (geometry.top, geometry.left), (geometry.height, geometry.width)
    rows, columns = (
        range(max(start, 0), min(start + length, size)) for start, length, size in zip(starts, config.crop, sizes, strict=True)
    )
    top, left = (max(-start, 0) for start in starts)
    if geometry.flipped:
        columns, left = columns[::-1], config.crop[1] - len(columns) - left
    cut = opencv_window if config.resize == "opencv" else antialiased_window
    image, labels = cut(image, labels, geometry, rows, columns)
    fill = config.fill if len(config.fill) == len(image) else own_means(image)
    return _padded(image, (top, left), config.crop, fill), _padded(labels, (top, left), config.crop, (IGNORE,))[0]


def own_means(image: Tensor) -> tuple[float, ...]:
    """Of each channel, in grey levels of 0 to 255: what an image of whatever channels is padded with."""
    return tuple(grey_levels(image).mean((1, 2)).tolist())


def _padded(values: Tensor, corner: tuple[int, int], size: tuple[int, int], fill: Sequence[float]) -> Tensor:
    """``C H W`` at a corner (top, left) of a larger field of one colour, in grey levels."""
    if tuple(values.shape[1:]) == size:
        return values
    colour = torch.tensor(fill).round().to(torch.uint8) if values.dtype == torch.uint8 else torch.tensor(fill) / 255
    field = colour[:, None, None].repeat(1, *size)
    (top, left), (height, width) = corner, values.shape[1:]
    field[:, top : top + height, left : left + width] = values
    return field


def recolour(image: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Brightness, contrast and saturation, each by a factor uniform in [1 - strength, 1 + strength]; the first two alone of
    images that are not RGB, contrast of each channel by itself."""
    tf = functional()
    rgb = (tf.adjust_brightness, tf.adjust_contrast, tf.adjust_saturation)
    for adjust in rgb if len(image) == 3 else (_brightness, _contrast):
        image = adjust(image, 1 + strength * (2 * _uniform(generator) - 1))
    return image


def _brightness(image: Tensor, factor: float) -> Tensor:
    return _bounded(image * factor, image)


def _contrast(image: Tensor, factor: float) -> Tensor:
    mean = image.float().mean((1, 2), keepdim=True)
    return _bounded(mean + (image - mean) * factor, image)


def _bounded(values: Tensor, image: Tensor) -> Tensor:
    whole = image.dtype == torch.uint8
    return values.round().clamp(0, 255).to(torch.uint8) if whole else values.clamp(0, 1)


def augment(config: Augmentation, image: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Geometry]:
    """Image ``C H W`` and labels uint8 ``H W`` to one crop of each, and how it was made."""
    geometry = draw(config, (int(image.shape[1]), int(image.shape[2])), generator)
    image, labels = replay(geometry, image, labels, config)
    if config.photometric > 0:
        image = recolour(image, config.photometric, generator)
    return image, labels, geometry
