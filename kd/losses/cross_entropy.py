"""Cross-entropy and focal loss, for hard and soft targets.

Focal term: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, eq. 4.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from kd.keywords import keywords
from kd.losses.loss import (
    Loss,
    NonNegative,
    check_classes,
    class_weight_buffer,
    global_mean,
    is_hard,
    kept_pixels,
    one_hot,
)
from kd.losses.streamed import Sums
from kd.types import IGNORE, full_precision


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    keep: Tensor | None = None,
    *,
    ignore_index: int | None = IGNORE,
    gamma: float = 0.0,
    class_weights: Tensor | None = None,
) -> Tensor:
    """Mean over kept pixels of ``sum_c q_c (1 - p_c)^gamma (-log p_c)``, ``q`` one-hot for hard targets.

    ``class_weights`` (``K``) multiply the summands, and the mean is then weighted: divided by the sum of ``q_c w_c``, as
    torch does for hard labels. A batch without a kept pixel gives 0.
    """
    mask = kept_pixels(logits, target, keep, ignore_index)
    check_classes(class_weights, logits.shape[1])
    with torch.autocast(logits.device.type, enabled=False):
        log_p = full_precision(logits).log_softmax(1)
        q = one_hot(target, logits.shape[1]).to(log_p.dtype) if is_hard(target) else full_precision(target.detach())
        share = q if class_weights is None else q * class_weights.to(log_p).view(-1, *[1] * (logits.ndim - 2))
        cost = -share * log_p
        if gamma > 0:
            cost = cost * (1 - log_p.exp()).clamp_min(0) ** gamma
        weight = mask.to(log_p.dtype) if class_weights is None else share.sum(1).where(mask, 0)
        return global_mean(cost.sum(1).where(mask, 0), weight)


class CrossEntropy(Loss):
    """:func:`cross_entropy` as a module."""

    class Config(Loss.Config):
        """``gamma`` > 0 makes it focal; ``class_weights`` one per class."""

        gamma: float = Field(default=0.0, ge=0)
        class_weights: tuple[NonNegative, ...] | None = None

    class_weights: Tensor | None

    @keywords(Config)
    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.register_buffer("class_weights", class_weight_buffer(self.config.class_weights), persistent=False)

    def wanted(self, hard: bool) -> frozenset[str] | None:
        """See :meth:`Loss.wanted`."""
        plain = self.config.gamma == 0 and self.class_weights is None and self.config.ignore_index == IGNORE
        return frozenset({"ce" if hard else "cross"}) if plain else None

    def from_sums(self, sums: Sums, hard: bool) -> Tensor:
        """See :meth:`Loss.from_sums`."""
        return global_mean(sums.ce if hard else sums.cross, sums.pixels).to(sums.dtype)

    def forward(self, logits: Tensor, target: Tensor, keep: Tensor | None = None) -> Tensor:
        """Scalar; see :class:`Loss` for shapes."""
        config = self.config
        return cross_entropy(
            logits,
            target,
            keep,
            ignore_index=config.ignore_index,
            gamma=config.gamma,
            class_weights=self.class_weights,
        )
