"""Pictures to judge a student by eye: columns of label maps with titles and a legend, or labels laid over the image."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from torch import Tensor

from kd.files import file_name, write_whole
from kd.types import IGNORE

Colour = tuple[int, int, int]
Sample = tuple[Tensor, Mapping[str, Tensor]]
Panel = tuple[str, np.ndarray, Mapping[str, np.ndarray]]
"""Name, image uint8 ``H W 3``, label maps uint8 ``H W`` by title."""

NARROWEST, WIDEST, TALLEST = 240, 640, 960
"""The sides of one picture, in pixels, are brought into this range by whole factors where one exists."""
GAP, SWATCH = 10, 16
PAPER, INK, DARK, LIGHT = (255, 255, 255), (32, 34, 38), (0, 0, 0), (96, 96, 96)
TITLE, TEXT = 17, 15
SCREEN, RARE = 1600, 0.02
"""Pixels of a large side; the share of the pixels below which a class is drawn wider."""


def panel(image: Tensor, columns: Mapping[str, Tensor], classes: Sequence[str], colours: Sequence[Colour]) -> Image.Image:
    """One sample as a titled row: the image, then one coloured label map per column.

    ``image`` uint8 ``3 H W``; each column's labels, integers ``H W``, 255 = ignored (drawn black with grey hatching).

    Raises:
        ValueError: a shape, a dtype or a label does not fit; the message names the column.
    """
    return _grid([(image, columns)], classes, colours)


def sheet(rows: Sequence[Sample], classes: Sequence[str], colours: Sequence[Colour]) -> Image.Image:
    """Several samples ``(image, columns)`` under one row of titles, with a legend of all classes at the bottom.

    Images may differ in size; the columns must be the same ones, in the same order.

    Raises:
        ValueError: there is no row, rows disagree on columns, or a sample is not fit for ``panel``.
    """
    table = _grid(rows, classes, colours)
    key = legend(classes, colours, table.width)
    page = Image.new("RGB", (table.width, table.height + key.height), PAPER)
    page.paste(table, (0, 0))
    page.paste(key, (0, table.height))
    return page


def overlay(image: Tensor, labels: Tensor, colours: Sequence[Colour], opacity: float = 0.5) -> Image.Image:
    """The image at its own size with each class's colour laid over it; ignored pixels stay as they are, rare classes are drawn
    wider where the image is large, see :func:`bold`.

    ``image`` uint8 ``3 H W``; ``labels`` integers ``H W``, 255 = ignored.

    Raises:
        ValueError: a shape, a dtype or a label does not fit.
    """
    photo = _photo(image)
    shown = bold(_checked("labels", labels, image.shape[1:], len(colours)))
    painted = Image.blend(photo, Image.fromarray(palette(colours)[shown]), opacity)
    return Image.composite(photo, painted, Image.fromarray(shown == IGNORE))


def legend(classes: Sequence[str], colours: Sequence[Colour], width: int = WIDEST, ignored: bool = True) -> Image.Image:
    """Swatch and name of each class, and of ``ignored`` pixels, in even columns over the width in pixels."""
    _check_palette(classes, colours)
    font = ImageFont.load_default(TEXT)
    names = [*classes, "ignored"] if ignored else list(classes)
    room = width - 2 * GAP
    step = min(room, int(max(font.getlength(name) for name in names)) + SWATCH + 3 * GAP)
    across, line = max(1, room // step), SWATCH + GAP
    page = Image.new("RGB", (width, GAP + -(-len(names) // across) * line), PAPER)
    draw = ImageDraw.Draw(page)
    swatches = [Image.new("RGB", (SWATCH, SWATCH), tuple(colour)) for colour in colours]
    swatches.append(Image.fromarray(_hatching(SWATCH, SWATCH)))
    for number, (name, swatch) in enumerate(zip(names, swatches, strict=False)):
        x, y = GAP + number % across * step, GAP // 2 + number // across * line
        page.paste(swatch, (x, y))
        draw.rectangle((x, y, x + SWATCH - 1, y + SWATCH - 1), outline=LIGHT)
        draw.text((x + SWATCH + GAP // 2, y + SWATCH // 2), _fit(name, font, step - SWATCH - GAP), INK, font, anchor="lm")
    return page


def indexed(labels: np.ndarray, colours: Sequence[Colour]) -> Image.Image:
    """Labels uint8 ``H W`` as a picture whose pixels are the class numbers, with the classes' colours as its palette."""
    picture = Image.fromarray(labels)
    picture.putpalette(palette(colours).tobytes())
    return picture


def write_samples(panels: Sequence[Panel], colours: Sequence[Colour], folder: Path) -> None:
    """The parts of each panel as files: ``NN_NAME/image.jpg``, and ``target.png``, ``student.png`` ... with class numbers.

    What was in the folder before goes.
    """
    shutil.rmtree(folder, ignore_errors=True)
    for number, (name, image, maps) in enumerate(panels):
        place = folder / f"{number:02d}_{file_name(name)[-80:]}"
        write_whole(place / "image.jpg", partial(Image.fromarray(image).save, format="JPEG", quality=92, subsampling=0))
        for title, labels in maps.items():
            write_whole(place / f"{title}.png", partial(indexed(labels, colours).save, format="PNG"))


