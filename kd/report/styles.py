"""How a row is drawn: one colour, marker and dash for it in all charts of a block."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from kd.report.svg import MARKERS, element, marker, stroke
from kd.results.rows import Block

TONES = 6
"""Colours besides the baseline's neutral one; ``.tone1`` to ``.tone6`` of the style sheet."""
DASHES = (None, "7 3", "2 2.5", "9 3 2 3")


@dataclass(frozen=True)
class Look:
    """``tone`` 0 is the baseline's; ``shape`` counts the markers, ``dash`` is that of its lines (None: unbroken)."""

    label: str
    tone: int
    shape: int
    dash: str | None

    @property
    def css(self) -> str:
        """The class that sets the colour."""
        return f"tone{self.tone}"

    @property
    def key(self) -> Markup:
        """Line and marker as they stand in the charts, for legends and tables."""
        mid = (13.0, 6.0)
        parts = [stroke((0, 6), (26, 6), class_="line", stroke_dasharray=self.dash), marker(self.shape, mid)]
        return element("svg", *parts, class_=f"key {self.css}", viewBox="0 0 26 12", aria_hidden="true")

    def short(self, letters: int) -> str:
        """The label, cut to a number of letters."""
        return shortened(self.label, letters)


def shortened(words: str, letters: int) -> str:
    """Words cut to a number of letters, with an ellipsis where something is missing."""
    return words if len(words) <= letters else words[: letters - 1].rstrip() + "…"


def looks(block: Block) -> dict[str, Look]:
    """A look for each row; there are more markers than colours, so that the first 42 share no pair of both."""
    others = [row.label for row in block.rows if row.label != block.group.baseline]
    found = {label: _look(label, number) for number, label in enumerate(others)}
    baseline = block.group.baseline
    return {baseline: Look(baseline, 0, 0, None), **found} if baseline else found


def _look(label: str, number: int) -> Look:
    return Look(label, 1 + number % TONES, (1 + number) % len(MARKERS), DASHES[number // TONES % len(DASHES)])
