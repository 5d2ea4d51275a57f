"""What the students do, pixel by pixel: where they and the teacher are right, and how far their confidence holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from kd.report.charts import Bar, Bin, reliability, stacked
from kd.report.sections import Panel, Part, measured
from kd.report.styles import Look
from kd.results.rows import Block, Row, statistics
from kd.results.runs import Run, Tree

CASES = {"both": "both right", "teacher": "only the teacher", "student": "only the student", "neither": "neither"}


def disagreement(block: Block, looks: Mapping[str, Look]) -> Part:
    """Shares of pixels by who is right, for each class."""
    heading = "Where teacher and student disagree"
    panels = []
    for row in block.rows:
        tables = [run.agreement for run in row.runs if run.agreement]
        if tables:
            chart = stacked(_bars(tables), f"who is right, {row.label} and its teacher", CASES)
            panels.append(Panel(row.label, chart, looks[row.label], _same(tables)))
    if not panels:
        missing = "No run tells where it agrees with a teacher: there is none, or the runs are older than this measurement."
        return Part("agreement", heading, missing=missing)
    split = next(run.agreement["split"] for row in block.rows for run in row.runs if run.agreement)
    caption = (
        f"Split {split}, last checkpoint, seeds pooled. Labelled pixels of each class, by who predicts that class. "
        "Orange is what the student could still learn from its teacher, blue what it knows better."
    )
    return Part("agreement", heading, "cases.html", panels, caption)


def _bars(tables: Sequence[Tree]) -> list[Bar]:
    pooled: dict[str, Counter[str]] = {}
    for table in tables:
        for name, cases in table["classes"].items():
            pooled.setdefault(name, Counter()).update({case: int(cases[case]) for case in CASES})
    total: Counter[str] = sum(pooled.values(), Counter())
    return [Bar(name, {case: counts[case] for case in CASES}) for name, counts in [("all classes", total), *pooled.items()]]


def _same(tables: Sequence[Tree]) -> str:
    mean, std = statistics([table["same"] for table in tables])
    if mean is None:
        return "no labelled pixels"
    return f"same class on {mean:.1f}{'' if std is None else f' ± {std:.1f}'} % of labelled pixels, n = {len(tables)}"


def calibration(block: Block, looks: Mapping[str, Look]) -> Part:
    """A reliability diagram for each row."""
    heading = "Reliability"
    panels = []
    for row in block.rows:
        bins = _bins([found for run in row.runs if (found := _scores(run).get("reliability"))])
        if bins:
            chart = reliability(bins, looks[row.label], f"accuracy over confidence, {row.label}")
            panels.append(Panel(row.label, chart, looks[row.label], _ece(row)))
    if not panels:
        missing = "No run holds the bins of a reliability diagram: calibration was not measured (`evaluation.calibration`)"
        return Part("reliability", heading, missing=f"{missing}, or the runs are older than this measurement.")
    caption = (
        f"{measured(block)} Confidence of the predicted class in ten equal bins, seeds pooled; ECE, in percent, "
        "is the mean of the seeds' own ± sample standard deviation. Below the diagonal a student is over-confident. Bars under "
        "it: the share of labelled pixels in each bin."
    )
    return Part("reliability", heading, "panels.html", panels, caption)


def _scores(run: Run) -> Tree:
    return run.last[run.reported_on]


def _bins(tables: Sequence[Tree]) -> list[Bin]:
    """Bins of several seeds as one set: accuracy and confidence are weighted by pixels."""
    if not tables:
        return []
    pixels = np.array([table["pixels"] for table in tables], np.float64)
    sums = [np.nansum(pixels * np.array([table[key] for table in tables], np.float64), 0) for key in ("confidence", "accuracy")]
    return [
        Bin(int(n), confidence / n, accuracy / n) if n else Bin(0, None, None)
        for n, confidence, accuracy in zip(pixels.sum(0), *sums, strict=True)
    ]


def _ece(row: Row) -> str:
    mean, std = statistics([_scores(run).get("ECE") for run in row.runs])
    return "" if mean is None else f"ECE {mean:.2f}{'' if std is None else f' ± {std:.2f}'} %"
