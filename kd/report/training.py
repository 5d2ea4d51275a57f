"""Curves over the steps of training: mIoU on the selecting split, terms of the loss that rows share, and total losses."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from kd.report.charts import FEW, Curve, curves, few
from kd.report.sections import Panel, Part, aside, seeds, several_teachers
from kd.report.styles import Look
from kd.results.rows import Block
from kd.results.runs import Run, Tree, number, records

STRETCHES = 120
"""Longer curves are averaged over so many equal stretches."""
CLEAR = 3
"""Bands of more curves than these hide each other."""
BAND = "Lines are means over seeds, bands reach from the lowest to the highest seed (one seed has none)"
Records = Mapping[str, Sequence[Tree]]
"""What was logged, by the run's directory."""


def training(block: Block, looks: Mapping[str, Look]) -> list[Part]:
    """The parts on mIoU and on losses."""
    logged = {str(run.folder): records(run.folder) for row in block.rows for run in row.runs}
    return [_scores(block, looks, logged), _losses(block, looks, logged)]


def _curve(look: Look, runs: Sequence[Run], logged: Records, pick: Callable[[Tree], float | None]) -> Curve | None:
    """The steps that all seeds have logged; seeds that have logged none do not count."""
    tables = [_table(logged[str(run.folder)], pick) for run in runs]
    tables = [table for table in tables if table]
    steps = sorted(set.intersection(*map(set, tables))) if tables else []
    if not steps:
        return None
    values = np.array([[table[step] for step in steps] for table in tables])
    x = np.array(steps, np.float64)
    if len(steps) >= STRETCHES:
        cuts = np.array_split(np.arange(len(steps)), STRETCHES)
        x, values = np.array([x[cut].mean() for cut in cuts]), np.stack([values[:, cut].mean(1) for cut in cuts], 1)
    return Curve(look, x.tolist(), values.mean(0).tolist(), values.min(0).tolist(), values.max(0).tolist(), len(tables))


def _table(logged: Sequence[Tree], pick: Callable[[Tree], float | None]) -> dict[int, float]:
    found = ((record["step"], pick(record)) for record in logged)
    return {step: value for step, value in found if value is not None}


def _all(block: Block, looks: Mapping[str, Look], logged: Records, *keys: str) -> dict[str, Curve]:
    found = {row.label: _curve(looks[row.label], row.runs, logged, lambda one: number(one, *keys)) for row in block.rows}
    return {label: curve for label, curve in found.items() if curve}


def _scores(block: Block, looks: Mapping[str, Look], logged: Records) -> Part:
    split = block.first.selected_on
    heading = f"mIoU over steps, {split}"
    drawn = _all(block, looks, logged, split, "mIoU")
    if not drawn:
        missing = "No run was evaluated while it trained (`evaluation.every`), or `metrics.jsonl` is not there: no curves."
        return Part("miou", heading, missing=missing)
    limit = block.first.recipe["evaluation"].get("limit")
    images = f"{limit} images of it, evenly spread, " if limit else ""
    neutral = "the baseline in the neutral colour and " if block.group.baseline in drawn else ""
    panels = f"The first panel has all rows and no bands, each other one {neutral}the other rows behind, on the same axes."
    caption = (
        f"Selecting split {split}, {images}evaluated during training; {seeds(block)}. {_drawing(drawn.values(), panels)} Steps "
        f"are those of all stages.{_alone(block)}"
    )
    return Part(
        "miou",
        heading,
        "panels.html",
        list(_each(block, drawn, _level(block))),
        caption,
        legend=not few(drawn.values()),
    )


def _level(block: Block) -> tuple[str, float] | None:
    """The teacher's mIoU on the selecting split, if all rows tell the same and the curves are of all its images."""
    if block.first.recipe["evaluation"].get("limit") or several_teachers(block):
        return None
    told = [run.teacher for row in block.rows for run in row.runs if run.teacher]
    scores = {one.get("mIoU") for one in told if one.get("split") == block.first.selected_on}
    score = scores.pop() if len(scores) == 1 else None
    return None if score is None else ("teacher", float(score))


def _each(block: Block, drawn: Mapping[str, Curve], level: tuple[str, float] | None) -> Iterator[Panel]:
    """A panel of all rows, then one for each beside the baseline."""
    where = ("step", f"mIoU, {block.first.selected_on}, %")
    baseline = drawn.get(block.group.baseline or "")
    shared = _shared(block, drawn)
    ends = [value for curve in shared for value in (*curve.low, *curve.high)]
    yield Panel("all rows", curves(shared, "mIoU over steps, all rows", *where, level, bands=False, also=ends))
    for label, curve in drawn.items():
        if curve is baseline or len(drawn) == 1 or few(drawn.values()):
            continue
        rest = [replace(other, faint=True) for other in shared if other is not curve and other is not baseline]
        shown = [*rest, *([baseline] if baseline else []), curve]
        yield Panel(label, curves(shown, f"mIoU over steps, {label}", *where, level, also=ends), curve.look)


def _shared(block: Block, drawn: Mapping[str, Curve]) -> list[Curve]:
    """The curves that one axis is made for; those of rows that diverged only where there are no others."""
    left_out = aside(block)
    return [curve for label, curve in drawn.items() if label not in left_out] or list(drawn.values())


def _losses(block: Block, looks: Mapping[str, Look], logged: Records) -> Part:
    totals = _all(block, looks, logged, "train", "loss")
    if not totals:
        return Part("loss", "Losses", missing="No losses were logged, or `metrics.jsonl` is not there: no curves.")
    found = (record.get("terms") for some in logged.values() for record in some)
    terms = dict.fromkeys(name for terms in found if isinstance(terms, dict) for name in terms)
    panels = []
    for term in terms:
        drawn = _all(block, looks, logged, "terms", term)
        if len(drawn) > 1:
            chart = curves(_shared(block, drawn), f"{term} over steps", "step", term, bands=len(drawn) <= CLEAR)
            panels.append(Panel(f"{term}, not weighted", chart))
    for label, curve in totals.items():
        chart = curves([curve], f"total loss of {label} over steps", "step", "total loss")
        panels.append(Panel(f"{label}, total", chart, curve.look))
    bands = f"Panels of more than {CLEAR} rows have no bands; each panel has its own axis."
    caption = (
        f"Training batches at the logged steps; {seeds(block)}. {_drawing(totals.values(), bands)} First the terms that "
        "several rows share, before weighting; rows compare there only where the term has the same settings (labels, "
        "temperature). Then each row's total: the sums hold different terms, so they do not compare."
        f"{_alone(block)}"
    )
    return Part("loss", "Losses", "panels.html", panels, caption, legend=not few(totals.values()))


def _alone(block: Block) -> str:
    """Where rows are that are missing in the panels of several."""
    names = ", ".join(f"`{label}`" for label in aside(block))
    return f" Rows whose training diverged ({names}) are only in panels of their own, whose axes hold them." if names else ""


def _drawing(drawn: Collection[Curve], panels: str) -> str:
    """How curves are drawn, or told where they have too few points."""
    if few(drawn):
        return f"With fewer than {FEW} points there is no curve, but its last number: mean (lowest to highest seed)."
    long = any(len(curve.x) >= STRETCHES for curve in drawn)
    thinned = f" Curves with {STRETCHES} points or more are averaged over {STRETCHES} equal stretches." if long else ""
    return f"{BAND}. {panels}{thinned}"
