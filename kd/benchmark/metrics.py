"""What counting one image costs, whose sides are twice the crop's."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kd.benchmark.comparison import Comparison, Ways
from kd.benchmark.setting import Setting, random_target
from kd.metrics.counts import count
from kd.types import IGNORE


def usual(prediction: Tensor, target: Tensor, classes: int) -> Tensor:
    """Maps one-hot, compared class by class: ``3 K`` of true positives, false positives and false negatives."""
    keep = (target != IGNORE).unsqueeze(0)
    mine = F.one_hot(prediction.long(), classes).permute(2, 0, 1).float() * keep
    truth = F.one_hot(target.where(keep[0], 0), classes).permute(2, 0, 1).float() * keep
    hit = (mine * truth).flatten(1).sum(1)
    return torch.stack([hit, mine.flatten(1).sum(1) - hit, truth.flatten(1).sum(1) - hit]).long()


def histogram(prediction: Tensor, target: Tensor, classes: int) -> Tensor:
    """A histogram of int64 over the pixels that a mask of bool picks; the same."""
    keep = target != IGNORE
    table = torch.bincount(classes * target[keep] + prediction[keep].long(), minlength=classes**2).view(classes, classes)
    return torch.stack([table.diagonal(), table.sum(0) - table.diagonal(), table.sum(1) - table.diagonal()])


def ours(prediction: Tensor, target: Tensor, classes: int) -> Tensor:
    """As evaluation does; the same."""
    found = count(prediction, target, classes, "image")
    return torch.stack([torch.from_numpy(part[0]) for part in (found.tp, found.fp, found.fn)])


WAYS = {"usual": usual, "histogram": histogram, "ours": ours}


def maps(setting: Setting) -> tuple[Tensor, Tensor]:
    """A prediction, uint8, and labels, some ignored."""
    target = random_target(setting)[0].repeat(2, 2)
    prediction = target.roll(5, 1).to(torch.uint8)
    target[: len(target) // 16] = IGNORE
    return prediction, target


def _counts(setting: Setting) -> Ways:
    prediction, target = maps(setting)
    return {name: lambda way=way: way(prediction, target, setting.classes) for name, way in WAYS.items()}  # type: ignore[misc]


COMPARISONS = {"counts of an image": Comparison(_counts)}
