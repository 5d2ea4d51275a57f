"""Where a student and its teacher are right together, alone, or not at all: what is left to learn, class by class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kd.metrics.counts import Integers, PerImage
from kd.types import IGNORE

CASES = ("both", "teacher", "student", "neither")
"""Who is right, in the order of ``Agreement.cases``."""


@dataclass(frozen=True, eq=False)
class Agreement(PerImage):
    """Pixels of each image.

    ``cases``  labelled pixels by class and by who is right, int64 ``N K 4``
    ``same``   labelled pixels that both call the same, int64 ``N``
    """

    cases: Integers
    same: Integers

    @classmethod
    def empty(cls, classes: int) -> Agreement:
        """No images yet."""
        column = np.zeros(0, np.int64)
        return cls((), column, np.zeros((0, classes, len(CASES)), np.int64), column)


def agree(student: Tensor, teacher: Tensor, target: Tensor, classes: int, name: str) -> Agreement:
    """The table of one image called ``name``: integer maps ``H W`` on one device, ``target`` with 255 = ignored."""
    keep = target != IGNORE
    student, teacher, target = (labels[keep].long() for labels in (student, teacher, target))
    wrong = 2 * (teacher != target) + (student != target)  # 0 both are right, 1 only the teacher, 2 only the student, 3 neither
    cases = torch.bincount(target * len(CASES) + wrong, minlength=classes * len(CASES)).view(1, classes, len(CASES))
    same = int((student == teacher).sum())
    return Agreement((name,), np.array([len(target)]), cases.cpu().numpy(), np.array([same]))


def tell(agreement: Agreement, class_names: Sequence[str]) -> dict[str, Any]:
    """Plain values: ``same``, the percentage of labelled pixels that both call the same (None without any); ``classes``,
    for each class its labelled pixels by who is right."""
    pixels, table = int(agreement.valid.sum()), agreement.cases.sum(0).tolist()
    return {
        "same": 100 * int(agreement.same.sum()) / pixels if pixels else None,
        "classes": {name: dict(zip(CASES, row, strict=True)) for name, row in zip(class_names, table, strict=True)},
    }
