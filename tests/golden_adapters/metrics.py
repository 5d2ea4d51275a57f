"""The golden metric files, computed by the library's own functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from kd.evaluate.logits import labels
from kd.metrics.calibration import Calibration, calibrate, ece, sce
from kd.metrics.counts import Counts, count
from kd.metrics.scores import Score, accuracy, class_mean, class_scores, dataset_mean, image_mean, over_q
from kd.types import IGNORE

SCORES: tuple[tuple[str, Score], ...] = (("Acc", "acc"), ("IoU", "iou"), ("Dice", "dice"))

# Patterns of file/key. Each leaves out numbers that are NaN or about 1e8 / K in the reference, and no others.
DIFFERS: dict[str, str] = {
    "metrics_*/mAccD": "recall of a class without labels is 0/0: NaN in the reference, left out here",
    "metrics_*/m*C": "a class that no label contains: NaN in the reference, left out of the mean here",
    "metrics_*/m*C[0-9Q]*": "a class that no label contains: a sentinel leaks in the reference, left out here",
    "metrics_*/mAccI": "recall without labelled foreground is 0/0: NaN in the reference, left out here",
    "metrics_*/mAccI[0-9Q]*": "recall without labelled foreground is 0/0: NaN in the reference, left out here",
    "metrics_*/SCEI": "binary, and an image lacks the foreground or an ignored pixel: the reference is ambiguous there",
}


def check(inputs: dict[str, Any], hp: dict[str, Any]) -> dict[str, float]:
    """Every golden value whose definition agrees on these inputs; the corner cases of ``DIFFERS`` are left out.

    ``prob`` float ``N K H W``, ``label`` integers ``N H W``, arrays or tensors.
    """
    counts, calibration = _rows(inputs["prob"], inputs["label"], hp)
    worst = [float(q) for q in str(hp["q_values"]).strip("[]").split(",")]
    binary = bool(hp["binary"])
    found = {"cirkd_mIoU": float(class_scores(counts, "iou", "zero").mean()) / 100}
    found |= _accuracy(counts, binary)
    for name, score in SCORES:
        found |= _dataset(counts, name, score, binary)
        found |= _images(counts, name, score, worst, binary)
        found |= _classes(counts, name, score, worst, binary)
    return found | _calibration(calibration, counts, binary)


def _rows(prob: Any, label: Any, hp: dict[str, Any]) -> tuple[Counts, Calibration]:
    target = torch.as_tensor(label).long()
    if hp["ignore_index"] is not None:
        target = torch.where(target == hp["ignore_index"], IGNORE, target)
    counts, gaps = [], []
    for number, (image, truth) in enumerate(zip(torch.as_tensor(prob), target, strict=True)):
        prediction, name = labels(image), f"{number:06d}"
        counts.append(count(prediction, truth, hp["num_classes"], name))
        gaps.append(calibrate(image, prediction, truth, name, softmax=False))
    return Counts.concat(counts), Calibration.concat(gaps)


def _accuracy(counts: Counts, binary: bool) -> dict[str, float]:
    """In a binary problem the reference calls the foreground's recall ``Acc``."""
    value = dataset_mean(counts, "acc", binary=True) if binary else accuracy(counts)
    return {} if np.isnan(value) else {"Acc": value}


def _dataset(counts: Counts, name: str, score: Score, binary: bool) -> dict[str, float]:
    values = class_scores(counts, score, "predicted")
    if np.isnan(values[1:] if binary else values).any():
        return {}
    return {f"m{name}D": dataset_mean(counts, score, "predicted", binary)}


def _images(counts: Counts, name: str, score: Score, worst: list[float], binary: bool) -> dict[str, float]:
    scored = int((counts.valid > 0).sum())
    undefined = int(_undefined_recalls(counts, score)[:, 1].sum()) if binary else 0
    found = {}
    for q in worst:
        number = max(1, int(q * scored / 100))
        # The reference counts an undefined image but sorts it last, so its lowest n are the lowest n of the defined.
        share = 100 * (number + 0.5) / max(1, scored - undefined) if undefined else q
        if number <= scored - undefined:
            found[f"m{name}I{q:g}"] = image_mean(counts, score, share, binary)
    if undefined:
        return found
    averaged = over_q(image_mean, counts, score, binary)
    return found | {f"m{name}I": image_mean(counts, score, binary=binary), f"m{name}IQ": averaged}


def _classes(counts: Counts, name: str, score: Score, worst: list[float], binary: bool) -> dict[str, float]:
    """In a binary problem the reference averages background and foreground, here each the foreground once."""
    seen = counts.truth + counts.fp if binary else counts.truth
    if (seen.sum(0) == 0).any() or (binary and _undefined_recalls(counts, score).any()):
        return {}
    sides = [counts, _swapped(counts)] if binary else [counts]

    def mean(q: float) -> float:
        return float(np.mean([class_mean(side, score, q, binary) for side in sides]))

    averaged = float(np.mean([over_q(class_mean, side, score, binary) for side in sides]))
    found = {f"m{name}C": mean(100), f"m{name}CQ": averaged}
    return found | {f"m{name}C{q:g}": mean(q) for q in worst}


def _swapped(counts: Counts) -> Counts:
    """Background and foreground exchanged."""
    return replace(counts, tp=counts.tp[:, ::-1], fp=counts.fp[:, ::-1], fn=counts.fn[:, ::-1])


def _undefined_recalls(counts: Counts, score: Score) -> np.ndarray:
    """Where a class is predicted in an image without it, which leaves its recall 0/0."""
    return (counts.truth == 0) & (counts.fp > 0) & (score == "acc")


def _calibration(calibration: Calibration, counts: Counts, binary: bool) -> dict[str, float]:
    """The reference takes the class of the highest number for present wherever pixels are ignored."""
    found = {"ECED": ece(calibration), "SCED": sce(calibration, jdt=True, binary=binary)}
    if (counts.valid == 0).any():
        return found
    present = calibration.present.copy()
    present[:, -1] |= counts.ignored > 0
    found["ECEI"] = ece(calibration, "I")
    if not binary or present[:, 1].all():
        found["SCEI"] = sce(replace(calibration, present=present), "I", jdt=True, binary=binary)
    return found


ADAPTERS: dict[str, Callable[[dict[str, Any], dict[str, Any]], dict[str, float]]] = {"metrics_": check}
