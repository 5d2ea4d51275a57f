"""Divergence between rows of similarity matrices that never exist as a whole: the shared core of CIRKD's terms."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

ENTRIES = 2**24
"""Entries of similarity that are held at once; 64 MiB in float32, a few times over."""


class Side(NamedTuple):
    """Vectors of one network: ``queries`` ``A N D`` and ``keys`` ``C M D``."""

    queries: Tensor
    keys: Tensor


class Pairs(NamedTuple):
    """Which queries meet which keys: index into A, index into C and a weight for each of ``P`` pairs."""

    query: Tensor
    key: Tensor
    share: Tensor


class _RowDivergence(torch.autograd.Function):
    """Value and gradient in one pass over tiles: the gradient of a row's KL is ``softmax_s - softmax_t``, times the keys."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, its: Side, pairs: Pairs, weights: Tensor, scale: float) -> Tensor:
        total = weights.new_zeros(())
        slope = torch.zeros_like(queries)
        key_slope = torch.zeros_like(keys) if ctx.needs_input_grad[1] else None
        for query, key, share, rows in _tiles(pairs, queries.shape[1], keys.shape[1]):
            mine, against = queries[query][:, rows], keys[key]
            log_p = (mine @ against.transpose(1, 2)).mul_(scale).log_softmax(2)
            log_q = (its.queries[query][:, rows] @ its.keys[key].transpose(1, 2)).mul_(scale).log_softmax(2)
            q = log_q.exp()
            weight = (weights[query][:, rows] * share.unsqueeze(1)).unsqueeze(2)
            total += (weight * (q * log_q.sub_(log_p)).sum(2, keepdim=True)).sum()
            step = log_p.exp_().sub_(q).mul_(weight * scale)
            slope[:, rows].index_add_(0, query, step @ against)
            if key_slope is not None:
                key_slope.index_add_(0, key, step.transpose(1, 2) @ mine)
        ctx.save_for_backward(slope, key_slope)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        slope, key_slope = ctx.saved_tensors
        return grads[0] * slope, None if key_slope is None else grads[0] * key_slope, None, None, None, None


def _tiles(pairs: Pairs, count: int, keys: int) -> Any:
    """Parts of the problem that hold no more than ``ENTRIES``: several pairs at once, or some rows of one."""
    at_once, rows = max(1, ENTRIES // (count * keys)), max(1, min(count, ENTRIES // keys))
    for first in range(0, len(pairs.query), at_once):
        some = slice(first, first + at_once)
        for row in range(0, count, rows):
            yield pairs.query[some], pairs.key[some], pairs.share[some], slice(row, row + rows)


def row_divergence(student: Side, teacher: Side, pairs: Pairs, weights: Tensor, temperature: float) -> Tensor:
    """``sum over pairs and rows of share * weight * KL(softmax(q_t k_t' / T) || softmax(q_s k_s' / T))``.

    ``weights`` ``A N``. Gradient reaches the student's queries and keys, never the teacher's; memory does not grow with N M.
    """
    its = Side(teacher.queries.detach(), teacher.keys.detach())
    found: Tensor = _RowDivergence.apply(student.queries, student.keys, its, pairs, weights, 1 / temperature)
    return found
