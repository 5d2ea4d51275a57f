"""IFVD: how similar each pixel is to the centre of its class."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kd.keywords import keywords
from kd.losses.kl import logit_kl
from kd.losses.loss import one_hot
from kd.methods.critic import Adversary
from kd.methods.maps import KdMask, labels_at, mean, pair, valid
from kd.methods.method import Method
from kd.types import Outputs, Sizes

EPSILON = 1e-8


def centres(features: Tensor, members: Tensor) -> Tensor:
    """Mean feature of each class of each image, ``B D K``, from features ``B D N`` and members ``B N K`` (0 or 1)."""
    return features @ members / (members.sum(1, keepdim=True) + 1e-6)


def variation(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Cosine of each pixel's feature and its class's centre in that image, ``B h w``; 1 where the label is no class.

    Features ``B D h w``, labels ``B h w``. Gradient flows through the centres.
    """
    flat, numbers = features.flatten(2), labels.flatten(1)
    members = one_hot(numbers, classes).transpose(1, 2).to(flat.dtype)
    middle = centres(flat, members)
    own = numbers.clamp(0, classes - 1).unsqueeze(2)
    dot = (flat.transpose(1, 2) @ middle).gather(2, own).squeeze(2)
    lengths = middle.norm(dim=1).clamp_min(EPSILON).gather(1, own.squeeze(2))
    cosine = dot / (flat.norm(dim=1).clamp_min(EPSILON) * lengths)
    inside = (numbers >= 0) & (numbers < classes)
    return torch.where(inside, cosine, 1.0).view_as(labels)


def intra_class_variation(student: Tensor, teacher: Tensor, labels: Tensor, classes: int, keep: Tensor | None = None) -> Tensor:
    """Mean over pixels of the squared difference of both variations; ignored pixels differ by 0 and count in the mean."""
    gap = variation(student, labels, classes) - variation(teacher, labels, classes)
    return mean(gap.square(), keep)


class IFVD(Method):
    """``kl`` per pixel, ``variation`` of features within a class, ``fool`` and ``critic`` against a critic of score maps.

    Wang et al., "Intra-class Feature Variation Distillation for Semantic Segmentation", ECCV 2020. The function of the official
    code and of the CIRKD repository is the same; weights differ: official 10 / K, 200, 0.001 and 0.1 (wgan, gradient penalty
    10), paper 50 for the variation, CIRKD 1, 20, 0.001 and 0.1 (hinge). Labels are read at the embedding's grid, nearest.
    ``kd_mask: valid`` leaves ignored pixels out of the means, too; all published code counts them with difference 0.

    Fails where: it is used alone: repetitions report a loss below the baseline without ``kl`` and critic, and without
    augmentation, which the authors' documented command leaves off.
    """

    class Config(Method.Config):
        """``adversary`` null drops the critic."""

        kd_mask: KdMask = "all"
        adversary: Adversary.Config | None = Adversary.Config()

    needs = frozenset({"logits", "embedding"})

    @keywords(Config)
    def __init__(self, config: Any, student: Sizes, teacher: Sizes) -> None:
        super().__init__(config, student, teacher)
        self.adversary = Adversary(config.adversary, teacher)
        self.drawn = self.adversary.drawn

    @classmethod
    def terms_of(cls, config: Any) -> tuple[str, ...]:
        """The critic's too, where there is one."""
        return ("kl", "variation", *Adversary.terms_of(config.adversary))

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> dict[str, Tensor]:
        """All terms by name."""
        logits, features = pair(student, teacher), pair(student, teacher, "embedding")
        keep = valid(target, logits[1], self.config.kd_mask)
        kept = valid(target, features[1], self.config.kd_mask)
        labels = labels_at(target, features[1])
        terms = {
            "kl": logit_kl(*logits, keep),
            "variation": intra_class_variation(*features, labels, self.student.classes, kept),
        }
        return terms | self.adversary(*logits, keep)

    def players(self) -> Any:
        """The critic, where there is one."""
        return self.adversary.players()
