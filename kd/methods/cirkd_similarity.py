"""Divergence between rows of similarity matrices that never exist as a whole: the shared core of CIRKD's terms."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from kd.losses.formed import Gradients, formed

ENTRIES, DEVICE_ENTRIES = 2**21, 2**24
"""Entries of similarity that are held at once, a few times over: on a CPU, which has little cache, and elsewhere."""
BOUND = 40.0
"""Similarities of unit vectors are no larger than 1 / T; up to here their exponentials need no maximum taken off."""


class Side(NamedTuple):
    """Vectors of one network: ``queries`` ``A N D`` and ``keys`` ``C M D``."""

    queries: Tensor
    keys: Tensor


class Pairs(NamedTuple):
    """Which queries meet which keys: index into A, index into C and a weight for each of ``P`` pairs."""

    query: Tensor
    key: Tensor
    share: Tensor


def _divergence(
    student: Side, teacher: Side, pairs: Pairs, weights: Tensor, scale: float, wanted: tuple[bool, bool]
) -> tuple[Tensor, Gradients]:
    """Value and gradient of queries and keys in one pass over tiles: that of a row's KL is ``softmax_s - softmax_t``, times the
    keys."""
    total = weights.new_zeros((), dtype=torch.float64)
    slopes = [torch.zeros_like(side) if flag else None for side, flag in zip(student, wanted, strict=True)]
    queries, its = student.queries * scale, teacher.queries * scale
    for query, key, share, rows in _tiles(pairs, queries.shape[1], student.keys.shape[1]):
        mine, against = queries[query, rows], student.keys[key]
        x = mine @ against.transpose(1, 2)
        y = its[query, rows] @ teacher.keys[key].transpose(1, 2)
        if scale > BOUND:
            x, y = (values.sub_(values.amax(2, keepdim=True)) for values in (x, y))
        apart = y - x
        own, other = (values.exp_().sum(2, keepdim=True) for values in (x, y))
        weight = (weights[query, rows] * share.unsqueeze(1)).unsqueeze(2)
        total += (weight * (apart.mul_(y).sum(2, keepdim=True) / other + (own / other).log())).sum()
        if any(wanted):
            step = x.mul_(weight / own).addcmul_(y, weight / other, value=-1)
        if slopes[0] is not None:
            slopes[0][:, rows].index_add_(0, query, step @ against, alpha=scale)
        if slopes[1] is not None:
            slopes[1].index_add_(0, key, step.transpose(1, 2) @ mine)
    return total.to(weights.dtype), tuple(slopes)


def _tiles(pairs: Pairs, count: int, keys: int) -> Iterator[tuple[Tensor, Tensor, Tensor, slice]]:
    """Parts of the problem that hold no more than ``ENTRIES``: several pairs at once, or some rows of one."""
    entries = ENTRIES if pairs.share.device.type == "cpu" else DEVICE_ENTRIES
    at_once, rows = max(1, entries // (count * keys)), max(1, min(count, entries // keys))
    for first in range(0, len(pairs.query), at_once):
        some = slice(first, first + at_once)
        for row in range(0, count, rows):
            yield pairs.query[some], pairs.key[some], pairs.share[some], slice(row, row + rows)


def row_divergence(student: Side, teacher: Side, pairs: Pairs, weights: Tensor, temperature: float) -> Tensor:
    """``sum over pairs and rows of share * weight * KL(softmax(q_t k_t' / T) || softmax(q_s k_s' / T))``.

    Unit vectors; ``weights`` ``A N``. Gradient reaches the student's queries and keys, never the teacher's, once; memory does
    not grow with N M.
    """
    its = Side(teacher.queries.detach(), teacher.keys.detach())

    def make(queries: bool, keys: bool) -> tuple[Tensor, Gradients]:
        return _divergence(student, its, pairs, weights, 1 / temperature, (queries, keys))

    return formed(make, *student)
