"""Torchvision's functions of images, imported when they are first needed: that takes longer than most tools run."""

from __future__ import annotations

from functools import cache
from typing import Any


@cache
def functional() -> Any:
    """``torchvision.transforms.v2.functional``; call it before workers fork, or each of them imports it."""
    from torchvision.transforms.v2 import functional as found

    return found
