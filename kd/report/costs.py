"""mIoU against what it cost to train."""

from __future__ import annotations

from collections.abc import Mapping

from kd.report.charts import Dot, scatter
from kd.report.sections import Panel, Part, aside, measured
from kd.report.styles import Look
from kd.results.rows import Block


def costs(block: Block, looks: Mapping[str, Look]) -> Part:
    """Accelerator-hours, and the time of a step over the baseline's where rows were timed on one machine."""
    score = f"mIoU, {block.first.reported_on}, %"
    left_out = aside(block)
    rows = [row for row in block.rows if row.label not in left_out]
    hours = [Dot(looks[row.label], row.hours, row.mean, row.std) for row in rows]
    panels = [Panel("hours of a run", scatter(hours, "mIoU against accelerator-hours", "accelerator-hours a run", score))]
    timed = [Dot(looks[row.label], row.ratio, row.mean, row.std) for row in rows if row.ratio is not None]
    note = ""
    if len(timed) > 1:
        chart = scatter(timed, "mIoU against the time of a step", "seconds a step, times the baseline's", score)
        panels.append(Panel("time of a step", chart))
    elif len(block.rows) > 1:
        note = " The times of a step were not measured on one machine, or there is no baseline: no second chart."
    bars = "Bars are one sample standard deviation over seeds to each side; a row of one seed has none."
    steps = " Rows differ in their steps." if len({row.steps for row in block.rows}) > 1 else ""
    gone = f" Left out, as their training diverged: {', '.join(f'`{label}`' for label in left_out)}." if left_out else ""
    hours_are = "Hours are those of the student's training times processes, means over seeds; the teacher's are not in them."
    caption = f"{measured(block)} {bars} {hours_are}{steps}{gone}{note}"
    return Part("cost", "mIoU against cost", "panels.html", panels, caption, legend=True)
