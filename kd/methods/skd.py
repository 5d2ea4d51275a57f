"""SKD, structured distillation: pixels, pairs of regions, and the whole score map."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from kd.keywords import keywords
from kd.losses.formed import Gradients, formed
from kd.losses.kl import logit_kl
from kd.losses.loss import global_mean
from kd.methods.critic import Adversary
from kd.methods.maps import KdMask, mean, pair, valid
from kd.methods.method import Method
from kd.types import Outputs, Sizes


def nodes(features: Tensor, variant: str, scale: float = 0.5) -> Tensor:
    """``B D h w`` to unit vectors ``B D N``, max-pooled.

    ``official``: windows of ``scale`` of the map (4 nodes for 0.5, 9 for odd sizes), and the norm is a constant in the backward
    pass. ``cirkd``: windows of 2 x 2, with gradient through the norm. Windows at the border are cut, not padded.
    """
    if variant == "cirkd":
        return F.normalize(F.max_pool2d(features, 2, 2, ceil_mode=True).flatten(2), dim=1)
    window = (max(1, int(features.shape[2] * scale)), max(1, int(features.shape[3] * scale)))
    pooled = F.max_pool2d(features, window, window, ceil_mode=True).flatten(2)
    return pooled / (pooled.norm(dim=1, keepdim=True) + 1e-8).detach()


def pair_wise(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over images and pairs of nodes of the squared difference of their cosines; nodes ``B D N``, widths may differ.

    ``|S'S - T'T|^2 = |SS'|^2 + |TT'|^2 - 2 |ST'|^2`` needs no N x N matrix; it is used where N is larger than the widths.
    """
    count = student.shape[2]
    if count <= max(student.shape[1], teacher.shape[1]):
        gap = student.transpose(1, 2) @ student - teacher.transpose(1, 2) @ teacher
        return mean(gap.square())
    total = formed(lambda wanted: _gram_gap(student, teacher, wanted), student)
    return global_mean(total, count**2 * len(student))


def _gram_gap(student: Tensor, teacher: Tensor, wanted: bool) -> tuple[Tensor, Gradients]:
    """``|S'S - T'T|^2`` summed over images, and its gradient ``4 (SS' S - ST' T)``."""
    both = torch.cat([student, teacher], 1)
    grams = student @ both.transpose(1, 2)  # SS' and ST' side by side
    own, cross = grams.double().square().sum((0, 1)).split([student.shape[1], teacher.shape[1]])
    its = (teacher @ teacher.transpose(1, 2)).double().square().sum()
    value = (own.sum() + its - 2 * cross.sum()).clamp_min(0).to(student.dtype)
    if not wanted:
        return value, (None,)
    grams[:, :, student.shape[1] :].neg_()
    return value, ((grams @ both).mul_(4),)


class SKD(Method):
    """``kl`` per pixel, ``pair`` of pooled embeddings, ``fool`` and ``critic`` against a critic of score maps.

    Liu et al., arXiv 1903.04197. ``variant: official`` is the authors' code (2 x 2 nodes), ``cirkd`` the CIRKD repository's
    (2048 nodes at 64 x 128), whose numbers stand in the benchmark table: different losses under one name. Weights: CIRKD 1, 10,
    0.001 and 0.1 (hinge); official 10 B, 0.5, 0.1 and 0.1 (wgan, gradient penalty 10, the critic's SGD). The paper conditions
    the critic on the image; no published code does.

    Fails where: the batch shrinks under the official weights, which grow with B; a wgan critic without its penalty.
    """

    class Config(Method.Config):
        """``scale`` is the share of the map that an official node covers; ``adversary`` null drops the critic."""

        variant: Literal["official", "cirkd"] = "cirkd"
        scale: float = Field(default=0.5, gt=0, le=1)
        kd_mask: KdMask = "all"
        adversary: Adversary.Config | None = Adversary.Config()

    needs = frozenset({"logits", "embedding"})

    @keywords(Config)
    def __init__(self, config: Any, student: Sizes, teacher: Sizes) -> None:
        super().__init__(config, student, teacher)
        self.adversary = Adversary(config.adversary, teacher)

    @classmethod
    def terms_of(cls, config: Any) -> tuple[str, ...]:
        """The critic's too, where there is one."""
        return ("kl", "pair", *Adversary.terms_of(config.adversary))

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> dict[str, Tensor]:
        """All terms by name."""
        config, logits = self.config, pair(student, teacher)
        keep = valid(target, teacher, logits[1], config.kd_mask)
        features = pair(student, teacher, "embedding")
        kept = valid(target, teacher, features[1], config.kd_mask)
        if kept is not None:
            features = tuple(maps.where(kept.unsqueeze(1), 0) for maps in features)  # type: ignore[assignment]
        mine, its = (nodes(maps, config.variant, config.scale) for maps in features)
        terms = {"kl": logit_kl(*logits, keep), "pair": pair_wise(mine, its)}
        return terms | self.adversary(*logits, keep)

    def players(self) -> Any:
        """The critic, where there is one."""
        return self.adversary.players()
