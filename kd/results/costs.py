"""What a row costs, and how many times the baseline's steps its own take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from kd.results.runs import Run


def mean_cost(runs: Sequence[Run], key: str) -> float:
    """A cost of ``result.json``, mean over runs."""
    return float(np.mean([run.cost[key] for run in runs]))


def step_ratio(runs: Sequence[Run], baseline: Sequence[Run] | None) -> float | None:
    """Step times over the baseline's on a machine of the same kind, of the runs for which there is one; None without any.

    A kind of machine is a device and numbers of processes and, on a CPU, threads.
    """
    kinds = {kind: [other for other in baseline or () if _kind(other) == kind] for kind in map(_kind, runs)}
    timed = [run for run in runs if kinds[_kind(run)]]
    theirs = sum(mean_cost(kinds[_kind(run)], "seconds_per_step") for run in timed)
    return sum(run.cost["seconds_per_step"] for run in timed) / theirs if timed else None


def _kind(run: Run) -> Any:
    place = run.environment
    return place["device"], place["processes"], place["device_type"] == "cpu" and place["threads"]
