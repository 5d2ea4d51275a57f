"""Cross-entropy between the parts of two maps, whose similarities never exist as a whole: the core of Af-DCD."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from kd.losses.formed import Gradients, formed, saved

ENTRIES, DEVICE_NUMBERS = 2**20, 2**26
"""Distances that are held at once on a CPU; elsewhere their gradient holds as many numbers as they were summed of."""

LEAST = -80.0
"""Logarithm of the odds that count as none. The exponential of less is no normal number in float32, and ten times as slow."""


def parts(maps: Tensor, patch: tuple[int, int], groups: int) -> Tensor:
    """``B D h w`` to ``P N d``: of each patch of rows and columns, pixel by pixel, the groups' vectors of ``d = D / groups``.

    What lies beyond whole patches, right and below, is left out.
    """
    height, width = (side - side % length for side, length in zip(maps.shape[-2:], patch, strict=True))
    cut = maps[:, :, :height, :width].unflatten(3, (-1, patch[1])).unflatten(2, (-1, patch[0])).unflatten(1, (groups, -1))
    return cut.permute(0, 3, 5, 4, 6, 1, 2).flatten(3, 5).flatten(0, 2)


def contrast(student: Tensor, teacher: Tensor, groups: int, temperature: float) -> Tensor:
    """The sum over the student's vectors of ``-log softmax(-|s - t|_1 / temperature)`` at the teacher's of the same place.

    That is one of the candidates, those of other groups in the patch are the others. Vectors ``P N d`` as :func:`parts` orders
    them. Differentiable once, in the student.
    """
    its = saved(teacher.detach())
    assert its is not None

    def make(wanted: bool) -> tuple[Tensor, Gradients]:
        total, slope = student.new_zeros((), dtype=torch.float64), torch.empty_like(student) if wanted else None
        for some, rows in _tiles(student):
            value, found = _told_apart(student[some, rows], its[some], rows.start, groups, temperature, wanted)
            total += value
            if slope is not None and found is not None:
                slope[some, rows] = found
        return total.to(student.dtype), (slope,)

    return formed(make, student)


def _tiles(vectors: Tensor) -> Iterator[tuple[slice, slice]]:
    """Some patches at once, or some rows of one."""
    patches, count, length = vectors.shape
    most = ENTRIES if vectors.device.type == "cpu" else DEVICE_NUMBERS // length
    at_once, rows = max(1, most // count**2), max(1, min(count, most // count))
    for first in range(0, patches, at_once):
        for row in range(0, count, rows):
            yield slice(first, first + at_once), slice(row, min(row + rows, count))


def _told_apart(
    mine: Tensor, its: Tensor, first: int, groups: int, temperature: float, wanted: bool
) -> tuple[Tensor, Tensor | None]:
    """The sum over some rows ``P n d``, which begin at ``first``, against all ``P N d``, and its gradient."""
    with torch.enable_grad():  # torch's own derivative of the distances, which needs no difference of all pairs
        mine = mine.detach().requires_grad_(wanted)
        apart = torch.cdist(mine, its, p=1)
    row, column = (torch.arange(count, device=mine.device) for count in apart.shape[1:])
    row = (row + first).unsqueeze(1)
    left_out = (row % groups == column % groups) & (row != column)
    barred = mine.new_zeros(left_out.shape).masked_fill_(left_out, -torch.inf)
    odds = torch.add(barred, apart.detach(), alpha=-1 / temperature)
    odds.sub_(odds.amax(2, keepdim=True))  # before anything is summed: in float32 the odds of a vector then add up to 1
    own = odds.diagonal(first, 1, 2)
    value = -own.sum(dtype=torch.float64)
    norm = odds.clamp_min_(LEAST).exp_().sum(2, keepdim=True)
    value += norm.log().sum(dtype=torch.float64)
    if not wanted:
        return value, None
    odds.div_(norm)
    own.sub_(1)
    return value, torch.autograd.grad(apart, mine, odds.mul_(-1 / temperature))[0]
