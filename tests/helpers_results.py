"""Run directories as a training leaves them, with scores that can be worked out by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kd.metrics.counts import Counts
from kd.metrics.scores import dataset_mean
from kd.recipe.loading import describe
from kd.recipe.schema import IDENTITY, Recipe, fingerprint
from kd.results.runs import Runs, load_runs

PIXELS = 10_000
ENVIRONMENT = {"device": "x86_64", "device_type": "cpu", "processes": 1, "threads": 2, "revision": "abc"}


def counts(scores: Sequence[float], labels: int = PIXELS) -> Counts:
    """Images whose labels are all class 0 of two: an image's score is its percentage of right pixels, mIoU (D) their mean.

    The wrong pixels are nobody's false positives, so that the other class is in no mean.
    """
    tp = np.rint(np.asarray(scores) / 100 * labels).astype(np.int64)
    wrong, none = labels - tp, np.zeros_like(tp)
    names = tuple(f"image{number:03d}" for number in range(len(tp)))
    valid = np.full(len(tp), labels)
    return Counts(names, valid, np.stack([tp, none], 1), np.stack([none, none], 1), np.stack([wrong, none], 1), none)


def write_run(
    folder: Path,
    recipe: Recipe,
    scores: Sequence[float] | float,
    *,
    best: float | None = None,
    teacher: float = 90.0,
    curve: Sequence[tuple[int, float]] = ((3, 60.0), (6, 60.0)),
    cost: dict[str, float] | None = None,
    environment: dict[str, Any] | None = None,
    mark: str | None = None,
    cached: str | None = None,
) -> Path:
    """A finished run; ``scores`` are those of its images on the reported split (one number: four equal images)."""
    table = counts([scores] * 4 if isinstance(scores, float | int) else scores)
    folder.mkdir(parents=True)
    identity = {"id": "x", "fingerprint": fingerprint(recipe), "seed": recipe.seed}
    miou = dataset_mean(table)
    selected, reported = recipe.evaluation.select, recipe.evaluation.report
    last = {split: {"mIoU": miou, "images": len(table)} for split in (selected, reported)}
    mark = mark or fingerprint(recipe, ["teacher"])
    source = {"source": "there", "mark": mark, "split": selected, "mIoU": teacher, "cached": cached}
    result = {
        "status": "finished",
        **identity,
        "parts": {part: fingerprint(recipe, [part]) for part in IDENTITY},
        "method": recipe.method.name if recipe.method else None,
        "steps": recipe.schedule.steps,
        "selected_on": selected,
        "reported_on": reported,
        "last": last,
        "best": None if best is None else {"step": 3, "mIoU": best, reported: {"mIoU": best}, selected: {"mIoU": best}},
        "teacher": source if recipe.teacher else None,
        "cost": {"seconds_per_step": 0.5, "accelerator_hours": 0.25, "peak_memory_mb": 100.0, **(cost or {})},
        "environment": {**ENVIRONMENT, **(environment or {})},
    }
    begin(folder, recipe, curve)
    (folder / "result.json").write_text(json.dumps(result))
    table.save(folder / "counts.npz")
    return folder


def begin(folder: Path, recipe: Recipe, curve: Sequence[tuple[int, float]] = ()) -> Path:
    """A run that has not ended."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps({"id": "x", "fingerprint": fingerprint(recipe), "seed": recipe.seed}))
    (folder / "recipe.yaml").write_text(describe(recipe, {}))
    lines = [json.dumps({"step": step, recipe.evaluation.select: {"mIoU": miou}}) for step, miou in curve]
    (folder / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 9, "cut']) if lines else "")
    return folder


def load(folder: Path) -> Runs:
    """All runs below a folder, none of them damaged."""
    found = load_runs([folder])
    assert not found.damaged, found.damaged
    return found
