"""How a data set declares its labels, and the tables that turn what masks store, numbers or colours, into class numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from colorsys import hsv_to_rgb
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BeforeValidator
from torch import Tensor

from kd.config import shown
from kd.data.dataset import Colour, LabelError
from kd.data.headers import BrokenFileError, is_one_bit
from kd.data.reading import read_colours, read_greys, read_values
from kd.types import IGNORE

WHITE = np.uint8(255)
FEW = 4
"""More undeclared values than these, in a mask of two classes, look like edges."""
UNKNOWN = IGNORE - 1
"""Marks what was not declared, inside this file; so there are at most 254 classes."""
LARGEST = 65535
"""Masks of 16 bits hold no more."""


def _value(key: Any) -> int:
    """A mask value, also as text: keys from a command line or a saved recipe are."""
    text = str(key).strip()
    if isinstance(key, bool) or not text.isascii() or not text.isdigit() or int(text) > LARGEST:
        raise ValueError(f"has the mask value {shown(key)}; a mask value is a whole number from 0 to {LARGEST}")
    return int(text)


def _name(name: Any) -> str:
    if not isinstance(name, str) or not name.strip():
        rule = "a name is a text. Quote what YAML takes for something else: 'no', '1'"
        raise ValueError(f"has the class name {shown(name)}; {rule}")
    return name.strip()


def _pairs(given: Any, rule: str) -> list[tuple[Any, Any]]:
    """The items of a mapping, or of a list of pairs, as which a mapping is saved: its order must not be lost."""
    if isinstance(given, Mapping):
        return list(given.items())
    if isinstance(given, (list, tuple)) and all(isinstance(item, (list, tuple)) and len(item) == 2 for item in given):
        return [(item[0], item[1]) for item in given]
    raise ValueError(f"is {shown(given)}; {rule}")


def _unique(names: Sequence[Any], what: str) -> None:
    double = [name for name, count in Counter(names).items() if count > 1]
    if double:
        raise ValueError(f"has the {what} {shown(double[0])} twice; each needs its own")


def _classes(given: Any) -> tuple[tuple[int, str], ...]:
    """``[background, road]``, or ``{0: background, 255: crack}``: the order is the class number, the key the mask value."""
    if isinstance(given, (list, tuple)) and not any(isinstance(item, (list, tuple)) for item in given):
        given = dict(enumerate(given))
    found: dict[int, str] = {}
    for key, name in _pairs(given, "write a list of names, or mask value: name"):
        found[_value(key)] = _name(name)  # of 1 and "1", the later one wins: it is an override
    _unique(list(found.values()), "class")
    _count(found)
    return tuple(found.items())


def _colour(value: Any) -> Colour:
    if (
        not isinstance(value, (list, tuple))
        or len(value) != 3
        or not all(isinstance(part, int) and not isinstance(part, bool) and 0 <= part <= 255 for part in value)
    ):
        raise ValueError(f"has the colour {shown(value)}; write red, green, blue from 0 to 255, e.g. [128, 64, 128]")
    return value[0], value[1], value[2]


def _colours(given: Any) -> tuple[tuple[str, Colour], ...]:
    """``{road: [128, 64, 128], ...}``, in the order of the class numbers."""
    found = tuple((_name(name), _colour(colour)) for name, colour in _pairs(given, "write name: [red, green, blue]"))
    _unique([name for name, _ in found], "class")
    _unique([colour for _, colour in found], "colour")
    _count(found)
    return found


def _count(found: Any) -> None:
    if not 0 < len(found) <= UNKNOWN:
        raise ValueError(f"holds {len(found)} classes; 1 to {UNKNOWN} are possible")


def _several(given: Any) -> Any:
    """One value, or a list of them."""
    return tuple(_value(value) for value in (given if isinstance(given, (list, tuple)) else [given]))


ClassValues = Annotated[
    tuple[tuple[int, str], ...], BeforeValidator(_classes, list[str] | dict[int, str] | list[tuple[int, str]])
]
ClassColours = Annotated[
    tuple[tuple[str, Colour], ...], BeforeValidator(_colours, dict[str, Colour] | list[tuple[str, Colour]])
]
Values = Annotated[tuple[int, ...], BeforeValidator(_several, int | list[int])]


def mapped(values: NDArray[np.uint8], table: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """``table[values]`` for a table of 256 entries, several times as fast."""
    translated = bytearray(np.ascontiguousarray(values)).translate(table.tobytes())
    return np.frombuffer(translated, np.uint8).reshape(values.shape)


class ByValue:
    """Reads masks that store numbers: labels uint8 ``H W`` of a file.

    White in a mask of 1 bit is 255. It is 1 only where 1 is declared and each of the set's ``masks`` is of 1 bit.

    Raises:
        LabelError: a value is neither a class nor ignored.
        BrokenFileError: the file cannot be read as numbers, or is of 1 bit where others are not, and 1 means something.
    """

    def __init__(
        self, classes: Sequence[tuple[int, str]], ignore: Sequence[int], masks: Callable[[], Iterable[Path]] = tuple
    ) -> None:
        self.masks, self.ones = masks, 1 in [*dict(classes), *ignore]
        self.table = np.full(LARGEST + 2, UNKNOWN, np.uint8)
        self.table[list(ignore)] = IGNORE
        self.table[[value for value, _ in classes]] = range(len(classes))
        known = ", ".join(f"{value} {name}" for value, name in classes[:12]) + (", ..." if len(classes) > 12 else "")
        self.known = f"{known}; ignored {', '.join(map(str, ignore)) or 'none'}"
        self.binary = len(classes) == 2

    def __call__(self, path: Path) -> Tensor:
        values = read_values(path)
        if self.ones and values.size and values.max() == WHITE and is_one_bit(path):
            self._check_white(path)
            values = values // WHITE
        if values.dtype == np.uint8:
            labels = mapped(values.astype(np.uint8, copy=False), self.table[:256])
        else:
            labels = self.table[np.where((values < 0) | (values > LARGEST), LARGEST + 1, values)]
        if (labels == UNKNOWN).any():
            wrong = values[labels == UNKNOWN]
            smooth = self.binary and len(np.unique(wrong)) > FEW
            cut = "; if these are smoothed or lossy edges of one thing, cut them: data.threshold=128" if smooth else ""
            raise LabelError(
                f"{path}: holds the value {_counted(wrong, str)}, which is no class (known: {self.known}). Add it to "
                f"data.classes, or to data.ignore if it means no label; or mend the mask{cut}"
            )
        return torch.from_numpy(labels)

    def _check_white(self, path: Path) -> None:
        if self.deeper is not None:
            raise BrokenFileError(
                f"{path}: is a mask of 1 bit, whose white is 255, and others hold more bits (such as {self.deeper}), so that 1 "
                "and 255 may both occur. If 255 means a class, say so: 'data.classes={0: background, 255: NAME}'; if white "
                "means 1 here, write these masks with 8 bits"
            )

    @cached_property
    def deeper(self) -> Path | None:
        """A mask of more than 1 bit, if there is one."""
        return next((mask for mask in self.masks() if not is_one_bit(mask)), None)


class ByThreshold:
    """Reads grey masks, lossy ones too: 1 from a grey level on, 0 below; labels uint8 ``H W`` of a file.

    Raises:
        BrokenFileError: the file cannot be read, is painted, or of more than 8 bits.
    """

    def __init__(self, level: int) -> None:
        self.level = level

    def __call__(self, path: Path) -> Tensor:
        return torch.from_numpy((read_greys(path) >= self.level).astype(np.uint8))


class ByColour:
    """Reads painted masks (RGB, RGBA, palette, grey): labels uint8 ``H W`` of a file.

    Raises:
        LabelError: a colour is neither a class nor ignored.
        BrokenFileError: the file cannot be read as colours.
    """

    def __init__(self, colours: Sequence[tuple[str, Colour]], ignore: Sequence[Colour]) -> None:
        self.table = np.full(1 << 24, UNKNOWN, np.uint8)
        self.table[[_packed(colour) for colour in ignore]] = IGNORE
        self.table[[_packed(colour) for _, colour in colours]] = range(len(colours))

    def __call__(self, path: Path) -> Tensor:
        red, green, blue = np.moveaxis(read_colours(path).astype(np.int32), 2, 0)
        codes = red << 16 | green << 8 | blue
        labels = self.table[codes]
        if (labels == UNKNOWN).any():
            found = _counted(codes[labels == UNKNOWN], _unpacked)
            raise LabelError(
                f"{path}: holds the colour {found}, which is no class. Add it to data.colours, or to data.ignore_colours if it "
                "means no label; or mend the mask (masks of class numbers need data.classes without colours)"
            )
        return torch.from_numpy(labels)


def _packed(colour: Colour) -> int:
    return colour[0] << 16 | colour[1] << 8 | colour[2]


def _unpacked(code: int) -> str:
    return str([code >> 16, code >> 8 & 255, code & 255])


def _counted(stored: NDArray[Any], show: Callable[[int], str]) -> str:
    """The most frequent values and their pixels."""
    values, counts = np.unique(stored, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:6]
    more = f" and {len(values) - 6} more" if len(values) > 6 else ""
    return ", ".join(f"{show(int(values[i]))} ({counts[i]} pixels)" for i in order) + more


def palette(count: int) -> tuple[Colour, ...]:
    """Distinct colours for pictures: a dark grey for the first class, which often is the background, then hues a golden
    section apart in three shades."""
    return ((72, 76, 84), *(_hue(number) for number in range(count - 1)))


def _hue(number: int) -> Colour:
    saturation, brightness = ((0.8, 0.95), (0.5, 1.0), (0.9, 0.65))[number % 3]
    red, green, blue = (round(255 * part) for part in hsv_to_rgb(0.618034 * number % 1, saturation, brightness))
    return red, green, blue
