"""Randomness as a function: every draw follows from (seed, purpose, step or sample), so nothing needs to be saved to resume."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import torch


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
