"""Coarse maps laid on finer pixels some rows at a time: bilinear resampling as two small matrices, and its way back."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import torch
from torch import Tensor

BLOCK = 2**18
"""Values of a block on a CPU, which has to stay in the cache. Other devices take an image at a time."""


class Grid:
    """Coarse logits of one image, laid on the pixels block by block, and the way back."""

    def __init__(self, maps: Tensor, size: tuple[int, int], align_corners: bool) -> None:
        (_, height, width), self.size = maps.shape, size
        about = (align_corners, maps.dtype, maps.device)
        self.across = None if width == size[1] else _matrix(width, size[1], *about)
        self.down = None if height == size[0] else (height, size[0], *about)
        self.wide = maps.contiguous() if self.across is None else maps @ self.across.T

    def at(self, rows: slice) -> Tensor:
        """``K N``, to be written to."""
        if self.down is None:
            return self.wide[:, rows].flatten(1).clone(memory_format=torch.contiguous_format)
        weights, low = _rows(*self.down, rows.start, rows.stop)
        return torch.matmul(weights, self.wide[:, low]).view(len(self.wide), -1)

    def add_back(self, found: Tensor, rows: slice, total: Tensor) -> None:
        """Add the gradient ``K N`` of a block to ``total``, that of ``wide``."""
        found = found.view(len(found), -1, self.size[1])
        if self.down is None:
            total[:, rows] += found
        else:
            weights, low = _rows(*self.down, rows.start, rows.stop)
            total[:, low] += torch.matmul(weights.T, found)

    def ended(self, total: Tensor) -> Tensor:
        """The gradient of the coarse logits."""
        return total if self.across is None else total @ self.across


@lru_cache(maxsize=64)
def _matrix(coarse: int, fine: int, align_corners: bool, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Bilinear resampling of one axis as a matrix ``fine coarse``, as ``F.interpolate`` has it."""
    place = torch.arange(fine, dtype=torch.float64)
    if align_corners:
        source = place * ((coarse - 1) / (fine - 1) if fine > 1 else 0)
    else:
        source = ((place + 0.5) * (coarse / fine) - 0.5).clamp_min(0)
    low = source.floor().long().clamp_max(coarse - 1)
    high, share = (low + 1).clamp_max(coarse - 1), source - low
    found = torch.zeros(fine, coarse, dtype=torch.float64)
    found[torch.arange(fine), low] += 1 - share
    found[torch.arange(fine), high] += share
    return found.to(device, dtype)


@lru_cache(maxsize=4096)
def _rows(
    coarse: int, fine: int, align_corners: bool, dtype: torch.dtype, device: torch.device, start: int, stop: int
) -> tuple[Tensor, slice]:
    """Some rows of the matrix, and the coarse rows that they are made of."""
    part = _matrix(coarse, fine, align_corners, dtype, torch.device("cpu"))[start:stop]
    there = part.any(0).nonzero()
    low = slice(int(there[0]), int(there[-1]) + 1)
    return part[:, low].contiguous().to(device), low


def blocks(logits: Tensor, size: tuple[int, int]) -> Iterator[slice]:
    """Rows that fit the cache on a CPU; elsewhere all of an image."""
    rows = max(1, BLOCK // (logits.shape[1] * size[1])) if logits.device.type == "cpu" else size[0]
    return (slice(start, min(start + rows, size[0])) for start in range(0, size[0], rows))
