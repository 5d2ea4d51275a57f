"""What JML-KD's objective costs: as it is usually written, on whole maps, and by blocks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kd.benchmark.comparison import Comparison, Ways
from kd.benchmark.setting import Setting, random_outputs, random_target
from kd.losses.loss import maps
from kd.methods.jml_kd import JmlKd
from kd.types import IGNORE, Outputs

WEIGHTS = {"ce": 0.125, "kl": 0.125, "jaccard_hard": 0.375, "jaccard_soft": 0.375}
Way = Callable[[Outputs, Outputs, Tensor], Tensor]


def usual(student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
    """As it is mostly written: maps enlarged first, a softmax for each criterion, labels one-hot as floats.

    The same value as the others, restated from the formulas of arXiv 2302.05666.
    """
    size, classes = target.shape[-2:], student.logits.shape[1]
    mine = F.interpolate(student.logits, size, mode="bilinear")
    its = F.interpolate(teacher.logits.detach(), size, mode="bilinear")
    keep = target != IGNORE
    divergence = F.kl_div(mine.log_softmax(1), its.softmax(1), reduction="none").sum(1)
    hot = F.one_hot(target.where(keep, 0), classes).permute(0, 3, 1, 2).float()
    return (
        WEIGHTS["ce"] * F.cross_entropy(mine, target, ignore_index=IGNORE)
        + WEIGHTS["kl"] * (divergence * keep).sum() / keep.sum()
        + WEIGHTS["jaccard_hard"] * _jaccard(mine.softmax(1), hot, keep, present=True)
        + WEIGHTS["jaccard_soft"] * _jaccard(mine.softmax(1), its.softmax(1), keep, present=False)
    )


def _jaccard(p: Tensor, q: Tensor, keep: Tensor, present: bool) -> Tensor:
    p, q = (maps_.mul(keep.unsqueeze(1)).transpose(0, 1).flatten(1) for maps_ in (p, q))
    both, apart = (p + q).sum(1), (p - q).abs().sum(1)
    cost = 1 - ((both - apart) / 2 + 1) / ((both + apart) / 2 + 1)
    return cost[q.amax(1) > 0].mean() if present else cost.mean()


def ours(choice: Any, setting: Setting) -> Way:
    """The method itself, ``whole`` or by ``blocks``."""
    sizes = setting.sizes(8)
    method = JmlKd(sizes, sizes, aux=False)

    def look(student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        with maps(choice):
            terms = method(student, teacher, target)
        return torch.stack([WEIGHTS[name] * term for name, term in terms.items()]).sum()

    return look


def _objective(setting: Setting) -> Ways:
    student, teacher = (random_outputs(setting, 8, seed) for seed in (0, 1))
    target = random_target(setting)

    def step(way: Way) -> None:
        student.logits.grad = None
        way(student, teacher, target).backward()

    ways = {"usual": usual, "whole maps": ours("whole", setting), "by blocks": ours("blocks", setting)}
    return {name: partial(step, way) for name, way in ways.items()}


COMPARISONS = {"objective of JML-KD": Comparison(_objective)}
