"""Blocks with numbers: what the seeds of each row say, against the baseline, at what cost, and what to doubt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kd.config import ConfigError, InputError
from kd.files import grouped
from kd.metrics.counts import Counts
from kd.metrics.scores import Floats
from kd.results.bootstrap import RESAMPLES, Delta, difference, resampled
from kd.results.costs import mean_cost, step_ratio
from kd.results.curves import TAIL, diverged, rise
from kd.results.gains import gains
from kd.results.groups import Choices, Group, group
from kd.results.holm import survivors
from kd.results.lineage import why_elsewhere, why_no_teacher
from kd.results.names import dataset_label, rank, row_label, student_label
from kd.results.runs import Run, Runs, load_counts
from kd.surge import SURGE

RISE = 1.0
"""A baseline is under-trained if it rises by more than RISE points over the last TAIL of its steps."""
FEW = 3

FLAGS = {
    "n < 3": "fewer than three seeds",
    "no baseline": "no baseline among the runs: no Δ",
    "under-trained": f"the baseline's mIoU on the selecting split rose by more than {RISE:g} point over the last "
    f"{TAIL:.0%} of its steps (mean over seeds): train all rows for longer before believing a Δ",
    "diverged": f"the loss of a run rose to more than {SURGE:g} times the first one logged: a lower rate, or schedule.clip, "
    "may be needed before Δ tells of the method",
    "other seeds": "the baseline lacks some of its seeds: Δ is that of the shared ones, or of all, unpaired, if none is shared",
    "teacher below student": "the teacher's mIoU on the selecting split is below this row's",
    "other machine": "timed on other devices, or with other numbers of processes or threads, than the baseline: no ratio",
    "incomplete": "seeds of this row have begun and not ended",
    "other code": "its runs' own classes were not the same code: the file of the method has changed in between",
    "no counts": "counts.npz is missing or damaged: no interval",
}


@dataclass(frozen=True)
class Row:
    """One row: mean and sample standard deviation over the seeds (None for one seed), percent of mIoU (D).

    ``best`` is that of the checkpoint that was best on the selecting split. Costs are means over the seeds, the memory the
    highest. ``ratio`` is the time of a step over the baseline's. ``stands``: the difference is more than chance also when all
    rows of the block are looked at (Holm).
    """

    label: str
    runs: Sequence[Run]
    mean: float
    std: float | None
    best: float | None
    best_std: float | None
    delta: Delta | None
    stands: bool
    seconds_per_step: float
    ratio: float | None
    memory_mb: float
    hours: float
    steps: int
    flags: tuple[str, ...]

    @property
    def seeds(self) -> list[int]:
        """The seeds, in order."""
        return [run.seed for run in self.runs]


@dataclass(frozen=True)
class Block:
    """The rows of one pair. ``teacher`` is the teacher's own row where its runs are there, ``no_teacher`` why there is none;
    ``images`` None without counts; ``gains`` tell what images without labels have added."""

    group: Group
    rows: Sequence[Row]
    teacher: Row | None
    images: int | None
    doubts: tuple[str, ...]
    allowed: tuple[str, ...]
    apart: tuple[str, ...] = ()
    no_teacher: str = ""
    gains: tuple[str, ...] = ()

    @property
    def first(self) -> Run:
        """A run that shows what all share."""
        return self.rows[0].runs[0]


def summarise(found: Runs, choices: Choices, resamples: int = RESAMPLES) -> list[Block]:
    """A block for each pair.

    Raises:
        InputError: nothing is finished, or runs do not compare (see ``groups.group``).
    """
    if not found.finished:
        raise InputError("no run is finished:\n" + "\n".join(found.left_out))
    return [_block(one, found, choices, resamples) for one in group(found.finished, choices)]


def _block(one: Group, found: Runs, choices: Choices, resamples: int) -> Block:
    counts, doubts = _counts([run for runs in one.rows.values() for run in runs])
    names, tables = list(counts), list(counts.values())
    draws = dict(zip(names, resampled(tables, resamples), strict=True)) if tables and one.baseline else {}
    baseline = one.rows[one.baseline] if one.baseline else None
    unfinished = {
        (row_label(run.recipe), run.recipe.get("seed"))
        for run in found.incomplete
        if run.recipe and (dataset_label(run.recipe), student_label(run.recipe)) == (one.dataset, one.student)
    }
    risen, doubt = rise(baseline) if baseline else (0.0, "")
    deltas = {label: _delta(runs, baseline, draws) for label, runs in one.rows.items() if baseline and label != one.baseline}
    stand = survivors({label: delta.chance for label, delta in deltas.items()})
    rows = []
    for label, runs in one.rows.items():
        delta = deltas.get(label)
        flags = {
            "n < 3": len(runs) < FEW,
            "no baseline": baseline is None,
            "under-trained": label == one.baseline and risen > RISE,
            "diverged": any(map(diverged, runs)),
            "other seeds": baseline is not None and not {run.seed for run in runs} <= {run.seed for run in baseline},
            "teacher below student": _above_teacher(runs),
            "other machine": baseline is not None and step_ratio(runs, baseline) is None,
            "incomplete": _lacks(runs, unfinished),
            "other code": len({tuple(sorted(run.code.items())) for run in runs}) > 1,
            "no counts": any(str(run.folder) not in draws for run in runs) and baseline is not None,
        }
        rows.append(
            _row(label, runs, baseline, (delta, label in stand), tuple(flag for flag, raised in flags.items() if raised))
        )
    rows.sort(key=lambda row: (row.label != one.baseline, rank(row.runs[0].recipe)))
    teacher = _row("teacher", one.teachers, None, (None, False), ()) if one.teachers else None
    images = len(tables[0]) if tables else None
    doubts += [line for line in (doubt, *(why_elsewhere(run, one.rows) for run in one.elsewhere)) if line]
    no_teacher = "" if teacher else why_no_teacher(one.rows, one.elsewhere, found)
    gained = tuple(gains(one.rows, lambda ours, theirs: _delta(ours, theirs, draws)))
    return Block(one, rows, teacher, images, tuple(doubts), choices.allow, choices.apart, no_teacher, gained)


def _lacks(runs: Sequence[Run], unfinished: Iterable[tuple[str, Any]]) -> bool:
    """Whether a seed of the row has begun and not ended; another attempt at a seed that is there does not count."""
    seeds = {run.seed for run in runs}
    return any(row_label(runs[0].recipe) == name and seed not in seeds for name, seed in unfinished)


def _row(
    label: str,
    runs: Sequence[Run],
    baseline: Sequence[Run] | None,
    compared: tuple[Delta | None, bool],
    flags: tuple[str, ...],
) -> Row:
    mean, std = statistics([run.miou() for run in runs])
    best, best_std = statistics([run.miou("best") for run in runs])
    assert mean is not None, "runs without a number are damaged"
    delta, stands = compared
    return Row(
        label=label,
        runs=runs,
        mean=mean,
        std=std,
        best=best,
        best_std=best_std,
        delta=delta,
        stands=stands,
        seconds_per_step=mean_cost(runs, "seconds_per_step"),
        ratio=step_ratio(runs, baseline),
        memory_mb=max(run.cost["peak_memory_mb"] for run in runs),
        hours=mean_cost(runs, "accelerator_hours"),
        steps=max(run.steps for run in runs),
        flags=flags,
    )


def statistics(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation (n - 1); None where a value is missing, or where one value has no deviation."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None, None
    return float(np.mean(known)), float(np.std(known, ddof=1)) if len(known) > 1 else None


def _counts(runs: Iterable[Run]) -> tuple[dict[str, Counts], list[str]]:
    """Counts by the run's directory, and lines on those that are missing or damaged.

    Raises:
        ConfigError: two runs were measured on different images.
    """
    found: dict[str, Counts] = {}
    lines = []
    for run in runs:
        try:
            found[str(run.folder)] = load_counts(run)
        except InputError as error:
            lines.append(str(error))
    firsts = list(found.items())[:1]
    for folder, counts in found.items():
        name, first = firsts[0]
        if counts.ids != first.ids or counts.classes != first.classes or (counts.truth != first.truth).any():
            raise ConfigError(
                f"{name} and {folder} do not compare: they were measured on different images or labels "
                f"({len(first)} and {len(counts)} images); evaluate both on the same copy of the data"
            )
    return found, grouped(lines, "files")


def _delta(runs: Sequence[Run], baseline: Sequence[Run], draws: Mapping[str, Floats]) -> Delta:
    ours, theirs = ({run.seed: (run.miou() or 0.0, draws.get(str(run.folder))) for run in row} for row in (runs, baseline))
    return difference(ours, theirs)


def _above_teacher(runs: Sequence[Run]) -> bool:
    known = [(run.miou(split=run.selected_on), (run.teacher or {}).get("mIoU")) for run in runs]
    gaps = [ours - theirs for ours, theirs in known if ours is not None and theirs is not None]
    return bool(gaps) and float(np.mean(gaps)) > 0
