"""FitNet: regress the teacher's features."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from kd.keywords import keywords
from kd.losses.loss import global_mean
from kd.methods.maps import KdMask, Projection, pair, squared_gap, valid
from kd.methods.method import Method
from kd.types import Outputs, Sizes


def regression(student: Tensor, teacher: Tensor, keep: Tensor | None = None) -> Tensor:
    """Mean squared difference of two maps ``B D h w``."""
    weight = student.new_ones(()) if keep is None else keep.unsqueeze(1).to(student.dtype)
    return global_mean(squared_gap(student, teacher, weight), student.numel() if keep is None else keep * student.shape[1])


class FitNet(Method):
    """``hint``: mean over images, channels and pixels of ``(W f_s - f_t)^2``, ``W`` a 1x1 convolution that is learnt along.

    Romero et al., arXiv 1412.6550, as in the CIRKD repository: on the embedding, trained jointly, weight 10 beside plain KD
    of weight 1. The paper trains the hint first, alone, on a middle layer.

    Fails where: features of the two networks differ in scale, since the term is quadratic in it.
    """

    class Config(Method.Config):
        """``kd_mask``: which pixels take part."""

        kd_mask: KdMask = "all"

    needs = frozenset({"embedding"})
    terms = ("hint",)

    @keywords(Config)
    def __init__(self, config: Any, student: Sizes, teacher: Sizes) -> None:
        super().__init__(config, student, teacher)
        self.projection = Projection(student.embedding, teacher.embedding)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> dict[str, Tensor]:
        """The term ``hint``."""
        mine, theirs = pair(student, teacher, "embedding")
        return {"hint": regression(self.projection(mine), theirs, valid(target, teacher, theirs, self.config.kd_mask))}
