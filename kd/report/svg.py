"""Elements, scales and axes of charts as inline SVG; colours come from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

Point = tuple[float, float]

WIDTH = 360
MARKERS = (
    "M-3.2 0a3.2 3.2 0 1 0 6.4 0a3.2 3.2 0 1 0-6.4 0z",
    "M-2.9-2.9h5.8v5.8h-5.8z",
    "M0-3.9L3.6 2.6H-3.6z",
    "M0-4.1L4.1 0L0 4.1L-4.1 0z",
    "M0 3.9L3.6-2.6H-3.6z",
    "M-1.2-3.7h2.4v2.5h2.5v2.4h-2.5v2.5h-2.4v-2.5h-2.5v-2.4h2.5z",
    "M-3.2-1.5L-1.5-3.2L0-1.7L1.5-3.2L3.2-1.5L1.7 0L3.2 1.5L1.5 3.2L0 1.7L-1.5 3.2L-3.2 1.5L-1.7 0z",
)
"""Disc, square, triangle, diamond, triangle upside down, plus, cross; about 7 units wide, centred on 0."""


def element(tag: str, *children: str, **attributes: object) -> Markup:
    """``<tag ...>children</tag>``, everything escaped that is no ``Markup``.

    ``class_`` is ``class``, underscores are hyphens, numbers are rounded to a tenth, and None leaves the attribute out.
    """
    named = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items() if value is not None}
    written = Markup("").join(Markup(' {}="{}"').format(name, _short(value)) for name, value in named.items())
    inside = Markup("").join(escape(child) for child in children)
    return Markup("<{0}{1}>{2}</{0}>").format(tag, written, inside)


def _short(value: object) -> str:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)


def picture(width: float, height: float, title: str, *children: str) -> Markup:
    """A whole chart, as wide as its place; ``title`` is what a screen reader says."""
    box = f"0 0 {width:g} {height:g}"
    return element("svg", *children, viewBox=box, role="img", aria_label=title, class_="chart")


def text(words: str, x: float, y: float, anchor: str = "start", **more: object) -> Markup:
    """A line of text; ``anchor`` is start, middle or end."""
    return element("text", words, x=x, y=y, text_anchor=anchor, **more)


def marker(shape: int, at: Point, *children: str) -> Markup:
    """One of ``MARKERS`` around a point, in the current colour."""
    place = f"translate({_short(float(at[0]))} {_short(float(at[1]))})"
    return element("path", *children, d=MARKERS[shape % len(MARKERS)], transform=place, class_="mark")


def line(points: Sequence[Point], **more: object) -> Markup:
    """A polyline."""
    return element("polyline", points=_listed(points), class_="line", **more)


def area(points: Sequence[Point], **more: object) -> Markup:
    """A filled polygon."""
    return element("polygon", points=_listed(points), **more)


def _listed(points: Sequence[Point]) -> str:
    return " ".join(f"{_short(float(x))},{_short(float(y))}" for x, y in points)


@dataclass(frozen=True)
class Scale:
    """Values from ``low`` to ``high`` put between the coordinates ``start`` and ``end``."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The coordinate of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """About ``wanted`` multiples of 1, 2 or 5 times a power of ten, the first at or below ``low``, the last at or above
    ``high``. A range of no width, but for rounding, is widened."""
    if not high - low > 1e-9 * max(abs(low), abs(high)):
        low, high = low - (abs(low) * 0.1 or 1), high + (abs(high) * 0.1 or 1)
    raw = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, last + 1)]


def told(value: float, step: float) -> str:
    """A tick's number with as many decimals as ``step`` needs; whole thousands as ``12k``."""
    if step >= 1000 and step % 1000 == 0:
        return f"{value / 1000:g}k" if value else "0"
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    number = f"{value:.{decimals}f}"
    return number.replace("-", "−") if float(number) else f"{0:.{decimals}f}"


@dataclass(frozen=True)
class Frame:
    """The plotting area of a chart with its two scales and their ticks."""

    width: float
    height: float
    x: Scale
    y: Scale
    x_ticks: Sequence[float]
    y_ticks: Sequence[float]

    def axes(self, x_label: str, y_label: str) -> Markup:
        """Grid lines, numbers and names of both axes."""
        parts = [*self._columns(), *self._lines()]
        parts.append(text(x_label, (self.x.start + self.x.end) / 2, self.height - 4, "middle", class_="name"))
        parts.append(text(y_label, 2, 11, class_="name"))
        return element("g", *parts, class_="axes")

    def _columns(self) -> list[Markup]:
        step = self.x_ticks[1] - self.x_ticks[0]
        bottom = self.y.start
        return [
            element(
                "g",
                stroke((self.x(value), bottom), (self.x(value), bottom + 4)),
                text(told(value, step), self.x(value), bottom + 16, "middle"),
            )
            for value in self.x_ticks
        ]

    def _lines(self) -> list[Markup]:
        step = self.y_ticks[1] - self.y_ticks[0]
        left, right = self.x.start, self.x.end
        return [
            element(
                "g",
                stroke((left, self.y(value)), (right, self.y(value)), class_="grid"),
                text(told(value, step), left - 5, self.y(value) + 4, "end"),
            )
            for value in self.y_ticks
        ]


def stroke(one: Point, other: Point, **more: object) -> Markup:
    """A straight line between two points."""
    return element("line", x1=one[0], y1=one[1], x2=other[0], y2=other[1], **more)


def frame(x: tuple[float, float], y: tuple[float, float], height: float = 220, columns: int = 4, lines: int = 4) -> Frame:
    """A frame whose axes hold the ranges ``x`` and ``y`` and end on ticks; the x axis begins and ends with its range if that
    begins at 0."""
    across, up = ticks(*x, columns), ticks(*y, lines)
    right = x[1] if x[0] == 0 and x[1] > 0 else across[-1]
    across = [value for value in across if value <= right * (1 + 1e-9)]
    step = up[1] - up[0]
    left = 14 + 6.2 * max(len(told(value, step)) for value in up)
    return Frame(WIDTH, height, Scale(across[0], right, left, WIDTH - 14), Scale(up[0], up[-1], height - 36, 22), across, up)
