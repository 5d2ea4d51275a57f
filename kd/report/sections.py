"""What a block of the page is made of: parts with a heading, a caption and their data, or a sentence on why there are none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from kd.report.styles import Look
from kd.results.rows import Block


@dataclass(frozen=True)
class Panel:
    """One chart of several; the look is that of the row it belongs to, if it belongs to one."""

    heading: str
    chart: Markup
    look: Look | None = None
    note: str = ""


@dataclass(frozen=True)
class Part:
    """``template`` draws ``data``; where ``missing`` says something, it stands in place of both.

    ``legend`` asks for the keys of all rows above. Captions and sentences may hold `` `code` `` as tables do.
    """

    slug: str
    heading: str
    template: str = ""
    data: Any = None
    caption: str = ""
    missing: str = ""
    legend: bool = False


def several_teachers(block: Block) -> bool:
    """Whether rows had different teachers, which they do only where that was allowed: then nothing is *the* teacher's."""
    return len({run.teacher.get("mark") for row in block.rows for run in row.runs if run.teacher}) > 1


def aside(block: Block) -> list[str]:
    """Rows whose training diverged: they would set the axes that all others are read by. None if there are no others."""
    found = [row.label for row in block.rows if "diverged" in row.flags]
    return found if len(found) < len(block.rows) else []


def measured(block: Block) -> str:
    """The start of a caption: reported split, checkpoint, seeds."""
    return f"Split {block.first.reported_on}, last checkpoint, {seeds(block)}."


def seeds(block: Block) -> str:
    """``n = 3 seeds``, or ``n = 1 to 3 seeds`` where rows differ."""
    counts = sorted({len(row.runs) for row in block.rows})
    number = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"n = {number} seed{'s' if counts[-1] > 1 else ''}"
