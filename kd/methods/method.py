"""The protocol of a distillation method.

A method is a module that turns the outputs of both networks into named, un-weighted terms. Weights live in the recipe;
routing of gradients is the method's own business (``detach``); the trainer sums, calls backward once and steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from kd.config import Named
from kd.schedules import OptimizerConfig
from kd.types import Outputs, Sizes, Stage


class Method(nn.Module):
    """Base of the methods.

    ``needs``   the fields of the teacher's ``Outputs`` it reads; a teacher that cannot give them is refused before training
    ``stages``  parts of the schedule; most methods have one
    ``terms``   names of what :meth:`forward` returns, so that weights can be checked before training

    Raises:
        ConfigError: the pair of networks does not fit.
    """

    class Config(Named):
        """Knobs of the method."""

    needs: frozenset[str] = frozenset({"logits"})
    stages: ClassVar[tuple[Stage, ...]] = (Stage("distil"),)
    terms: tuple[str, ...] = ()

    def __init__(self, config: Any, student: Sizes, teacher: Sizes) -> None:
        super().__init__()
        self.config = config
        self.student = student
        self.teacher = teacher

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> dict[str, Tensor]:  # noqa: ARG002
        """Scalars by name; target int64 ``B H W``, 255 = ignore. Gradient never reaches the teacher's tensors."""
        raise TypeError(f"{type(self).__name__} has no forward; a method returns its terms there")

    def players(self) -> Mapping[str, tuple[nn.Module, OptimizerConfig]]:
        """Modules with an optimizer of their own; all other parameters join the student's optimizer."""
        return {}

    def enter(self, stage: Stage) -> None:
        """Called when a stage begins, also on resuming inside it."""
