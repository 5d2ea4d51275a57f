"""Pictures that show what a network sees: image, target, teacher and student side by side, with a legend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from kd.types import IGNORE

Colour = tuple[int, int, int]
WIDTH = 240
"""Least width of a column, in pixels; smaller images are enlarged by a whole factor."""
GAP, LINE, SWATCH = 8, 22, 14
PAPER, INK, HATCH = (255, 255, 255), (30, 30, 30), (70, 70, 70)


def colour_map(labels: Tensor, colours: Sequence[Colour]) -> NDArray[np.uint8]:
    """Labels ``H W`` as RGB ``H W 3``; ignored pixels are black with grey diagonals."""
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(colours)] = colours
    numbers = labels.cpu().numpy().astype(np.uint8)
    picture = palette[numbers]
    rows, columns = np.indices(numbers.shape)
    picture[(numbers == IGNORE) & ((rows + columns) % 6 == 0)] = HATCH
    return picture


def sheet(
    rows: Sequence[tuple[Tensor, Mapping[str, Tensor]]], classes: Sequence[str], colours: Sequence[Colour]
) -> Image.Image:
    """Samples below one another under one row of titles, the legend at the bottom.

    ``rows`` holds the image uint8 ``3 H W`` and named label maps ``H W`` of each sample; all samples have the same names.
    """
    titles = ["image", *rows[0][1]]
    panels = [
        _enlarged([image.permute(1, 2, 0).cpu().numpy(), *(colour_map(m, colours) for m in maps.values())])
        for image, maps in rows
    ]
    width = max(panel[0].shape[1] for panel in panels)
    heights = [panel[0].shape[0] for panel in panels]
    across = len(titles) * width + (len(titles) + 1) * GAP
    legend = _legend(classes, colours, across)
    canvas = Image.new("RGB", (across, LINE + GAP + sum(heights) + len(heights) * GAP + legend.height), PAPER)
    pen = ImageDraw.Draw(canvas)
    for number, title in enumerate(titles):
        pen.text((GAP + number * (width + GAP), GAP), title, INK, _font())
    top = LINE + GAP
    for panel, height in zip(panels, heights, strict=True):
        for number, picture in enumerate(panel):
            canvas.paste(Image.fromarray(picture), (GAP + number * (width + GAP), top))
        top += height + GAP
    canvas.paste(legend, (0, top))
    return canvas


def _enlarged(pictures: list[NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
    factor = -(-WIDTH // pictures[0].shape[1])
    return [picture.repeat(factor, 0).repeat(factor, 1) for picture in pictures]


def _legend(classes: Sequence[str], colours: Sequence[Colour], width: int) -> Image.Image:
    """A swatch and a name for each class, wrapped to the width; the last one is "ignored"."""
    font, places, left, line = _font(), [], GAP, 0
    for name in (*classes, "ignored"):
        length = SWATCH + 6 + int(font.getlength(name)) + 2 * GAP
        if left + length > width and left > GAP:
            left, line = GAP, line + 1
        places.append((left, line * LINE))
        left += length
    legend = Image.new("RGB", (width, (line + 1) * LINE + GAP), PAPER)
    pen = ImageDraw.Draw(legend)
    for name, colour, (x, y) in zip((*classes, "ignored"), (*colours, (0, 0, 0)), places, strict=True):
        pen.rectangle((x, y + 2, x + SWATCH, y + 2 + SWATCH), colour, INK)
        pen.text((x + SWATCH + 6, y), name, INK, font)
    return legend


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(14)
