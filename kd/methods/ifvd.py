"""IFVD: how similar each pixel is to the centre of its class."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from kd.keywords import keywords
from kd.losses.formed import Gradients, formed
from kd.losses.kl import logit_kl
from kd.losses.loss import global_mean, one_hot
from kd.methods.critic import Adversary
from kd.methods.maps import KdMask, labels_at, pair, square_lengths, valid
from kd.methods.method import Method
from kd.types import Outputs, Sizes

EPSILON = 1e-8


class Side(NamedTuple):
    """Of one network, with the pixels as ``N``: ``features`` ``B D N``, mean feature of each class of each image ``centres``
    ``B K D``; lengths of both, ``B N`` and ``B K``; cosine of each pixel and its class's centre, ``B N``."""

    features: Tensor
    centres: Tensor
    lengths: Tensor
    radii: Tensor
    cosines: Tensor


def look(features: Tensor, members: Tensor, own: Tensor) -> Side:
    """Features ``B D N``, ``members`` ``B K N`` (0 or 1), ``own`` ``B N`` each pixel's class, any where it has none."""
    centres = (features @ members.transpose(1, 2)).transpose(1, 2) / _counts(members)
    lengths = square_lengths(features).sqrt()
    radii = centres.norm(dim=2)
    dot = (centres @ features).gather(1, own.unsqueeze(1)).squeeze(1)
    cosines = dot / (lengths.clamp_min(EPSILON) * radii.clamp_min(EPSILON).gather(1, own))
    return Side(features, centres, lengths, radii, cosines.where(members.any(1), 1))


def _counts(members: Tensor) -> Tensor:
    return members.sum(2, keepdim=True) + 1e-6


def members_of(labels: Tensor, classes: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """``B K N`` and ``B N`` as :func:`look` has them, of labels ``B h w``."""
    numbers = labels.flatten(1)
    return one_hot(numbers, classes).to(like.dtype), numbers.clamp(0, classes - 1)


def variation(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Cosine of each pixel's feature and its class's centre in that image, ``B h w``; 1 where the label is no class.

    Features ``B D h w``, labels ``B h w``.
    """
    return look(features.flatten(2), *members_of(labels, classes, features)).cosines.view_as(labels)


def intra_class_variation(student: Tensor, teacher: Tensor, labels: Tensor, classes: int, keep: Tensor | None = None) -> Tensor:
    """Mean over pixels of the squared difference of both variations; ignored pixels differ by 0 and count in the mean.

    Gradient flows through the student's centres too, once.
    """
    members, own = members_of(labels, classes, student)

    def make(wanted: bool) -> tuple[Tensor, Gradients]:
        mine, its = (look(maps.flatten(2), members, own) for maps in (student, teacher))
        gap = mine.cosines - its.cosines
        gap = gap if keep is None else gap.where(keep.flatten(1), 0)
        slope = back(mine, members, own, 2 * gap).view_as(student) if wanted else None
        return gap.square().sum(dtype=torch.float64).to(gap.dtype), (slope,)

    return global_mean(formed(make, student), labels.numel() if keep is None else keep)


def back(side: Side, members: Tensor, own: Tensor, slope: Tensor) -> Tensor:
    """The gradient ``B D N`` of the features for that of the cosines ``B N``, also by way of the centres."""
    lengths, radii = side.lengths.clamp_min(EPSILON), side.radii.clamp_min(EPSILON)
    dot, turn = slope / (lengths * radii.gather(1, own)), slope * side.cosines
    pulled = members * dot.unsqueeze(1)
    shrunk = (members @ turn.unsqueeze(2)) * (side.radii > EPSILON).unsqueeze(2) / radii.square().unsqueeze(2)
    moved = ((side.features @ pulled.transpose(1, 2)).transpose(1, 2) - shrunk * side.centres) / _counts(members)
    found = torch.cat([side.centres, moved], 1).transpose(1, 2) @ torch.cat([pulled, members], 1)
    along = turn * (side.lengths > EPSILON) * members.any(1) / lengths.square()
    return found.addcmul_(side.features, along.unsqueeze(1), value=-1)


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
    hard = frozenset({"variation"})

    @keywords(Config)
    def __init__(self, config: Any, student: Sizes, teacher: Sizes) -> None:
        super().__init__(config, student, teacher)
        self.adversary = Adversary(config.adversary, teacher)

    @classmethod
    def terms_of(cls, config: Any) -> tuple[str, ...]:
        """The critic's too, where there is one."""
        return ("kl", "variation", *Adversary.terms_of(config.adversary))

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> dict[str, Tensor]:
        """All terms by name."""
        logits, features = pair(student, teacher), pair(student, teacher, "embedding")
        keep = valid(target, teacher, logits[1], self.config.kd_mask)
        kept = valid(target, teacher, features[1], self.config.kd_mask)
        labels = labels_at(target, features[1])
        terms = {
            "kl": logit_kl(*logits, keep),
            "variation": intra_class_variation(*features, labels, self.student.classes, kept),
        }
        return terms | self.adversary(*logits, keep)

    def players(self) -> Any:
        """The critic, where there is one."""
        return self.adversary.players()
