"""How masks say what a pixel is: by numbers, by colours, or by grey levels with smoothed edges; and what they hold."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType

import numpy as np

from kd.config import InputError
from kd.data.dataset import Colour
from kd.data.headers import DECODING, is_lossy, opened
from kd.data.reading import NUMBERED, BrokenFileError, read_colours, read_greys, read_palette, read_values
from kd.data.survey.places import FEW_COLOURS

DARK = 16
"""Levels next to black, and next to white, that an edge has not touched."""
TWO_LEVELS = 0.9
"""The least share of such pixels in masks that show one thing on a background."""
STEPS = (DARK, 60, 100, 140, 180, 256 - DARK)
"""Smoothed edges have levels in each of these spans."""
NO_LABEL = (255, 65535)
STRAY = 100
"""A class with so many times less pixels than those that would be ignored is none."""
BLACK, WHITE = (0, 0, 0), (255, 255, 255)


@dataclass(frozen=True)
class Class:
    """A class as masks write it, by number or by colour, and its share of all pixels."""

    name: str
    share: float
    number: int | None = None
    colour: Colour | None = None


@dataclass
class Coding:
    """What masks hold. ``ignore`` are numbers, ``ignore_colours`` colours that mean no label, ``ignored`` their share;
    ``threshold`` cuts grey levels; ``words`` say what was seen."""

    words: str
    classes: list[Class] = field(default_factory=list)
    ignore: list[int] = field(default_factory=list)
    ignore_colours: list[Colour] = field(default_factory=list)
    ignored: float = 0.0
    threshold: int | None = None


@dataclass
class Seen:
    """All masks together: pixels by number, by colour and by grey level, as far as files can be read so."""

    numbers: Counter[int] = field(default_factory=Counter)
    colours: Counter[Colour] = field(default_factory=Counter)
    greys: Counter[int] = field(default_factory=Counter)
    painted: bool = False
    kinds: Counter[str] = field(default_factory=Counter)
    together: Counter[frozenset[int]] = field(default_factory=Counter)
    """The numbers of a mask, by how many masks hold just these."""
    palettes: dict[int, set[Colour]] = field(default_factory=dict)

    @property
    def permuted(self) -> bool:
        """Whether palettes give one number several colours."""
        return any(len(colours) > 1 for colours in self.palettes.values())

    @property
    def two_levels(self) -> bool:
        """Whether masks are grey, and black and white but for edges."""
        ends = [sum(self.greys[level] for level in range(*span)) for span in ((0, DARK), (256 - DARK, 256))]
        return not self.painted and min(ends) > 0 and sum(ends) >= TWO_LEVELS * self.greys.total()

    @property
    def smoothed(self) -> bool:
        """Whether there are edges: grey levels all over the range, where class numbers would fill it from below."""
        return self.two_levels and all(any(self.greys[level] for level in range(*span)) for span in pairwise(STEPS))


def look(masks: Iterable[Path]) -> Seen:
    """Read masks; what cannot be read is left to ``kd check-data``."""
    seen = Seen()
    for path in masks:
        try:
            _add(path, seen)
        except (BrokenFileError, *DECODING):
            seen.kinds["broken"] += 1
    return seen


def _add(path: Path, seen: Seen) -> None:
    with opened(path) as image:
        lossy, numbered, bit = is_lossy(path, image), image.mode in NUMBERED, image.mode == "1"
    seen.kinds["lossy" if lossy else "1 bit" if bit else "numbers" if numbered else "colours"] += 1
    if numbered and not lossy:
        counts = _counts(read_values(path))
        seen.numbers.update(counts)
        seen.together[frozenset(counts)] += 1
        for value, colour in read_palette(path).items():
            seen.palettes.setdefault(value, set()).add(colour)
    try:
        seen.greys.update(_counts(read_greys(path)))
    except BrokenFileError:
        seen.painted = True  # or of 16 bits: grey levels tell nothing
    if not lossy and len(seen.colours) <= 4 * FEW_COLOURS:
        try:
            red, green, blue = np.moveaxis(read_colours(path).astype(np.int64), 2, 0)
        except BrokenFileError:
            return  # of 16 bits
        packed = _counts(red << 16 | green << 8 | blue)
        seen.colours.update({(code >> 16, code >> 8 & 255, code & 255): count for code, count in packed.items()})


def _counts(values: np.ndarray) -> dict[int, int]:
    found, counts = np.unique(values, return_counts=True)
    return {int(value): int(count) for value, count in zip(found, counts, strict=True)}


def understood(
    seen: Seen,
    names: Sequence[str] = (),
    painted: Mapping[Colour, str] = MappingProxyType({}),
    ignore: Sequence[int] | None = None,
) -> Coding:
    """What masks mean. ``names`` of numbers, in their order, and ``painted`` of colours, where somebody has written them down;
    ``ignore`` are the numbers that mean no label, where that is said.

    Raises:
        InputError: no mask can be read, or they hold too many values or colours to be classes.
    """
    kinds = {kind for kind, count in seen.kinds.items() if count} - {"broken"}
    if not kinds:
        raise InputError("no mask can be read; `kd check-data` tells why, once a recipe names them")
    if "lossy" in kinds or (kinds <= {"numbers", "1 bit"} and seen.smoothed):
        return _cut(seen, names)
    if "colours" in kinds or seen.permuted:
        return _painted(seen, painted)
    return _numbered(seen, names, ignore)


VOID = ("void", "unlabeled", "unlabelled", "ignore", "ignored", "unknown", "none", "dontcare", "noclass")


def without_void(coding: Coding, black: bool) -> None:
    """Make colours no label that are called so, and ``black``, where a data set paints no class so."""
    called = {one.colour for one in coding.classes if re.sub(r"[^a-z]", "", one.name.lower()) in VOID}
    void = [one for one in coding.classes if one.colour in called or (black and one.colour == BLACK)]
    coding.classes = [one for one in coding.classes if one not in void]
    coding.ignore_colours, coding.ignored = [one.colour for one in void if one.colour], sum(one.share for one in void)


def _cut(seen: Seen, names: Sequence[str]) -> Coding:
    if not seen.two_levels:
        raise InputError(
            "masks are lossy (JPEG), and show more than one thing on a background: which pixel means what cannot be told any "
            "more. Export them again from their source, as PNG"
        )
    bright = sum(count for level, count in seen.greys.items() if level >= 128) / seen.greys.total()
    first, second = _named(2, names, ["background", "foreground"])
    words = "grey masks of one thing, with smoothed or lossy edges, which are cut in the middle"
    return Coding(words, [Class(first, 1 - bright), Class(second, bright)], threshold=128)


def _painted(seen: Seen, names: Mapping[Colour, str]) -> Coding:
    if len(seen.colours) > FEW_COLOURS:
        most = ", ".join(str(list(colour)) for colour, _ in seen.colours.most_common(6))
        raise InputError(
            f"masks are painted in more than {FEW_COLOURS} colours (most often {most}); smoothed edges or lossy compression "
            "make such. Export the masks again without smoothing, as PNG"
        )
    total, usual = seen.colours.total(), ["background", "foreground"] if set(seen.colours) == {BLACK, WHITE} else ["background"]
    written = list(names)
    order = sorted(seen.colours, key=lambda c: (written.index(c) if c in names else len(names), c != BLACK, -seen.colours[c]))
    called = _named(len(order), (), usual if BLACK in seen.colours else [])
    pairs = zip(called, order, strict=True)
    found = [Class(names.get(colour, name), seen.colours[colour] / total, colour=colour) for name, colour in pairs]
    return Coding("palettes differ from file to file: read by colour" if seen.permuted else "painted masks", found)


def _numbered(seen: Seen, names: Sequence[str], given: Sequence[int] | None) -> Coding:
    numbers = dict(sorted(seen.numbers.items()))
    if {kind for kind, count in seen.kinds.items() if count} - {"broken"} == {"1 bit"} and set(numbers) == {0, 255}:
        numbers = {0: numbers[0], 1: numbers[255]}
    total = sum(numbers.values())
    usual_ignore = [value for value in NO_LABEL if value in numbers and len(numbers) > 2]
    ignore = usual_ignore if given is None else list(given)
    values = [value for value in numbers if value not in ignore]
    if given is None:
        _check_white(seen, numbers, values)
    if len(values) > FEW_COLOURS:
        raise InputError(
            f"masks hold {len(values)} different numbers ({values[0]} to {values[-1]}), too many to be classes: numbers of "
            "objects, depth or heights? Masks must hold a class at each pixel. Grey masks of one thing with smoothed edges are "
            "cut, if you say so: kd check-data folder/r18 data.root=... 'data.classes=[background, crack]' data.threshold=128"
        )
    if names and max(values) < len(names):
        values = list(range(len(names)))
    usual = ["background", "foreground"] if len(values) == 2 else ["background"]
    called = _named(len(values), names, usual if 0 in values else [], values)
    found = [Class(name, numbers.get(v, 0) / total, number=v) for name, v in zip(called, values, strict=True)]
    return Coding("masks of class numbers", found, ignore, ignored=sum(numbers[value] for value in ignore) / total)


def _check_white(seen: Seen, numbers: Mapping[int, int], values: Sequence[int]) -> None:
    """Refuse masks in which 255 may mean a class in one file and no label in another, or is crossed by stray pixels."""
    if 255 not in numbers or 255 in values or len(values) != 2:
        return
    other = max(values)
    ones, whites = (sum(count for held, count in seen.together.items() if v in held) for v in (other, 255))
    if other == 1 and not any({1, 255} <= held for held in seen.together):
        raise InputError(
            f"{ones} masks hold the value 1 and {whites} the value 255, none both, as if both meant the same thing. Write all "
            "masks alike, 0 and 255; or, if 255 means no label here, say --ignore 255"
        )
    if numbers[other] * STRAY < numbers[255]:
        raise InputError(
            f"masks hold 0, 255, and in {numbers[other]} pixels {other}, too few to be a class beside so many of 255: stray "
            f"pixels? Mend these ({ones} masks), or say what means no label: --ignore {other}, or --ignore 255"
        )
    if numbers[other] < numbers[255]:
        raise InputError(
            f"masks hold 0, {other} and 255, and more pixels of 255 ({numbers[255]}) than of {other} ({numbers[other]}): which "
            f"is the thing, and which means no label? Say --ignore {other}, or --ignore 255"
        )


def _named(count: int, names: Sequence[str], usual: Sequence[str], values: Sequence[int] = ()) -> list[str]:
    """Given names where they are as many, else the usual ones and ``class_7``."""
    if len(names) == count:
        return list(names)
    return [*usual, *(f"class_{(values or range(count))[place]}" for place in range(len(usual), count))]
