"""What the curves of runs tell: whether a baseline still rises, and whether training has diverged."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kd.results.runs import Run, number, records
from kd.surge import Surge

TAIL = 0.2


def rise(baseline: Sequence[Run]) -> tuple[float, str]:
    """Points that the baseline gained on the selecting split over the last TAIL of its steps, mean over seeds.

    The gain is the last evaluation's mIoU less that of the last evaluation at or before ``(1 - TAIL)`` of the steps. A
    line says so if no run was evaluated both then and at its end.
    """
    gains = []
    for run in baseline:
        curve = [(record["step"], number(record, run.selected_on, "mIoU")) for record in records(run.folder)]
        known = [(step, miou) for step, miou in curve if miou is not None]
        early = [miou for step, miou in known if step <= (1 - TAIL) * run.steps]
        if early and known[-1][0] == run.steps:
            gains.append(known[-1][1] - early[-1])
    if not gains:
        return 0.0, (
            f"whether the baseline is under-trained is unknown: no evaluations at {1 - TAIL:.0%} of the steps and at the end "
            "(evaluation.every, metrics.jsonl)"
        )
    return float(np.mean(gains)), ""


def diverged(run: Run) -> bool:
    """Whether a logged loss was more than SURGE times the first one."""
    surge = Surge()
    logged = ((number(record, "train", "loss"), record.get("terms")) for record in records(run.folder))
    losses = ((loss, terms if isinstance(terms, dict) else ()) for loss, terms in logged if loss is not None)
    return any(surge.times(loss, terms) for loss, terms in losses)
