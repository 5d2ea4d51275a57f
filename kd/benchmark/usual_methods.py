"""Terms of the methods as they are mostly written: whole matrices of pixels by pixels, loops over images, classes and pairs.

Restated from the formulas of the papers; every function gives the value of the method beside it in :mod:`kd.benchmark.methods`.
Outputs of student and teacher are on one grid, labels ``B H W``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kd.methods.attnfd import Refinement
from kd.types import IGNORE, Outputs, nearest_labels


def kd(student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:  # noqa: ARG001
    """Logarithm of one softmax, the other itself, ``F.kl_div``."""
    soft = F.softmax(teacher.logits.detach(), 1)
    return F.kl_div(F.log_softmax(student.logits, 1), soft, reduction="none").sum(1).mean()


def at(student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:  # noqa: ARG001
    """Maps of mean squares, normalised."""
    mine, its = (F.normalize(embedding(of).pow(2).mean(1).flatten(1)) for of in (student, teacher))
    return (mine - its.detach()).pow(2).mean()


def attnfd(mine: Tensor, its: Tensor, refinement: Refinement) -> Tensor:
    """Pooling layers for the vectors of channels, all maps kept, both tensors divided by their lengths."""
    its = its.detach()
    average, most = (pool(mine, list(mine.shape[2:])).flatten(1) for pool in (F.avg_pool2d, F.max_pool2d))
    mine = mine * refinement.channels(average, most).sigmoid().unsqueeze(2).unsqueeze(3).expand_as(mine)
    mine = mine * refinement.pixels(mine.max(1)[0].unsqueeze(1), mine.mean(1).unsqueeze(1)).sigmoid()
    mine = refinement.projection(mine)
    average, most = (pool(its, list(its.shape[2:])) for pool in (F.avg_pool2d, F.max_pool2d))
    its = its * (average + most).sigmoid().expand_as(its)
    its = its * (its.max(1)[0].unsqueeze(1) + its.mean(1).unsqueeze(1)).sigmoid()
    return (mine / mine.norm() - its / its.norm()).pow(2).sum() / len(mine)


def afdcd(made: Tensor, its: Tensor, groups: int, pool: int, patch: int = 4, temperature: float = 0.07) -> Tensor:
    """Distances of all pairs of all patches, positives and negatives laid side by side for ``F.cross_entropy``."""
    (images, width), its = made.shape[:2], its.detach()
    sides = []
    for maps in (made, its):
        coarse = F.max_pool2d(maps, pool) if pool > 1 else maps
        window = min(patch, coarse.shape[2]), min(patch, coarse.shape[3])
        cut = F.unfold(coarse, window, stride=window).transpose(1, 2)
        cut = cut.reshape(images, cut.shape[1], groups, width // groups, -1).permute(0, 1, 4, 2, 3)
        sides.append(cut.flatten(2, 3).flatten(0, 1))
    close = -torch.cdist(sides[0], sides[1], p=1) / temperature
    group = torch.arange(close.shape[1], device=close.device) % groups
    negatives = close[:, group.unsqueeze(1) != group].view(*close.shape[:2], -1)
    logits = torch.cat([close.diagonal(0, 1, 2).unsqueeze(2), negatives], 2).flatten(0, 1)
    target = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
    return F.cross_entropy(logits, target, reduction="sum") / (len(logits) // groups)


def dist(student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:  # noqa: ARG001
    """Pixels as rows for one correlation, the same matrix transposed for the other."""
    mine, its = (of.logits.softmax(1).permute(0, 2, 3, 1).reshape(-1, of.logits.shape[1]) for of in (student, teacher))
    its = its.detach()
    return (1 - _correlation(mine, its).mean()) + (1 - _correlation(mine.T, its.T).mean())


def _correlation(x: Tensor, y: Tensor) -> Tensor:
    x, y = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
    return (x * y).sum(1) / (x.norm(dim=1) * y.norm(dim=1) + 1e-8)


def cwd(mine: Tensor, its: Tensor, temperature: float = 4.0) -> Tensor:
    """A softmax, and two logarithms of one, over the pixels of each channel."""
    (images, channels), its = mine.shape[:2], its.detach()
    mine, its = (values.reshape(images * channels, -1) / temperature for values in (mine, its))
    soft = F.softmax(its, 1)
    apart = (soft * F.log_softmax(its, 1) - soft * F.log_softmax(mine, 1)).sum()
    return apart * temperature**2 / (images * channels)


def skd(student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:  # noqa: ARG001
    """Both matrices of cosines between pooled pixels."""
    sides = []
    for maps in (embedding(student), embedding(teacher).detach()):
        nodes = F.max_pool2d(maps, 2, 2, ceil_mode=True).flatten(2)
        nodes = nodes / (nodes.pow(2).sum(1, keepdim=True).sqrt() + 1e-12)
        sides.append(torch.einsum("bdn,bdm->bnm", nodes, nodes))
    return (sides[0] - sides[1]).pow(2).mean()


def ifvd(student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
    """A map of class centres, written over once for each class."""
    labels = nearest_labels(target, (int(student.logits.shape[-2]), int(student.logits.shape[-1]))).unsqueeze(1)
    found = []
    for maps in (embedding(student), embedding(teacher).detach()):
        middle = maps
        for number in range(student.logits.shape[1]):
            inside = (labels == number).float().expand_as(maps)
            mean = (inside * maps).sum((2, 3)) / (inside.sum((2, 3)) + 1e-6)
            middle = (1 - inside) * middle + inside * mean[:, :, None, None]
        found.append(F.cosine_similarity(maps, middle, dim=1))
    return F.mse_loss(found[0], found[1])


def maskd(mine: Tensor, its: Tensor, tokens: Tensor) -> Tensor:
    """Every map under every mask."""
    its = its.detach()
    mask = torch.einsum("tc,bchw->bthw", tokens, its).sigmoid().unsqueeze(2)
    apart = (mine.unsqueeze(1) * mask - its.unsqueeze(1) * mask).pow(2).sum((3, 4))
    return 0.5 * (apart / (mask.sum((3, 4)) + 1e-5)).mean()


def cirkd_pairs(student: Outputs, teacher: Outputs, target: Tensor, temperature: float = 0.1) -> Tensor:  # noqa: ARG001
    """A loop over pairs of images, two whole matrices for each."""
    mine, its = (F.normalize(embedding(of), dim=1).flatten(2).transpose(1, 2) for of in (student, teacher))
    terms = []
    for first in range(len(mine)):
        for second in range(len(mine)):
            close = mine[first] @ mine[second].T / temperature
            other = (its[first] @ its[second].T / temperature).detach()
            terms.append(F.kl_div(F.log_softmax(close, 1), F.softmax(other, 1), reduction="batchmean"))
    return torch.stack(terms).mean()


def cirkd_memory(mine: Tensor, its: Tensor, negatives: Tensor, anchors: Tensor, temperature: float = 0.1) -> Tensor:
    """Vectors ``B N D`` of anchors against all of ``negatives`` ``M D`` at once."""
    close, other = (vectors[anchors] @ negatives.T / temperature for vectors in (mine, its))
    return F.kl_div(F.log_softmax(close, 1), F.softmax(other.detach(), 1), reduction="batchmean")


class UsualBanks:
    """A memory of pixels and one of regions, ``K M D`` each, written in loops over images and classes."""

    def __init__(self, classes: int, slots: tuple[int, int], width: int, most: int = 16) -> None:
        self.pixels, self.regions = (F.normalize(torch.randn(classes, count, width), dim=2) for count in slots)
        self.pixel_place, self.region_place, self.most = [0] * classes, [0] * classes, most

    def write(self, embedding: Tensor, labels: Tensor) -> None:
        """Unit ``embedding`` ``B N D``, ``labels`` ``B N``."""
        for vectors, numbers in zip(embedding, labels, strict=True):
            for number in numbers.unique().tolist():
                if number != IGNORE:
                    self._write(number, vectors, (numbers == number).nonzero().squeeze(1))

    def _write(self, number: int, vectors: Tensor, places: Tensor) -> None:
        region = self.region_place[number]
        self.regions[number, region] = F.normalize(vectors[places].mean(0), dim=0)
        self.region_place[number] = (region + 1) % self.regions.shape[1]
        chosen = places[torch.randperm(len(places))][: self.most]
        start, stop = self.pixel_place[number], self.pixel_place[number] + len(chosen)
        full = stop >= self.pixels.shape[1]
        start = self.pixels.shape[1] - len(chosen) if full else start
        self.pixels[number, start : start + len(chosen)] = F.normalize(vectors[chosen], dim=1)
        self.pixel_place[number] = 0 if full else stop


def embedding(outputs: Outputs) -> Tensor:
    """The embedding, which is there."""
    assert outputs.embedding is not None
    return outputs.embedding
