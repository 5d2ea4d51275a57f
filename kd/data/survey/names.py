"""Names of classes that somebody has written down: beside the masks, or in a known data set of the same colours."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from kd.data.dataset import Colour
from kd.lookup import lookup

LISTS = ("classes.txt", "labels.txt", "codes.txt", "class_names.txt")
"""A name a line, in the order of the masks' numbers."""
COLOURED = "labelmap.txt"
"""What CVAT writes: ``name:red,green,blue::`` a line."""
KNOWN = ("cityscapes", "camvid", "voc", "deepglobe")
FEWEST = 3
"""Colours that are no accident: black and white belong to many."""


def numbered(root: Path) -> list[str]:
    """Class names from the first list of the folder, in its order; none where there is no list, or a name stands twice."""
    for lines in filter(None, (_lines(root / name) for name in LISTS)):
        return lines if len(set(lines)) == len(lines) else []
    return []


def coloured(root: Path, colours: Collection[Colour]) -> tuple[Mapping[Colour, str], str]:
    """The names of colours, in their order, and whose they are: the folder's ``labelmap.txt``, or a known data set's."""
    told = dict(_painted(_lines(root / COLOURED)))
    for known in KNOWN if not told else ():
        data = lookup("kd.data", known, "Dataset")
        names = dict(zip(data.colours, data.classes, strict=True))
        shared = names.keys() & set(colours)
        if len(shared) >= FEWEST and set(colours) <= {*shared, (0, 0, 0)}:
            return names, known
    return told, COLOURED


def _lines(file: Path) -> list[str]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return []
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def _painted(lines: list[str]) -> Iterator[tuple[Colour, str]]:
    for line in lines:
        if match := re.match(r"([^:]+):(\d{1,3}),(\d{1,3}),(\d{1,3})(:|$)", line):
            yield (int(match[2]), int(match[3]), int(match[4])), match[1].strip()
