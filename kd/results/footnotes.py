"""What stands under a table: split, checkpoint, inference, seeds, teacher, recipes, doubts; and what the columns mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kd.results.names import DATASETS, short_teacher
from kd.results.rows import FLAGS, Block, Row


def title(block: Block) -> str:
    """Data set, student, teacher, and what else the block was cut by."""
    by = [f"{key}={value}" for key, value in block.group.by.items()]
    teacher = [f"teacher {short_teacher(block.group.teacher)}"] if block.group.teacher else []
    return ", ".join([DATASETS.get(block.group.dataset, block.group.dataset), block.group.student, *teacher, *by])


def about(block: Block) -> list[str]:
    """What the rows of a block share, and what they are allowed not to."""
    first, recipe = block.first, block.first.recipe
    images = block.images if block.images is not None else first.last[first.reported_on].get("images")
    schedule = recipe["schedule"]
    steps = dict.fromkeys(run.recipe["schedule"]["steps"] for row in block.rows for run in row.runs)
    lines = [
        f"Split {first.reported_on} ({images} images), last checkpoint, inference: {_inference(recipe)}; {_seeds(block)}",
        f"Baseline: {f'`{block.group.baseline}`' if block.group.baseline else 'none'}; {_listed(steps)} steps of batch "
        f"{schedule['batch']}{_taught(block)}",
        f"Recipes: {_fingerprints(block)}; source {_revisions(block)}; {_machines(block)}",
    ]
    if block.group.matched:
        lines.append(_matched(block))
    absent = {run.last[run.reported_on].get("absent_but_predicted", "") for row in block.rows for run in row.runs} - {""}
    if names := dict.fromkeys(name for text in sorted(absent) for name in text.split(", ")):
        lines.append(
            f"No label of the split contains {', '.join(names)}: runs that predict them all the same count them 0 in mIoU"
        )
    lines += block.gains
    if block.apart:
        lines.append(f"Rows of their own: {', '.join(block.apart)}")
    if block.allowed:
        lines.append(f"Allowed to differ between rows: {', '.join(block.allowed)}")
    return lines


def _matched(block: Block) -> str:
    """Steps before and after matching, and the measured times that they come from."""
    plans = {row.label: (row.runs[0].recipe["schedule"]["steps"], row.runs[0].plan or {}) for row in block.rows}
    before = dict.fromkeys(plan["budget_steps"] for _, plan in plans.values())
    after = [f"`{label}` {steps} x {plan['calibrated_seconds_per_step']:.3g} s" for label, (steps, plan) in plans.items()]
    return (
        f"Steps matched to equal time, by step times measured beforehand: {_listed(after)}; unmatched: {_listed(before)} steps"
    )


def _inference(recipe: Mapping[str, Any]) -> str:
    predictor = dict(recipe["evaluation"]["predictor"])
    name = predictor.pop("name")
    knobs = ", ".join(f"{key} {value}" for key, value in predictor.items() if value is not None)
    return f"{name} ({knobs})" if knobs else f"{name} image, single pass" if name == "whole" else name


def _seeds(block: Block) -> str:
    sets = {row.label: _listed(row.seeds) for row in block.rows}
    if len(set(sets.values())) == 1:
        return f"seed{'s' if max(len(row.runs) for row in block.rows) > 1 else ''} {next(iter(sets.values()))}"
    return "seeds: " + "; ".join(f"`{label}` {seeds}" for label, seeds in sets.items())


def _listed(values: Iterable[Any]) -> str:
    return ", ".join(map(str, values))


def _taught(block: Block) -> str:
    found = [run.teacher for row in block.rows for run in row.runs if run.teacher]
    scores = dict.fromkeys(f"{one['source']}, {_number(one.get('mIoU'))} mIoU on {one.get('split', '?')}" for one in found)
    return f"; teacher: {'; '.join(scores)}" if scores else ""


def _number(value: float | None) -> str:
    return "no" if value is None else f"{value:.2f}"


def _fingerprints(block: Block) -> str:
    return ", ".join(f"`{row.label}` {_listed(dict.fromkeys(run.fingerprint for run in row.runs))}" for row in block.rows)


def _revisions(block: Block) -> str:
    return _listed(dict.fromkeys(run.environment.get("revision") or "unknown" for row in block.rows for run in row.runs))


def _machines(block: Block) -> str:
    places = [run.environment for row in block.rows for run in row.runs]
    texts = [
        f"{place['processes']} x {place['device']}"
        + (f" ({place['threads']} threads)" if place["device_type"] == "cpu" else "")
        for place in places
    ]
    return "; ".join(dict.fromkeys(texts))


def flag_notes(block: Block, by_row: bool = False) -> list[str]:
    """What the raised flags mean, with ``by_row`` also where they were raised; and doubts about the whole block."""
    lines = []
    for flag, meaning in FLAGS.items():
        rows = [row for row in block.rows if flag in row.flags]
        if rows:
            lines.append(f"{flag}{_where(rows, block) if by_row else ''}: {meaning}")
    return lines + list(block.doubts)


def _where(rows: list[Row], block: Block) -> str:
    return " (all rows)" if len(rows) == len(block.rows) else f" ({', '.join(f'`{row.label}`' for row in rows)})"


HOLM = (
    "⇑ ⇓: also when all rows are looked at (Holm's correction of the levels, over the rows of the table): of many comparisons "
    "each with an interval of 95 % one in twenty excludes 0 by chance"
)


def definitions(blocks: Sequence[Block], best: bool, resamples: int, costs: bool = True) -> list[str]:
    """What the columns mean; of arrows only where there can be one."""
    deltas = [row.delta for block in blocks for row in block.rows if row.delta]
    bounded = [delta for delta in deltas if delta.low is not None]
    interval = (
        f"percentile bootstrap over images and seeds ({resamples} resamples of the per-image counts, widened for few seeds by "
        "Student's t; images only: with one seed on a side)"
    )
    lines = [
        "mIoU: mean over classes of the IoU of the whole split (D), percent; mean ± sample standard deviation over n seeds"
    ]
    if deltas and costs:
        lines.append(f"Δ: difference from the baseline in points, over the seeds of both; 95 %: its interval, a {interval}")
    if any(delta.over_seeds for delta in bounded):
        what = "that interval" if costs else f"the 95 % interval of the difference, a {interval},"
        lines.append(f"↑ ↓: above or below the baseline by more than chance: {what} excludes 0; none with one seed on a side")
        lines.append(HOLM)
    elif bounded:
        lines.append("With one seed on a side nothing is told from chance: no row is called above or below the baseline")
    if best:
        lines.append("best: the checkpoint that scored best on the selecting split during training; Δ is the last one's")
    if costs:
        lines.append(
            "s/step: wall-clock seconds per training step; memory: peak of one process (GPU: allocated; CPU: resident); "
            "accelerator-h: hours of training times processes, per run; steps: of all stages"
        )
    return lines
