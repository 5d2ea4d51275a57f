"""CWD, channel-wise distillation: where in the image a channel is active."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field
from torch import Tensor

from kd.keywords import keywords
from kd.losses.kl import kl_sum, logit_kl
from kd.losses.loss import global_mean
from kd.methods.critic import Adversary
from kd.methods.maps import KdMask, Projection, mean, pair, valid
from kd.methods.method import Method
from kd.types import Outputs, Sizes


def divergence(
    student: Tensor,
    teacher: Tensor,
    keep: Tensor | None = None,
    *,
    temperature: float = 4.0,
    over: Literal["pixels", "channels"] = "pixels",
    kind: Literal["kl", "mse"] = "kl",
) -> Tensor:
    """``T^2 KL(phi_t || phi_s)`` of maps ``B D h w``, ``phi`` their softmax over a channel's pixels (or a pixel's channels).

    Averaged over images and channels (or pixels). ``mse``: the summed squared difference of the two, at T = 1.
    """
    pixels = over == "pixels"
    mine, theirs = student.flatten(2), teacher.flatten(2)
    mask = None if keep is None else keep.flatten(1).unsqueeze(1)
    if pixels and mask is not None:
        mine, theirs, mask = mine.masked_fill(~mask, -1e30), theirs.masked_fill(~mask, -1e30), None
    rows = None if mask is None else mask.squeeze(1)
    if kind == "mse":
        gap = (mine.softmax(2 if pixels else 1) - theirs.softmax(2 if pixels else 1)).square()
        return mean(gap.sum(2 if pixels else 1), rows)
    total = kl_sum(mine, theirs, 2 if pixels else 1, temperature, rows)
    count = mine[..., 0].numel() if pixels else len(mine) * mine.shape[2]
    return temperature**2 * global_mean(total, count if rows is None else rows)


NAMES = {"logits": "logit", "embedding": "feature"}
"""The term that compares each field."""


class CWD(Method):
    """``logit``, ``feature``: ``T^2 / (B D) * sum over images and channels of KL`` between the networks' spatial softmax.

    Shu et al., arXiv 2011.13256. On logits (T = 4, weight 3), on embeddings (T = 4, weight 50; the student's is projected by a
    1x1 convolution), or both. The CIRKD repository's row uses both, plain KD (``kl``) and a critic; mmrazor logits at T = 1,
    weight 5. ``variant: code`` divides the feature term by the student's width as the CIRKD repository does, where the paper
    divides by the number of channels compared. ``over: channels`` and ``kind: mse`` are the official code's other modes.

    Fails where: the factor T^2 = 16 is forgotten on comparing weights; ``kind: mse`` with temperature other than 1.
    """

    class Config(Method.Config):
        """``maps`` names what is compared; ``kl`` adds plain KD; ``adversary`` a critic, or null."""

        maps: tuple[Literal["logits", "embedding"], ...] = Field(default=("logits",), min_length=1)
        temperature: float = Field(default=4.0, gt=0)
        over: Literal["pixels", "channels"] = "pixels"
        kind: Literal["kl", "mse"] = "kl"
        variant: Literal["paper", "code"] = "paper"
        kl: bool = False
        kd_mask: KdMask = "all"
        adversary: Adversary.Config | None = None

    needs = frozenset()

    @keywords(Config)
    def __init__(self, config: Any, student: Sizes, teacher: Sizes) -> None:
        super().__init__(config, student, teacher)
        self.needs = frozenset(config.maps) | ({"logits"} if config.kl or config.adversary else set())
        self.names = {field: NAMES[field] for field in config.maps}
        features = "embedding" in config.maps
        self.projection = Projection(student.embedding, teacher.embedding) if features else None
        self.adversary = Adversary(config.adversary, teacher)

    @classmethod
    def terms_of(cls, config: Any) -> tuple[str, ...]:
        """One for each map, plain KD's, the critic's."""
        maps = dict.fromkeys(NAMES[field] for field in config.maps)
        return (*maps, *(("kl",) if config.kl else ()), *Adversary.terms_of(config.adversary))

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> dict[str, Tensor]:
        """All terms by name."""
        config = self.config
        terms = {name: self._compare(student, teacher, target, field) for field, name in self.names.items()}
        if not (config.kl or config.adversary):
            return terms
        logits = pair(student, teacher)
        keep = valid(target, teacher, logits[1], config.kd_mask)
        if config.kl:
            terms["kl"] = logit_kl(*logits, keep)
        return terms | self.adversary(*logits, keep)

    def _compare(self, student: Outputs, teacher: Outputs, target: Tensor, field: str) -> Tensor:
        config = self.config
        mine, theirs = pair(student, teacher, field)
        scale = 1.0
        if field == "embedding" and self.projection is not None:
            mine = self.projection(mine)
            scale = self.teacher.embedding / self.student.embedding if config.variant == "code" else 1.0
        keep = valid(target, teacher, theirs, config.kd_mask)
        return scale * divergence(mine, theirs, keep, temperature=config.temperature, over=config.over, kind=config.kind)

    def players(self) -> Any:
        """The critic, where there is one."""
        return self.adversary.players()
