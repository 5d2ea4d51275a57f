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

    def block(self, image: int, rows: slice, dtype: torch.dtype) -> Pixels:
        """Some rows of an image; ``keep`` and ``smooth`` become numbers."""
        keep = self.keep[image, rows].flatten()
        target = self.target[image, rows].flatten().where(keep, 0).long()
        smooth = None if self.smooth is None else self.smooth[image, rows].flatten().to(dtype)
        return Pixels(target, keep.to(dtype), smooth, self.epsilon)

    def soft_labels(self, classes: int) -> Tensor:
        """Of a block whose labels are smoothed, ``K N``, 0 where not kept."""
        assert self.smooth is not None
        spread = self.smooth * self.keep * self.epsilon
        found = (spread / classes).expand(classes, -1).clone()
        return _add_at(found, self.target, self.keep - spread)


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
    keep, labels = block.keep, block.target
    at_label = x.gather(0, labels[None])[0]
    q, gaps = _soft_labels(x, t, block, wanted)
    p, total = _softmax_(x)
    p.mul_(keep)
    yield "pixels", keep.sum()
    yield "labels", _by_class(keep, labels, len(p))
    yield "mass", p.sum(1)
    if "ce" in wanted:
        yield "ce", ((total - at_label) * keep).sum()
    if "hard" in wanted:
        yield "hard", _by_class(p.gather(0, labels[None])[0], labels, len(p))
    if "peak p" in wanted:
        yield "peak p", p.amax(1)
    if "peak p + y" in wanted:
        yield "peak p + y", _add_at(p.clone(), labels, keep).amax(1)
    if q is not None:
        yield "targets", q.sum(1)
        yield from ((name, ((total + gap) * keep).sum()) for name, gap in gaps.items())
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
        q = block.soft_labels(len(x))
        cross = -(q * x).sum(0)
        return q, {"cross": cross, "kl": cross + torch.xlogy(q, q).sum(0)}
    apart = t - x  # where both agree the divergence must not be a difference of large numbers
    q, its_total = _softmax_(t)
    q.mul_(block.keep)
    return q, {"kl": apart.mul_(q).sum(0) - its_total} if "kl" in wanted else {}


def gradient(x: Tensor, t: Tensor | None, block: Pixels, share: Mapping[str, Tensor]) -> Tensor:
    """The gradient ``K N`` of a block's logits, which are written over, for the weights of the sums."""
    keep, labels, none = block.keep, block.target, x.new_zeros(())
    q = block.soft_labels(len(x)) if t is None and block.smooth is not None else None
    if t is not None:
        q, _ = _softmax_(t)
    p, _ = _softmax_(x)
    divergence = share.get("cross", none) + share.get("kl", none)
    slope = share.get("mass", x.new_zeros(len(x)))[:, None].expand_as(p)
    if q is not None and "soft" in share:
        half = share["soft"][:, None] / 2
        slope = torch.sub(q, p).sign_().mul_(half).add_(slope + half)  # a tie is worth a half, as in torch.minimum
    if q is not None and "product" in share:
        slope = torch.addcmul(slope, q, share["product"][:, None])
    slope = slope.clone() if slope.stride(1) == 0 else slope
    if "hard" in share:
        _add_at(slope, labels, share["hard"][labels])
    hard = share.get("ce", none)
    slope.sub_((slope * p).sum(0)).add_(hard + divergence).mul_(p)
    if q is not None:
        slope.sub_(q.mul_(divergence))
    return _add_at(slope, labels, -hard.expand(labels.shape)).mul_(keep)
