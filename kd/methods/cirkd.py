"""CIRKD: how pixels relate to pixels of other images, in the batch and in a memory."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kd.distributed import gather_tensor, join_ranks, rank, world_size
from kd.keywords import keywords
from kd.losses.kl import logit_kl
from kd.losses.loss import global_mean
from kd.methods.cirkd_memory import Bank, Found, draw_pixels, pixels, regions
from kd.methods.cirkd_similarity import Pairs, Side, row_divergence
from kd.methods.maps import KdMask, Projection, labels_at, pair, valid
from kd.methods.method import Method
from kd.seeds import generator
from kd.types import IGNORE, Outputs, Sizes


def unit(features: Tensor) -> Tensor:
    """``B D h w`` to a unit vector for each pixel, ``B N D``."""
    return F.normalize(features.flatten(2), dim=1).transpose(1, 2).contiguous()


def grouped_pairs(images: int, group: int, like: Tensor, first: int = 0, every: int = 0) -> Pairs:
    """All ordered pairs of some images, from the ``first`` on, with those of their groups among ``every`` image (also with
    themselves); each image's pairs share its weight of 1."""
    every = every or images
    found = []
    for image in range(first, first + images):
        start = image - image % group
        others = range(start, min(start + group, every))
        found += [(image - first, other, len(others)) for other in others]
    query, key, count = torch.tensor(found, device=like.device).unbind(1)
    return Pairs(query, key, 1 / count.to(like.dtype))


def mini_batch(student: Tensor, teacher: Tensor, temperature: float, group: int, keep: Tensor | None = None) -> Tensor:
    """Mean over pixels and pairs of images of the KL between their similarities to the second image's pixels.

    Unit vectors ``B N D``; ``keep`` ``B N`` chooses rows. Pairs stay within groups of ``group`` images of the whole batch, so
    the value does not depend on how it is spread over processes; where a group is, they exchange their vectors.
    """
    weights = student.new_ones(student.shape[:2]) if keep is None else keep.to(student.dtype)
    images, mine, its = len(student), student, teacher
    if world_size() > 1 and images % group:
        pairs = grouped_pairs(images, group, student, rank() * images, world_size() * images)
        mine, its = join_ranks(student), gather_tensor(teacher)
    else:
        pairs = grouped_pairs(images, group, student)
    total = row_divergence(Side(student, mine), Side(teacher, its), pairs, weights, temperature)
    return global_mean(total, weights)


def memory_term(
    student: Tensor, teacher: Tensor, negatives: Tensor, anchors: Tensor, temperature: float, softening: float = 1.0
) -> Tensor:
    """``S^2`` times the mean over anchors of the KL between similarities to the memory, divided by ``temperature S``.

    Unit vectors ``B N D``, ``negatives`` ``M D``, ``anchors`` bool ``B N``. 0 without an anchor.
    """
    weights, memory = anchors.to(student.dtype).view(1, -1), negatives.to(student.dtype).unsqueeze(0)
    mine, its = (Side(maps.flatten(0, 1).unsqueeze(0), memory) for maps in (student, teacher))
    total = row_divergence(mine, its, grouped_pairs(1, 1, student), weights, temperature * softening)
    return softening**2 * global_mean(total, weights)


class Head(nn.Sequential):
    """The student's embedding for the memory: 1x1 convolution, norm, ReLU, 1x1 convolution, to the teacher's width."""

    def __init__(self, inputs: int, outputs: int) -> None:
        norm = nn.BatchNorm2d(outputs)
        super().__init__(Projection(inputs, outputs), norm, nn.ReLU(inplace=True), Projection(outputs, outputs))


