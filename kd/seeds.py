"""Randomness as a function: every draw follows from (seed, purpose, step or sample), so nothing needs to be saved to resume."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import torch
from torch import Tensor

from kd.distributed import rank

_COMMON = torch.Generator()
"""Draws what all processes are to know."""


def derive(*parts: int | str) -> int:
    """A 63-bit seed from any parts, e.g. ``derive(seed, "augment", epoch, sample)``. Stable over machines and versions."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(*parts: int | str) -> torch.Generator:
    """A CPU generator that starts at ``derive(*parts)``."""
    return torch.Generator().manual_seed(derive(*parts))


def seed_everything(*parts: int | str) -> None:
    """Put all global generators (python, numpy, torch on all devices) at a state that follows from the parts."""
    seed = derive(*parts)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    _COMMON.manual_seed(seed)


def seed_processes(*parts: int | str) -> None:
    """The same, with another state in each process but for what :func:`by_image` and :func:`uniform_by_image` draw."""
    seed_everything(*parts, rank())
    _COMMON.manual_seed(derive(*parts))


def by_image(images: int) -> list[int]:
    """A new seed for each of this process's ``images``: those that one process would draw for the images of all.

    To be called by all processes, which have equally many, in one order.
    """
    drawn = int(torch.randint(2**62, (), generator=_COMMON))
    return [derive(drawn, rank() * images + number) for number in range(images)]


def uniform_by_image(like: Tensor) -> Tensor:
    """Numbers in [0, 1) of the shape, kind and device of ``like``, whose first axis are images; see :func:`by_image`."""
    source, drawn = torch.Generator(like.device), torch.empty_like(like, memory_format=torch.contiguous_format)
    for image, seed in zip(drawn, by_image(len(like)), strict=True):
        image.uniform_(generator=source.manual_seed(seed))
    return drawn
