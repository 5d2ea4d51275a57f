"""The four kinds of charts: curves with bands, points with bars, stacked bars, and reliability diagrams."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from kd.report.styles import Look, shortened
from kd.report.svg import Frame, Scale, area, element, frame, line, marker, picture, stroke, text

FEW = 3
"""Curves of fewer points are told as a number, see ``curves``."""
DOTS = 12
"""Curves of at most so many points have a marker at each."""
MANY = 40
"""More bars than these are thinner."""


@dataclass(frozen=True)
class Curve:
    """Means over seeds at ``x``, and the lowest and highest seed there. ``faint`` ones stay behind the others."""

    look: Look
    x: Sequence[float]
    mean: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    seeds: int = 1
    faint: bool = False


def curves(
    drawn: Sequence[Curve],
    title: str,
    x_label: str,
    y_label: str,
    level: tuple[str, float] | None = None,
    bands: bool = True,
    also: Sequence[float] = (),
) -> Markup:
    """Lines over a common x axis from 0; ``level`` is a named horizontal line, such as the teacher's score.

    The y axis also holds the values of ``also``, so that several charts can have the same one. Where no curve has ``FEW``
    points there is no chart, but the last number of each.
    """
    if few(drawn):
        return _last_numbers([curve for curve in drawn if not curve.faint], level)
    values = [value for curve in drawn for value in ((*curve.low, *curve.high) if bands else curve.mean)]
    values += [*also, *([level[1]] if level else [])]
    place = frame((0, max(x for curve in drawn for x in curve.x)), (min(values), max(values)))
    parts = [place.axes(x_label, y_label)]
    if level:
        parts.append(_level(place, *level))
    parts += [_curve(place, curve, bands) for curve in sorted(drawn, key=lambda curve: not curve.faint)]
    return picture(place.width, place.height, title, *parts)


def few(drawn: Iterable[Curve]) -> bool:
    """Whether there are too few points for a chart."""
    return all(len(curve.x) < FEW for curve in drawn)


def _last_numbers(drawn: Sequence[Curve], level: tuple[str, float] | None) -> Markup:
    lines = [element("li", curve.look.key, _last(curve)) for curve in drawn]
    lines += [element("li", f"{level[0]}: {level[1]:.4g}")] if level else []
    return element("ul", *lines, class_="ends")


def _last(curve: Curve) -> str:
    spread = f" ({curve.low[-1]:.4g} to {curve.high[-1]:.4g})" if curve.seeds > 1 else ""
    return f"{curve.look.label}: {curve.mean[-1]:.4g}{spread} at step {curve.x[-1]:g}"


def _level(place: Frame, name: str, value: float) -> Markup:
    y = place.y(value)
    words = text(name, place.x.end, y - 4 if y > place.y.end + 12 else y + 12, "end", class_="name")
    return element("g", stroke((place.x.start, y), (place.x.end, y), class_="level"), words)


def _curve(place: Frame, curve: Curve, bands: bool) -> Markup:
    points = [(place.x(x), place.y(y)) for x, y in zip(curve.x, curve.mean, strict=True)]
    if curve.faint:
        return element("g", line(points), class_="faint")
    parts = [element("title", f"{curve.look.label}: {curve.mean[-1]:.4g} at the end")]
    if bands and curve.seeds > 1:
        lows = [(place.x(x), place.y(y)) for x, y in zip(curve.x, curve.low, strict=True)]
        highs = [(place.x(x), place.y(y)) for x, y in zip(curve.x, curve.high, strict=True)]
        parts.append(area([*lows, *reversed(highs)], class_="band"))
    parts.append(line(points, stroke_dasharray=curve.look.dash))
    numbers = range(len(points)) if len(points) <= DOTS else range(len(points) - 1, len(points))
    parts += [marker(curve.look.shape, points[i], element("title", _words(curve, i))) for i in numbers]
    return element("g", *parts, class_=curve.look.css)


def _words(curve: Curve, i: int) -> str:
    spread = f" ({curve.low[i]:.4g} to {curve.high[i]:.4g}, n = {curve.seeds})" if curve.seeds > 1 else ""
    return f"{curve.look.label}, step {curve.x[i]:g}: {curve.mean[i]:.4g}{spread}"


@dataclass(frozen=True)
class Dot:
    """A point of a scatter plot with a bar of ``std`` to both sides (None: no bar)."""

    look: Look
    x: float
    y: float
    std: float | None


def scatter(dots: Sequence[Dot], title: str, x_label: str, y_label: str) -> Markup:
    """Points with vertical bars; each is named where its name hits no other name or point."""
    ends = [dot.y + sign * (dot.std or 0) for dot in dots for sign in (-1, 1)]
    place = frame((0, 1.25 * max(dot.x for dot in dots)), (min(ends), max(ends)), height=270)
    parts = [place.axes(x_label, y_label), *(_dot(place, dot) for dot in dots), *_names(place, dots)]
    return picture(place.width, place.height, title, *parts)


def _dot(place: Frame, dot: Dot) -> Markup:
    x, y = place.x(dot.x), place.y(dot.y)
    spread = f" ± {dot.std:.2f}" if dot.std is not None else ""
    parts = [element("title", f"{dot.look.label}: {dot.y:.2f}{spread} at {dot.x:.3g}")]
    if dot.std:
        low, high = place.y(dot.y - dot.std), place.y(dot.y + dot.std)
        parts.append(stroke((x, low), (x, high), class_="bar"))
        parts += [stroke((x - 3, end), (x + 3, end), class_="bar") for end in (low, high)]
    parts.append(marker(dot.look.shape, (x, y)))
    return element("g", *parts, class_=dot.look.css)


Box = tuple[float, float, float, float]


def _names(place: Frame, dots: Sequence[Dot]) -> list[Markup]:
    taken = [box for dot in dots for box in _taken(place, dot)]
    found = []
    for dot in dots:
        words = dot.look.short(20)
        x, y, wide = place.x(dot.x), place.y(dot.y), 6.0 * len(words)
        places = ((x + 8, y + 4, "start"), (x - 8, y + 4, "end"), (x + 6, y - 7, "start"), (x + 6, y + 14, "start"))
        for left, base, anchor in places:
            start = left - wide if anchor == "end" else left
            box = (start, base - 9, start + wide, base + 2)
            if box[0] > place.x.start and box[2] < place.width and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                found.append(text(words, left, base, anchor, class_="tag"))
                break
    return found


def _taken(place: Frame, dot: Dot) -> list[Box]:
    """Where a point's marker and its bar lie."""
    x, y, std = place.x(dot.x), place.y(dot.y), dot.std or 0
    return [(x - 5, y - 5, x + 5, y + 5), (x - 3, place.y(dot.y + std), x + 3, place.y(dot.y - std))]


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