class CIRKD(Method):
    """``kl`` per pixel; ``mini`` between images of the batch; ``pixel`` and ``region`` against memories of teacher embeddings.

    Yang et al., arXiv 2204.06986. Published weights: 1, 1, 0.1, 0.1 on Cityscapes, 1, 1, 0.01, 0.01 on VOC, temperature 0.1,
    two images per process, hence ``group: 2``. Banks hold 20 000 pixels and 2000 regions of each class (0.4 GB for 19 classes
    of width 256) and are part of the checkpoint. ``variant: code`` enqueues pixels as the released code does, which takes them
    from arbitrary places of the image; ``paper`` takes pixels of the class.

    Fails where: the memory weights of Cityscapes are kept on another data set: on VOC that ended below the baseline.
    """

    class Config(Method.Config):
        """``pixel_draws``, ``region_draws``: slots per class that a step compares to; 0: 4096 / K + 1 and 1024 / K + 1.

        ``per_class`` pixels of a class and image enter the memory; ``pool`` averages embeddings for ``mini`` first.
        """

        temperature: float = Field(default=0.1, gt=0)
        softening: float = Field(default=1.0, gt=0)
        group: int = Field(default=2, ge=1)
        pool: int = Field(default=1, ge=1)
        pixel_slots: int = Field(default=20_000, ge=1)
        region_slots: int = Field(default=2_000, ge=1)
        pixel_draws: int = Field(default=0, ge=0)
        region_draws: int = Field(default=0, ge=0)
        per_class: int = Field(default=16, ge=1)
        variant: Literal["paper", "code"] = "paper"
        kd_mask: KdMask = "all"

    needs = frozenset({"logits", "embedding"})
    terms = ("kl", "mini", "pixel", "region")
    hard = frozenset({"pixel", "region"})
    clock: Tensor
    seed: Tensor

    @keywords(Config)
    def __init__(self, config: Any, student: Sizes, teacher: Sizes) -> None:
        super().__init__(config, student, teacher)
        classes, width = student.classes, teacher.embedding
        self.head = Head(student.embedding, width)
        self.pixel_bank = Bank(classes, config.pixel_slots, width, resets=True)
        self.region_bank = Bank(classes, config.region_slots, width)
        self.register_buffer("clock", torch.zeros((), dtype=torch.long))
        self.register_buffer("seed", torch.randint(2**31, ()))
        self.draws = {
            "pixel": min(config.pixel_slots, config.pixel_draws or 4096 // classes + 1),
            "region": min(config.region_slots, config.region_draws or 1024 // classes + 1),
        }

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> dict[str, Tensor]:
        """All terms by name. Writes to the memory first, as published."""
        config, logits = self.config, pair(student, teacher)
        mine, theirs = pair(student, teacher, "embedding")
        labels, its = labels_at(target, theirs).flatten(1), unit(theirs)
        self.clock.add_(1)
        moment = (int(self.seed), int(self.clock))
        self.remember(its, labels, moment)
        own, anchors = unit(self.head(mine)), labels != IGNORE
        terms = {
            "kl": logit_kl(*logits, valid(target, teacher, logits[1], config.kd_mask)),
            "mini": self._mini_batch(mine, theirs, teacher, target),
        }
        for name, bank in (("pixel", self.pixel_bank), ("region", self.region_bank)):
            source = generator(*moment, name)
            slots = torch.randperm(bank.slots, generator=source)[: self.draws[name]].to(its.device)
            terms[name] = memory_term(own, its, bank.negatives(slots), anchors, config.temperature, config.softening)
        return terms

    def _mini_batch(self, mine: Tensor, theirs: Tensor, teacher: Outputs, target: Tensor) -> Tensor:
        config = self.config
        if config.pool > 1:
            mine, theirs = (F.avg_pool2d(maps, config.pool, config.pool, ceil_mode=True) for maps in (mine, theirs))
        keep = valid(target, teacher, theirs, config.kd_mask)
        return mini_batch(unit(mine), unit(theirs), config.temperature, config.group, None if keep is None else keep.flatten(1))

    @torch.no_grad()
    def remember(self, embedding: Tensor, labels: Tensor, moment: tuple[int, int]) -> None:
        """Write the batch of all ranks into both banks; unit ``embedding`` ``B N D``, ``labels`` ``B N``; ``moment`` seeds."""
        config, classes = self.config, self.student.classes
        first = rank() * len(labels)
        sources = [generator(*moment, "pixels", first + number) for number in range(len(labels))]
        order = torch.stack([torch.rand(labels.shape[1], generator=source) for source in sources])
        draw = draw_pixels(labels, classes, config.per_class, order.to(embedding), config.variant == "code")
        for bank, found in (
            (self.pixel_bank, pixels(embedding, draw)),
            (self.region_bank, regions(embedding, labels, classes)),
        ):
            bank.write(Found(*(gather_tensor(part) for part in found)))
