"""Procedural scenes that need no files: textured shapes on a cluttered background, drawn on demand.

A class is a pair of shape and texture; colours are drawn at random, so neither colour, shape nor texture alone decides.
Plain shapes belong to the background. Lengths scale with the image's shorter side: every size poses the same task.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, field_validator
from torch import Tensor

from kd.config import Named
from kd.data.dataset import Dataset
from kd.seeds import derive
from kd.types import IGNORE

Grid = NDArray[np.float32]
SMALLEST = 32
"""The least height and width, in pixels: below it the textures cannot be told apart."""

KINDS = (
    ("disc", "plain", 0.10),
    ("disc", "stripes", 0.19),
    ("disc", "checks", 0.16),
    ("box", "stripes", 0.16),
    ("box", "dots", 0.13),
    ("triangle", "dots", 0.10),
    ("cross", "checks", 0.08),
    ("ring", "stripes", 0.08),
)
"""Outline, texture and share of the objects, by label. Label 0, a plain shape of any outline, only distracts."""
SHARES = [share for _, _, share in KINDS]


class Shapes(Dataset):
    """Eight classes of textured shapes; reading is a pure function of (seed, split, index)."""

    class Config(Named):
        """``size`` in pixels (height, width); ``train``, ``val``, ``test`` count images.

        ``objects`` is the mean number of objects per image (plain distractors included), ``noise`` the standard
        deviation of the pixel noise in grey levels, ``border`` the width in pixels of the ignored line on outlines. Other
        ``channels`` than 3 are RGB again and again.
        """

        size: tuple[int, int] = (96, 128)
        train: int = Field(20000, ge=1)
        val: int = Field(64, ge=1)
        test: int = Field(64, ge=1)
        objects: int = Field(5, ge=1, le=100)
        noise: float = Field(8.0, ge=0, le=128)
        seed: int = 0
        border: int = Field(1, ge=0, le=16)
        channels: int = Field(3, ge=1)

        @field_validator("size")
        @classmethod
        def _large_enough(cls, size: tuple[int, int]) -> tuple[int, int]:
            if min(size) < SMALLEST:
                raise ValueError(
                    f"is {size[0]} x {size[1]}; height and width must be at least {SMALLEST} pixels, or textures blur "
                    "into one another. Write for example size: [64, 96]"
                )
            return size

    classes = (
        "background",
        "striped disc",
        "checked disc",
        "striped box",
        "dotted box",
        "dotted triangle",
        "checked cross",
        "striped ring",
    )
    colours = (
        (52, 58, 70),
        (228, 87, 86),
        (245, 166, 66),
        (66, 133, 244),
        (64, 196, 210),
        (106, 190, 89),
        (236, 216, 76),
        (178, 102, 214),
    )

    def __init__(self, config: Config, split: str) -> None:
        if split not in self.splits:
            raise ValueError(f"there is no split '{split}'; choose one of {', '.join(self.splits)}")
        self.config = config
        self.split = split
        self.channels = config.channels

    def __len__(self) -> int:
        return int(getattr(self.config, self.split))

    def identity(self, index: int) -> str:
        """E.g. ``val_00012``."""
        return f"{self.split}_{index:05d}"

    def read(self, index: int) -> tuple[Tensor, Tensor]:
        """Image uint8 ``C H W`` and labels uint8 ``H W``.

        Raises:
            IndexError: outside the split.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"{self.split} has images 0..{len(self) - 1}, but {index} was asked for")
        config = self.config
        draw = np.random.default_rng(derive(config.seed, "shapes", self.split, index))
        image = _background(draw, *config.size)
        labels = np.zeros(config.size, np.uint8)
        for _ in range(max(1, draw.poisson(config.objects))):
            _place(draw, image, labels, config.border)
        image *= _lighting(draw, *config.size)
        image += config.noise * draw.standard_normal(image.shape, np.float32)
        pixels = torch.from_numpy(image.clip(0, 255).astype(np.uint8))
        if config.channels != len(pixels):
            pixels = pixels[[channel % 3 for channel in range(config.channels)]]
        return pixels, torch.from_numpy(labels)


def _place(draw: np.random.Generator, image: Grid, labels: NDArray[np.uint8], border: int) -> None:
    """Draw one object over what is there, into ``3 H W`` and ``H W``, touching only its bounding box."""
    label = draw.choice(len(KINDS), p=SHARES)
    shape, texture, _ = KINDS[label]
    if label == 0:
        shape = str(draw.choice(list(OUTLINES)))
    side = min(labels.shape)
    radius = side * draw.uniform(0.18, 0.30)
    centre = labels.shape[0] * draw.uniform(0.1, 0.9), labels.shape[1] * draw.uniform(0.1, 0.9)
    reach = 1.3 * radius + border + 2
    rows, columns = (_window(middle, reach, length) for middle, length in zip(centre, labels.shape, strict=True))
    u, v = _local(rows, columns, centre, draw.uniform(-0.5, 0.5))
    distance = OUTLINES[shape](u, v, radius)
    paint = _paint(draw, TEXTURES[texture], u, v, side)
    cover = (0.5 - distance).clip(0, 1)
    canvas = image[:, rows, columns]
    canvas += cover * (paint - canvas)
    _mark(labels[rows, columns], distance, label, border)


