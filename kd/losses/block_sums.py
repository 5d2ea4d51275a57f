"""Of one block of pixels: what it adds to the sums of :mod:`kd.losses.streamed`, and the gradient of its logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor


class Pixels(NamedTuple):
    """What is known at the labels' size: of all images, or, flat, of a block of one; labels are 0 where they do not count."""

    target: Tensor
    keep: Tensor
    smooth: Tensor | None
    epsilon: float

    def block(self, image: int, rows: slice) -> Pixels:
        """Some rows of an image."""
        keep = self.keep[image, rows].flatten()
        target = self.target[image, rows].flatten().where(keep, 0).long()
        smooth = None if self.smooth is None else self.smooth[image, rows].flatten()
        return Pixels(target, keep, smooth, self.epsilon)

    def only(self, values: Tensor) -> Tensor:
        """Values ``N`` or ``K N`` of a block, in place 0 where not kept, whatever they are there."""
        return values.masked_fill_(~self.keep, 0)

    def soft_labels(self, like: Tensor) -> Tensor:
        """Of a block whose labels are smoothed, ``K N``, 0 where not kept."""
        assert self.smooth is not None
        kept = self.keep.to(like.dtype)
        spread = kept * self.smooth * self.epsilon
        found = (spread / len(like)).repeat(len(like), 1)
        return _add_at(found, self.target, kept - spread)


def _softmax_(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Over the classes of ``K N``, in place, and the logarithm of what was divided by."""
    highest = maps.amax(0)
    total = maps.sub_(highest).exp_().sum(0)
    return maps.mul_(1 / total), highest + total.log()


def _add_at(maps: Tensor, labels: Tensor, values: Tensor) -> Tensor:
    """Add ``values`` ``N`` to ``K N`` at the class of each pixel, in place; no two meet, so that it is deterministic."""
    places = labels * labels.shape[0] + torch.arange(labels.shape[0], device=labels.device)
    flat = maps.view(-1)
    flat[places] = flat[places] + values
    return maps


def _by_class(values: Tensor, labels: Tensor, classes: int) -> Tensor:
    return values.new_zeros(classes).index_add_(0, labels, values)


def measure(x: Tensor, t: Tensor | None, block: Pixels, wanted: frozenset[str]) -> Iterator[tuple[str, Tensor]]:
    """What a block adds to the wanted sums; its logits ``K N`` are written over."""
    labels, kept = block.target, block.keep.to(x.dtype)
    at_label = x.gather(0, labels[None])[0]
    q, gaps = _soft_labels(x, t, block, wanted)
    p, total = _softmax_(x)
    block.only(p)
    yield "pixels", kept.sum()
    yield "labels", _by_class(kept, labels, len(p))
    yield "mass", p.sum(1)
    if "ce" in wanted:
        yield "ce", block.only(total - at_label).sum()
    if "hard" in wanted:
        yield "hard", _by_class(p.gather(0, labels[None])[0], labels, len(p))
    if "peak p" in wanted:
        yield "peak p", p.amax(1)
    if "peak p + y" in wanted:
        yield "peak p + y", _add_at(p.clone(), labels, kept).amax(1)
    if q is not None:
        yield "targets", q.sum(1)
        yield from ((name, block.only(total + gap).sum()) for name, gap in gaps.items())
        yield from ((name, found(p, q)) for name, found in OVERLAPS.items() if name in wanted)


OVERLAPS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "soft": lambda p, q: torch.minimum(p, q).sum(1),
    "product": lambda p, q: (p * q).sum(1),
    "peak q": lambda p, q: q.amax(1),  # noqa: ARG005
    "peak p + q": lambda p, q: (p + q).amax(1),
}
"""Of the student's probabilities and soft labels ``K N``, ``K``."""


def _soft_labels(x: Tensor, t: Tensor | None, block: Pixels, wanted: frozenset[str]) -> tuple[Tensor | None, dict[str, Tensor]]:
    """``K N``, 0 where not kept, and what ``cross`` and ``kl`` are above the student's log-normaliser, ``N``."""
    if t is None and block.smooth is None:
        return None, {}
    if t is None:
        q = block.soft_labels(x)
        cross = -(q * x).sum(0)
        return q, {"cross": cross, "kl": cross + torch.xlogy(q, q).sum(0)}
    apart = t - x  # where both agree the divergence must not be a difference of large numbers
    q, its_total = _softmax_(t)
    block.only(q)
    if "kl" not in wanted:
        return q, {}
    return q, {"kl": apart.mul_(q).masked_fill_(q == 0, 0).sum(0) - its_total}


def gradient(x: Tensor, t: Tensor | None, block: Pixels, share: Mapping[str, Tensor]) -> Tensor:
    """The gradient ``K N`` of a block's logits, which are written over, for the weights of the sums."""
    labels, none = block.target, x.new_zeros(())
    q = block.soft_labels(x) if t is None and block.smooth is not None else None
    if t is not None:
        q, _ = _softmax_(t)
    p, _ = _softmax_(x)
    mass, divergence = share["mass"][:, None], share.get("cross", none) + share.get("kl", none)
    if q is not None and "soft" in share:
        half = share["soft"][:, None] / 2
        slope = torch.sub(q, p).sign_().mul_(half).add_(mass + half)  # a tie is worth a half, as in torch.minimum
    else:
        slope = mass.repeat(1, p.shape[1])
    if q is not None and "product" in share:
        slope.addcmul_(q, share["product"][:, None])
    if "hard" in share:
        _add_at(slope, labels, share["hard"][labels])
    hard = share.get("ce", none)
    slope.sub_((slope * p).sum(0)).add_(hard + divergence).mul_(p)
    if q is not None:
        slope.sub_(q.mul_(divergence))
    return block.only(_add_at(slope, labels, -hard.expand(labels.shape)))
