"""Memory banks of CIRKD: unit vectors of each class, written in order, the same on every rank."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd.losses.loss import one_hot


class Found(NamedTuple):
    """What a batch offers: unit ``vectors`` ``B K n D``, the first ``number`` ``B K`` of which are there."""

    vectors: Tensor
    number: Tensor


class Draw(NamedTuple):
    """Random pixels of each class of each image: ``place`` ``B K n`` in the flattened image, the first ``number`` ``B K``."""

    place: Tensor
    number: Tensor


class Bank(nn.Module):
    """``vectors`` ``K M D`` and a write position per class. Starts as random unit vectors.

    A ring; with ``resets``, as in the released pixel bank, what would reach the end goes to the last slots and the position
    becomes 0.
    """

    vectors: Tensor
    position: Tensor

    def __init__(self, classes: int, slots: int, width: int, resets: bool = False) -> None:
        super().__init__()
        self.slots, self.resets = slots, resets
        self.register_buffer("vectors", F.normalize(torch.randn(classes, slots, width), dim=2))
        self.register_buffer("position", torch.zeros(classes, dtype=torch.long))

    @torch.no_grad()
    def write(self, found: Found) -> None:
        """Write what was found, image after image."""
        first = torch.stack([self._advance(count) for count in found.number])  # a scan over images, of K numbers each
        offset = torch.arange(found.vectors.shape[2], device=first.device)
        there = offset < found.number.unsqueeze(2)
        slot = (first.unsqueeze(2) + offset) % self.slots
        row = torch.arange(len(self.position), device=first.device).view(1, -1, 1) * self.slots
        place, values = (row + slot)[there], found.vectors[there].to(self.vectors.dtype)
        # a slot may be met twice in one batch: the later image wins, in whatever order the device writes
        place, order = place.sort(stable=True)
        last = torch.ones_like(place, dtype=torch.bool)
        last[:-1] = place[1:] != place[:-1]
        self.vectors.view(-1, self.vectors.shape[2])[place[last]] = values[order[last]]

    def _advance(self, count: Tensor) -> Tensor:
        """Where this image's vectors begin, per class; moves the positions on."""
        start, end = self.position.clone(), self.position + count
        if not self.resets:
            self.position.copy_(end % self.slots)
            return start
        over = (end >= self.slots) & (count > 0)
        self.position.copy_(end.where(~over, 0))
        return start.where(~over, self.slots - count)

    def negatives(self, slots: Tensor) -> Tensor:
        """The vectors in the given slots of every class, ``K n`` rows of width D, class by class."""
        return self.vectors[:, slots].flatten(0, 1)


def draw_pixels(labels: Tensor, classes: int, most: int, order: Tensor, literal: bool = False) -> Draw:
    """Up to ``most`` pixels of each class of each image; ``labels`` ``B N``, ``order`` random numbers below 1, ``B N``.

    ``literal`` is the released code's form: it draws from 0..n-1 for a class of n pixels and applies the numbers to the whole
    image, so that most of what it stores belongs to other classes.
    """
    by_class = (labels + order.double()).argsort(1)  # a class's pixels one after the other, in random order
    number = one_hot(labels, classes).sum(2)
    first = (labels.unsqueeze(1) < torch.arange(classes, device=labels.device).view(1, -1, 1)).sum(2)
    rank = torch.arange(min(most, labels.shape[1]), device=labels.device)
    index = (first.unsqueeze(2) + rank).clamp_max(labels.shape[1] - 1)
    found = by_class.gather(1, index.flatten(1)).view_as(index)
    if literal:
        found = (one_hot(labels, classes).long().cumsum(2) - 1).clamp_min(0).gather(2, found)
    return Draw(found, number.clamp_max(most))


def pixels(embedding: Tensor, draw: Draw) -> Found:
    """The drawn vectors of unit ``embedding`` ``B N D``."""
    width = embedding.shape[2]
    index = draw.place.flatten(1).unsqueeze(2).expand(-1, -1, width)
    return Found(F.normalize(embedding.gather(1, index).view(*draw.place.shape, width), dim=3), draw.number)


def regions(embedding: Tensor, labels: Tensor, classes: int) -> Found:
    """The unit mean vector of each class of each image; unit ``embedding`` ``B N D``, ``labels`` ``B N``."""
    members = one_hot(labels, classes)
    count = members.sum(2)
    centre = members.to(embedding.dtype) @ embedding / count.clamp_min(1).unsqueeze(2)
    return Found(F.normalize(centre, dim=2).unsqueeze(2), count.clamp_max(1))
