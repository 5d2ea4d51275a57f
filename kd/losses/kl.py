"""Kullback-Leibler divergence at a temperature, teacher first.

Hinton et al., "Distilling the Knowledge in a Neural Network", arXiv 1503.02531; per pixel as in the released code of the
methods compared here, which differs between them only by constants: see :func:`logit_kl`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from kd.keywords import keywords
from kd.losses.formed import Gradients, formed
from kd.losses.loss import Loss, global_mean, is_hard, kept_pixels, one_hot, pixel_mask
from kd.losses.streamed import Sums
from kd.types import IGNORE, full_precision

PART = 2**18
"""Values of a part of a map on a CPU, which has to stay in the cache."""


def soft_kl(
    logits: Tensor,
    target: Tensor,
    keep: Tensor | None = None,
    *,
    temperature: float = 1.0,
    ignore_index: int | None = IGNORE,
) -> Tensor:
    """``T^2 * mean over kept pixels of KL(q || softmax(z / T))`` for a target ``q`` that already is a probability.

    The target is taken as it is: a teacher's probabilities must have been softened at the same temperature (JML-KD,
    released code). Hard targets count as one-hot. 0 log 0 = 0; a batch without a kept pixel gives 0.
    """
    mask = kept_pixels(logits, target, keep, ignore_index)
    with torch.autocast(logits.device.type, enabled=False):
        log_p = (full_precision(logits) / temperature).log_softmax(1)
        q = one_hot(target, logits.shape[1]).to(log_p.dtype) if is_hard(target) else full_precision(target.detach())
        divergence = (torch.xlogy(q, q) - q * log_p).sum(1)
        return temperature**2 * global_mean(divergence.where(mask, 0), mask.to(log_p.dtype))


def logit_kl(student: Tensor, teacher: Tensor, keep: Tensor | None = None, *, temperature: float = 1.0) -> Tensor:
    """``T^2 * mean over kept pixels of KL(softmax(z_teacher / T) || softmax(z_student / T))``; logits ``B K h w``.

    The CIRKD repository's definition. The others follow by a factor: IFVD and the official CWD code ``1 / (K T^2)``, mmrazor
    ``h w``, SKD ``B`` (as soft cross-entropy at T = 1, which adds the teacher's entropy and leaves the gradient alone).
    """
    mask = pixel_mask(student, teacher, keep, None)
    total = kl_sum(full_precision(student), full_precision(teacher.detach()), 1, temperature, None if keep is None else mask)
    return temperature**2 * global_mean(total, mask.numel() if keep is None else mask)


def kl_sum(student: Tensor, teacher: Tensor, dim: int, temperature: float, keep: Tensor | None = None) -> Tensor:
    """The sum of ``KL(softmax(teacher / T) || softmax(student / T))`` along ``dim`` (1 or 2 of ``B K N``) over all else, or
    where ``keep`` (without ``dim``) says; differentiable once, in the student. Later dimensions count as one.
    """

    def make(wanted: bool) -> tuple[Tensor, Gradients]:
        mine, its = student.flatten(2), teacher.flatten(2)
        out = torch.empty_like(mine) if wanted else None
        within = None if keep is None else keep.flatten(1).unsqueeze(dim)
        sums = []
        for part in _parts(mine, dim):
            rest = (None if maps is None else maps[part] for maps in (within, out))
            sums.append(_kl_of(mine[part], its[part], dim, temperature, *rest))
        return torch.stack(sums).sum().to(student.dtype), (None if out is None else out.reshape(student.shape),)

    return formed(make, student)


def _parts(maps: Tensor, dim: int) -> Iterator[tuple[slice, ...]]:
    """Of ``B K N``: on a CPU pieces that fit the cache and are whole along ``dim``; elsewhere all."""
    axis, length = 3 - dim, maps.shape[dim]
    step = max(1, PART // length) if maps.device.type == "cpu" else maps.shape[axis]
    images = 1 if maps.device.type == "cpu" else max(1, len(maps))
    for image in range(0, len(maps), images):
        for start in range(0, maps.shape[axis], step):
            rest = (slice(None), slice(start, start + step))
            yield slice(image, image + images), *(rest if dim == 1 else rest[::-1])


def _kl_of(student: Tensor, teacher: Tensor, dim: int, temperature: float, keep: Tensor | None, out: Tensor | None) -> Tensor:
    """The sum over a part ``B K N``, float64; the gradient goes into ``out``."""
    if temperature != 1:
        student, teacher = student / temperature, teacher / temperature
    log_p, log_q = student.log_softmax(dim), teacher.log_softmax(dim)
    q = log_q.exp()
    apart = log_q.sub_(log_p).mul_(q)
    total = (apart if keep is None else apart.where(keep, 0)).sum(dim).sum(dtype=torch.float64)
    if out is not None:
        torch.sub(log_p.exp_(), q, out=out)
        if keep is not None or temperature != 1:
            out.mul_(1 / temperature if keep is None else keep / temperature)
    return total


class KL(Loss):
    """:func:`soft_kl` as a module; with softened labels it is cross-entropy minus the labels' own entropy."""

    class Config(Loss.Config):
        """``temperature`` divides the logits."""

        temperature: float = Field(default=1.0, gt=0)

    @keywords(Config)
    def __init__(self, config: Any) -> None:
        super().__init__(config)

    def wanted(self, hard: bool) -> frozenset[str] | None:
        """See :meth:`Loss.wanted`; of logits that are divided by the temperature."""
        return frozenset({"ce" if hard else "kl"}) if self.config.ignore_index == IGNORE else None

    def from_sums(self, sums: Sums, hard: bool) -> Tensor:
        """See :meth:`Loss.from_sums`."""
        mean = global_mean(sums.ce if hard else sums.kl, sums.pixels)
        return (self.config.temperature**2 * mean).to(sums.dtype)

    def forward(self, logits: Tensor, target: Tensor, keep: Tensor | None = None) -> Tensor:
        """Scalar; see :class:`Loss` for shapes."""
        return soft_kl(logits, target, keep, temperature=self.config.temperature, ignore_index=self.config.ignore_index)
