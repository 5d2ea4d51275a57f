"""Two classes, background and foreground: the foreground's scores, also where more or less than 0.5 is asked of it.

F1 is Dice of the foreground. All in percent; a value that is 0/0 is NaN.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kd.metrics.counts import Counts, Integers, PerImage
from kd.types import IGNORE

STEPS = 100
"""Thresholds lie 1 / STEPS apart."""
SCORES = ("IoU", "F1", "precision", "recall")


@dataclass(frozen=True, eq=False)
class Levels(PerImage):
    """Pixels by the foreground's probability, in ``STEPS`` bins closed on the left.

    ``foreground``, ``background``  int64 ``N STEPS``: pixels whose label is so
    """

    foreground: Integers
    background: Integers

    @classmethod
    def empty(cls) -> Levels:
        """No images yet."""
        table = np.zeros((0, STEPS), np.int64)
        return cls((), np.zeros(0, np.int64), table, table)


def levels(logits: Tensor, target: Tensor, name: str) -> Levels:
    """The levels of one image called ``name``: ``logits`` float ``2 H W``, ``target`` integers ``H W``, 255 = ignored.

    Raises:
        ValueError: there are not two classes.
    """
    if len(logits) != 2:
        raise ValueError(f"thresholds: part two classes, foreground and background; here there are {len(logits)}")
    labels = target.flatten()
    kept = labels != IGNORE
    steps = torch.tensor([number / STEPS for number in range(1, STEPS)], device=logits.device)
    bins = torch.bucketize(foreground(logits).flatten()[kept], steps, right=True)
    there = labels[kept] == 1
    counts = [torch.bincount(bins[chosen], minlength=STEPS).cpu().numpy()[None] for chosen in (there, ~there)]
    return Levels((name,), np.array([int(kept.sum())]), *counts)


def foreground(logits: Tensor) -> Tensor:
    """The foreground's probability, float32 ``H W`` of ``2 H W``."""
    return logits.float().softmax(0)[1]


def at_thresholds(found: Levels) -> dict[str, NDArray[np.float64]]:
    """``SCORES`` over all images where a pixel is foreground from a probability on: ``threshold`` 0.01, ..., 0.99."""
    here, other = (table.sum(0)[::-1].cumsum()[::-1] for table in (found.foreground, found.background))
    tp, fp, fn = here[1:], other[1:], here[0] - here[1:]
    return {"threshold": np.arange(1, STEPS) / STEPS, **scores(tp, fp, fn)}


def of_counts(counts: Counts) -> dict[str, float]:
    """``SCORES`` over all images of what was predicted.

    Raises:
        ValueError: there are not two classes.
    """
    if counts.classes != 2:
        raise ValueError(f"there are {counts.classes} classes; foreground and background are two")
    tp, fp, fn = (table.sum(0)[1] for table in (counts.tp, counts.fp, counts.fn))
    return {name: float(value) for name, value in scores(tp, fp, fn).items()}


def scores(tp: Integers, fp: Integers, fn: Integers) -> dict[str, NDArray[np.float64]]:
    """``SCORES`` of counts of any shape."""
    parts = (tp, tp + fp + fn), (2 * tp, 2 * tp + fp + fn), (tp, tp + fp), (tp, tp + fn)
    with np.errstate(invalid="ignore"):
        return {name: 100 * np.true_divide(part, whole) for name, (part, whole) in zip(SCORES, parts, strict=True)}