@dataclass(frozen=True)
class Bar:
    """One horizontal bar: counts by the CSS class of their part."""

    name: str
    parts: Mapping[str, int]


def stacked(bars: Sequence[Bar], title: str, names: Mapping[str, str]) -> Markup:
    """Bars of shares that fill 100 %; ``names`` of the parts. A bar without a count says so; many scroll in their place."""
    many = len(bars) > MANY
    line_height = 13 if many else 17
    across = Scale(0, 100, 116, 350)
    height = 6 + line_height * len(bars) + 18
    rows = [_bar(bar, 4 + line_height * number, line_height, across, names) for number, bar in enumerate(bars)]
    base = 4 + line_height * len(bars)
    marks = [
        element(
            "g", stroke((across(v), base), (across(v), base + 4)), text(f"{v} %" if v else "0", across(v), base + 15, "middle")
        )
        for v in (0, 50, 100)
    ]
    chart = picture(366, height, title, *rows, element("g", *marks, class_="axes"))
    return element("div", chart, class_="scroll", tabindex=0, role="region", aria_label=title) if many else chart


def _bar(bar: Bar, top: float, height: float, across: Scale, names: Mapping[str, str]) -> Markup:
    total = sum(bar.parts.values())
    label = text(shortened(bar.name, 18), across.start - 6, top + height * 0.72, "end", class_="name")
    parts = [element("title", bar.name), label]
    if not total:
        return element("g", *parts, text("no pixels", across.start + 4, top + height * 0.72, class_="name"))
    done = 0
    for kind, count in bar.parts.items():
        left, wide = across(100 * done / total), across(100 * count / total) - across(0)
        done += count
        words = element("title", f"{bar.name}: {names[kind]} {100 * count / total:.1f} % ({count} pixels)")
        parts.append(element("rect", words, x=left, y=top + 1, width=wide, height=height - 3, class_=f"part {kind}"))
    return element("g", *parts)


@dataclass(frozen=True)
class Bin:
    """A bin of a reliability diagram; confidence and accuracy in percent, None without a pixel."""

    pixels: int
    confidence: float | None
    accuracy: float | None


def reliability(bins: Sequence[Bin], look: Look, title: str) -> Markup:
    """Accuracy over mean confidence of each bin with the diagonal; under it the share of the pixels in each."""
    place = Frame(300, 306, Scale(0, 100, 38, 288), Scale(0, 100, 216, 22), (0, 25, 50, 75, 100), (0, 25, 50, 75, 100))
    parts = [place.axes("", "accuracy, %"), stroke((38, 216), (288, 22), class_="level")]
    known = [
        (one.confidence, one.accuracy, one.pixels) for one in bins if one.confidence is not None and one.accuracy is not None
    ]
    points = [(place.x(confidence), place.y(accuracy)) for confidence, accuracy, _ in known]
    marks = [
        marker(look.shape, at, element("title", f"confidence {c:.1f} %, accuracy {a:.1f} %, {n} pixels"))
        for at, (c, a, n) in zip(points, known, strict=True)
    ]
    parts.append(element("g", line(points, stroke_dasharray=look.dash), *marks, class_=look.css))
    return picture(300, 306, title, *parts, _shares(bins, look), text("confidence, %", 163, 302, "middle", class_="name"))


def _shares(bins: Sequence[Bin], look: Look) -> Markup:
    total, wide = max(1, sum(one.pixels for one in bins)), 250 / max(1, len(bins))
    parts = [text("pixels", 2, 284, class_="name")]
    for number, one in enumerate(bins):
        tall = 44 * one.pixels / total
        words = element("title", f"{100 * one.pixels / total:.1f} % of the pixels ({one.pixels})")
        parts.append(
            element("rect", words, x=38 + number * wide + 1, y=286 - tall, width=wide - 2, height=tall, class_="share")
        )
    return element("g", stroke((38, 286), (288, 286), class_="grid"), *parts, class_=look.css)
