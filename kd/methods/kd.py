"""Plain distillation: per-pixel KL divergence of the logits at the network's own stride."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from kd.keywords import keywords
from kd.losses.formed import refuse_second
from kd.losses.kl import logit_kl
from kd.methods.maps import KdMask, pair, valid
from kd.methods.method import Method
from kd.types import Outputs, Sizes

EPSILON = 1e-7
"""Added to the standard deviation of logits, as published."""


def standardised(logits: Tensor) -> Tensor:
    """Logits ``B K h w`` less their mean over classes, divided by their (unbiased) standard deviation plus 1e-7; 0, without
    gradient, where all are equal. Differentiable once."""
    found: Tensor = _Standardised.apply(logits)
    return found


class _Standardised(torch.autograd.Function):
    """Two maps are kept: the result, and what it was divided by."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> Tensor:
        """See :func:`standardised`."""
        values = logits - logits.mean(1, keepdim=True)
        spread = (values.square().sum(1, keepdim=True) / max(1, logits.shape[1] - 1)).sqrt_()
        values.div_(spread + EPSILON)
        ctx.save_for_backward(values, spread)
        return values

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Tensor:
        """That of the division by a spread which the logits make themselves, and of the mean."""
        refuse_second()
        values, spread = ctx.saved_tensors
        along = (slopes[0] * values).sum(1, keepdim=True) * (spread + EPSILON) / spread.where(spread > 0, 1)
        found = slopes[0].addcmul(values, along, value=-1 / max(1, values.shape[1] - 1)).div_(spread + EPSILON)
        return found.sub_(found.mean(1, keepdim=True)).where(spread > 0, 0)


class KD(Method):
    """``kl = T^2 * mean over pixels of KL(softmax(z_t / T) || softmax(z_s / T))``.

    Hinton et al., arXiv 1503.02531, per pixel as in the CIRKD repository (T = 1, weight 1 beside the task loss). Published
    codes see ignored and padded pixels too (``kd_mask: all``); ``valid`` leaves them out.

    ``standardise`` centres each pixel's logits of both networks and divides them by their standard deviation over classes first
    (Sun et al., "Logit Standardization in Knowledge Distillation", CVPR 2024, arXiv 2403.01427, base temperature 2, on
    classification): the student is free in the scale of its logits and learns their order and ratios. The term is close to one
    minus the correlation of both logits and never far above 2, its gradient about 1 / (K std) of plain KD's, which is why the
    weight is larger; the 9 of ``kd@standardised`` is the paper's, of its CIFAR recipe, and no published one for segmentation.

    Fails where: the published weights of other codes are taken over as they are (SKD's 10 means 10 B here, IFVD's 10 means
    10 / K); a much larger T without its T^2; ``standardise`` with few classes (with two, nothing but the winner is left).
    """

    class Config(Method.Config):
        """``temperature`` divides both logits, standardised ones where ``standardise`` says so."""

        temperature: float = Field(default=1.0, gt=0)
        standardise: bool = False
        kd_mask: KdMask = "all"

    terms = ("kl",)

    @keywords(Config)
    def __init__(self, config: Any, student: Sizes, teacher: Sizes) -> None:
        super().__init__(config, student, teacher)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> dict[str, Tensor]:
        """The term ``kl``."""
        mine, theirs = pair(student, teacher)
        keep = valid(target, theirs, self.config.kd_mask)
        if self.config.standardise:
            mine, theirs = standardised(mine), standardised(theirs)
        return {"kl": logit_kl(mine, theirs, keep, temperature=self.config.temperature)}
