"""What a block says, in a paragraph: who is above or below the baseline by more than chance, and what to doubt."""

from __future__ import annotations

from collections.abc import Sequence

from kd.report.sections import seeds
from kd.results.layouts import spread
from kd.results.rows import Block, Row

SAID = ("under-trained", "diverged", "teacher below student", "incomplete", "other machine")
"""Flags that the paragraph names; the table has all of them."""


def summary(block: Block) -> str:
    """The paragraph; labels stand as `` `code` ``."""
    sentences = [_measured(block), *_compared(block), *(f"{line}." for line in block.gains), *_doubts(block)]
    return " ".join(sentences)


def _measured(block: Block) -> str:
    first = block.first
    images = block.images if block.images is not None else first.last[first.reported_on].get("images")
    count = f" ({images} images)" if images is not None else ""
    number = len(block.rows)
    rows = f"{number} row{'s' if number > 1 else ''}"
    return f"{rows}, measured on split {first.reported_on}{count} with the last checkpoint, {seeds(block)} a row."


def _compared(block: Block) -> list[str]:
    baseline = next((row for row in block.rows if row.label == block.group.baseline), None)
    if baseline is None:
        return ["There is no baseline among them, so no row is called better or worse."]
    start = f"The baseline `{baseline.label}` reaches {spread(baseline.mean, baseline.std)} % mIoU."
    others = [row for row in block.rows if row.delta]
    if not others:
        return [start, "There is no other row to compare it with."]
    signs = {sign: [row for row in others if row.delta and row.delta.sign == sign] for sign in (1, -1)}
    open_ = [row for row in others if row.delta and row.delta.sign == 0]
    judged = [row for row in open_ if row.delta and row.delta.over_seeds and row.delta.low is not None]
    found = [start]
    if signs[1]:
        found.append(f"Above it by more than chance (95 % interval of the difference excludes 0): {_named(signs[1])}.")
    if signs[-1]:
        found.append(f"Below it by more than chance: {_named(signs[-1])}.")
    if marked := [*signs[1], *signs[-1]]:
        stand = _named([row for row in marked if row.stands]) or "none"
        found.append(f"Of these, with Holm's correction for {len(others)} comparisons, still: {stand}.")
    if judged:
        found.append(f"Not told apart from it (the interval contains 0): {_named(judged)}.")
    return [*found, *_unjudged([row for row in open_ if row not in judged])]


def _unjudged(rows: Sequence[Row]) -> list[str]:
    """Rows without an interval over seeds."""
    single = [row for row in rows if row.delta and row.delta.low is not None]
    blind = [row for row in rows if row.delta and row.delta.low is None]
    found = []
    if single:
        found.append(
            f"With one seed on a side nothing can be said about other seeds, and these are called neither better nor worse: "
            f"{_named(single)}."
        )
    if blind:
        found.append(f"Without counts of images there is no interval: {_named(blind)}.")
    return found


def _named(rows: Sequence[Row]) -> str:
    ordered = sorted(rows, key=lambda row: -row.delta.value if row.delta else 0.0)
    return ", ".join(f"`{row.label}` ({row.delta.value:+.2f})" for row in ordered if row.delta)


def _doubts(block: Block) -> list[str]:
    few = [row for row in block.rows if "n < 3" in row.flags]
    found = []
    if few:
        who = "All rows have" if len(few) == len(block.rows) else f"{_listed(few)} {'has' if len(few) == 1 else 'have'}"
        found.append(f"{who} fewer than three seeds.")
    for flag in SAID:
        rows = [row for row in block.rows if flag in row.flags]
        if rows:
            found.append(f"Flagged {flag}: {_listed(rows)}.")
    return found


def _listed(rows: Sequence[Row]) -> str:
    return ", ".join(f"`{row.label}`" for row in rows)
