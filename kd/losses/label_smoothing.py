"""Soft labels made from hard ones: smoothing everywhere, or at class boundaries only (BLS).

Boundary label smoothing trains the teachers of JML-KD: Wang et al., arXiv 2302.05666, section 4, and its released code.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor

from kd.config import Config
from kd.losses.loss import check_labels, one_hot
from kd.types import IGNORE


class LabelSmoothing(Config):
    """How a recipe softens its labels. ``window`` (odd, pixels) is the neighbourhood that makes a pixel a boundary pixel."""

    where: Literal["boundary", "everywhere"] = "boundary"
    epsilon: float = Field(default=0.5, ge=0, le=1)
    window: int = Field(default=3, ge=1)

    @field_validator("window")
    @classmethod
    def _odd(cls, window: int) -> int:
        if window % 2 == 0:
            raise ValueError(f"is {window}; a window has a centre pixel, so it must be odd: {window - 1} or {window + 1}")
        return window


def boundary(target: Tensor, window: int = 3, ignore_index: int = IGNORE) -> Tensor:
    """Bool ``B H W``: the pixel is labelled, its window (cut at the border) holds two classes or more and nothing ignored."""
    ignored = (target == ignore_index).float().unsqueeze(1)
    labels = target.float().unsqueeze(1)

    def highest(maps: Tensor) -> Tensor:
        return F.max_pool2d(maps, window, stride=1, padding=window // 2)

    mixed = highest(labels) != -highest(-labels)
    return (mixed & (highest(ignored) == 0)).squeeze(1)


def smoothed_pixels(target: Tensor, config: LabelSmoothing, ignore_index: int = IGNORE) -> Tensor:
    """Bool ``B H W``: where labels become soft."""
    return target != ignore_index if config.where == "everywhere" else boundary(target, config.window, ignore_index)


def soften(target: Tensor, classes: int, config: LabelSmoothing, ignore_index: int = IGNORE) -> tuple[Tensor, Tensor]:
    """Hard labels ``B H W`` to probabilities ``B K H W`` and the keep mask ``B H W``.

    Smoothed pixels become ``(1 - eps) onehot + eps / K``; other labelled pixels stay one-hot; ignored pixels are all zero.

    Raises:
        ValueError: a label is neither a class nor ignored.
    """
    keep = target != ignore_index
    check_labels(target, keep, classes, ignore_index)
    smoothed = smoothed_pixels(target, config, ignore_index)
    hard = (one_hot(target, classes) & keep.unsqueeze(1)).float()
    soft = hard * (1 - config.epsilon) + config.epsilon / classes
    return soft.where(smoothed.unsqueeze(1), hard), keep