def palette(colours: Sequence[Colour]) -> np.ndarray:
    """Colours by label, uint8 ``256 3``; black where there is no class."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(colours)] = colours
    return table


def _grid(rows: Sequence[Sample], classes: Sequence[str], colours: Sequence[Colour]) -> Image.Image:
    titles = _titles(rows)
    _check_palette(classes, colours)
    cells = [_cells(image, columns, palette(colours), len(classes)) for image, columns in rows]
    width = max(row[0].width for row in cells)
    font, top = ImageFont.load_default(TITLE), GAP + TITLE + GAP
    height = top + sum(row[0].height + GAP for row in cells)
    page = Image.new("RGB", (GAP + len(titles) * (width + GAP), height), PAPER)
    draw = ImageDraw.Draw(page)
    for number, title in enumerate(titles):
        middle = GAP + number * (width + GAP) + width // 2
        draw.text((middle, top // 2), _fit(title, font, width), INK, font, anchor="mm")
    for row in cells:
        for number, cell in enumerate(row):
            page.paste(cell, (GAP + number * (width + GAP) + (width - cell.width) // 2, top))
        top += row[0].height + GAP
    return page


def _titles(rows: Sequence[Sample]) -> list[str]:
    if not rows:
        raise ValueError("there is no sample to draw; pass at least one row (image, columns)")
    first = list(rows[0][1])
    for number, (_, columns) in enumerate(rows):
        if list(columns) != first:
            raise ValueError(f"row {number} has columns {list(columns)}, but row 0 has {first}; give all rows the same")
    return ["image", *first]


def _check_palette(classes: Sequence[str], colours: Sequence[Colour]) -> None:
    if not 0 < len(classes) == len(colours) <= IGNORE:
        raise ValueError(
            f"{len(classes)} classes and {len(colours)} colours; there must be one colour per class, 1 to {IGNORE} of them"
        )


def _cells(image: Tensor, columns: Mapping[str, Tensor], table: np.ndarray, classes: int) -> list[Image.Image]:
    photo = _photo(image)
    size = _display(*photo.size)
    smooth = Image.Resampling.BICUBIC if size[0] > photo.width else Image.Resampling.BOX
    maps = [_checked(name, labels, image.shape[1:], classes) for name, labels in columns.items()]
    return [photo.resize(size, smooth), *(_painted(labels, size, table) for labels in maps)]


def _photo(image: Tensor) -> Image.Image:
    if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"the image is {image.dtype} {tuple(image.shape)}; it must be uint8 3 H W, before normalisation")
    return Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy())


def _display(width: int, height: int) -> tuple[int, int]:
    """The size in pixels at which a picture is shown: scaled by a whole factor up, or down by a whole divisor."""
    if width < NARROWEST and height < TALLEST:
        factor = min(-(-NARROWEST // width), TALLEST // height)
        return width * factor, height * factor
    divisor = max(-(-width // WIDEST), -(-height // TALLEST))
    return max(1, width // divisor), max(1, height // divisor)


def _checked(name: str, labels: Tensor, size: torch.Size, classes: int) -> np.ndarray:
    """Labels as uint8 ``H W``, known to be classes or ignored."""
    if labels.is_floating_point() or labels.shape != size:
        raise ValueError(
            f"column '{name}' is {labels.dtype} {tuple(labels.shape)}; it must hold integers of the image's size {tuple(size)}"
        )
    wrong = labels[((labels < 0) | (labels >= classes)) & (labels != IGNORE)]
    if len(wrong):
        raise ValueError(f"column '{name}' holds label {int(wrong[0])}; labels must be 0..{classes - 1}, or {IGNORE}")
    return labels.cpu().numpy().astype(np.uint8)


def _painted(labels: np.ndarray, size: tuple[int, int], table: np.ndarray) -> Image.Image:
    """Coloured labels at the displayed size (width, height); hatching is drawn there, so that it stays fine."""
    shown = shrunk(labels, size) if size[0] < labels.shape[1] else _nearest(labels, size)
    pixels = table[shown]
    hatched = _hatching(*size)
    ignored = shown == IGNORE
    pixels[ignored] = hatched[ignored]
    return Image.fromarray(pixels)


def _nearest(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(labels).resize(size, Image.Resampling.NEAREST))


def shrunk(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Labels uint8 ``H W`` at a smaller size (width, height), in which thin things stay whole.

    Where labels share a block, the one that is rarest in the picture is shown, if a line of it crosses the block.
    """
    factor = labels.shape[1] // size[0]
    if factor < 2 or factor != labels.shape[0] // size[1]:
        return _nearest(labels, size)
    blocks = labels[: size[1] * factor, : size[0] * factor].reshape(size[1], factor, size[0], factor)
    found = _nearest(labels, size).copy()
    for label in _rarest_last(labels)[1:]:
        found[(blocks == label).mean((1, 3)) >= 1 / (2 * factor)] = label
    return found


def bold(labels: np.ndarray) -> np.ndarray:
    """Labels uint8 ``H W`` of a large picture, in which rare ones are drawn wider, to be seen when it fills a screen."""
    radius = max(labels.shape) // SCREEN
    found = labels.copy()
    for label in _rarest_last(labels) if radius else ():
        there = Image.fromarray((labels == label).astype(np.uint8) * 255)
        if np.count_nonzero(labels == label) < RARE * labels.size:
            found[np.asarray(there.filter(ImageFilter.MaxFilter(2 * radius + 1))) > 0] = label
    return found


def _rarest_last(labels: np.ndarray) -> list[int]:
    """The labels of a picture by their pixels; ignored ones never count as rare."""
    values, counts = np.unique(labels, return_counts=True)
    return [int(value) for value in values[np.lexsort((-counts, values != IGNORE))]]


def _hatching(width: int, height: int) -> np.ndarray:
    """Grey diagonals on black, uint8 ``H W 3``."""
    diagonal = np.add.outer(np.arange(height), np.arange(width)) % 8 < 2
    return np.where(diagonal[..., None], LIGHT, DARK).astype(np.uint8)


def _fit(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """The text, cut with an ellipsis where it is wider than ``width`` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."
