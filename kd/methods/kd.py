"""Plain distillation: per-pixel KL divergence of the logits at the network's own stride."""

from __future__ import annotations

from typing import Any

from pydantic import Field
from torch import Tensor

from kd.keywords import keywords
from kd.losses.kl import logit_kl
from kd.methods.maps import KdMask, pair, valid
from kd.methods.method import Method
from kd.types import Outputs, Sizes


class KD(Method):
    """``kl = T^2 * mean over pixels of KL(softmax(z_t / T) || softmax(z_s / T))``.

    Hinton et al., arXiv 1503.02531, per pixel as in the CIRKD repository (T = 1, weight 1 beside the task loss). Published
    codes see ignored and padded pixels too (``kd_mask: all``); ``valid`` leaves them out.

    Fails where: the published weights of other codes are taken over as they are (SKD's 10 means 10 B here, IFVD's 10 means
    10 / K); a much larger T without its T^2.
    """

    class Config(Method.Config):
        """``temperature`` divides both logits."""

        temperature: float = Field(default=1.0, gt=0)
        kd_mask: KdMask = "all"

    terms = ("kl",)

    @keywords(Config)
    def __init__(self, config: Any, student: Sizes, teacher: Sizes) -> None:
        super().__init__(config, student, teacher)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> dict[str, Tensor]:
        """The term ``kl``."""
        mine, theirs = pair(student, teacher)
        keep = valid(target, teacher, theirs, self.config.kd_mask)
        return {"kl": logit_kl(mine, theirs, keep, temperature=self.config.temperature)}