def _mark(labels: NDArray[np.uint8], distance: Grid, label: int, border: int) -> None:
    """Write the label inside the outline and ignore a line centred on it, save where background meets background."""
    line = ((label > 0) | (labels > 0)) & (np.abs(distance) <= border / 2)
    labels[distance <= 0] = label
    if border:
        labels[line] = IGNORE


def _window(centre: float, reach: float, length: int) -> slice:
    """The pixels of one axis within ``reach`` of a centre."""
    return slice(max(0, int(centre - reach)), min(length, int(centre + reach) + 1))


def _local(rows: slice, columns: slice, centre: tuple[float, float], angle: float) -> tuple[Grid, Grid]:
    """Pixel coordinates ``h w`` around a centre, turned by an angle in radians."""
    y = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] - np.float32(centre[0])
    x = np.arange(columns.start, columns.stop, dtype=np.float32)[None] - np.float32(centre[1])
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return cos * x + sin * y, cos * y - sin * x


def _paint(draw: np.random.Generator, texture: Callable[[Grid, Grid], Grid], u: Grid, v: Grid, side: int) -> Grid:
    """Two random colours mixed by a texture: ``3 h w``. Frequency follows the image's shorter side, in pixels."""
    period = max(4.0, side * draw.uniform(0.09, 0.13))
    frequency = np.float32(2 * np.pi / period)
    shift = draw.uniform(0, 2 * np.pi, 2).astype(np.float32)
    mix = texture(u * frequency + shift[0], v * frequency + shift[1])
    base = draw.uniform(50, 205, (3, 1, 1)).astype(np.float32)
    return base + _contrast(draw, 40, 75) * mix


def _contrast(draw: np.random.Generator, low: float, high: float) -> Grid:
    """A random direction in colour space, ``3 1 1``, whose root mean square is ``low`` to ``high`` grey levels."""
    direction = draw.standard_normal((3, 1, 1), np.float32)
    length = np.sqrt((direction**2).mean())
    return direction * np.float32(draw.uniform(low, high) / length)


def _background(draw: np.random.Generator, height: int, width: int) -> Grid:
    """Slow colour changes plus a faint texture of a random kind: ``3 H W`` in grey levels."""
    coarse = draw.uniform(40, 215, (3, 3, 4)).astype(np.float32)
    fine = draw.normal(0, 8, (3, 10, 14)).astype(np.float32)
    image = _stretch(coarse, height, width) + _stretch(fine, height, width)
    u, v = _local(slice(0, height), slice(0, width), (0, 0), draw.uniform(0, 2 * np.pi))
    frequency = np.float32(2 * np.pi / (min(height, width) * draw.uniform(0.08, 0.2)))
    texture = TEXTURES[str(draw.choice(list(TEXTURES)))]
    return image + _contrast(draw, 0, 8) * texture(u * frequency, v * frequency)


def _stretch(coarse: Grid, height: int, width: int) -> Grid:
    """``C h w`` to ``C H W``, bilinear from corner to corner."""
    rows: Grid = np.matmul(_weights(coarse.shape[1], height), coarse)
    return np.matmul(rows, _weights(coarse.shape[2], width).T)


def _weights(knots: int, length: int) -> Grid:
    """Linear interpolation as a matrix ``length knots``."""
    position = np.linspace(0, knots - 1, length, dtype=np.float32)
    distance = np.abs(position[:, None] - np.arange(knots, dtype=np.float32))
    return (1 - distance).clip(0).astype(np.float32)


def _lighting(draw: np.random.Generator, height: int, width: int) -> Grid:
    """A factor ``H W`` between 0.55 and 1.15 that changes linearly over the image."""
    corners = draw.uniform(0.55, 1.15, (1, 2, 2)).astype(np.float32)
    return _stretch(corners, height, width)[0]


def _disc(u: Grid, v: Grid, radius: float) -> Grid:
    return np.sqrt(u * u + v * v) - np.float32(0.9 * radius)


def _box(u: Grid, v: Grid, radius: float) -> Grid:
    return np.maximum(np.abs(u) - np.float32(radius), np.abs(v) - np.float32(0.6 * radius))


def _triangle(u: Grid, v: Grid, radius: float) -> Grid:
    slanted = np.float32(0.75**0.5) * np.abs(u) - v / 2
    return np.maximum(slanted, v) - np.float32(0.63 * radius)


def _cross(u: Grid, v: Grid, radius: float) -> Grid:
    long, short = np.maximum(np.abs(u), np.abs(v)), np.minimum(np.abs(u), np.abs(v))
    return np.maximum(long - np.float32(1.1 * radius), short - np.float32(0.34 * radius))


def _ring(u: Grid, v: Grid, radius: float) -> Grid:
    return np.abs(np.sqrt(u * u + v * v) - np.float32(0.78 * radius)) - np.float32(0.24 * radius)


OUTLINES = {"disc": _disc, "box": _box, "triangle": _triangle, "cross": _cross, "ring": _ring}
"""Signed distance to the edge in pixels, negative inside; no corner lies beyond 1.3 radii."""


TEXTURES: dict[str, Callable[[Grid, Grid], Grid]] = {
    "plain": lambda u, v: 0 * u * v,
    "stripes": lambda u, v: (3 * np.sin(u)).clip(-1, 1) + 0 * v,
    "checks": lambda u, v: (3 * np.sin(u) * np.sin(v)).clip(-1, 1),
    "dots": lambda u, v: (3 * (np.cos(u) + np.cos(v) - 0.6)).clip(-1, 1),
}
"""From two phases in radians to a mixture between -1 and 1."""
