"""The IoU of each class: how each row differs from the baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kd.report.sections import Part, measured, several_teachers
from kd.report.styles import Look
from kd.report.svg import ticks
from kd.results.rows import Block, Row
from kd.results.runs import Run

Values = Mapping[str, float | None]
"""IoU, or a difference, by class; None for a class that no label contains."""


@dataclass(frozen=True)
class Cell:
    """``weight`` from 0 to 1 is the depth of the colour, ``side`` up, down or nothing."""

    text: str
    weight: float = 0.0
    side: str = ""


@dataclass(frozen=True)
class Heat:
    """A line for each class and one for their mean; ``beside`` names the columns without colours."""

    looks: Sequence[Look]
    beside: Sequence[str]
    lines: Sequence[tuple[str, Sequence[str], Sequence[Cell]]]
    limit: float | None


def classes(block: Block, looks: Mapping[str, Look]) -> Part:
    """Differences to the baseline; the IoU themselves where there is none."""
    heading = "IoU of each class"
    split, name = block.first.reported_on, block.group.baseline
    names = list(dict.fromkeys(key for row in block.rows for run in row.runs for key in _iou(run, split)))
    if not names:
        return Part("classes", heading, missing="`result.json` holds no IoU of classes for these runs.")
    baseline = next((row for row in block.rows if row.label == name), None)
    shown = [row for row in block.rows if row is not baseline] or [row for row in block.rows if row is baseline]
    compared = baseline is not None and shown != [baseline]
    columns = [_difference(row, baseline, names) if compared and baseline else _mean(row.runs, split, names) for row in shown]
    limit = _limit(columns) if compared else None
    beside: dict[str, Values] = {f"{name} (baseline)": _mean(baseline.runs, split, names)} if compared and baseline else {}
    beside |= _teacher(block, names)
    lines = []
    for key in [*names, None]:
        plain = [_number(_at(values, key)) for values in beside.values()]
        lines.append((key or "mean", plain, [_cell(_at(column, key), limit) for column in columns]))
    caption = measured(block) + (_compared() if compared else " No row to compare with: IoU in percent, not differences.")
    data = Heat([looks[row.label] for row in shown], list(beside), lines, limit)
    return Part("classes", "IoU of each class, difference to the baseline" if compared else heading, "heat.html", data, caption)


def _compared() -> str:
    return (
        " Points of IoU over the baseline, mean over the seeds that both have (over all where they share none); the columns "
        "beside are IoU in percent. Single classes have no intervals here: read patterns, not cells."
    )


def _iou(run: Run, split: str) -> Values:
    return run.last[split].get("iou") or {}


def _mean(runs: Sequence[Run], split: str, names: Sequence[str]) -> dict[str, float | None]:
    return _over([_iou(run, split) for run in runs], names)


def _over(tables: Sequence[Values], names: Sequence[str]) -> dict[str, float | None]:
    """Means by class, None where a table has no number."""
    found: dict[str, float | None] = {}
    for name in names:
        values = [value for table in tables if (value := table.get(name)) is not None]
        found[name] = float(np.mean(values)) if values and len(values) == len(tables) else None
    return found


def _difference(row: Row, baseline: Row, names: Sequence[str]) -> dict[str, float | None]:
    shared = row.delta.seeds if row.delta else ()
    sides = [[run for run in side.runs if not shared or run.seed in shared] for side in (row, baseline)]
    ours, theirs = (_mean(runs, runs[0].reported_on, names) for runs in sides)
    pairs = {name: (ours[name], theirs[name]) for name in names}
    return {name: None if one is None or other is None else one - other for name, (one, other) in pairs.items()}


def _teacher(block: Block, names: Sequence[str]) -> dict[str, Values]:
    """The teacher's IoU: of its own run on the reported split, else as its students measured it; none of several."""
    if several_teachers(block):
        return {}
    split = block.first.reported_on
    runs = block.teacher.runs if block.teacher else ()
    if any(_iou(run, split) for run in runs):
        return {"teacher": _mean(runs, split, names)}
    told = [run.teacher for row in block.rows for run in row.runs if run.teacher and run.teacher.get("iou")]
    if not told:
        return {}
    where = told[0].get("split")
    return {"teacher" if where == split else f"teacher, on {where}": _over([told[0]["iou"]], names)}


def _at(values: Values, name: str | None) -> float | None:
    """A class's value, or the mean of all that have one."""
    if name is not None:
        return values[name]
    known = [value for value in values.values() if value is not None]
    return float(np.mean(known)) if known else None


def _limit(columns: Sequence[Values]) -> float:
    highest = max((abs(value) for column in columns for value in column.values() if value is not None), default=0.0)
    return ticks(0, highest, 4)[-1]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def _cell(value: float | None, limit: float | None) -> Cell:
    if value is None or limit is None:
        return Cell(_number(value))
    if abs(value) < 0.05:
        return Cell("0.0")
    return Cell(f"{value:+.1f}".replace("-", "−"), min(1.0, abs(value) / limit), "up" if value > 0 else "down")
