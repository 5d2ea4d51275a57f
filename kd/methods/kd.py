"""Plain distillation: per-pixel KL divergence of the logits at the network's own stride."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from kd.losses.kl import logit_kl
from kd.methods.method import Method
from kd.types import IGNORE, Outputs, full_precision, nearest_labels, resample


class KD(Method):
    """``kl = T^2 * mean over pixels of KL(softmax(z_t / T) || softmax(z_s / T))``.

    Hinton et al., arXiv 1503.02531, per pixel as in the CIRKD repository (T = 1, weight 1 beside the task loss). Published
    codes see ignored and padded pixels too (``kd_mask: all``); ``valid`` leaves them out. Where the grids differ, the student
    is resampled to the teacher's.
    """

    class Config(Method.Config):
        """``temperature`` divides both logits."""

        temperature: float = Field(1.0, gt=0)
        kd_mask: Literal["all", "valid"] = "all"

    terms = ("kl",)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> dict[str, Tensor]:
        """The term ``kl``."""
        size = (int(teacher.logits.shape[-2]), int(teacher.logits.shape[-1]))
        keep = nearest_labels(target, size) != IGNORE if self.config.kd_mask == "valid" else None
        logits = resample(full_precision(student.logits), size, student.align_corners)
        return {"kl": logit_kl(logits, teacher.logits, keep, temperature=self.config.temperature)}
