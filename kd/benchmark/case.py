"""A term of a method to be measured: the usual way to write it, and the method itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from kd.benchmark.setting import Setting
from kd.methods.method import Method
from kd.types import Outputs, Sizes

Way = Callable[[Outputs, Outputs, Tensor], Tensor]


class Case(NamedTuple):
    """One term, the usual way and ours; whatever it draws at random, both see the same."""

    usual: Way
    ours: Way


def sizes_of(setting: Setting) -> tuple[Sizes, Sizes]:
    """What student and teacher declare."""
    student, teacher = setting.widths
    return setting.sizes(student), setting.sizes(teacher)


def term(method: Method, *names: str) -> Way:
    """Some terms of a method, by its own ``forward``."""

    def look(student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        found = method(student, teacher, target)
        return torch.stack([found[name] for name in names]).sum()

    return look
